/* SPDX-License-Identifier: BSD-3-Clause */
/* remove.c -- remove_range: parts, not pages; all or nothing */
#include "t.h"

static size_t page;
static struct pmemset *set;
static struct pmemset_source *src;
static char *run; /* 8 coalesced parts of 2 pages */

static void fresh(void)
{
	IS(pmemset_delete(&set), 0);
	set = new_set();
	IS(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_FULL), 0);
	for (size_t i = 0; i < 8; i++)
		run = must_map(set, src, 2 * i * page, 2 * page);
	IS(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_NONE), 0);
	for (size_t i = 0; i < 8; i++)
		run[2 * i * page] = (char)('a' + i);
}

/* which of the run's parts are there, as bits; contents checked */
static unsigned present(void)
{
	unsigned bits = 0;

	for (size_t i = 0; i < 8; i++) {
		int r = readable(run + 2 * i * page);

		CHECK(r == readable(run + (2 * i + 2) * page - 1)); /* a part is whole or gone */
		CHECK((size_at(set, run + 2 * i * page) != 0) == r);
		if (r) {
			CHECK(run[2 * i * page] == (char)('a' + i));
			bits |= 1u << i;
		}
	}
	return bits;
}

int main(void)
{
	struct pmemset_part_map *pm;
	char *lone[3], *page_of_ours;
	size_t part;

	t_begin();
	page = page_size();
	part = 2 * page;
	make_file("f", (off_t)(64 * page));
	make_file("g", (off_t)(64 * page));
	src = source("f");

	group("remove: ranges that touch nothing");
	fresh();
	page_of_ours = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(page_of_ours != MAP_FAILED);
	*page_of_ours = 'm';
	IS(pmemset_remove_range(set, page_of_ours, page), 0);
	CHECK(*page_of_ours == 'm'); /* still ours */
	IS(pmemset_remove_range(set, run - 1, 1), 0);
	IS(pmemset_remove_range(set, run + 8 * part, page), 0);
	IS(pmemset_remove_range(set, (void *)page, page), 0);
	IS(pmemset_remove_range(set, NULL, 0), 0);
	IS(pmemset_remove_range(set, run, 0), 0);
	IS(pmemset_remove_range(set, run + part, 0), 0);
	CHECK(present() == 0xff && walk(set) == 1);

	group("remove: one byte touches a part");
	for (size_t i = 0; i < 8; i++)
		for (int where = 0; where < 3; where++) {
			char *first = run, *byte;

			fresh();
			first = run + i * part;
			byte = where == 0 ? first : where == 1 ? first + part - 1 : first + part / 2 + 3;
			IS(pmemset_remove_range(set, byte, 1), 0);
			CHECK(present() == (0xffu & ~(1u << i)));
			CHECK(walk(set) == (i == 0 || i == 7 ? 1 : 2));
			IS(pmemset_remove_range(set, byte, 1), 0); /* nothing there any more */
		}

	group("remove: a range over several");
	fresh();
	IS(pmemset_remove_range(set, run + 2 * part - 1, part + 2), 0); /* bytes of 1, all of 2, a byte of 3 */
	CHECK(present() == 0xf1 && walk(set) == 2);
	IS(pmemset_remove_range(set, run + 5 * part, 2 * part), 0); /* exactly 5 and 6 */
	CHECK(present() == 0x91 && walk(set) == 3);
	IS(pmemset_remove_range(set, run - page, 16 * part), 0); /* everything, and around */
	CHECK(present() == 0 && walk(set) == 0);
	fresh();
	IS(pmemset_remove_range(set, run, 8 * part), 0);
	CHECK(present() == 0 && walk(set) == 0);

	group("remove: several part maps at once");
	fresh();
	for (size_t i = 0; i < 3; i++) {
		struct pmemset_source *g = source("g");

		lone[i] = must_map(set, g, i * page, page);
		*lone[i] = 'L';
		IS(pmemset_source_delete(&g), 0);
	}
	CHECK(walk(set) == 4);
	{
		char *lo = run, *hi = run + 8 * part;

		for (int i = 0; i < 3; i++) {
			if (lone[i] < lo)
				lo = lone[i];
			if (lone[i] + page > hi)
				hi = lone[i] + page;
		}
		/* all or nothing: a reference to any one of them */
		for (int i = 0; i < 4; i++) {
			pm = at(set, i < 3 ? lone[i] : run + 3 * part);
			IS(pmemset_remove_range(set, lo, (size_t)(hi - lo)), PMEMSET_E_PART_MAP_POSSIBLE_USE_AFTER_DROP);
			CHECK(walk(set) == 4 && present() == 0xff);
			for (int j = 0; j < 3; j++)
				CHECK(readable(lone[j]) && *lone[j] == 'L');
			pmemset_part_map_drop(&pm);
		}
		/* a reference outside the range does not matter */
		pm = at(set, lone[1]);
		IS(pmemset_remove_range(set, run + part, part), 0);
		CHECK(present() == 0xfd);
		pmemset_part_map_drop(&pm);
		IS(pmemset_remove_range(set, lo, (size_t)(hi - lo)), 0);
		CHECK(walk(set) == 0 && present() == 0);
		for (int j = 0; j < 3; j++)
			CHECK(!readable(lone[j]));
	}

	group("remove: ranges that end at the top of memory");
	fresh();
	pm = at(set, run);
	IS(pmemset_remove_range(set, run + part, SIZE_MAX - (uintptr_t)(run + part)), PMEMSET_E_PART_MAP_POSSIBLE_USE_AFTER_DROP);
	pmemset_part_map_drop(&pm);
	IS(pmemset_remove_range(set, run + part, SIZE_MAX - (uintptr_t)(run + part)), 0);
	CHECK(present() == 1);
	fresh();
	(void)pmemset_remove_range(set, run + part, SIZE_MAX); /* wraps: error or clipped, but the set stays sound */
	CHECK((present() & 1) == 1);
	(void)walk(set);

	group("remove: what was written stays in the file");
	fresh();
	memset(run, 'w', 8 * part);
	IS(pmemset_remove_range(set, run + part, 6 * part), 0);
	IS(pmemset_delete(&set), 0);
	{
		char *want = malloc(16 * page);

		memset(want, 'w', 16 * page);
		CHECK(file_holds("f", 0, want, 16 * page));
		free(want);
	}

	group("remove: part by part in a mixed order");
	{
		static const int order[] = { 3, 0, 7, 5, 1, 6, 2, 4 };
		unsigned bits = 0xff;

		set = NULL;
		fresh();
		for (int i = 0; i < 8; i++) {
			IS(pmemset_remove_range(set, run + (size_t)order[i] * part + 77, 5), 0);
			bits &= ~(1u << order[i]);
			CHECK(present() == bits);
		}
		CHECK(walk(set) == 0);
	}

	group("remove: a file truncated under its mapping");
	fresh();
	make_file("t", (off_t)(4 * page));
	lone[0] = map_file(set, "t");
	lone[0][page] = 't';
	MUST(truncate("t", 0) == 0);
	IS(remove_at(set, lone[0]), 0);
	CHECK(present() == 0xff);

	group("remove: the freed place is used again");
	fresh();
	{
		char *lo = NULL, *hi = NULL;

		for (int i = 0; i < 1000; i++) {
			char *q = must_map(set, src, 0, 4 * page);

			if (!lo || q < lo)
				lo = q;
			if (q + 4 * page > hi)
				hi = q + 4 * page;
			IS(remove_at(set, q), 0);
		}
		CHECKF((size_t)(hi - lo) <= (size_t)64 << 20, "1000 cycles wandered over %zu bytes", (size_t)(hi - lo));
	}
	munmap(page_of_ours, page);
	IS(pmemset_delete(&set), 0);
	IS(pmemset_source_delete(&src), 0);
	return t_end();
}
