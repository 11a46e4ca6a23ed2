/* SPDX-License-Identifier: BSD-3-Clause */
/* null_args.c -- every pointer argument of every function, NULL */
#include "t.h"

/* a message that no other failure leaves, so that a new one shows */
static void mark(void)
{
	struct pmemset_source *s;

	(void)pmemset_source_from_file(&s, NULL);
}

static int fresh_message(void)
{
	const char *m = pmemset_errormsg();

	return m && *m && strcmp(m, "file path cannot be empty") != 0;
}

#define EINVALS(call) do { \
	mark(); \
	IS(call, -EINVAL); \
	CHECKF(fresh_message(), "no message from %s", #call); \
} while (0)

/* functions that cannot say so: no crash */
#define QUIET(call) do { \
	T_COUNT(); \
	mark(); \
	(void)(call); \
} while (0)

static int cb(struct pmemset *set, struct pmemset_event_context *ctx, void *arg)
{
	(void)set;
	(void)ctx;
	CHECK(arg == NULL);
	return 0;
}

static void persistence(struct pmemset *set, char *p)
{
	char buf[16] = "0123456789";

	EINVALS(pmemset_persist(NULL, p, 1));
	EINVALS(pmemset_persist(set, NULL, 1));
	EINVALS(pmemset_persist(NULL, NULL, 1));
	IS(pmemset_persist(set, NULL, 0), 0);
	EINVALS(pmemset_flush(NULL, p, 1));
	EINVALS(pmemset_flush(set, NULL, 1));
	EINVALS(pmemset_flush(NULL, NULL, 1));
	IS(pmemset_flush(set, NULL, 0), 0);
	EINVALS(pmemset_drain(NULL));
	EINVALS(pmemset_deep_flush(NULL, p, 1));
	EINVALS(pmemset_deep_flush(set, NULL, 1));
	IS(pmemset_deep_flush(set, NULL, 0), 0);
	for (unsigned flags = 0; flags < 64; flags += 9) {
		QUIET(pmemset_memcpy(NULL, p, buf, 8, flags));
		QUIET(pmemset_memcpy(set, NULL, buf, 8, flags));
		QUIET(pmemset_memcpy(set, p, NULL, 8, flags));
		QUIET(pmemset_memcpy(NULL, NULL, NULL, 8, flags));
		QUIET(pmemset_memcpy(set, NULL, NULL, 0, flags));
		QUIET(pmemset_memmove(NULL, p, buf, 8, flags));
		QUIET(pmemset_memmove(set, NULL, buf, 8, flags));
		QUIET(pmemset_memmove(set, p, NULL, 8, flags));
		QUIET(pmemset_memmove(NULL, NULL, NULL, 8, flags));
		QUIET(pmemset_memmove(set, NULL, NULL, 0, flags));
		QUIET(pmemset_memset(NULL, p, 1, 8, flags));
		QUIET(pmemset_memset(set, NULL, 1, 8, flags));
		QUIET(pmemset_memset(set, NULL, 1, 0, flags));
	}
	(void)pmemset_drain(set);
	IS(pmemset_drain(set), 0);
	CHECK(*p == 'n'); /* none of them wrote */
}

int main(void)
{
	struct pmemset_config *cfg = NULL, *no_cfg = NULL;
	struct pmemset *set = NULL, *no_set = NULL;
	struct pmemset_source *src = NULL, *no_src = NULL;
	struct pmemset_part *part = NULL, *no_part = NULL;
	struct pmemset_part_map *pm = NULL, *no_pm = NULL;
	struct pmemset_part_descriptor d;
	enum pmem2_granularity g;
	char *p;

	t_begin();
	make_file("f", 1 << 16);

	group("null: config");
	EINVALS(pmemset_config_new(NULL));
	EINVALS(pmemset_config_delete(NULL));
	IS(pmemset_config_delete(&no_cfg), 0);
	EINVALS(pmemset_config_set_required_store_granularity(NULL, PMEM2_GRANULARITY_PAGE));
	QUIET((pmemset_config_set_reservation(NULL, NULL), 0));
	QUIET((pmemset_config_set_event_callback(NULL, NULL, NULL), 0));
	QUIET((pmemset_config_set_event_callback(NULL, cb, NULL), 0));
	IS(pmemset_config_new(&cfg), 0);
	IS(pmemset_config_set_required_store_granularity(cfg, PMEM2_GRANULARITY_PAGE), 0);
	pmemset_config_set_reservation(cfg, NULL);
	pmemset_config_set_event_callback(cfg, NULL, &g);
	pmemset_config_set_event_callback(cfg, cb, NULL);

	group("null: set");
	EINVALS(pmemset_new(NULL, cfg));
	EINVALS(pmemset_new(&no_set, NULL));
	CHECK(no_set == NULL);
	EINVALS(pmemset_new(NULL, NULL));
	EINVALS(pmemset_delete(NULL));
	IS(pmemset_delete(&no_set), 0);
	IS(pmemset_new(&set, cfg), 0);
	EINVALS(pmemset_set_contiguous_part_coalescing(NULL, PMEMSET_COALESCING_FULL));
	EINVALS(pmemset_get_store_granularity(NULL, &g));
	EINVALS(pmemset_get_store_granularity(set, NULL));

	group("null: source");
	EINVALS(pmemset_source_from_file(NULL, "f"));
	EINVALS(pmemset_xsource_from_file(NULL, "f", 0));
	EINVALS(pmemset_xsource_from_file(NULL, "never", PMEMSET_SOURCE_FILE_CREATE_ALWAYS));
	CHECK(access("never", F_OK) != 0);
	EINVALS(pmemset_source_from_temporary(NULL, "."));
	FAILS(pmemset_source_from_pmem2(NULL, NULL));
	FAILS(pmemset_source_from_file(NULL, NULL));
	FAILS(pmemset_xsource_from_file(NULL, NULL, 0));
	FAILS(pmemset_source_from_temporary(NULL, NULL));
	IS(pmemset_source_from_file(&no_src, NULL), PMEMSET_E_INVALID_SOURCE_PATH);
	IS(pmemset_source_from_temporary(&no_src, NULL), PMEMSET_E_INVALID_SOURCE_PATH);
	IS(pmemset_source_from_pmem2(&no_src, NULL), PMEMSET_E_INVALID_PMEM2_SOURCE);
	EINVALS(pmemset_source_delete(NULL));
	IS(pmemset_source_delete(&no_src), 0);
	src = source("f");

	group("null: part");
	EINVALS(pmemset_part_new(NULL, set, src, 0, 0));
	no_part = (struct pmemset_part *)1;
	EINVALS(pmemset_part_new(&no_part, NULL, src, 0, 0));
	CHECK(no_part == NULL);
	no_part = (struct pmemset_part *)1;
	EINVALS(pmemset_part_new(&no_part, set, NULL, 0, 0));
	CHECK(no_part == NULL);
	EINVALS(pmemset_part_new(NULL, NULL, NULL, 0, 0));
	EINVALS(pmemset_part_delete(NULL));
	IS(pmemset_part_delete(&no_part), 0);
	EINVALS(pmemset_part_map(NULL, NULL, &d));
	no_part = NULL;
	EINVALS(pmemset_part_map(&no_part, NULL, &d));
	IS(pmemset_part_new(&part, set, src, 0, 0), 0);
	IS(pmemset_part_map(&part, NULL, NULL), 0);

	group("null: part maps");
	QUIET((pmemset_first_part_map(NULL, &no_pm), 0));
	CHECK(no_pm == NULL);
	QUIET((pmemset_first_part_map(set, NULL), 0));
	QUIET((pmemset_first_part_map(NULL, NULL), 0));
	pmemset_first_part_map(set, &pm);
	MUST(pm);
	QUIET((pmemset_next_part_map(NULL, pm, &no_pm), 0));
	no_pm = (struct pmemset_part_map *)1;
	QUIET((pmemset_next_part_map(set, NULL, &no_pm), 0));
	CHECK(no_pm != (struct pmemset_part_map *)1);
	pmemset_part_map_drop(&no_pm);
	QUIET((pmemset_next_part_map(set, pm, NULL), 0));
	QUIET((pmemset_next_part_map(NULL, NULL, NULL), 0));
	d = pmemset_descriptor_part_map(pm);
	p = d.addr;
	no_pm = (struct pmemset_part_map *)1;
	EINVALS(pmemset_part_map_by_address(NULL, &no_pm, p));
	CHECK(no_pm == NULL);
	EINVALS(pmemset_part_map_by_address(set, NULL, p));
	no_pm = (struct pmemset_part_map *)1;
	EITHER(pmemset_part_map_by_address(set, &no_pm, NULL), -EINVAL, PMEMSET_E_CANNOT_FIND_PART_MAP);
	CHECK(no_pm == NULL);
	d = pmemset_descriptor_part_map(NULL);
	CHECK(d.addr == NULL && d.size == 0);
	QUIET((pmemset_part_map_drop(NULL), 0));
	pmemset_part_map_drop(&no_pm); /* fine */
	EINVALS(pmemset_remove_part_map(NULL, &pm));
	CHECK(pm != NULL);
	EINVALS(pmemset_remove_part_map(set, NULL));
	EINVALS(pmemset_remove_part_map(set, &no_pm));
	EINVALS(pmemset_remove_range(NULL, p, 1));
	EINVALS(pmemset_remove_range(set, NULL, 1));
	IS(pmemset_remove_range(set, NULL, 0), 0);
	pmemset_part_map_drop(&pm);
	CHECK(walk(set) == 1); /* still there, and its references in order */

	group("null: persistence, PAGE");
	*p = 'n';
	persistence(set, p);
	IS(remove_at(set, p), 0);
	IS(pmemset_delete(&set), 0);

	group("null: persistence, CACHE_LINE and BYTE");
	for (int i = 0; i < 2; i++) {
		MUST(setenv("PMEM2_FORCE_GRANULARITY", i ? "BYTE" : "CACHE_LINE", 1) == 0);
		IS(pmemset_new(&set, cfg), 0);
		p = must_map(set, src, 0, 0);
		*p = 'n';
		persistence(set, p);
		IS(pmemset_delete(&set), 0);
		unsetenv("PMEM2_FORCE_GRANULARITY");
	}

	group("null: perror");
	{
		int keep = dup(2), null = open("/dev/null", O_WRONLY | O_CLOEXEC);
		const char *volatile none = NULL;

		fflush(stderr);
		dup2(null, 2);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-security"
		pmemset_perror(none);
#pragma GCC diagnostic pop
		fflush(stderr);
		dup2(keep, 2);
		close(keep);
		close(null);
		CHECK(pmemset_errormsg() != NULL);
	}
	IS(pmemset_source_delete(&src), 0);
	IS(pmemset_config_delete(&cfg), 0);
	return t_end();
}
