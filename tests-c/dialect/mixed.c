/* SPDX-License-Identifier: BSD-3-Clause */
/* mixed.c -- parts by both mapping calls in one set, of one source. For 1.11, which has pmemset_map() beside its own. */
#include "t.h"

/* what these numbers are in 1.12 */
#define REMOVE_RANGE 6
#define PART_REMOVE 8

static size_t page;
static unsigned told[16];

static int count(struct pmemset *set, struct pmemset_event_context *ctx, void *arg)
{
	CHECK(set && arg == told && (unsigned)ctx->type < 16);
	told[ctx->type]++;
	return 0;
}

static struct pmemset_source *open_as(const char *path, unsigned flags)
{
	struct pmemset_source *src = NULL;

	MUST(pmemset_xsource_from_file(&src, path, flags) == 0);
	return src;
}

static int map_directly(struct pmemset *set, struct pmemset_source *src, size_t off, size_t len, struct pmemset_part_descriptor *d)
{
	struct pmemset_map_config *cfg = NULL;
	int rc;

	MUST(pmemset_map_config_new(&cfg) == 0);
	MUST(pmemset_map_config_set_offset(cfg, off) == 0);
	pmemset_map_config_set_length(cfg, len);
	rc = pmemset_map(set, src, cfg, d);
	MUST(pmemset_map_config_delete(&cfg) == 0);
	return rc;
}

int main(void)
{
	struct pmemset_part_descriptor a, b, c;
	struct pmemset_source *plain, *bit, *temp;
	struct pmemset_extras extra;
	enum pmemset_part_state state = PMEMSET_PART_STATE_CORRUPTED;
	struct pmemset_part *part = NULL;
	struct pmemset *set;
	unsigned none[16] = { 0 };

	t_begin();
	page = page_size();

	group("mixed: removals are told from the first call of 1.12 on, though it fails");
	make_file("plain", (off_t)page);
	plain = source("plain");
	for (int calls = 0; calls < 2; calls++) {
		memset(told, 0, sizeof told);
		set = new_set_ev(PMEM2_GRANULARITY_PAGE, count, told);
		IS(map_part(set, plain, 0, page, &a), 0);
		if (calls)
			IS(pmemset_map(set, NULL, NULL, NULL), PMEMSET_E_INVALID_SOURCE_TYPE);
		IS(pmemset_remove_range(set, a.addr, 1), 0);
		CHECK(told[REMOVE_RANGE] == (unsigned)calls && told[PART_REMOVE] == (unsigned)calls);
		IS(pmemset_delete(&set), 0);
	}
	IS(pmemset_source_delete(&plain), 0);
	memset(told, 0, sizeof told);

	group("mixed: the bit of the source means what the call says");
	set = new_set();
	make_file("bit", (off_t)page);
	plain = source("plain");
	bit = open_as("bit", PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED);
	IS(map_part(set, plain, 0, 2 * page, NULL), PMEMSET_E_INVALID_PMEM2_MAP);
	IS(map_directly(set, bit, 0, 2 * page, NULL), PMEMSET_E_SOURCE_FILE_IS_TOO_SMALL);
	IS(file_size("plain"), (off_t)page);
	IS(file_size("bit"), (off_t)page);
	IS(map_directly(set, plain, 0, 2 * page, NULL), 0);
	IS(map_part(set, bit, 0, 2 * page, NULL), 0);
	IS(file_size("plain"), (off_t)(2 * page));
	IS(file_size("bit"), (off_t)(2 * page));
	/* grown by one call it is long enough for the other */
	IS(map_part(set, plain, page, page, NULL), 0);
	IS(map_directly(set, bit, page, page, NULL), 0);
	IS(map_directly(set, bit, 2 * page, page, NULL), PMEMSET_E_SOURCE_FILE_IS_TOO_SMALL);
	IS(map_part(set, plain, 2 * page, page, NULL), PMEMSET_E_INVALID_PMEM2_MAP);
	IS(walk(set), 4);
	MUST(pmemset_source_from_temporary(&temp, ".") == 0);
	IS(map_part(set, temp, 0, 0, NULL), PMEMSET_E_INVALID_PMEM2_MAP);
	IS(map_directly(set, temp, 0, 0, NULL), PMEMSET_E_MAP_LENGTH_UNSET);
	IS(map_directly(set, temp, 0, page, NULL), 0);
	IS(map_part(set, temp, 0, 2 * page, NULL), 0);
	IS(pmemset_source_delete(&temp), 0);
	IS(PMEMSET_E_CANNOT_GROW_SOURCE_FILE, PMEMSET_E_CANNOT_TRUNCATE_SOURCE_FILE);
	IS(pmemset_delete(&set), 0);

	group("mixed: parts of both calls coalesce, are found, persisted and removed alike");
	set = new_set();
	IS(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_FULL), 0);
	IS(map_part(set, plain, 0, page, &a), 0);
	IS(map_directly(set, bit, 0, page, &b), 0);
	IS(map_part(set, plain, page, page, &c), 0);
	CHECK(a.addr == b.addr && b.addr == c.addr && c.size == 3 * page);
	pmemset_memset(set, a.addr, 'x', 3 * page, 0);
	CHECK(file_holds("plain", (off_t)page, "xx", 2) && file_holds("bit", 100, "xx", 2));
	IS(pmemset_remove_range(set, (char *)a.addr + page, 1), 0);
	CHECK(size_at(set, a.addr) == page && size_at(set, (char *)a.addr + 2 * page) == page);
	IS(pmemset_delete(&set), 0);

	group("mixed: removals are told from the first pmemset_map on");
	set = new_set_ev(PMEM2_GRANULARITY_PAGE, count, told);
	IS(map_part(set, plain, 0, page, &a), 0);
	IS(pmemset_remove_range(set, a.addr, 1), 0);
	IS(map_part(set, plain, 0, page, &a), 0);
	IS(remove_at(set, a.addr), 0);
	IS(map_part(set, plain, 0, page, &a), 0);
	IS(told[PMEMSET_EVENT_PART_ADD], 3);
	IS(told[REMOVE_RANGE] + told[PART_REMOVE], 0);
	IS(map_directly(set, bit, 0, 100 * page, NULL), PMEMSET_E_SOURCE_FILE_IS_TOO_SMALL); /* one that fails counts, too */
	IS(pmemset_remove_range(set, a.addr, 1), 0); /* of a part that was mapped before */
	IS(told[REMOVE_RANGE], 1);
	IS(told[PART_REMOVE], 1);
	IS(map_directly(set, bit, 0, page, &b), 0);
	IS(remove_at(set, b.addr), 0);
	IS(told[PART_REMOVE], 2);
	memcpy(none, told, sizeof none);
	IS(map_part(set, plain, 0, page, &a), 0);
	IS(pmemset_delete(&set), 0);
	none[PMEMSET_EVENT_PART_ADD]++;
	CHECK(memcmp(none, told, sizeof none) == 0);

	group("mixed: another set tells nothing");
	set = new_set_ev(PMEM2_GRANULARITY_PAGE, count, told);
	IS(map_part(set, bit, 0, page, &a), 0);
	IS(remove_at(set, a.addr), 0);
	CHECK(told[PART_REMOVE] == 2 && told[REMOVE_RANGE] == 1);

	group("mixed: part_map has its own numbers for states, and neither looks for bad blocks nor at shutdown states");
	pmemset_source_set_badblock_detection(plain, true);
	MUST(pmemset_part_new(&part, set, plain, 0, page) == 0);
	memset(&extra, 0, sizeof extra);
	extra.state = &state;
	IS(pmemset_part_map(&part, &extra, &a), 0);
	CHECK(state == PMEMSET_PART_STATE_OK && PMEMSET_PART_STATE_OK == 1);
	IS(pmemset_delete(&set), 0);
	IS(pmemset_source_delete(&plain), 0);
	IS(pmemset_source_delete(&bit), 0);
	return t_end();
}
