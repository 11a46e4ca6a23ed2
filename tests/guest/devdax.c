/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * devdax.c -- a device DAX with alignment 2 MiB, and beside it a DAX file system: devdax NAME DEVICE G DIR
 */
#include "g.h"
#include <sys/sysmacros.h>

static size_t device_size(const char *path)
{
	char name[128];
	struct stat st;
	size_t size = 0;

	MUST(stat(path, &st));
	snprintf(name, sizeof(name), "/sys/dev/char/%u:%u/size", major(st.st_rdev), minor(st.st_rdev));
	FILE *f = fopen(name, "r");
	MUST(!f);
	MUST(fscanf(f, "%zu", &size) != 1);
	fclose(f);
	return size;
}

int main(int argc, char **argv)
{
	if (argc != 5)
		return 2;
	g_prefix = argv[1];
	const char *device = argv[2];
	enum pmem2_granularity want = (enum pmem2_granularity)atoi(argv[3]), got;
	const size_t align = 2 * MIB, size = device_size(device);
	struct pmemset_part_descriptor whole, desc;
	struct pmemset_part_map *map;
	struct pmemset *set = new_set(want);
	char *base;

	test("the whole device");
	EQ(map_path(set, device, 0, 0, &whole), 0);
	EQ(whole.size, size);
	EQ((uintptr_t)whole.addr % align, 0);
	EQ(pmemset_get_store_granularity(set, &got), 0);
	EQ(got, want);
	base = whole.addr;
	CHECK(pmemset_memset(set, base, 'w', 16 * MIB, 0) == base);
	base[size - 1] = 'e';
	EQ(pmemset_persist(set, base + size - 1, 1), 0);

	test("a finer granularity than the device has is refused");
	if (want != PMEM2_GRANULARITY_BYTE) {
		struct pmemset *strict = new_set(PMEM2_GRANULARITY_BYTE);

		EQ(map_path(strict, device, 0, 0, &desc), PMEMSET_E_INVALID_PMEM2_MAP);
		EQ(pmemset_delete(&strict), 0);
	}

	test("unaligned offsets and lengths, and ranges past the end");
	EQ(map_path(set, device, 4096, align, &desc), PMEMSET_E_INVALID_PMEM2_MAP);
	EQ(map_path(set, device, align + align / 2, align, &desc), PMEMSET_E_INVALID_PMEM2_MAP);
	EQ(map_path(set, device, 4096, 0, &desc), PMEMSET_E_INVALID_PMEM2_MAP);
	EQ(map_path(set, device, 0, 4096, &desc), PMEMSET_E_LENGTH_UNALIGNED);
	EQ(map_path(set, device, align, align + 4096, &desc), PMEMSET_E_LENGTH_UNALIGNED);
	EQ(map_path(set, device, size, align, &desc), PMEMSET_E_INVALID_PMEM2_MAP);
	EQ(map_path(set, device, size, 0, &desc), PMEMSET_E_INVALID_PMEM2_MAP);
	EQ(map_path(set, device, 0, size + align, &desc), PMEMSET_E_INVALID_PMEM2_MAP);
	EQ(map_path(set, device, size - align, 2 * align, &desc), PMEMSET_E_INVALID_PMEM2_MAP);

	test("a part is at its own offset");
	EQ(map_path(set, device, 3 * align, align, &desc), 0);
	EQ((uintptr_t)desc.addr % align, 0);
	CHECK(pmemset_memcpy(set, (char *)desc.addr + 100, "offset", 7, 0));
	CHECK(!strcmp(base + 3 * align + 100, "offset"));
	EQ(base[100], 'w');
	EQ(map_path(set, device, size - align, 0, &desc), 0);
	EQ(desc.size, align);
	EQ(((char *)desc.addr)[align - 1], 'e');

	test("parts of a device coalesce, and are removed one by one");
	struct pmemset *run = new_set(want);
	EQ(pmemset_set_contiguous_part_coalescing(run, PMEMSET_COALESCING_FULL), 0);
	EQ(map_path(run, device, 2 * align, align, &desc), 0);
	base = desc.addr;
	EQ(map_path(run, device, 0, align, &desc), 0);
	EQ(map_path(run, device, 5 * align, align, &desc), 0);
	CHECK(desc.addr == base);
	EQ(desc.size, 3 * align);
	for (int i = 0; i < 3; i++)
		CHECK(pmemset_memset(run, base + i * align, '0' + i, align, PMEMSET_F_MEM_NODRAIN));
	EQ(pmemset_drain(run), 0);
	EQ(((char *)whole.addr)[2 * align], '0');
	EQ(((char *)whole.addr)[align - 1], '1');
	EQ(((char *)whole.addr)[6 * align - 1], '2');
	EQ(((char *)whole.addr)[align], 'w');
	EQ(pmemset_remove_range(run, base + align, 1), 0);
	EQ(base[0], '0');
	EQ(base[3 * align - 1], '2');
	EQ(pmemset_part_map_by_address(run, &map, base + align), PMEMSET_E_CANNOT_FIND_PART_MAP);
	EQ(pmemset_part_map_by_address(run, &map, base + 2 * align), 0);
	EQ(pmemset_descriptor_part_map(map).size, align);
	EQ(pmemset_remove_part_map(run, &map), 0);
	/* the hole that removal left is free again */
	EQ(map_path(run, device, align, align, &desc), 0);

	test("a device beside a file of the same granularity");
	char *path = make_file(argv[4], "beside", align);
	EQ(map_path(run, path, 0, 0, &desc), 0);
	CHECK(pmemset_memset(run, desc.addr, 'f', align, 0));
	EQ(pmemset_delete(&run), 0);

	test("unlike a file, a device does not grow and is not cut");
	struct pmemset_source *src;
	EQ(pmemset_xsource_from_file(&src, device, PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED), 0);
	EQ(map_source(set, src, size, align, &desc, NULL), PMEMSET_E_INVALID_PMEM2_MAP);
	EQ(map_source(set, src, 0, align, &desc, NULL), 0);
	EQ(((char *)desc.addr)[100], '1');
	EQ(pmemset_source_delete(&src), 0);
	EQ(pmemset_delete(&set), 0);
	test(NULL);
	return g_bad;
}
