/* SPDX-License-Identifier: BSD-3-Clause */
/* map_errors.c -- every way in which part_map refuses, and what it maps where it does not */
#include "t.h"

static struct pmemset *set;
static char *kept; /* a part map that every refusal must leave alone */
static int parts;

#define REFUSED(src, off, len, want) do { \
	struct pmemset_part *part_ = NULL; \
	struct pmemset_part_descriptor d_; \
	IS(pmemset_part_new(&part_, set, src, off, len), 0); \
	IS(pmemset_part_map(&part_, NULL, &d_), want); \
	CHECK(part_ != NULL); \
	CHECK(*pmemset_errormsg() != 0); \
	IS(pmemset_part_delete(&part_), 0); \
	CHECK(walk(set) == parts); \
	CHECK(size_at(set, kept) == page_size() && *kept == 'k'); \
} while (0)

#define REFUSED_EITHER(src, off, len, a, b) do { \
	struct pmemset_part *part_ = NULL; \
	IS(pmemset_part_new(&part_, set, src, off, len), 0); \
	EITHER(pmemset_part_map(&part_, NULL, NULL), a, b); \
	CHECK(part_ != NULL); \
	IS(pmemset_part_delete(&part_), 0); \
	CHECK(walk(set) == parts); \
} while (0)

static int says(const char *word)
{
	return strcasestr(pmemset_errormsg(), word) != NULL;
}

int main(void)
{
	struct pmemset_source *src = NULL;
	size_t page = page_size(), mib = 1 << 20;
	struct pmemset_part_descriptor d;
	enum pmem2_granularity g;

	t_begin();
	make_file("kept", (off_t)page);
	set = new_set();
	kept = map_file(set, "kept");
	*kept = 'k';
	parts = 1;

	make_file("mib", (off_t)mib);
	src = source("mib");
	group("map: offset not page aligned");
	REFUSED(src, 1, page, PMEMSET_E_INVALID_PMEM2_MAP);
	REFUSED(src, page / 2, page, PMEMSET_E_INVALID_PMEM2_MAP);
	REFUSED(src, page - 1, page, PMEMSET_E_INVALID_PMEM2_MAP);
	REFUSED(src, page + 512, page, PMEMSET_E_INVALID_PMEM2_MAP);
	REFUSED_EITHER(src, 100, 0, PMEMSET_E_INVALID_PMEM2_MAP, PMEMSET_E_LENGTH_UNALIGNED);
	REFUSED_EITHER(src, 100, 100, PMEMSET_E_INVALID_PMEM2_MAP, PMEMSET_E_LENGTH_UNALIGNED);

	group("map: past the end");
	REFUSED(src, 0, mib + page, PMEMSET_E_INVALID_PMEM2_MAP);
	REFUSED(src, mib, page, PMEMSET_E_INVALID_PMEM2_MAP);
	REFUSED(src, mib - page, 2 * page, PMEMSET_E_INVALID_PMEM2_MAP);
	REFUSED(src, mib + page, page, PMEMSET_E_INVALID_PMEM2_MAP);
	REFUSED(src, mib, 0, PMEMSET_E_INVALID_PMEM2_MAP);
	REFUSED(src, mib + page, 0, PMEMSET_E_INVALID_PMEM2_MAP);
	REFUSED(src, (size_t)1 << 50, page, PMEMSET_E_INVALID_PMEM2_MAP);

	group("map: huge numbers");
	REFUSED(src, (size_t)INT64_MAX + 1, page, PMEMSET_E_INVALID_OFFSET_VALUE);
	REFUSED(src, (size_t)INT64_MAX + 1, 0, PMEMSET_E_INVALID_OFFSET_VALUE);
	REFUSED(src, SIZE_MAX - page + 1, page, PMEMSET_E_INVALID_OFFSET_VALUE);
	REFUSED(src, ((size_t)INT64_MAX + 1) - page, page, PMEMSET_E_INVALID_PMEM2_MAP);
	REFUSED(src, ((size_t)INT64_MAX + 1) - page, 2 * page, PMEMSET_E_INVALID_PMEM2_MAP);
	REFUSED(src, 0, SIZE_MAX - page + 1, PMEMSET_E_INVALID_PMEM2_MAP);
	REFUSED(src, page, SIZE_MAX - page + 1, PMEMSET_E_INVALID_PMEM2_MAP);
	REFUSED(src, 0, (size_t)INT64_MAX + 1, PMEMSET_E_INVALID_PMEM2_MAP);
	REFUSED(src, 0, (size_t)1 << 47, PMEMSET_E_INVALID_PMEM2_MAP);
	REFUSED_EITHER(src, 0, SIZE_MAX, PMEMSET_E_LENGTH_UNALIGNED, PMEMSET_E_INVALID_PMEM2_MAP);
	CHECK(file_size("mib") == (off_t)mib);

	group("map: length not a multiple of the page");
	REFUSED(src, 0, 1, PMEMSET_E_LENGTH_UNALIGNED);
	REFUSED(src, 0, page - 1, PMEMSET_E_LENGTH_UNALIGNED);
	REFUSED(src, 0, page + 1, PMEMSET_E_LENGTH_UNALIGNED);
	REFUSED(src, page, 2 * page + 512, PMEMSET_E_LENGTH_UNALIGNED);
	REFUSED(src, 0, mib - 1, PMEMSET_E_LENGTH_UNALIGNED);

	group("map: the whole source and its rest");
	IS(map_part(set, src, 0, 0, &d), 0);
	CHECK(d.size == mib);
	IS(map_part(set, src, page, 0, &d), 0);
	CHECK(d.size == mib - page);
	IS(map_part(set, src, mib - page, 0, &d), 0);
	CHECK(d.size == page);
	IS(map_part(set, src, mib - page, page, &d), 0);
	CHECK(d.size == page);
	IS(map_part(set, src, 0, mib, &d), 0);
	CHECK(d.size == mib);
	parts += 5;
	CHECK(walk(set) == parts);
	IS(pmemset_source_delete(&src), 0);

	group("map: a file of odd size");
	make_file("odd", (off_t)(2 * page + 100));
	src = source("odd");
	REFUSED(src, 0, 0, PMEMSET_E_LENGTH_UNALIGNED);
	REFUSED(src, page, 0, PMEMSET_E_LENGTH_UNALIGNED);
	REFUSED(src, 0, 3 * page, PMEMSET_E_INVALID_PMEM2_MAP);
	REFUSED(src, 2 * page, page, PMEMSET_E_INVALID_PMEM2_MAP);
	IS(map_part(set, src, 0, 2 * page, &d), 0);
	parts++;
	IS(pmemset_source_delete(&src), 0);
	make_file("tiny", 1);
	src = source("tiny");
	REFUSED(src, 0, 0, PMEMSET_E_LENGTH_UNALIGNED);
	REFUSED(src, 0, page, PMEMSET_E_INVALID_PMEM2_MAP);
	IS(pmemset_source_delete(&src), 0);

	group("map: an empty file");
	make_file("empty", 0);
	src = source("empty");
	REFUSED(src, 0, 0, PMEMSET_E_INVALID_PMEM2_MAP);
	REFUSED(src, 0, page, PMEMSET_E_INVALID_PMEM2_MAP);
	IS(pmemset_source_delete(&src), 0);
	IS(pmemset_source_from_temporary(&src, "."), 0);
	REFUSED(src, 0, 0, PMEMSET_E_INVALID_PMEM2_MAP);
	IS(pmemset_source_delete(&src), 0);

	group("map: the file shrank under the source");
	make_file("shrink", (off_t)(4 * page));
	src = source("shrink");
	MUST(truncate("shrink", (off_t)(2 * page)) == 0);
	REFUSED(src, 0, 4 * page, PMEMSET_E_INVALID_PMEM2_MAP);
	IS(map_part(set, src, 0, 0, &d), 0);
	CHECK(d.size == 2 * page);
	parts++;
	IS(pmemset_source_delete(&src), 0);

	group("map: growth");
	IS(pmemset_xsource_from_file(&src, "grown", PMEMSET_SOURCE_FILE_CREATE_ALWAYS | PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED), 0);
	IS(map_part(set, src, 0, page, &d), 0);
	CHECK(d.size == page && file_size("grown") == (off_t)page);
	IS(map_part(set, src, 0, 4 * page, &d), 0);
	CHECK(d.size == 4 * page && file_size("grown") == (off_t)(4 * page));
	IS(map_part(set, src, 0, page, &d), 0);
	CHECK(file_size("grown") == (off_t)(4 * page)); /* never shrunk */
	IS(map_part(set, src, 8 * page, 2 * page, &d), 0); /* from the offset on */
	CHECK(file_size("grown") == (off_t)(10 * page));
	memset(d.addr, 'g', 2 * page);
	IS(pmemset_persist(set, d.addr, 2 * page), 0);
	IS(map_part(set, src, 0, 0, &d), 0);
	CHECK(d.size == 10 * page);
	CHECK(((char *)d.addr)[8 * page] == 'g' && ((char *)d.addr)[10 * page - 1] == 'g');
	parts += 5;
	REFUSED(src, 0, page + 1, PMEMSET_E_LENGTH_UNALIGNED);
	REFUSED(src, (size_t)INT64_MAX + 1, page, PMEMSET_E_INVALID_OFFSET_VALUE);
	CHECK(file_size("grown") == (off_t)(10 * page));
	IS(pmemset_source_delete(&src), 0);
	IS(pmemset_xsource_from_file(&src, "odd", PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED), 0);
	IS(map_part(set, src, 0, 3 * page, &d), 0);
	CHECK(d.size == 3 * page && file_size("odd") == (off_t)(3 * page));
	parts++;
	IS(pmemset_source_delete(&src), 0);

	group("map: growth that fails");
	IS(pmemset_xsource_from_file(&src, "grown", PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED), 0);
	REFUSED(src, 0, ((size_t)INT64_MAX + 1) - page, PMEMSET_E_CANNOT_TRUNCATE_SOURCE_FILE); /* larger than any file system takes */
	REFUSED(src, ((size_t)INT64_MAX + 1) - page, page, PMEMSET_E_CANNOT_TRUNCATE_SOURCE_FILE);
	REFUSED(src, 0, SIZE_MAX - page + 1, PMEMSET_E_CANNOT_TRUNCATE_SOURCE_FILE);
	REFUSED(src, page, ((size_t)INT64_MAX + 1) - page, PMEMSET_E_CANNOT_TRUNCATE_SOURCE_FILE);
	REFUSED_EITHER(src, 2 * page, SIZE_MAX - 2 * page + 1, PMEMSET_E_CANNOT_TRUNCATE_SOURCE_FILE, PMEMSET_E_INVALID_PMEM2_MAP);
	CHECK(file_size("grown") == (off_t)(10 * page));
	IS(pmemset_source_delete(&src), 0);
	IS(pmemset_source_from_temporary(&src, "."), 0);
	REFUSED(src, 0, SIZE_MAX, PMEMSET_E_CANNOT_TRUNCATE_SOURCE_FILE);
	IS(pmemset_source_delete(&src), 0);

	group("map: a coarser medium than required");
	IS(pmemset_get_store_granularity(set, &g), 0);
	if (g != PMEM2_GRANULARITY_PAGE) {
		skip("the work directory is on DAX");
	} else {
		struct pmemset *old = set;

		src = source("mib");
		for (int need = PMEM2_GRANULARITY_BYTE; need <= PMEM2_GRANULARITY_CACHE_LINE; need++) {
			struct pmemset_part *part = NULL;
			int fds = count_fds(), maps = count_maps();

			set = new_set_ev(need, NULL, NULL);
			IS(pmemset_part_new(&part, set, src, 0, 0), 0);
			for (int i = 0; i < 5; i++) {
				IS(pmemset_part_map(&part, NULL, &d), PMEMSET_E_INVALID_PMEM2_MAP);
				CHECKF(says("page") && says(need == PMEM2_GRANULARITY_BYTE ? "byte" : "cache"), "%s", pmemset_errormsg());
				CHECK(part != NULL);
			}
			CHECK(walk(set) == 0);
			IS(pmemset_get_store_granularity(set, &g), PMEMSET_E_NO_PART_MAPPED);
			IS(pmemset_part_delete(&part), 0);
			IS(pmemset_delete(&set), 0);
			CHECK(count_fds() == fds);
			CHECK(count_maps() <= maps + 2);
		}
		IS(pmemset_source_delete(&src), 0);
		set = old;
	}

	group("map: a second granularity in one set");
	IS(pmemset_get_store_granularity(set, &g), 0);
	src = source("mib");
	if (g == PMEM2_GRANULARITY_PAGE) {
		MUST(setenv("PMEM2_FORCE_GRANULARITY", "CACHE_LINE", 1) == 0);
		REFUSED(src, 0, page, PMEMSET_E_GRANULARITY_MISMATCH);
		MUST(setenv("PMEM2_FORCE_GRANULARITY", "BYTE", 1) == 0);
		REFUSED(src, 0, page, PMEMSET_E_GRANULARITY_MISMATCH);
		MUST(setenv("PMEM2_FORCE_GRANULARITY", "PAGE", 1) == 0);
		IS(map_part(set, src, 0, page, &d), 0);
		parts++;
		unsetenv("PMEM2_FORCE_GRANULARITY");
	}
	{
		struct pmemset *old = set;

		MUST(setenv("PMEM2_FORCE_GRANULARITY", "CACHE_LINE", 1) == 0);
		set = new_set();
		d.addr = must_map(set, src, 0, page);
		MUST(setenv("PMEM2_FORCE_GRANULARITY", "BYTE", 1) == 0);
		IS(map_part(set, src, 0, page, NULL), PMEMSET_E_GRANULARITY_MISMATCH);
		MUST(setenv("PMEM2_FORCE_GRANULARITY", "PAGE", 1) == 0);
		IS(map_part(set, src, 0, page, NULL), PMEMSET_E_GRANULARITY_MISMATCH);
		/* and the set keeps it once the last part is gone */
		IS(remove_at(set, d.addr), 0);
		IS(map_part(set, src, 0, page, NULL), PMEMSET_E_GRANULARITY_MISMATCH);
		MUST(setenv("PMEM2_FORCE_GRANULARITY", "cacheline", 1) == 0);
		IS(map_part(set, src, 0, page, NULL), 0);
		unsetenv("PMEM2_FORCE_GRANULARITY");
		IS(pmemset_delete(&set), 0);
		set = old;
	}
	IS(pmemset_source_delete(&src), 0);

	group("map: after all that the set is as it was");
	CHECK(walk(set) == parts);
	CHECK(*kept == 'k');
	IS(pmemset_delete(&set), 0);
	CHECK(!readable(kept));
	return t_end();
}
