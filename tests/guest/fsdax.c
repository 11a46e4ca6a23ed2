/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fsdax.c -- files in DIR, whose medium has granularity G: fsdax NAME DIR G [OTHER-DIR OTHER-G]
 */
#include "g.h"

static const char *dir;
static enum pmem2_granularity want;

/* whether the mapping that has the address has MAP_SYNC */
static int is_synchronous(const void *addr)
{
	FILE *smaps = fopen("/proc/self/smaps", "r");
	char line[1024];
	int here = 0, found = -1;

	MUST(!smaps);
	while (found < 0 && fgets(line, sizeof(line), smaps)) {
		uintptr_t lo, hi;

		if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &lo, &hi) == 2)
			here = lo <= (uintptr_t)addr && (uintptr_t)addr < hi;
		else if (here && !strncmp(line, "VmFlags:", 8))
			found = strstr(line, " sf") != NULL;
	}
	fclose(smaps);
	return found;
}

static void expect_in_file(const char *path, size_t offset, int byte, size_t len)
{
	char *buf = malloc(len);
	int fd = open(path, O_RDONLY);

	EQ(pread(fd, buf, len, (off_t)offset), len);
	for (size_t i = 0; i < len; i++)
		if (buf[i] != (char)byte) {
			printf("  %s: byte %zu is %#x, not %#x\n", path, offset + i, buf[i], byte);
			g_failed = 1;
			break;
		}
	close(fd);
	free(buf);
}

static void granularity(void)
{
	static const char *names[] = { "BYTE", "CACHE_LINE", "PAGE" };
	char *path = make_file(dir, "granularity", 64 * KIB);
	enum pmem2_granularity got;

	test("granularity is what the medium has");
	for (int required = PMEM2_GRANULARITY_BYTE; required <= PMEM2_GRANULARITY_PAGE; required++) {
		struct pmemset *set = new_set(required);
		struct pmemset_part_descriptor desc;

		EQ(pmemset_get_store_granularity(set, &got), PMEMSET_E_NO_PART_MAPPED);
		if (required >= (int)want) {
			EQ(map_path(set, path, 0, 0, &desc), 0);
			EQ(pmemset_get_store_granularity(set, &got), 0);
			EQ(got, want);
			EQ(is_synchronous(desc.addr), want != PMEM2_GRANULARITY_PAGE);
		} else {
			EQ(map_path(set, path, 0, 0, &desc), PMEMSET_E_INVALID_PMEM2_MAP);
			CHECK(strstr(pmemset_errormsg(), names[required]));
			CHECK(strstr(pmemset_errormsg(), names[want]));
			EQ(pmemset_get_store_granularity(set, &got), PMEMSET_E_NO_PART_MAPPED);
		}
		EQ(pmemset_delete(&set), 0);
	}

	test("a forced granularity counts, and MAP_SYNC stays");
	for (int forced = PMEM2_GRANULARITY_BYTE; forced <= PMEM2_GRANULARITY_PAGE; forced++) {
		struct pmemset *set = new_set(PMEM2_GRANULARITY_PAGE);
		struct pmemset_part_descriptor desc;

		setenv("PMEM2_FORCE_GRANULARITY", names[forced], 1);
		EQ(map_path(set, path, 0, 0, &desc), 0);
		EQ(pmemset_get_store_granularity(set, &got), 0);
		EQ(got, forced);
		EQ(is_synchronous(desc.addr), want != PMEM2_GRANULARITY_PAGE);
		strcpy(desc.addr, names[forced]);
		EQ(pmemset_persist(set, desc.addr, 16), 0);
		EQ(pmemset_delete(&set), 0);
		unsetenv("PMEM2_FORCE_GRANULARITY");
	}
	free(path);
}

static void state(void)
{
	char *path = make_file(dir, "state", 64 * KIB);
	struct pmemset *set = new_set(PMEM2_GRANULARITY_PAGE);
	struct pmemset_source *src;
	enum pmemset_part_state got = (enum pmemset_part_state)77;

	test("the part's state is told");
	EQ(pmemset_source_from_file(&src, path), 0);
	EQ(map_source(set, src, 0, 0, NULL, &got), 0);
	CHECK(got == PMEMSET_PART_STATE_OK || got == PMEMSET_PART_STATE_INDETERMINATE);
	EQ(pmemset_source_delete(&src), 0);
	EQ(pmemset_delete(&set), 0);
	free(path);
}

/* three parts of two files side by side: stores of every kind, look-up, removal from the middle */
static void coalescing(void)
{
	const size_t size = 256 * KIB;
	char *a = make_file(dir, "coalesced.a", 2 * size), *b = make_file(dir, "coalesced.b", size);
	static const unsigned flags[] = { 0, PMEMSET_F_MEM_NODRAIN, PMEMSET_F_MEM_NONTEMPORAL, PMEMSET_F_MEM_TEMPORAL,
					  PMEMSET_F_MEM_WC, PMEMSET_F_MEM_WB, PMEMSET_F_MEM_NOFLUSH };
	const size_t pieces = sizeof(flags) / sizeof(flags[0]);
	struct pmemset *set = new_set(PMEM2_GRANULARITY_PAGE);
	struct pmemset_part_descriptor desc;
	struct pmemset_part_map *map, *next;
	char *base, *buf = malloc(size);

	test("coalesced parts are one, and hold what was stored");
	EQ(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_FULL), 0);
	EQ(map_path(set, a, size, size, &desc), 0);
	base = desc.addr;
	EQ(map_path(set, b, 0, size, &desc), 0);
	EQ(map_path(set, a, 0, size, &desc), 0);
	CHECK(desc.addr == base);
	EQ(desc.size, 3 * size);
	for (int i = 0; i < 3; i++)
		EQ(is_synchronous(base + i * size), want != PMEM2_GRANULARITY_PAGE);
	/* over both seams at once */
	CHECK(pmemset_memset(set, base, 'm', 3 * size, 0) == base);
	for (size_t i = 0; i < pieces; i++) {
		size_t at = size - 3000 + i * 1001;

		memset(buf, 'a' + (int)i, 1001);
		CHECK(pmemset_memcpy(set, base + at, buf, 1001, flags[i]) == base + at);
		if (flags[i] & PMEMSET_F_MEM_NOFLUSH)
			EQ(pmemset_flush(set, base + at, 1001), 0);
	}
	EQ(pmemset_drain(set), 0);
	CHECK(pmemset_memmove(set, base + 2 * size - 100, base + 2 * size - 150, 300, 0));
	memset(base + 3 * size - 8192, 'p', 8192);
	EQ(pmemset_persist(set, base + 3 * size - 8192, 8192), 0);
	EQ(pmemset_deep_flush(set, base, 3 * size), 0);
	for (size_t i = 0; i < pieces; i++) {
		size_t at = size - 3000 + i * 1001;

		for (size_t k = 0; k < 1001; k++)
			if (base[at + k] != 'a' + (char)i) {
				printf("  piece %zu, byte %zu\n", i, k);
				g_failed = 1;
				break;
			}
	}
	expect_in_file(a, size, 'm', size - 3000);
	expect_in_file(b, 8192, 'm', size - 8192);
	expect_in_file(a, size - 8192, 'p', 8192);

	test("removal from the middle splits, and the rest stays");
	EQ(pmemset_remove_range(set, base + size + 5, 1), 0);
	pmemset_first_part_map(set, &map);
	CHECK(map && pmemset_descriptor_part_map(map).addr == base && pmemset_descriptor_part_map(map).size == size);
	pmemset_next_part_map(set, map, &next);
	CHECK(next && pmemset_descriptor_part_map(next).addr == base + 2 * size);
	EQ(pmemset_part_map_by_address(set, &map, base + size + 5), PMEMSET_E_CANNOT_FIND_PART_MAP);
	EQ(is_synchronous(base), want != PMEM2_GRANULARITY_PAGE);
	EQ(base[2 * size + 4096], 'm');
	EQ(pmemset_remove_part_map(set, &next), 0);
	pmemset_first_part_map(set, &map);
	pmemset_part_map_drop(&map);
	pmemset_first_part_map(set, &map);
	/* the first look-up still holds one */
	EQ(pmemset_remove_part_map(set, &map), PMEMSET_E_PART_MAP_POSSIBLE_USE_AFTER_DROP);
	EQ(pmemset_delete(&set), 0);
	expect_in_file(a, size, 'm', size - 3000);
	free(buf);
	free(a);
	free(b);
}

static void large(void)
{
	char *path = make_file(dir, "large", 12 * MIB);
	struct pmemset *set = new_set(PMEM2_GRANULARITY_PAGE);
	static const struct { size_t offset, len; } parts[] = {
		{ 0, 4 * MIB }, { 4 * KIB, 2 * MIB }, { 3 * MIB, 9 * MIB }, { 2 * MIB, 2 * MIB },
	};

	test("a large part is where huge pages can map it");
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		struct pmemset_part_descriptor desc;

		EQ(map_path(set, path, parts[i].offset, parts[i].len, &desc), 0);
		EQ(((uintptr_t)desc.addr - parts[i].offset) % (2 * MIB), 0);
		CHECK(pmemset_memset(set, desc.addr, '0' + (int)i, parts[i].len, 0));
	}
	EQ(pmemset_delete(&set), 0);
	expect_in_file(path, 0, '0', 4 * KIB);
	expect_in_file(path, 4 * KIB, '1', 2 * MIB - 4 * KIB);
	expect_in_file(path, 2 * MIB, '3', 2 * MIB);
	expect_in_file(path, 4 * MIB, '2', 8 * MIB);
	MUST(unlink(path));
	free(path);
}

static void growing(void)
{
	char *path = path_in(dir, "grown");
	struct pmemset *set = new_set(PMEM2_GRANULARITY_PAGE);
	struct pmemset_source *src;
	struct pmemset_part_descriptor desc;
	struct stat st;

	test("created and temporary files grow");
	unlink(path);
	EQ(pmemset_xsource_from_file(&src, path, PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED | PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED),
	   0);
	EQ(map_source(set, src, 64 * KIB, 64 * KIB, &desc, NULL), 0);
	EQ(stat(path, &st), 0);
	EQ(st.st_size, 128 * KIB);
	CHECK(pmemset_memset(set, desc.addr, 'g', desc.size, 0));
	EQ(pmemset_source_delete(&src), 0);
	expect_in_file(path, 64 * KIB, 'g', 64 * KIB);
	EQ(pmemset_source_from_temporary(&src, dir), 0);
	EQ(map_source(set, src, 0, 3 * MIB, &desc, NULL), 0);
	EQ(is_synchronous(desc.addr), want != PMEM2_GRANULARITY_PAGE);
	CHECK(pmemset_memset(set, desc.addr, 't', desc.size, 0));
	EQ(pmemset_source_delete(&src), 0);
	EQ(pmemset_delete(&set), 0);
	free(path);
}

static void mixed(const char *other_dir, enum pmem2_granularity other)
{
	char *mine = make_file(dir, "mixed", 64 * KIB), *theirs = make_file(other_dir, "mixed", 64 * KIB);
	struct pmemset_part_descriptor desc;
	struct pmemset *set = new_set(PMEM2_GRANULARITY_PAGE);
	enum pmem2_granularity got;

	test("one set has one granularity");
	EQ(map_path(set, mine, 0, 0, &desc), 0);
	EQ(map_path(set, theirs, 0, 0, NULL), want == other ? 0 : PMEMSET_E_GRANULARITY_MISMATCH);
	EQ(pmemset_get_store_granularity(set, &got), 0);
	EQ(got, want);
	EQ(map_path(set, mine, 0, 0, NULL), 0);
	CHECK(pmemset_memset(set, desc.addr, 'x', desc.size, 0));
	EQ(pmemset_delete(&set), 0);
	set = new_set(PMEM2_GRANULARITY_PAGE);
	EQ(map_path(set, theirs, 0, 0, &desc), 0);
	EQ(map_path(set, mine, 0, 0, NULL), want == other ? 0 : PMEMSET_E_GRANULARITY_MISMATCH);
	CHECK(pmemset_memset(set, desc.addr, 'y', desc.size, 0));
	EQ(pmemset_delete(&set), 0);
	free(mine);
	free(theirs);
}

int main(int argc, char **argv)
{
	if (argc < 4)
		return 2;
	g_prefix = argv[1];
	dir = argv[2];
	want = (enum pmem2_granularity)atoi(argv[3]);
	granularity();
	state();
	coalescing();
	large();
	growing();
	if (argc > 5)
		mixed(argv[4], (enum pmem2_granularity)atoi(argv[5]));
	test(NULL);
	return g_bad;
}
