/* SPDX-License-Identifier: BSD-3-Clause */
/* no_growth.c -- 100 000 cycles leave as many address ranges, descriptors and bytes as a few hundred do */
#include "t.h"
#include <malloc.h>

static size_t page;
static struct pmemset *set;
static struct pmemset_source *src;

struct size { int maps, fds; long vm, tables; size_t heap; };

static struct size measure(void)
{
	struct size s;

	s.maps = count_maps();
	s.fds = count_fds();
	s.vm = status_kb("VmSize:");
	s.tables = status_kb("VmPTE:");
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 33)
	s.heap = mallinfo2().uordblks + mallinfo2().hblkhd;
#else
	s.heap = 0;
#endif
	return s;
}

static void compare(struct size a, struct size b)
{
	CHECKF(b.maps <= a.maps + 4, "address ranges: %d, then %d", a.maps, b.maps);
	CHECKF(b.fds == a.fds, "descriptors: %d, then %d", a.fds, b.fds);
	CHECKF(b.vm <= a.vm + 4096, "VmSize: %ld kB, then %ld kB", a.vm, b.vm);
	CHECKF(b.tables <= a.tables + 1024, "page tables: %ld kB, then %ld kB", a.tables, b.tables);
	CHECKF(b.heap <= a.heap + 65536, "heap: %zu, then %zu", a.heap, b.heap);
}

static char *map_one(long i)
{
	return must_map(set, src, (size_t)(i % 16) * page, (size_t)(1 + i % 3) * page);
}

static void single(long n)
{
	for (long i = 0; i < n; i++) {
		char *p = map_one(i);

		if (i % 64 == 0)
			*p = (char)i;
		MUST(remove_at(set, p) == 0);
	}
}

static void lifo(long n)
{
	char *p[16];

	for (long i = 0; i < n; i += 16) {
		for (long k = 0; k < 16; k++)
			p[k] = map_one(i + k);
		for (long k = 16; k-- > 0;)
			MUST(remove_at(set, p[k]) == 0);
	}
}

static void fifo(long n)
{
	char *p[16];

	for (long k = 0; k < 16; k++)
		p[k] = map_one(k);
	for (long i = 16; i < n; i++) { /* the oldest goes, a new one comes: never empty */
		MUST(remove_at(set, p[i % 16]) == 0);
		p[i % 16] = map_one(i);
	}
	for (long k = 0; k < 16; k++)
		MUST(remove_at(set, p[k]) == 0);
}

/* parts that begin and end within a page table: each leaves one behind that only its neighbours use */
static void across(long n)
{
	char *p[3] = { NULL };

	for (long i = 0; i < n; i++) {
		if (p[i % 3])
			MUST(remove_at(set, p[i % 3]) == 0);
		p[i % 3] = must_map(set, src, page, 512 * page);
		*p[i % 3] = 1;
	}
	for (int k = 0; k < 3; k++)
		MUST(remove_at(set, p[k]) == 0);
}

static void mixed(long n)
{
	char *p[64] = { NULL };
	uint64_t seed = 5;

	for (long i = 0; i < n; i++) {
		size_t k = rnd(&seed) % 64;

		if (p[k]) {
			MUST(pmemset_remove_range(set, p[k], 1) == 0);
			p[k] = NULL;
		} else {
			p[k] = map_one((long)(rnd(&seed) % 1000));
		}
	}
	{
		int live = 0;

		for (int k = 0; k < 64; k++)
			live += p[k] != NULL;
		CHECK(walk(set) == live);
	}
	for (int k = 0; k < 64; k++)
		if (p[k])
			IS(remove_at(set, p[k]), 0);
}

static void coalesced(long n)
{
	char *run = NULL;

	MUST(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_FULL) == 0);
	for (long i = 0; i < n; i += 8) {
		for (long k = 0; k < 8; k++)
			run = must_map(set, src, (size_t)k * page, page);
		MUST(pmemset_remove_range(set, run + 3 * page, 2 * page) == 0); /* split */
		MUST(pmemset_remove_range(set, run, 8 * page) == 0);
	}
	MUST(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_NONE) == 0);
}

static void refused(long n)
{
	for (long i = 0; i < n; i++) {
		struct pmemset_part_map *pm = NULL;
		struct pmemset_source *no = NULL;

		MUST(map_part(set, src, 64 * page, page, NULL) == PMEMSET_E_INVALID_PMEM2_MAP);
		MUST(pmemset_part_map_by_address(set, &pm, (void *)page) == PMEMSET_E_CANNOT_FIND_PART_MAP);
		MUST(pmemset_source_from_file(&no, "no-such") == PMEMSET_E_INVALID_SOURCE_PATH);
	}
}

static void sources(long n)
{
	for (long i = 0; i < n; i++) {
		char *p = map_file(set, "f");

		MUST(remove_at(set, p) == 0);
	}
}

static void flushed(long n)
{
	for (long i = 0; i < n; i++) {
		char *p = map_one(i);

		p[i % 100] = (char)i;
		MUST(pmemset_flush(set, p, page) == 0);
		if (i & 1)
			MUST(pmemset_drain(set) == 0);
		MUST(remove_at(set, p) == 0);
	}
}

static void whole_sets(long n)
{
	for (long i = 0; i < n; i++) {
		struct pmemset *keep = set;
		struct pmemset_part_map *pm;

		set = new_set();
		map_one(i);
		pmemset_first_part_map(set, &pm);
		MUST(pmemset_delete(&set) == 0);
		pmemset_part_map_drop(&pm); /* after its set */
		set = keep;
	}
}

static void deep(long n)
{
	char *p = map_one(0);

	for (long i = 0; i < n; i++)
		MUST(pmemset_deep_flush(set, p, page) == 0);
	MUST(remove_at(set, p) == 0);
}

static void pattern(const char *name, void (*fn)(long), long n)
{
	struct size a, b;
	double t = now();
	static char names[40][80];
	static int k;

	snprintf(names[k], sizeof names[k], "growth: %s, %ld cycles", name, n);
	group(names[k++]);
	fn(n / 100 > 640 ? n / 100 : 640); /* whatever is made once is made now */
	a = measure();
	fn(n);
	b = measure();
	compare(a, b);
	CHECK(walk(set) == 0);
	t = now() - t;
	if (t > 30)
		printf("     slow: %.1f s\n", t);
}

int main(void)
{
	char tmpfs[300];
	long n = instrumented() ? 640 : 100000;

	t_begin();
	page = page_size();
	make_file("f", (off_t)(20 * page));
	set = new_set();
	src = source("f");
	pattern("map and remove", single, n);
	pattern("last in, first out", lifo, n);
	pattern("first in, first out", fifo, n);
	pattern("in no order", mixed, n);
	pattern("coalesced and split", coalesced, n);
	pattern("refusals", refused, n / 5);
	pattern("a source for each", sources, n / 5);
	pattern("a set for each, references dropped later", whole_sets, n / 10);
	pattern("deep flush", deep, n / 50);
	IS(pmemset_source_delete(&src), 0);
	make_file("large", (off_t)(512 * page + page));
	src = source("large");
	pattern("large parts across page tables", across, n / 10);
	IS(pmemset_source_delete(&src), 0);
	tmpfs_name(tmpfs, sizeof tmpfs, "growth");
	make_file(tmpfs, (off_t)(20 * page));
	src = source(tmpfs);
	pattern("flush, drain and remove, tmpfs", flushed, n);
	setenv("PMEM2_FORCE_GRANULARITY", "CACHE_LINE", 1);
	IS(pmemset_delete(&set), 0);
	set = new_set();
	pattern("cache line, tmpfs", single, n);
	unsetenv("PMEM2_FORCE_GRANULARITY");
	unlink(tmpfs);
	IS(pmemset_source_delete(&src), 0);
	IS(pmemset_delete(&set), 0);
	return t_end();
}
