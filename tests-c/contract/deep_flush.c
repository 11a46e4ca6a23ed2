/* SPDX-License-Identifier: BSD-3-Clause */
/* deep_flush.c -- ranges, several part maps, and no reference left behind */
#include "t.h"

int main(void)
{
	struct pmemset *set = NULL;
	struct pmemset_source *src;
	struct pmemset_part_map *pm;
	size_t page = page_size();
	char *p[6], *lo, *hi, *mine;
	static char local[100];

	t_begin();
	make_file("f", (off_t)(16 * page));
	src = source("f");
	mine = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(mine != MAP_FAILED);

	group("deep flush: inside one part map");
	set = new_set();
	for (size_t i = 0; i < 6; i++) {
		p[i] = must_map(set, src, 2 * i * page, 2 * page);
		memset(p[i], 'a' + (int)i, 2 * page);
	}
	for (size_t i = 0; i < 6; i++) {
		IS(pmemset_deep_flush(set, p[i], 2 * page), 0);
		IS(pmemset_deep_flush(set, p[i], 1), 0);
		IS(pmemset_deep_flush(set, p[i] + 100, page), 0);
		IS(pmemset_deep_flush(set, p[i] + 2 * page - 1, 1), 0);
		CHECK(file_holds("f", (off_t)(2 * i * page), p[i], 2 * page));
	}

	group("deep flush: outside the set");
	IS(pmemset_deep_flush(set, local, sizeof local), 0);
	IS(pmemset_deep_flush(set, mine, page), 0);
	IS(pmemset_deep_flush(set, (void *)page, 1), 0);
	IS(pmemset_deep_flush(set, NULL, 0), 0);
	IS(pmemset_deep_flush(set, p[0], 0), 0);

	group("deep flush: over several part maps");
	lo = hi = p[0];
	for (int i = 1; i < 6; i++) {
		if (p[i] < lo)
			lo = p[i];
		if (p[i] > hi)
			hi = p[i];
	}
	hi += 2 * page;
	IS(pmemset_deep_flush(set, lo, (size_t)(hi - lo)), 0);
	IS(pmemset_deep_flush(set, lo + 1, (size_t)(hi - lo) - 2), 0);
	IS(pmemset_deep_flush(set, lo - page, (size_t)(hi - lo) + 2 * page), 0);
	IS(remove_at(set, p[3]), 0); /* with a hole */
	IS(pmemset_deep_flush(set, lo, (size_t)(hi - lo)), 0);
	IS(pmemset_deep_flush(set, p[3], 2 * page), 0);

	group("deep flush: while the caller holds references");
	pm = at(set, p[1]);
	IS(pmemset_deep_flush(set, p[1], 5), 0);
	IS(pmemset_deep_flush(set, lo, (size_t)(hi - lo)), 0);

	group("deep flush: holds no reference afterwards");
	IS(pmemset_remove_part_map(set, &pm), 0);
	CHECK(pm == NULL);
	for (int i = 0; i < 6; i++)
		if (i != 1 && i != 3) {
			IS(pmemset_deep_flush(set, p[i], 5), 0);
			IS(i & 1 ? remove_at(set, p[i]) : pmemset_remove_range(set, p[i], 1), 0);
		}
	CHECK(walk(set) == 0);
	IS(pmemset_deep_flush(set, p[0], 1), 0); /* outside it now */
	IS(pmemset_delete(&set), 0);

	group("deep flush: a coalesced run");
	set = new_set();
	IS(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_FULL), 0);
	for (size_t i = 0; i < 6; i++)
		p[0] = must_map(set, src, 2 * i * page, page);
	memset(p[0], 'D', 6 * page);
	IS(pmemset_deep_flush(set, p[0] + page - 1, 4 * page), 0);
	IS(pmemset_deep_flush(set, p[0], 6 * page), 0);
	for (size_t i = 0; i < 6; i++)
		CHECK(file_holds("f", (off_t)(2 * i * page), p[0] + i * page, page));
	IS(pmemset_remove_range(set, p[0] + 2 * page, 1), 0);
	IS(pmemset_deep_flush(set, p[0], 6 * page), 0);
	CHECK(walk(set) == 2);
	IS(pmemset_delete(&set), 0);

	group("deep flush: forced granularities leave no reference either");
	for (int g = 0; g < 2; g++) {
		MUST(setenv("PMEM2_FORCE_GRANULARITY", g ? "BYTE" : "CACHE_LINE", 1) == 0);
		set = new_set();
		p[0] = must_map(set, src, 0, 0);
		for (int i = 0; i < 10; i++) /* what it says where there is no region is not settled */
			EITHER(pmemset_deep_flush(set, p[0], page), 0, PMEMSET_E_DEEP_FLUSH_FAIL);
		IS(pmemset_deep_flush(set, local, 1), 0);
		IS(remove_at(set, p[0]), 0);
		IS(pmemset_delete(&set), 0);
		unsetenv("PMEM2_FORCE_GRANULARITY");
	}
	IS(pmemset_source_delete(&src), 0);
	return t_end();
}
