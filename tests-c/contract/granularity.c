/* SPDX-License-Identifier: BSD-3-Clause */
/* granularity.c -- PMEM2_FORCE_GRANULARITY, and required against available */
#include "t.h"

static struct pmemset_source *src;

/* the granularity a new set gets, or the error */
static int got(int required, const char *value)
{
	struct pmemset *set = new_set_ev(required, NULL, NULL);
	enum pmem2_granularity g = (enum pmem2_granularity)99;
	int rc;

	if (value)
		MUST(setenv("PMEM2_FORCE_GRANULARITY", value, 1) == 0);
	else
		unsetenv("PMEM2_FORCE_GRANULARITY");
	rc = map_part(set, src, 0, page_size(), NULL);
	if (rc == 0)
		IS(pmemset_get_store_granularity(set, &g), 0);
	unsetenv("PMEM2_FORCE_GRANULARITY");
	if (rc == 0) /* and it stays, whatever the environment says later */
		IS((setenv("PMEM2_FORCE_GRANULARITY", "BYTE", 1), pmemset_get_store_granularity(set, &g)), 0);
	unsetenv("PMEM2_FORCE_GRANULARITY");
	IS(pmemset_delete(&set), 0);
	return rc ? rc : (int)g;
}

int main(void)
{
	static const struct { const char *value; int g; } good[] = {
		{ "BYTE", 0 }, { "byte", 0 }, { "Byte", 0 }, { "bYtE", 0 },
		{ "CACHE_LINE", 1 }, { "cache_line", 1 }, { "Cache_Line", 1 }, { "CACHELINE", 1 }, { "cacheline", 1 }, { "CacheLine", 1 },
		{ "PAGE", 2 }, { "page", 2 }, { "Page", 2 },
	};
	static const char *const bad[] = { "", " ", "FOO", "BYTES", "BYT", "PAGE ", " PAGE", "CACHE-LINE", "CACHE LINE", "0", "1", "2", "page,byte",
		"PAGEPAGEPAGEPAGEPAGEPAGEPAGEPAGEPAGEPAGEPAGEPAGEPAGEPAGEPAGEPAGEPAGEPAGEPAGE", "\xff\xfe" };
	char tmpfs[300];

	t_begin();
	make_file("f", 1 << 16);
	src = source("f");

	group("granularity: forced, any case");
	for (size_t i = 0; i < sizeof good / sizeof *good; i++)
		CHECKF(got(PMEM2_GRANULARITY_PAGE, good[i].value) == good[i].g, "%s", good[i].value);

	group("granularity: invalid values are ignored");
	{
		int natural = got(PMEM2_GRANULARITY_PAGE, NULL);

		CHECK(natural >= 0);
		for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
			CHECKF(got(PMEM2_GRANULARITY_PAGE, bad[i]) == natural, "'%s'", bad[i]);
	}

	group("granularity: required against forced");
	for (int required = 0; required < 3; required++)
		for (int forced = 0; forced < 3; forced++) {
			static const char *const name[] = { "BYTE", "CACHE_LINE", "PAGE" };

			IS(got(required, name[forced]), forced <= required ? forced : PMEMSET_E_INVALID_PMEM2_MAP);
		}

	group("granularity: read again at every mapping");
	{
		struct pmemset *set = new_set();
		enum pmem2_granularity g;

		IS(map_part(set, src, 0, 0, NULL), 0);
		IS(pmemset_get_store_granularity(set, &g), 0);
		if (g == PMEM2_GRANULARITY_PAGE) {
			MUST(setenv("PMEM2_FORCE_GRANULARITY", "byte", 1) == 0);
			IS(map_part(set, src, 0, 0, NULL), PMEMSET_E_GRANULARITY_MISMATCH);
			MUST(setenv("PMEM2_FORCE_GRANULARITY", "nonsense", 1) == 0);
			IS(map_part(set, src, 0, 0, NULL), 0);
			MUST(setenv("PMEM2_FORCE_GRANULARITY", "page", 1) == 0);
			IS(map_part(set, src, 0, 0, NULL), 0);
			unsetenv("PMEM2_FORCE_GRANULARITY");
			IS(map_part(set, src, 0, 0, NULL), 0);
			CHECK(walk(set) == 4);
		}
		IS(pmemset_delete(&set), 0);
	}
	IS(pmemset_source_delete(&src), 0);

	group("granularity: tmpfs is no persistent memory");
	tmpfs_name(tmpfs, sizeof tmpfs, "g");
	make_file(tmpfs, 1 << 16);
	src = source(tmpfs);
	IS(got(PMEM2_GRANULARITY_PAGE, NULL), PMEM2_GRANULARITY_PAGE);
	IS(got(PMEM2_GRANULARITY_CACHE_LINE, NULL), PMEMSET_E_INVALID_PMEM2_MAP);
	IS(got(PMEM2_GRANULARITY_BYTE, NULL), PMEMSET_E_INVALID_PMEM2_MAP);
	IS(pmemset_source_delete(&src), 0);
	unlink(tmpfs);
	return t_end();
}
