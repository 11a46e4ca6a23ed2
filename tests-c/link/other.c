/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A program with two Rust libraries in it, other.rs and ours. Each works, before and after the other has been used, and each
 * keeps what is its own.
 */
#include <libpmemset.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

unsigned other_letters(unsigned times);

#define MUST(what) \
	do { \
		if (!(what)) { \
			fprintf(stderr, "other.c:%d: %s: %s\n", __LINE__, #what, pmemset_errormsg()); \
			exit(1); \
		} \
	} while (0)

static void
persists(void)
{
	struct pmemset_config *cfg = NULL;
	struct pmemset *set = NULL;
	struct pmemset_source *src = NULL, *none = NULL;
	struct pmemset_part *part = NULL;
	struct pmemset_part_descriptor at;

	MUST(pmemset_config_new(&cfg) == 0);
	MUST(pmemset_config_set_required_store_granularity(cfg, PMEM2_GRANULARITY_PAGE) == 0);
	MUST(pmemset_new(&set, cfg) == 0);
	MUST(pmemset_source_from_temporary(&src, ".") == 0);
	MUST(pmemset_part_new(&part, set, src, 0, 131072) == 0);
	MUST(pmemset_part_map(&part, NULL, &at) == 0 && at.size == 131072);
	MUST(pmemset_memset(set, at.addr, 7, at.size, 0) == at.addr);
	MUST(((char *)at.addr)[131071] == 7);
	MUST(pmemset_persist(set, at.addr, at.size) == 0);
	MUST(pmemset_source_from_file(&none, "missing") == PMEMSET_E_INVALID_SOURCE_PATH);
	MUST(strstr(pmemset_errormsg(), "missing") != NULL);
	MUST(pmemset_delete(&set) == 0 && pmemset_source_delete(&src) == 0 && pmemset_config_delete(&cfg) == 0);
}

int
main(void)
{
	persists();
	MUST(other_letters(3) == 4);
	persists();
	MUST(other_letters(2) == 4);
	return 0;
}
