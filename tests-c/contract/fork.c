/* SPDX-License-Identifier: BSD-3-Clause */
/* fork.c -- a forked child may use a set, and what it does to it is its own */
#include "t.h"

static size_t page;
static struct pmemset *set;
static struct pmemset_source *src;
static struct pmemset_part_map *held;
static char *p;

static void uses_it(void)
{
	char *q;

	CHECK(walk(set) == 1);
	CHECK(memcmp(p, "parent", 7) == 0);
	memcpy(p + 100, "child", 6);
	IS(pmemset_persist(set, p + 100, 6), 0);
	IS(pmemset_flush(set, p + page, 1), 0);
	IS(pmemset_drain(set), 0); /* with what the parent had flushed */
	pmemset_memset(set, p + 2 * page, 'c', page, 0);
	q = must_map(set, src, 4 * page, page);
	*q = 'q';
	CHECK(walk(set) == 2);
	IS(pmemset_deep_flush(set, p, page), 0);
	IS(remove_at(set, q), 0);
	FAILS(pmemset_source_from_file(&(struct pmemset_source *){ NULL }, "nothing"));
	CHECK(*pmemset_errormsg() != 0);
	pmemset_part_map_drop(&held); /* its own copy */
	IS(remove_at(set, p), 0);
	CHECK(walk(set) == 0 && !readable(p));
	IS(pmemset_source_delete(&src), 0);
	IS(pmemset_delete(&set), 0);
}

static void deletes_it(void)
{
	IS(pmemset_delete(&set), 0);
	CHECK(!readable(p));
	pmemset_part_map_drop(&held);
	set = new_set();
	p = map_file(set, "f");
	CHECK(memcmp(p, "parent", 7) == 0);
	IS(pmemset_delete(&set), 0);
}

static void does_nothing(void)
{
	CHECK(1);
}

static void grandchild(void)
{
	MUST(in_child(uses_it) == 0);
	CHECK(walk(set) == 1);
	memcpy(p + 300, "middle", 7);
	IS(pmemset_persist(set, p + 300, 7), 0);
}

static void unharmed(void)
{
	struct pmemset_part_map *pm = at(set, p);

	CHECK(pm == held);
	pmemset_part_map_drop(&pm);
	CHECK(walk(set) == 1 && size_at(set, p) == 4 * page);
	CHECK(memcmp(p, "parent", 7) == 0);
	IS(pmemset_persist(set, p, 4 * page), 0);
	IS(pmemset_flush(set, p, 1), 0);
	IS(pmemset_drain(set), 0);
	IS(pmemset_remove_range(set, p, 1), PMEMSET_E_PART_MAP_POSSIBLE_USE_AFTER_DROP); /* the child's drop was not ours */
}

int main(void)
{
	static const struct { const char *name; void (*fn)(void); } what[] = {
		{ "fork: the child uses and removes", uses_it },
		{ "fork: the child deletes the set", deletes_it },
		{ "fork: the child leaves it alone", does_nothing },
		{ "fork: a child's child", grandchild },
	};

	t_begin();
	page = page_size();
	for (int g = 0; g < 2; g++) {
		if (g)
			MUST(setenv("PMEM2_FORCE_GRANULARITY", "CACHE_LINE", 1) == 0);
		for (size_t i = 0; i < sizeof what / sizeof *what; i++) {
			group(what[i].name);
			make_file("f", (off_t)(8 * page));
			set = new_set();
			src = source("f");
			p = must_map(set, src, 0, 4 * page);
			held = at(set, p);
			memcpy(p, "parent", 7);
			IS(pmemset_flush(set, p, 7), 0); /* recorded at the fork */
			in_child(what[i].fn);
			unharmed();
			if (what[i].fn == uses_it) {
				CHECK(memcmp(p + 100, "child", 6) == 0);
				CHECK(p[2 * page] == 'c');
			}
			for (int k = 0; k < 5; k++) /* again and again */
				in_child(what[i].fn);
			unharmed();
			pmemset_part_map_drop(&held);
			IS(remove_at(set, p), 0);
			IS(pmemset_source_delete(&src), 0);
			IS(pmemset_delete(&set), 0);
		}
		unsetenv("PMEM2_FORCE_GRANULARITY");
	}
	return t_end();
}
