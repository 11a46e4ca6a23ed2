/* SPDX-License-Identifier: BSD-3-Clause */
/* persist.c -- persist, flush and drain at every granularity, on every kind of range */
#include "t.h"

static const char *const force[] = { "BYTE", "CACHE_LINE", "PAGE" };

static void ranges(int granularity, const char *path)
{
	static const size_t offs[] = { 0, 1, 7, 8, 63, 64, 65, 100, 4000, 4095, 4096, 4097, 65535, 65536, 200000 };
	static const size_t lens[] = { 0, 1, 2, 8, 63, 64, 65, 127, 4095, 4096, 4097, 8192, 65537, 300000 };
	struct pmemset *set;
	enum pmem2_granularity g;
	char *p, *want;
	size_t size = 1 << 20;
	uint64_t seed = 42;

	MUST(setenv("PMEM2_FORCE_GRANULARITY", force[granularity], 1) == 0);
	make_file(path, (off_t)size);
	set = new_set();
	p = map_file(set, path);
	want = calloc(1, size);
	MUST(want);
	IS(pmemset_get_store_granularity(set, &g), 0);
	IS(g, granularity);
	for (size_t i = 0; i < sizeof offs / sizeof *offs; i++)
		for (size_t j = 0; j < sizeof lens / sizeof *lens; j++) {
			for (size_t k = 0; k < lens[j]; k += 97)
				p[offs[i] + k] = want[offs[i] + k] = (char)rnd(&seed);
			switch ((i + j) % 3) {
			case 0:
				IS(pmemset_persist(set, p + offs[i], lens[j]), 0);
				break;
			case 1:
				IS(pmemset_flush(set, p + offs[i], lens[j]), 0);
				IS(pmemset_drain(set), 0);
				break;
			default:
				IS(pmemset_flush(set, p + offs[i], lens[j]), 0);
				IS(pmemset_flush(set, p, 1), 0);
				IS(pmemset_drain(set), 0);
				IS(pmemset_drain(set), 0);
			}
		}
	IS(pmemset_persist(set, p, size), 0);
	IS(pmemset_persist(set, p + size - 1, 1), 0);
	IS(pmemset_persist(set, p + size, 0), 0);
	IS(pmemset_persist(set, NULL, 0), 0);
	IS(pmemset_flush(set, NULL, 0), 0);
	IS(pmemset_drain(set), 0);
	CHECK(memcmp(p, want, size) == 0); /* nothing was disturbed */
	CHECK(file_holds(path, 0, want, size));
	free(want);
	IS(pmemset_delete(&set), 0);
	unsetenv("PMEM2_FORCE_GRANULARITY");
}

static void outside(int granularity)
{
	struct pmemset *set, *two;
	size_t page = page_size();
	char *p, *q, *mine, *hole;
	enum pmem2_granularity g;

	MUST(setenv("PMEM2_FORCE_GRANULARITY", force[granularity], 1) == 0);
	make_file("o", (off_t)(8 * page));
	set = new_set();
	two = new_set();
	p = map_file(set, "o");
	q = map_file(two, "o");
	mine = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(mine != MAP_FAILED);
	memset(mine, 1, 4 * page);
	IS(pmemset_persist(set, mine + 5, 3 * page), 0); /* the program's own memory */
	IS(pmemset_flush(set, mine + 5, 100), 0);
	IS(pmemset_drain(set), 0);
	q[0] = 'q';
	IS(pmemset_persist(set, q, 8 * page), 0); /* another set's */
	IS(pmemset_flush(set, q + 3, 10), 0);
	IS(pmemset_drain(set), 0);
	if (granularity == PMEM2_GRANULARITY_PAGE && !instrumented()) { /* memcheck objects to such an msync */
		hole = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		MUST(hole != MAP_FAILED && munmap(hole, page) == 0);
		IS(pmemset_persist(set, hole, page), -ENOMEM);
		CHECK(strstr(pmemset_errormsg(), strerror(ENOMEM)) != NULL);
		IS(pmemset_persist(set, hole + 10, 1), -ENOMEM);
		IS(pmemset_drain(set), 0); /* nothing of it was kept */
		MUST(mmap(mine, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == mine);
		MUST(munmap(mine + 2 * page, page) == 0);
		IS(pmemset_persist(set, mine, 4 * page), -ENOMEM); /* a hole in the middle */
		IS(pmemset_drain(set), 0);
	}
	/* the last part gone: granularity stays, calls act on the addresses */
	IS(remove_at(set, p), 0);
	IS(pmemset_get_store_granularity(set, &g), 0);
	IS(g, granularity);
	IS(pmemset_persist(set, mine, page), 0);
	IS(pmemset_flush(set, mine, 1), 0);
	IS(pmemset_drain(set), 0);
	CHECK(pmemset_memset(set, mine, 3, page, 0) == mine && mine[page - 1] == 3);
	IS(pmemset_drain(set), 0);
	IS(pmemset_persist(set, q, 8 * page), 0);
	munmap(mine, 4 * page);
	IS(pmemset_delete(&set), 0);
	IS(pmemset_delete(&two), 0);
	unsetenv("PMEM2_FORCE_GRANULARITY");
}

/* a range over several part maps, side by side and coalesced */
static void across(int granularity, enum pmemset_coalescing how)
{
	struct pmemset *set;
	size_t page = page_size();
	char *p[4];
	char name[8];

	MUST(setenv("PMEM2_FORCE_GRANULARITY", force[granularity], 1) == 0);
	set = new_set();
	IS(pmemset_set_contiguous_part_coalescing(set, how), 0);
	for (int i = 0; i < 4; i++) {
		snprintf(name, sizeof name, "a%d", i);
		make_file(name, (off_t)(2 * page));
		p[i] = map_file(set, name);
	}
	if (how == PMEMSET_COALESCING_FULL) {
		char *run = p[0];

		for (size_t i = 0; i < 8 * page; i++)
			run[i] = (char)(i * 31 + 7);
		IS(pmemset_persist(set, run + 1, 8 * page - 2), 0);
		IS(pmemset_flush(set, run + 2 * page - 1, 2), 0); /* over a border */
		IS(pmemset_drain(set), 0);
		for (size_t i = 0; i < 4; i++) {
			snprintf(name, sizeof name, "a%zu", i);
			CHECK(file_holds(name, 0, run + i * 2 * page, 2 * page));
		}
		pmemset_memset(set, run + page, 0x55, 6 * page, 0);
		IS(pmemset_drain(set), 0);
		for (size_t i = 0; i < 4; i++) {
			snprintf(name, sizeof name, "a%zu", i);
			CHECK(file_holds(name, 0, run + i * 2 * page, 2 * page));
		}
	} else {
		for (int i = 0; i < 4; i++) {
			memset(p[i], 'a' + i, 2 * page);
			IS(pmemset_flush(set, p[i], 2 * page), 0);
		}
		IS(pmemset_drain(set), 0);
		for (int i = 0; i < 4; i++) {
			snprintf(name, sizeof name, "a%d", i);
			CHECK(file_holds(name, 0, p[i], 2 * page));
		}
	}
	IS(pmemset_delete(&set), 0);
	unsetenv("PMEM2_FORCE_GRANULARITY");
}

int main(void)
{
	static char names[16][64];
	struct pmemset *set;
	char buf[64] = "untouched", tmpfs[300];

	t_begin();
	group("persist: nothing mapped");
	for (int g = 0; g < 3; g++) {
		set = new_set_ev(g, NULL, NULL);
		IS(pmemset_persist(set, buf, sizeof buf), PMEMSET_E_NO_PART_MAPPED);
		CHECK(*pmemset_errormsg() != 0);
		IS(pmemset_flush(set, buf, sizeof buf), PMEMSET_E_NO_PART_MAPPED);
		IS(pmemset_drain(set), PMEMSET_E_NO_PART_MAPPED);
		(void)pmemset_memcpy(set, buf, names, 8, 0); /* no crash */
		(void)pmemset_memmove(set, buf, names, 8, 0);
		(void)pmemset_memset(set, buf, 0, 8, 0);
		IS(pmemset_deep_flush(set, buf, sizeof buf), 0); /* outside the set */
		IS(pmemset_delete(&set), 0);
	}

	tmpfs_name(tmpfs, sizeof tmpfs, "persist");
	for (int g = 0; g < 3; g++) {
		snprintf(names[g], sizeof names[g], "persist: ranges, %s, work directory", force[g]);
		group(names[g]);
		ranges(g, "r");
		snprintf(names[3 + g], sizeof names[g], "persist: ranges, %s, tmpfs", force[g]);
		group(names[3 + g]);
		ranges(g, tmpfs);
		unlink(tmpfs);
		snprintf(names[6 + g], sizeof names[g], "persist: outside the set, %s", force[g]);
		group(names[6 + g]);
		outside(g);
		snprintf(names[9 + g], sizeof names[g], "persist: over several parts, %s", force[g]);
		group(names[9 + g]);
		across(g, PMEMSET_COALESCING_NONE);
		across(g, PMEMSET_COALESCING_FULL);
	}
	return t_end();
}
