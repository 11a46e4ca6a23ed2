/* SPDX-License-Identifier: BSD-3-Clause */
/* coalesce.c -- NONE, OPPORTUNISTIC, FULL; who is "previous"; splitting a run */
#include "t.h"

static size_t page;
static struct pmemset *set;
static struct pmemset_source *src; /* 64 pages */

static void mode(enum pmemset_coalescing m)
{
	IS(pmemset_set_contiguous_part_coalescing(set, m), 0);
}

/* map n pages of the common source; returns the part map's start, *size its size */
static char *map_n(size_t first, size_t n, size_t *size)
{
	struct pmemset_part_descriptor d = { NULL, 0 };

	IS(map_part(set, src, first * page, n * page, &d), 0);
	MUST(d.addr);
	if (size)
		*size = d.size;
	return d.addr;
}

static void fresh(void)
{
	IS(pmemset_delete(&set), 0);
	set = new_set();
}

int main(void)
{
	struct pmemset_part_map *pm, *again;
	struct pmemset_part_descriptor d;
	char *p, *q, *r;
	size_t size;

	t_begin();
	page = page_size();
	make_file("f", (off_t)(64 * page));
	src = source("f");
	set = new_set();

	group("coalesce: none at first");
	p = map_n(0, 1, &size);
	CHECK(size == page);
	q = map_n(1, 1, &size);
	CHECK(size == page && p != q);
	CHECK(walk(set) == 2);

	group("coalesce: full with nothing before");
	fresh();
	mode(PMEMSET_COALESCING_FULL);
	p = map_n(0, 2, &size);
	CHECK(size == 2 * page);

	group("coalesce: a run is one part map that grows");
	pm = at(set, p);
	for (size_t i = 2; i < 40; i++) {
		q = map_n(i, 1, &size);
		CHECK(q == p && size == (i + 1) * page); /* the whole run */
		d = pmemset_descriptor_part_map(pm); /* the reference from before sees it */
		CHECK(d.addr == p && d.size == size);
		again = at(set, p + i * page + page - 1);
		CHECK(again == pm);
		pmemset_part_map_drop(&again);
	}
	CHECK(walk(set) == 1);
	pmemset_part_map_drop(&pm);
	memset(p, 'r', 40 * page);
	IS(pmemset_persist(set, p, 40 * page), 0);
	{
		char *want = malloc(40 * page);

		memset(want, 'r', 40 * page);
		CHECK(file_holds("f", 0, want, 40 * page));
		free(want);
	}

	group("coalesce: parts of different files, sizes and order");
	fresh();
	mode(PMEMSET_COALESCING_FULL);
	{
		static const size_t sizes[] = { 1, 7, 2, 16, 3, 1 };
		char name[16];
		size_t total = 0;

		p = NULL;
		for (size_t i = 0; i < 6; i++) {
			struct pmemset_source *s;

			snprintf(name, sizeof name, "c%zu", i);
			make_file(name, (off_t)(20 * page));
			s = source(name);
			IS(map_part(set, s, (i % 3) * page, sizes[i] * page, &d), 0);
			IS(pmemset_source_delete(&s), 0);
			if (!p)
				p = d.addr;
			total += sizes[i] * page;
			CHECK(d.addr == p && d.size == total);
		}
		for (size_t i = 0; i < total; i++)
			p[i] = (char)(i / page * 3 + 1);
		IS(pmemset_persist(set, p, total), 0);
		total = 0;
		for (size_t i = 0; i < 6; i++) {
			snprintf(name, sizeof name, "c%zu", i);
			CHECK(file_holds(name, (off_t)((i % 3) * page), p + total, sizes[i] * page));
			total += sizes[i] * page;
		}
	}
	CHECK(walk(set) == 1);

	group("coalesce: the same pages twice side by side");
	fresh();
	mode(PMEMSET_COALESCING_FULL);
	p = map_n(0, 1, NULL);
	map_n(0, 1, &size);
	CHECK(size == 2 * page);
	p[5] = 'a';
	CHECK(p[page + 5] == 'a');
	p[page + 6] = 'b';
	CHECK(p[6] == 'b');

	group("coalesce: opportunistic");
	fresh();
	mode(PMEMSET_COALESCING_OPPORTUNISTIC);
	p = map_n(0, 1, &size);
	CHECK(size == page);
	q = map_n(1, 1, &size); /* nothing is in the way */
	CHECK(q == p && size == 2 * page);
	mode(PMEMSET_COALESCING_NONE);
	r = map_n(2, 1, &size);
	CHECK(r != p && size == page);
	CHECK(walk(set) == 2);
	mode(PMEMSET_COALESCING_FULL);
	q = map_n(3, 1, &size); /* previous is the latest mapping */
	CHECK(q == r && size == 2 * page);

	group("coalesce: an occupied place");
	fresh();
	mode(PMEMSET_COALESCING_FULL);
	p = map_n(0, 1, NULL);
	map_n(1, 1, NULL);
	map_n(2, 1, NULL);
	pm = at(set, p);
	again = pm;
	pmemset_part_map_drop(&pm);
	IS(pmemset_remove_range(set, p + page, 1), 0); /* a hole between lower and upper half */
	CHECK(walk(set) == 2);
	pm = at(set, p);
	CHECK(pm == again); /* the lower half kept identity ... */
	pmemset_part_map_drop(&pm);
	CHECK(size_at(set, p) == page && size_at(set, p + page) == 0 && size_at(set, p + 2 * page) == page);
	q = map_n(10, 1, &size); /* ... and role: this one goes into the hole */
	CHECK(q == p && size == 2 * page);
	CHECK(walk(set) == 2);
	{
		struct pmemset_part *part = NULL, *same;

		IS(pmemset_part_new(&part, set, src, 11 * page, page), 0);
		same = part;
		IS(pmemset_part_map(&part, NULL, &d), PMEMSET_E_CANNOT_COALESCE_PARTS);
		CHECK(part == same && walk(set) == 2);
		CHECK(size_at(set, p) == 2 * page);
		mode(PMEMSET_COALESCING_OPPORTUNISTIC);
		IS(pmemset_part_map(&part, NULL, &d), 0); /* the same part, elsewhere */
		CHECK(part == NULL && d.size == page);
		CHECK((char *)d.addr < p || (char *)d.addr >= p + 3 * page);
		CHECK(walk(set) == 3);
		mode(PMEMSET_COALESCING_FULL);
		q = map_n(12, 1, &size); /* that one is previous now */
		CHECK(q == d.addr && size == 2 * page);
	}
	strcpy(p + page, "hole");
	IS(pmemset_persist(set, p + page, 5), 0);
	CHECK(file_holds("f", (off_t)(10 * page), "hole", 5));

	group("coalesce: a part too large for the hole");
	fresh();
	mode(PMEMSET_COALESCING_FULL);
	p = map_n(0, 1, NULL);
	map_n(1, 1, NULL);
	map_n(2, 1, NULL);
	p[2 * page] = 'u';
	IS(pmemset_remove_range(set, p + page, page), 0);
	IS(map_part(set, src, 0, 2 * page, &d), PMEMSET_E_CANNOT_COALESCE_PARTS);
	CHECK(p[2 * page] == 'u' && walk(set) == 2);
	CHECK(!readable(p + page));

	group("coalesce: previous removed, the neighbour below");
	fresh();
	{
		char *a[4];

		for (size_t i = 0; i < 4; i++)
			a[i] = map_n(i, 1, NULL);
		/* in address order, whatever order they came in */
		for (int i = 0; i < 4; i++)
			for (int j = i + 1; j < 4; j++)
				if (a[j] < a[i]) {
					char *t = a[i];

					a[i] = a[j];
					a[j] = t;
				}
		q = map_n(9, 1, NULL); /* previous */
		r = NULL; /* its neighbour below */
		for (int i = 0; i < 4; i++)
			if (a[i] < q)
				r = a[i];
		if (!r)
			r = a[0];
		IS(remove_at(set, q), 0);
		mode(PMEMSET_COALESCING_OPPORTUNISTIC);
		mode(PMEMSET_COALESCING_FULL);
		p = map_n(10, 1, &size);
		CHECK(p == r && size == 2 * page);
	}

	group("coalesce: previous removed, the neighbour above");
	fresh();
	mode(PMEMSET_COALESCING_FULL);
	p = map_n(0, 1, NULL);
	map_n(1, 1, NULL);
	map_n(2, 1, NULL);
	IS(pmemset_remove_range(set, p + page, 1), 0); /* the lower half has the role, and nothing is below it */
	IS(remove_at(set, p), 0);
	q = map_n(20, 1, &size);
	CHECK(q == p + 2 * page && size == 2 * page);
	CHECK(walk(set) == 1);

	group("coalesce: everything removed, nothing previous");
	fresh();
	mode(PMEMSET_COALESCING_FULL);
	p = map_n(0, 1, NULL);
	map_n(1, 1, NULL);
	IS(remove_at(set, p), 0);
	CHECK(walk(set) == 0);
	map_n(2, 1, &size);
	CHECK(size == page);
	map_n(3, 1, &size);
	CHECK(size == 2 * page);

	group("coalesce: removal of another part map leaves the role");
	fresh();
	p = map_n(0, 1, NULL);
	q = map_n(1, 1, NULL);
	IS(remove_at(set, p), 0);
	mode(PMEMSET_COALESCING_FULL);
	r = map_n(2, 1, &size);
	CHECK(r == q && size == 2 * page);

	group("coalesce: the front of a run removed");
	fresh();
	mode(PMEMSET_COALESCING_FULL);
	p = map_n(0, 1, NULL);
	map_n(1, 1, NULL);
	map_n(2, 1, NULL);
	IS(pmemset_remove_range(set, p, 1), 0);
	CHECK(walk(set) == 1 && size_at(set, p + page) == 2 * page);
	q = map_n(3, 1, &size);
	CHECK(q == p + page && size == 3 * page);

	group("coalesce: the tail of a run removed and mapped again");
	for (size_t i = 0; i < 50; i++) {
		IS(pmemset_remove_range(set, q + 2 * page, page), 0);
		CHECK(size_at(set, q) == 2 * page);
		r = map_n(4 + i, 1, &size);
		CHECK(r == q && size == 3 * page);
		r[2 * page] = (char)i;
	}

	group("coalesce: splitting wherever it lies");
	for (size_t n = 1; n <= 6; n++)
		for (size_t from = 0; from < n; from++)
			for (size_t to = from; to < n; to++) {
				int lower = from > 0, upper = to + 1 < n;

				fresh();
				mode(PMEMSET_COALESCING_FULL);
				p = NULL;
				for (size_t i = 0; i < n; i++) /* two pages each */
					p = map_n(2 * i, 2, NULL);
				for (size_t i = 0; i < 2 * n; i++)
					p[i * page] = (char)(i + 1);
				pm = at(set, p);
				again = pm;
				pmemset_part_map_drop(&pm);
				/* from the last byte of the first to the first byte of the last */
				IS(pmemset_remove_range(set, p + (2 * from + 2) * page - 1, (2 * (to - from) * page + (to > from ? 2 - 2 * page : 1))), 0);
				CHECK(walk(set) == lower + upper);
				for (size_t i = 0; i < 2 * n; i++) {
					int gone = i / 2 >= from && i / 2 <= to;

					CHECK(readable(p + i * page) == !gone);
					if (!gone)
						CHECK(p[i * page] == (char)(i + 1));
				}
				if (lower) {
					CHECK(size_at(set, p) == 2 * from * page);
					pm = at(set, p);
					CHECK(pm == again);
					pmemset_part_map_drop(&pm);
				}
				if (upper)
					CHECK(size_at(set, p + 2 * (to + 1) * page) == 2 * (n - to - 1) * page);
				if (lower) { /* the hole is free for what fits */
					char *h = map_n(30, 2 * (to - from + 1), &size);

					CHECK(h == p && size == 2 * (to + 1) * page);
				}
			}

	group("coalesce: two split halves live on");
	fresh();
	mode(PMEMSET_COALESCING_FULL);
	for (size_t i = 0; i < 9; i++)
		p = map_n(i, 1, NULL);
	IS(pmemset_remove_range(set, p + 4 * page, page), 0);
	IS(remove_at(set, p + 5 * page), 0); /* the upper half as a whole */
	CHECK(walk(set) == 1);
	CHECK(!readable(p + 8 * page) && readable(p + 3 * page));
	p[3 * page] = 's';
	IS(pmemset_persist(set, p, 4 * page), 0);
	IS(pmemset_remove_range(set, p + page, 2 * page), 0);
	CHECK(walk(set) == 2);
	CHECK(p[3 * page] == 's');
	IS(remove_at(set, p), 0);
	CHECK(walk(set) == 1);
	IS(remove_at(set, p + 3 * page), 0);
	CHECK(walk(set) == 0);

	group("coalesce: a reference to a run blocks its split");
	fresh();
	mode(PMEMSET_COALESCING_FULL);
	for (size_t i = 0; i < 3; i++)
		p = map_n(i, 1, NULL);
	pm = at(set, p);
	IS(pmemset_remove_range(set, p + page, 1), PMEMSET_E_PART_MAP_POSSIBLE_USE_AFTER_DROP);
	CHECK(walk(set) == 1 && size_at(set, p) == 3 * page && readable(p + page));
	q = map_n(3, 1, &size); /* growing it is fine */
	CHECK(q == p && size == 4 * page);
	pmemset_part_map_drop(&pm);
	IS(pmemset_remove_range(set, p + page, 1), 0);
	CHECK(walk(set) == 2);

	group("coalesce: 2 MiB parts and odd offsets");
	fresh();
	mode(PMEMSET_COALESCING_FULL);
	{
		struct pmemset_source *s;
		size_t two = 2 << 20, total = 0;

		make_file("big", 128 << 20);
		s = source("big");
		p = NULL;
		for (size_t i = 0; i < 12; i++) {
			size_t off = i % 2 ? 2 * i * two : 2 * i * two + page; /* apart from each other */

			IS(map_part(set, s, off, i % 3 ? two : page, &d), 0);
			if (!p)
				p = d.addr;
			total += i % 3 ? two : page;
			CHECK(d.addr == p && d.size == total);
			p[total - 1] = (char)(i + 1);
			IS(pmemset_persist(set, p + total - 1, 1), 0);
		}
		for (size_t i = 0; i < 12; i++) {
			char c;
			size_t off = (i % 2 ? 2 * i * two : 2 * i * two + page) + (i % 3 ? two : page) - 1;

			read_file("big", (off_t)off, &c, 1);
			CHECK(c == (char)(i + 1));
		}
		IS(pmemset_source_delete(&s), 0);
	}

	group("coalesce: each set has its own previous");
	fresh();
	mode(PMEMSET_COALESCING_FULL);
	{
		struct pmemset *two = new_set(), *one = set;

		p = map_n(0, 1, NULL);
		set = two;
		mode(PMEMSET_COALESCING_FULL);
		q = map_n(1, 1, &size);
		CHECK(size == page && q != p);
		set = one;
		r = map_n(2, 1, &size);
		CHECK(r == p && size == 2 * page);
		IS(pmemset_delete(&two), 0);
		CHECK(!readable(q) && readable(p + page));
	}
	IS(pmemset_delete(&set), 0);
	IS(pmemset_source_delete(&src), 0);
	return t_end();
}
