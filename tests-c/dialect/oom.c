/* SPDX-License-Identifier: BSD-3-Clause */
/* oom.c -- the n-th allocation or mmap of a call of 1.12 fails, for every n: an error code, and all is as before */
#include "oom_hooks.h"

static struct pmemset_map_config *map_cfg;
static struct pmemset_source *src;
static struct pmemset *set;
static struct pmemset_part_descriptor d;
static unsigned told[12];

static int count(struct pmemset *s, struct pmemset_event_context *ctx, void *arg)
{
	(void)s;
	(void)arg;
	told[ctx->type]++;
	return 0;
}

int main(void)
{
	struct pmemset_sds sds = PMEMSET_SDS_INITIALIZE();
	struct pmemset_badblock bb = { 0, 0 };
	size_t page = page_size();
	char *run = NULL, buf[100];

	t_begin();
	group("oom: 1.12");
#ifndef CAN_INTERPOSE
	skip("no way to interpose malloc here");
	return t_end();
#endif
	if (instrumented()) {
		skip("the tool allocates by itself");
		return t_end();
	}
	make_file("f", (off_t)(64 * page));
	UNTIL_IT_WORKS(pmemset_map_config_new(&map_cfg), -ENOMEM, CHECK(pmemset_map_config_delete(&map_cfg) == 0));
	UNTIL_IT_WORKS(pmemset_xsource_from_file(&src, "f", PMEMSET_SOURCE_FILE_DO_NOT_GROW), -ENOMEM,
		CHECK(pmemset_source_delete(&src) == 0));
	src = source("f");
	UNTIL_IT_WORKS(pmemset_source_set_sds(src, &sds, NULL), -ENOMEM,
		{ CHECK(pmemset_source_delete(&src) == 0); src = source("f"); });
	MUST(pmemset_map_config_new(&map_cfg) == 0);
	pmemset_map_config_set_length(map_cfg, 2 * page);
	set = new_set_ev(PMEM2_GRANULARITY_PAGE, count, NULL);
	UNTIL_IT_WORKS(pmemset_map(set, src, map_cfg, &d), -ENOMEM, CHECK(remove_at(set, d.addr) == 0));
	IS(walk(set), 0);
	for (long n = 0; n < 10; n++) {
		int rc;

		hits = 0;
		mmap_fail_in = n;
		rc = pmemset_map(set, src, map_cfg, &d);
		mmap_fail_in = -1;
		EITHER(rc, 0, -ENOMEM);
		IS(walk(set), rc == 0);
		if (rc == 0)
			IS(remove_at(set, d.addr), 0);
	}

	group("oom: removal with an observer");
	for (int what = 0; what < 3; what++) { /* a run's middle, all of two part maps, one by reference */
		for (long n = 0; n < 40; n++) {
			struct pmemset_part_map *pm = NULL;
			int rc;

			IS(pmemset_delete(&set), 0);
			set = new_set_ev(PMEM2_GRANULARITY_PAGE, count, NULL);
			IS(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_FULL), 0);
			for (int i = 0; i < 4; i++)
				run = must_map(set, src, 0, 2 * page);
			IS(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_NONE), 0);
			must_map(set, src, 0, page);
			if (what == 2)
				pm = at(set, run);
			hits = 0;
			fail_in = n;
			if (what == 0)
				rc = pmemset_remove_range(set, run + 2 * page, 1);
			else if (what == 1)
				rc = pmemset_remove_range(set, run, 8 * page + 1);
			else
				rc = pmemset_remove_part_map(set, &pm);
			fail_in = -1;
			if (rc) {
				IS(rc, -ENOMEM);
				CHECK(hits == 1 && walk(set) == 2 && size_at(set, run) == 8 * page);
				CHECK((what == 2) == (pm != NULL));
				if (pm)
					IS(pmemset_remove_part_map(set, &pm), 0);
			} else {
				CHECK(pm == NULL);
				IS(walk(set), what == 0 ? 3 : what == 1 ? 0 : 1);
				if (!hits)
					break;
			}
			CHECK(n < 39);
		}
	}

	group("oom: nothing to allocate");
	fail_in = 0;
	IS(pmemset_source_pwrite_mcsafe(src, "text", 4, 0), 0);
	IS(pmemset_source_pread_mcsafe(src, buf, 4, 0), 0);
	IS(pmemset_badblock_clear(&bb, src), 0);
	fail_in = -1;
	CHECK(told[PMEMSET_EVENT_PART_REMOVE] > 10);
	IS(pmemset_delete(&set), 0);
	IS(pmemset_map_config_delete(&map_cfg), 0);
	IS(pmemset_source_delete(&src), 0);
	return t_end();
}
