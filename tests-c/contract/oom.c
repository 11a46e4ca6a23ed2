/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * oom.c -- the n-th allocation or the n-th mmap of a call fails, for every n: an error code, no abort,
 * the set as before. The program's own malloc and mmap stand before libc's.
 */
#include "oom_hooks.h"

static struct pmemset_config *cfg;
static struct pmemset *set;
static struct pmemset_source *src;
static struct pmemset_part *part;
static struct pmemset_part_map *pm;
static struct pmemset_part_descriptor d;

int main(void)
{
	size_t page = page_size();
	char *p[70];
	int fds;

	t_begin();
#ifndef CAN_INTERPOSE
	group("oom");
	skip("no way to interpose malloc here");
	return t_end();
#endif
	if (instrumented()) {
		group("oom");
		skip("not under valgrind or a sanitizer");
		return t_end();
	}
	make_file("f", (off_t)(128 * page));
	fds = count_fds();

	group("oom: the failures reach the library");
	fail_in = 0;
	IS(pmemset_config_new(&cfg), -ENOMEM);
	fail_in = -1;
	CHECK(*pmemset_errormsg() != 0);
	set = new_set();
	src = source("f");
	IS(pmemset_part_new(&part, set, src, 0, page), 0);
	hits = 0;
	mmap_fail_in = 0;
	(void)pmemset_part_map(&part, NULL, NULL); /* it may try another way */
	mmap_fail_in = -1;
	CHECK(hits == 1);
	IS(pmemset_part_delete(&part), 0);
	IS(pmemset_source_delete(&src), 0);
	IS(pmemset_delete(&set), 0);

	group("oom: objects");
	UNTIL_IT_WORKS(pmemset_config_new(&cfg), -ENOMEM, pmemset_config_delete(&cfg));
	IS(pmemset_config_new(&cfg), 0);
	IS(pmemset_config_set_required_store_granularity(cfg, PMEM2_GRANULARITY_PAGE), 0);
	UNTIL_IT_WORKS(pmemset_new(&set, cfg), -ENOMEM, pmemset_delete(&set));
	IS(pmemset_new(&set, cfg), 0);
	UNTIL_IT_WORKS(pmemset_source_from_file(&src, "f"), -ENOMEM, pmemset_source_delete(&src));
	CHECK(src == NULL);
	CHECK(count_fds() == fds);
	UNTIL_IT_WORKS(pmemset_xsource_from_file(&src, "f", PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED), -ENOMEM, pmemset_source_delete(&src));
	{ /* an allocation that fails may count as a failure to create */
		int worked = 0;

		for (long n = 0; n < 100 && !worked; n++) {
			int rc;

			fail_in = n;
			rc = pmemset_source_from_temporary(&src, ".");
			fail_in = -1;
			if (rc == 0) {
				worked = 1;
				IS(pmemset_source_delete(&src), 0);
			} else {
				EITHER(rc, -ENOMEM, PMEMSET_E_CANNOT_CREATE_TEMP_FILE);
			}
		}
		CHECK(worked);
	}
	CHECK(count_fds() == fds);
	src = source("f");
	UNTIL_IT_WORKS(pmemset_part_new(&part, set, src, 0, page), -ENOMEM, pmemset_part_delete(&part));

	group("oom: mapping");
	for (size_t i = 0; i < 64; i++) { /* some that exist before */
		p[i] = must_map(set, src, 2 * i * page, page);
		*p[i] = (char)(i + 1);
	}
	for (int mode = 0; mode < 3; mode++) {
		IS(pmemset_set_contiguous_part_coalescing(set, (enum pmemset_coalescing)mode), 0);
		for (int round = 0; round < 70; round++) { /* far enough that every table must grow */
			int worked = 0;

			IS(pmemset_part_new(&part, set, src, page, page), 0);
			for (long n = 0; n < 50 && !worked; n++) {
				int rc;

				fail_in = n;
				fail_all = round & 1;
				rc = pmemset_part_map(&part, NULL, &d);
				fail_in = -1;
				fail_all = 0;
				worked = rc == 0;
				if (rc)
					IS(rc, -ENOMEM);
				CHECK((rc == 0) == (part == NULL));
			}
			CHECK(worked);
			if (!worked)
				IS(pmemset_part_delete(&part), 0);
			if (round % 10 == 0)
				(void)walk(set);
		}
	}
	IS(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_NONE), 0);
	for (size_t i = 0; i < 64; i++)
		CHECK(*p[i] == (char)(i + 1));

	group("oom: a new set's first mapping");
	for (long n = 0; n < 30; n++) {
		struct pmemset *s = new_set();
		int rc;

		IS(pmemset_part_new(&part, s, src, 0, page), 0);
		fail_in = n;
		rc = pmemset_part_map(&part, NULL, &d);
		fail_in = -1;
		if (rc) {
			IS(rc, -ENOMEM);
			CHECK(walk(s) == 0);
			IS(pmemset_part_map(&part, NULL, &d), 0); /* the same part, later */
		}
		CHECK(walk(s) == 1);
		IS(pmemset_delete(&s), 0);
	}

	group("oom: mmap fails");
	for (long n = 0; n < 12; n++)
		for (int mode = 0; mode < 3; mode++)
			for (int first = 0; first < 2; first++) {
				struct pmemset *s = new_set();
				int rc, before = 0;
				char *q = NULL;

				if (!first) {
					q = must_map(s, src, 0, page);
					before = 1;
					IS(pmemset_set_contiguous_part_coalescing(s, (enum pmemset_coalescing)mode), 0);
				}
				IS(pmemset_part_new(&part, s, src, 2 * page, page), 0);
				hits = 0;
				mmap_fail_in = n;
				rc = pmemset_part_map(&part, NULL, &d);
				mmap_fail_in = -1;
				if (rc) {
					EITHER(rc, -ENOMEM, mode == 2 ? PMEMSET_E_CANNOT_COALESCE_PARTS : -ENOMEM);
					CHECK(hits && part);
					CHECK(walk(s) == before);
					if (q)
						CHECK(*q == 1 && size_at(s, q) == page);
					rc = pmemset_part_map(&part, NULL, &d);
					/* a place lost to a failed mmap may be abandoned: only FULL depends on it */
					if (mode == 2 && !first)
						EITHER(rc, 0, PMEMSET_E_CANNOT_COALESCE_PARTS);
					else
						IS(rc, 0);
				}
				if (part)
					IS(pmemset_part_delete(&part), 0);
				else
					CHECK(*((char *)d.addr + d.size - page) == 2);
				IS(pmemset_delete(&s), 0);
			}

	group("oom: recording and syncing");
	for (long n = 0; n < 4; n++)
		for (size_t i = 0; i < 64; i++) {
			int rc;

			fail_in = n;
			rc = pmemset_flush(set, p[i], 8);
			fail_in = -1;
			EITHER(rc, 0, -ENOMEM);
			fail_in = n;
			fail_all = 1;
			rc = pmemset_drain(set);
			fail_in = -1;
			fail_all = 0;
			EITHER(rc, 0, -ENOMEM);
			IS(pmemset_drain(set), 0);
		}

	group("oom: looking up allocates nothing");
	fail_in = 0;
	fail_all = 1;
	IS(pmemset_part_map_by_address(set, &pm, p[3]), 0);
	d = pmemset_descriptor_part_map(pm);
	pmemset_part_map_drop(&pm);
	pmemset_first_part_map(set, &pm);
	{
		struct pmemset_part_map *next = NULL;

		pmemset_next_part_map(set, pm, &next);
		CHECK(next != NULL);
		pmemset_part_map_drop(&next);
	}
	pmemset_part_map_drop(&pm);
	fail_in = -1;
	fail_all = 0;
	CHECK(d.addr == p[3]);

	group("oom: removal");
	for (size_t i = 0; i < 64; i++) {
		int worked = 0, before = walk(set);

		for (long n = 0; n < 50 && !worked; n++) {
			int rc;

			pm = at(set, p[i]);
			fail_in = n;
			rc = i & 1 ? pmemset_remove_part_map(set, &pm) : (pmemset_part_map_drop(&pm), pmemset_remove_range(set, p[i], 1));
			fail_in = -1;
			worked = rc == 0;
			if (rc) {
				IS(rc, -ENOMEM);
				CHECK(*p[i] == (char)(i + 1));
				CHECK(walk(set) == before);
				if (pm)
					pmemset_part_map_drop(&pm);
			}
		}
		CHECK(worked && !readable(p[i]));
	}
	{ /* splits need new objects */
		struct pmemset *s = new_set();
		char *run = NULL;

		IS(pmemset_set_contiguous_part_coalescing(s, PMEMSET_COALESCING_FULL), 0);
		for (size_t i = 0; i < 41; i++)
			run = must_map(s, src, i * page, page);
		for (size_t i = 1; i < 41; i += 2) {
			int worked = 0, before = walk(s);

			for (long n = 0; n < 50 && !worked; n++) {
				int rc;

				fail_in = n;
				rc = pmemset_remove_range(s, run + i * page, page);
				fail_in = -1;
				worked = rc == 0;
				if (rc) {
					IS(rc, -ENOMEM);
					CHECK(walk(s) == before && readable(run + i * page));
				}
			}
			CHECK(worked && !readable(run + i * page) && readable(run + (i + 1) * page));
		}
		CHECK(walk(s) == 21);
		fail_in = 0;
		fail_all = 1;
		IS(pmemset_delete(&s), 0); /* always frees */
		fail_in = -1;
		fail_all = 0;
	}
	IS(pmemset_source_delete(&src), 0);
	IS(pmemset_delete(&set), 0);
	IS(pmemset_config_delete(&cfg), 0);
	CHECK(count_fds() == fds);

	group("oom: errors are told without memory");
	fail_in = 0;
	fail_all = 1;
	{
		int rc = pmemset_source_from_file(&src, NULL);
		const char *m = pmemset_errormsg();
		int same = strcmp(m, "file path cannot be empty") == 0;

		fail_in = -1;
		fail_all = 0;
		IS(rc, PMEMSET_E_INVALID_SOURCE_PATH);
		CHECK(same);
	}
	return t_end();
}
