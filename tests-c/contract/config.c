/* SPDX-License-Identifier: BSD-3-Clause */
/* config.c -- configs and what a set takes from them */
#include "t.h"

static int called;

static int count_cb(struct pmemset *set, struct pmemset_event_context *ctx, void *arg)
{
	(void)set;
	(void)ctx;
	CHECK(arg == &called);
	called++;
	return 0;
}

int main(void)
{
	struct pmemset_config *cfg = NULL, *two = NULL;
	struct pmemset *set = NULL;
	enum pmem2_granularity g;
	size_t page = page_size();

	t_begin();
	make_file("f", 1 << 20);

	group("config: new and delete");
	IS(pmemset_config_new(&cfg), 0);
	CHECK(cfg != NULL);
	IS(pmemset_config_new(&two), 0);
	CHECK(two != NULL && two != cfg);
	IS(pmemset_config_delete(&two), 0);
	CHECK(two == NULL);
	IS(pmemset_config_delete(&two), 0); /* one that is NULL already */
	IS(pmemset_delete(&set), 0);

	group("config: granularity is mandatory");
	IS(pmemset_new(&set, cfg), PMEMSET_E_GRANULARITY_NOT_SET);
	CHECK(*pmemset_errormsg() != 0);

	group("config: unknown granularity");
	IS(pmemset_config_set_required_store_granularity(cfg, (enum pmem2_granularity)3), PMEMSET_E_GRANULARITY_NOT_SUPPORTED);
	IS(pmemset_config_set_required_store_granularity(cfg, (enum pmem2_granularity)-1), PMEMSET_E_GRANULARITY_NOT_SUPPORTED);
	IS(pmemset_config_set_required_store_granularity(cfg, (enum pmem2_granularity)0x7fffffff), PMEMSET_E_GRANULARITY_NOT_SUPPORTED);
	set = NULL;
	IS(pmemset_new(&set, cfg), PMEMSET_E_GRANULARITY_NOT_SET); /* the refused value left nothing */

	group("config: every granularity");
	for (int i = PMEM2_GRANULARITY_BYTE; i <= PMEM2_GRANULARITY_PAGE; i++) {
		IS(pmemset_config_set_required_store_granularity(cfg, (enum pmem2_granularity)i), 0);
		set = NULL;
		IS(pmemset_new(&set, cfg), 0);
		CHECK(set != NULL);
		IS(pmemset_get_store_granularity(set, &g), PMEMSET_E_NO_PART_MAPPED);
		IS(pmemset_delete(&set), 0);
		CHECK(set == NULL);
		IS(pmemset_delete(&set), 0);
	}

	group("config: the set has a copy");
	called = 0;
	pmemset_config_set_event_callback(cfg, count_cb, &called);
	IS(pmemset_config_set_required_store_granularity(cfg, PMEM2_GRANULARITY_PAGE), 0);
	IS(pmemset_new(&set, cfg), 0);
	IS(pmemset_config_set_required_store_granularity(cfg, PMEM2_GRANULARITY_BYTE), 0);
	pmemset_config_set_event_callback(cfg, NULL, NULL);
	IS(pmemset_config_delete(&cfg), 0);
	CHECK(cfg == NULL);
	{
		char *p = map_file(set, "f");

		CHECK(called == 1); /* PART_ADD, by the callback of old */
		memcpy(p, "copy", 4);
		IS(pmemset_persist(set, p, 4), 0);
		CHECK(called > 1);
	}
	IS(pmemset_delete(&set), 0);

	group("config: one config, several sets");
	IS(pmemset_config_new(&cfg), 0);
	IS(pmemset_config_set_required_store_granularity(cfg, PMEM2_GRANULARITY_PAGE), 0);
	pmemset_config_set_reservation(cfg, NULL); /* none */
	pmemset_config_set_event_callback(cfg, NULL, NULL);
	{
		struct pmemset *sets[20];
		char *p[20];

		for (int i = 0; i < 20; i++) {
			sets[i] = NULL;
			IS(pmemset_new(&sets[i], cfg), 0);
			p[i] = map_file(sets[i], "f");
			for (int j = 0; j < i; j++)
				CHECK(p[i] != p[j]);
		}
		*p[3] = 'x';
		IS(pmemset_persist(sets[3], p[3], 1), 0);
		CHECK(*p[19] == 'x'); /* one file */
		for (int i = 0; i < 20; i++) {
			CHECK(walk(sets[i]) == 1);
			IS(pmemset_delete(&sets[i]), 0);
			CHECK(!readable(p[i]));
		}
	}
	IS(pmemset_config_delete(&cfg), 0);

	group("config: the store granularity of a set");
	set = new_set();
	IS(pmemset_get_store_granularity(set, &g), PMEMSET_E_NO_PART_MAPPED);
	{
		char *p = map_file(set, "f");

		g = (enum pmem2_granularity)99;
		IS(pmemset_get_store_granularity(set, &g), 0);
		CHECK(g == PMEM2_GRANULARITY_BYTE || g == PMEM2_GRANULARITY_CACHE_LINE || g == PMEM2_GRANULARITY_PAGE);
		IS(remove_at(set, p), 0);
		CHECK(walk(set) == 0);
		g = (enum pmem2_granularity)99;
		IS(pmemset_get_store_granularity(set, &g), 0); /* kept after the last part */
		CHECK((int)g != 99);
	}
	IS(pmemset_delete(&set), 0);

	group("config: coalescing values");
	set = new_set();
	for (int i = 0; i < 3; i++)
		IS(pmemset_set_contiguous_part_coalescing(set, (enum pmemset_coalescing)i), 0);
	{
		static const int bad[] = { 3, -1, 4, 0x7fffffff };
		struct pmemset_source *src = source("f");

		for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
			IS(pmemset_set_contiguous_part_coalescing(set, (enum pmemset_coalescing)bad[i]), PMEMSET_E_INVALID_COALESCING_VALUE);
		/* FULL is still on */
		must_map(set, src, 0, page);
		must_map(set, src, page, page);
		CHECK(walk(set) == 1);
		IS(pmemset_source_delete(&src), 0);
	}
	IS(pmemset_delete(&set), 0);
	return t_end();
}
