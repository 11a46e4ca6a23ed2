/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * environment.c -- when the library reads the environment. A program that changes its environment while it has threads must
 * know, so the manual names the calls, and no others do it. The program's secure_getenv() stands before libc's, which
 * is the only way in which the library reads.
 */
#include "t.h"

static size_t page;
static char names[64][40]; /* what was asked for since the last look */
static int nnames;

char *secure_getenv(const char *name)
{
	if (nnames < 64)
		snprintf(names[nnames++], sizeof names[0], "%s", name);
	return getenv(name);
}

/* which of these a call may read; NULL ends */
#define READS(call, ...) do { \
	const char *t_may_[] = { __VA_ARGS__, NULL }; \
	nnames = 0; \
	call; \
	only(#call, t_may_); \
} while (0)

static void only(const char *call, const char **may)
{
	int seen[8] = { 0 };

	for (int i = 0; i < nnames; i++) {
		int j = 0;

		while (may[j] && strcmp(may[j], names[i]) != 0)
			j++;
		CHECKF(may[j], "%s has read %s", call, names[i]);
		seen[j] = 1;
	}
	for (int j = 0; may[j] && *may[j]; j++)
		CHECKF(seen[j], "%s has not read %s", call, may[j]);
	nnames = 0;
}

static int unconcerned(struct pmemset *set, struct pmemset_event_context *ctx, void *arg)
{
	(void)set;
	(void)ctx;
	(void)arg;
	return 0;
}

static void calls(const char *granularity)
{
	struct pmemset_config *cfg = NULL;
	struct pmemset *set = NULL;
	struct pmemset_source *src = NULL, *tmp = NULL, *none = NULL;
	struct pmemset_part_map *pm = NULL, *next = NULL;
	struct pmemset_part_descriptor d;
	enum pmem2_granularity g;
	char *p, *q;

	if (granularity)
		MUST(setenv("PMEM2_FORCE_GRANULARITY", granularity, 1) == 0);
	READS(IS(pmemset_config_new(&cfg), 0), "");
	READS(IS(pmemset_config_set_required_store_granularity(cfg, PMEM2_GRANULARITY_PAGE), 0), "");
	READS(pmemset_config_set_event_callback(cfg, unconcerned, NULL), "");
	READS(IS(pmemset_new(&set, cfg), 0), "PMEMSET_EAGER_FLUSH");
	READS(IS(pmemset_config_delete(&cfg), 0), "");
	READS(IS(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_NONE), 0), "");
	READS(IS(pmemset_source_from_file(&src, "file"), 0), "");
	READS(IS(pmemset_source_from_temporary(&tmp, "."), 0), "");
	READS(FAILS(pmemset_source_from_file(&none, "/nonexistent")), "");
	READS(IS(map_part(set, src, 0, 4 * page, &d), 0), "PMEM2_FORCE_GRANULARITY");
	p = d.addr;
	READS(IS(map_part(set, tmp, 0, page, &d), 0), "PMEM2_FORCE_GRANULARITY");
	q = d.addr;
	for (int i = 0; i < 2; i++) {
		p[i] = 1;
		READS(IS(pmemset_persist(set, p, 1), 0), "");
		READS(IS(pmemset_flush(set, p, page), 0), "");
		READS(IS(pmemset_drain(set), 0), "");
		READS(IS(pmemset_deep_flush(set, p, page), 0), "");
		READS(pmemset_memcpy(set, q, p, page, 0), "");
		READS(pmemset_memmove(set, q + 1, q, 100, PMEMSET_F_MEM_NODRAIN), "");
		READS(pmemset_memset(set, p, 2, 2 * page, PMEMSET_F_MEM_NOFLUSH), "");
	}
	READS(IS(pmemset_get_store_granularity(set, &g), 0), "");
	READS(pmemset_first_part_map(set, &pm), "");
	READS(pmemset_next_part_map(set, pm, &next), "");
	READS(pmemset_part_map_drop(&pm), "");
	READS(pmemset_part_map_drop(&next), "");
	READS(IS(pmemset_part_map_by_address(set, &pm, q), 0), "");
	READS((void)pmemset_descriptor_part_map(pm), "");
	READS(IS(pmemset_remove_part_map(set, &pm), 0), "");
	READS(IS(pmemset_remove_range(set, p, page), 0), "");
#if PMEMSET_API_VERSION != 112
	{
		struct pmemset_part *part = NULL;

		READS(IS(pmemset_part_new(&part, set, src, 0, page), 0), "");
		READS(IS(pmemset_part_delete(&part), 0), "");
	}
#endif
	READS(IS(pmemset_source_delete(&src), 0), "");
	READS(IS(pmemset_source_delete(&tmp), 0), "");
	READS((void)pmemset_errormsg(), "");
	READS(IS(pmemset_delete(&set), 0), "");
	unsetenv("PMEM2_FORCE_GRANULARITY");
}

/* the one-time reads are over once one set has been used */
static void first(void)
{
	struct pmemset *set = new_set();
	char *p = map_file(set, "file");

	pmemset_memset(set, p, 1, page, 0);
	IS(pmemset_persist(set, p, page), 0);
	CHECKF(nnames >= 3, "%d reads: the hook is not in use", nnames);
	IS(pmemset_delete(&set), 0);
}

int main(void)
{
	t_begin();
	page = page_size();
	make_file("file", (off_t)(4 * page));
	group("environment: what the first calls read");
	first();
	group("environment: what later calls read, page");
	calls(NULL);
	group("environment: what later calls read, cache line");
	calls("CACHE_LINE");
	group("environment: what later calls read, byte");
	calls("BYTE");
	return t_end();
}
