/* SPDX-License-Identifier: BSD-3-Clause */
/* part_maps.c -- walking, looking up, references */
#include "t.h"

#define JUNK ((struct pmemset_part_map *)0x5a5a5a50)

int main(void)
{
	struct pmemset *set, *other;
	struct pmemset_source *src;
	struct pmemset_part_map *a, *b, *c;
	struct pmemset_part_descriptor d;
	size_t page = page_size();
	char *p[100];
	char local = 0;

	t_begin();
	make_file("f", (off_t)(128 * page));
	src = source("f");
	set = new_set();

	group("part maps: an empty set");
	a = JUNK;
	pmemset_first_part_map(set, &a);
	CHECK(a == NULL);
	a = JUNK;
	IS(pmemset_part_map_by_address(set, &a, &local), PMEMSET_E_CANNOT_FIND_PART_MAP);
	CHECK(a == NULL);
	IS(pmemset_remove_range(set, &local, 1), 0);
	pmemset_part_map_drop(&a); /* NULL already */
	CHECK(a == NULL);

	group("part maps: walk in address order");
	for (size_t i = 0; i < 100; i++)
		p[i] = must_map(set, src, (100 - i) * page, (1 + i % 4) * page);
	CHECK(walk(set) == 100);
	{
		/* every one is met once, with its size */
		size_t met = 0;

		pmemset_first_part_map(set, &a);
		while (a) {
			d = pmemset_descriptor_part_map(a);
			for (size_t i = 0; i < 100; i++)
				if (d.addr == p[i]) {
					met++;
					CHECK(d.size == (1 + i % 4) * page);
				}
			pmemset_next_part_map(set, a, &b);
			pmemset_part_map_drop(&a);
			a = b;
		}
		CHECK(met == 100);
	}

	group("part maps: by address");
	for (size_t i = 0; i < 100; i++) {
		size_t size = (1 + i % 4) * page;

		a = at(set, p[i]);
		b = at(set, p[i] + size - 1);
		c = at(set, p[i] + size / 2);
		CHECK(a && a == b && b == c); /* stable pointers */
		pmemset_part_map_drop(&b);
		pmemset_part_map_drop(&c);
		b = JUNK;
		if (pmemset_part_map_by_address(set, &b, p[i] + size) == 0) {
			CHECK(b != a); /* the next one */
			d = pmemset_descriptor_part_map(b);
			CHECK(d.addr == p[i] + size);
			pmemset_part_map_drop(&b);
		} else {
			CHECK(b == NULL);
		}
		b = JUNK;
		if (pmemset_part_map_by_address(set, &b, p[i] - 1) == 0) {
			CHECK(b != a);
			pmemset_part_map_drop(&b);
		}
		CHECK(b == NULL);
		pmemset_part_map_drop(&a);
		CHECK(a == NULL);
	}
	a = JUNK;
	IS(pmemset_part_map_by_address(set, &a, &local), PMEMSET_E_CANNOT_FIND_PART_MAP);
	CHECK(a == NULL);
	a = JUNK;
	IS(pmemset_part_map_by_address(set, &a, (void *)(UINTPTR_MAX - 7)), PMEMSET_E_CANNOT_FIND_PART_MAP);
	CHECK(a == NULL);
	a = JUNK;
	IS(pmemset_part_map_by_address(set, &a, (void *)8), PMEMSET_E_CANNOT_FIND_PART_MAP);
	CHECK(a == NULL);

	group("part maps: the descriptor");
	a = at(set, p[7] + 100);
	d = pmemset_descriptor_part_map(a);
	CHECK(d.addr == p[7] && d.size == 4 * page);
	pmemset_part_map_drop(&a);

	group("part maps: removal needs the only reference");
	a = at(set, p[5]);
	b = at(set, p[5]);
	c = a;
	IS(pmemset_remove_part_map(set, &a), PMEMSET_E_PART_MAP_POSSIBLE_USE_AFTER_DROP);
	CHECK(a == c); /* untouched */
	CHECK(readable(p[5]) && size_at(set, p[5]) == 2 * page);
	pmemset_part_map_drop(&b);
	IS(pmemset_remove_part_map(set, &a), 0);
	CHECK(a == NULL);
	CHECK(at(set, p[5]) == NULL);
	CHECK(!readable(p[5]) && !readable(p[5] + page));
	CHECK(walk(set) == 99);

	group("part maps: every look-up takes exactly one");
	{
		struct pmemset_part_map *refs[50];

		for (int i = 0; i < 50; i++) {
			refs[i] = NULL;
			if (i % 3 == 0) {
				refs[i] = at(set, p[0]);
			} else { /* by the walk */
				pmemset_first_part_map(set, &a);
				while (a) {
					d = pmemset_descriptor_part_map(a);
					if (d.addr == p[0])
						break;
					pmemset_next_part_map(set, a, &b);
					pmemset_part_map_drop(&a);
					a = b;
				}
				refs[i] = a;
			}
			CHECK(refs[i] == refs[0]);
		}
		for (int i = 0; i < 49; i++) {
			a = refs[49];
			IS(pmemset_remove_part_map(set, &a), PMEMSET_E_PART_MAP_POSSIBLE_USE_AFTER_DROP);
			IS(pmemset_remove_range(set, p[0], 1), PMEMSET_E_PART_MAP_POSSIBLE_USE_AFTER_DROP);
			pmemset_part_map_drop(&refs[i]);
			CHECK(refs[i] == NULL);
		}
		IS(pmemset_remove_part_map(set, &refs[49]), 0);
		CHECK(walk(set) == 98);
	}

	group("part maps: next over its own argument");
	pmemset_first_part_map(set, &a);
	b = a; /* the walker's reference to the first */
	pmemset_next_part_map(set, a, &a);
	CHECK(a != NULL && a != b);
	pmemset_part_map_drop(&b);
	pmemset_part_map_drop(&a);
	CHECK(walk(set) == 98);
	{
		int removed = 0; /* nothing was left with a reference */

		for (size_t i = 0; i < 100; i += 7)
			if (size_at(set, p[i])) {
				IS(remove_at(set, p[i]), 0);
				removed++;
			}
		CHECK(walk(set) == 98 - removed);
	}

	group("part maps: another set's");
	other = new_set();
	must_map(other, src, 0, page);
	pmemset_first_part_map(other, &a);
	b = a;
	IS(pmemset_remove_part_map(set, &a), PMEMSET_E_PART_NOT_FOUND);
	CHECK(a == b);
	IS(pmemset_remove_part_map(other, &a), 0);
	CHECK(a == NULL && walk(other) == 0);
	IS(pmemset_delete(&other), 0);

	group("part maps: delete with references held");
	for (size_t i = 0; i < 100; i++)
		p[i] = must_map(set, src, i * page, page);
	a = at(set, p[1]);
	b = at(set, p[1]);
	c = at(set, p[50]);
	IS(pmemset_delete(&set), 0);
	CHECK(set == NULL);
	for (size_t i = 0; i < 100; i++)
		CHECK(!readable(p[i]));
	pmemset_part_map_drop(&c); /* harmless */
	pmemset_part_map_drop(&a);
	pmemset_part_map_drop(&b);
	CHECK(a == NULL && b == NULL && c == NULL);
	IS(pmemset_source_delete(&src), 0);
	return t_end();
}
