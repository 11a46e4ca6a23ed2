/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pmem2dax.c -- objects of libpmem2 on a device DAX and on a DAX file: pmem2dax NAME DEVICE G DIR
 */
#include <libpmem2.h>
#include "g.h"

static struct pmem2_source *event_source;

static int heard(struct pmemset *set, struct pmemset_event_context *ctx, void *arg)
{
	(void)set, (void)arg;
	if (ctx->type == PMEMSET_EVENT_PART_ADD)
		event_source = ctx->data.part_add.src;
	return 0;
}

static struct pmemset *set_in(struct pmem2_vm_reservation *rsv, enum pmem2_granularity g)
{
	struct pmemset_config *cfg;
	struct pmemset *set;

	MUST(pmemset_config_new(&cfg));
	MUST(pmemset_config_set_required_store_granularity(cfg, g));
	pmemset_config_set_reservation(cfg, rsv);
	pmemset_config_set_event_callback(cfg, heard, NULL);
	MUST(pmemset_new(&set, cfg));
	MUST(pmemset_config_delete(&cfg));
	return set;
}

/* a source over libpmem2's, whose descriptor is closed by the caller in the end */
static struct pmemset_source *wrap(const char *path, struct pmem2_source **theirs, int *fd)
{
	struct pmemset_source *src;

	*fd = open(path, O_RDWR);
	MUST(*fd < 0);
	MUST(pmem2_source_from_fd(theirs, *fd));
	MUST(pmemset_source_from_pmem2(&src, *theirs));
	return src;
}

int main(int argc, char **argv)
{
	if (argc != 5)
		return 2;
	g_prefix = argv[1];
	enum pmem2_granularity want = (enum pmem2_granularity)atoi(argv[3]), got;
	const size_t align = 2 * MIB;
	struct pmem2_source *device, *file;
	struct pmemset_part_descriptor desc, next;
	int fd, file_fd;
	struct pmemset_source *src = wrap(argv[2], &device, &fd);
	char *path = make_file(argv[4], "pmem2dax", 8 * MIB);
	struct pmemset_source *of_file = wrap(path, &file, &file_fd);
	struct pmemset *set = set_in(NULL, want);
	size_t size;

	test("a libpmem2 source of a device");
	MUST(pmem2_source_size(device, &size));
	EQ(map_source(set, src, 0, 0, &desc, NULL), 0);
	EQ(desc.size, size);
	EQ((uintptr_t)desc.addr % align, 0);
	CHECK(event_source == device);
	EQ(pmemset_get_store_granularity(set, &got), 0);
	EQ(got, want);
	strcpy(desc.addr, "through libpmem2's source");
	EQ(pmemset_persist(set, desc.addr, 64), 0);
	EQ(pmemset_deep_flush(set, desc.addr, 64), 0);

	test("its alignment and its end");
	EQ(map_source(set, src, 4 * KIB, align, NULL, NULL), PMEMSET_E_INVALID_PMEM2_MAP);
	EQ(map_source(set, src, 0, 4 * KIB, NULL, NULL), PMEMSET_E_LENGTH_UNALIGNED);
	EQ(map_source(set, src, size, align, NULL, NULL), PMEMSET_E_INVALID_PMEM2_MAP);
	EQ(pmemset_delete(&set), 0);

	test("a device and a file in a reservation");
	struct pmem2_vm_reservation *rsv;
	struct pmem2_map *seen;
	MUST(pmem2_vm_reservation_new(&rsv, NULL, 64 * MIB));
	char *base = pmem2_vm_reservation_get_address(rsv);
	set = set_in(rsv, want);
	EQ(map_source(set, src, 2 * align, 4 * align, &desc, NULL), 0);
	EQ((uintptr_t)desc.addr % align, 0);
	EQ(desc.size, 4 * align);
	CHECK((char *)desc.addr >= base && (char *)desc.addr + desc.size <= base + 64 * MIB);
	EQ(map_source(set, of_file, 0, 2 * align, &next, NULL), 0);
	CHECK((char *)next.addr >= base && (char *)next.addr + next.size <= base + 64 * MIB);
	EQ(pmem2_vm_reservation_map_find(rsv, (size_t)((char *)desc.addr - base), desc.size, &seen), 0);
	CHECK(pmem2_map_get_address(seen) == desc.addr && pmem2_map_get_size(seen) == desc.size);
	CHECK(pmemset_memset(set, desc.addr, 'd', desc.size, 0) == desc.addr);
	CHECK(pmemset_memset(set, next.addr, 'f', next.size, 0) == next.addr);
	EQ(pmemset_deep_flush(set, next.addr, next.size), 0);
	CHECK(pmem2_vm_reservation_delete(&rsv) != 0);
	EQ(map_source(set, src, 0, 64 * MIB, NULL, NULL) == 0, 0);

	test("removed, mapped again, and there");
	EQ(pmemset_remove_range(set, desc.addr, 1), 0);
	CHECK(pmem2_vm_reservation_map_find(rsv, (size_t)((char *)desc.addr - base), desc.size, &seen) != 0);
	EQ(map_source(set, src, 3 * align, align, &desc, NULL), 0);
	EQ(((char *)desc.addr)[12345], 'd');
	EQ(pmemset_delete(&set), 0);
	EQ(pmem2_vm_reservation_delete(&rsv), 0);
	set = set_in(NULL, want);
	EQ(map_source(set, of_file, 0, 0, &desc, NULL), 0);
	EQ(((char *)desc.addr)[4 * MIB - 1], 'f');
	EQ(((char *)desc.addr)[4 * MIB], 0);
	EQ(pmemset_delete(&set), 0);

	EQ(pmemset_source_delete(&src), 0);
	EQ(pmemset_source_delete(&of_file), 0);
	MUST(pmem2_source_delete(&device) || pmem2_source_delete(&file) || close(fd) || close(file_fd));
	test(NULL);
	return g_bad;
}
