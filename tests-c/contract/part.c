/* SPDX-License-Identifier: BSD-3-Clause */
/* part.c -- parts: what is checked when, and what a failed mapping leaves */
#include "t.h"

#define JUNK ((struct pmemset_part *)0x5a5a5a50)

int main(void)
{
	struct pmemset *set;
	struct pmemset_source *src;
	struct pmemset_part *part = JUNK;
	struct pmemset_part_descriptor d;
	size_t page = page_size();
	char path[64];

	t_begin();
	make_file("f", 1 << 20);
	set = new_set();

	group("part: new and delete");
	src = source("f");
	IS(pmemset_part_new(&part, set, src, 0, page), 0);
	CHECK(part != NULL && part != JUNK);
	IS(pmemset_part_delete(&part), 0);
	CHECK(part == NULL);
	IS(pmemset_part_delete(&part), 0); /* NULL already */
	CHECK(walk(set) == 0);

	group("part: offset and length are not checked before the mapping");
	{
		static const size_t odd[] = { 1, 4095, (size_t)1 << 40, (size_t)INT64_MAX, (size_t)INT64_MAX + 1, SIZE_MAX };

		for (size_t i = 0; i < sizeof odd / sizeof *odd; i++)
			for (size_t j = 0; j < sizeof odd / sizeof *odd; j++) {
				part = NULL;
				IS(pmemset_part_new(&part, set, src, odd[i], odd[j]), 0);
				CHECK(part != NULL);
				IS(pmemset_part_delete(&part), 0);
			}
	}
	IS(pmemset_source_delete(&src), 0);

	group("part: the file is gone");
	make_file("gone", (off_t)page);
	src = source("gone");
	IS(pmemset_part_new(&part, set, src, 0, page), 0);
	MUST(unlink("gone") == 0);
	{
		struct pmemset_part *late = JUNK;

		IS(pmemset_part_new(&late, set, src, 0, page), PMEMSET_E_INVALID_SOURCE_PATH);
		CHECK(late == NULL);
		CHECK(*pmemset_errormsg() != 0);
	}
	IS(pmemset_part_map(&part, NULL, &d), 0); /* the part made in time has what it needs */
	CHECK(part == NULL && d.size == page);
	IS(pmemset_persist(set, d.addr, page), 0);
	IS(remove_at(set, d.addr), 0);
	IS(pmemset_source_delete(&src), 0);

	group("part: renamed, replaced, linked");
	make_file("one", (off_t)page);
	src = source("one");
	MUST(rename("one", "two") == 0);
	IS(pmemset_part_new(&part, set, src, 0, page), 0);
	IS(pmemset_part_delete(&part), 0);
	make_file("one", (off_t)(2 * page)); /* another file has the name now */
	IS(pmemset_part_new(&part, set, src, 0, 0), 0);
	IS(pmemset_part_map(&part, NULL, &d), 0);
	CHECK(d.size == page);
	strcpy(d.addr, "second");
	IS(pmemset_persist(set, d.addr, page), 0);
	CHECK(file_holds("two", 0, "second", 7));
	IS(remove_at(set, d.addr), 0);
	MUST(link("two", "three") == 0 && unlink("two") == 0);
	IS(pmemset_part_new(&part, set, src, 0, page), 0);
	IS(pmemset_part_delete(&part), 0);
	MUST(unlink("three") == 0);
	part = JUNK;
	IS(pmemset_part_new(&part, set, src, 0, page), PMEMSET_E_INVALID_SOURCE_PATH);
	CHECK(part == NULL);
	IS(pmemset_source_delete(&src), 0);

	group("part: files that never had a name");
	{
		int fd = memfd_create("m", MFD_CLOEXEC);

		MUST(fd >= 0 && ftruncate(fd, (off_t)page) == 0);
		snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
		src = source(path);
		close(fd);
		IS(pmemset_part_new(&part, set, src, 0, 0), 0);
		IS(pmemset_part_map(&part, NULL, &d), 0);
		IS(remove_at(set, d.addr), 0);
		IS(pmemset_source_delete(&src), 0);

		make_file("nameless", (off_t)page);
		fd = open("nameless", O_RDWR | O_CLOEXEC);
		MUST(fd >= 0 && unlink("nameless") == 0);
		snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
		src = source(path);
		close(fd);
		IS(pmemset_part_new(&part, set, src, 0, 0), 0);
		IS(pmemset_part_map(&part, NULL, &d), 0);
		IS(remove_at(set, d.addr), 0);
		IS(pmemset_source_delete(&src), 0);

		IS(pmemset_source_from_temporary(&src, "."), 0);
		IS(pmemset_part_new(&part, set, src, 0, page), 0);
		IS(pmemset_part_map(&part, NULL, &d), 0);
		IS(remove_at(set, d.addr), 0);
		IS(pmemset_source_delete(&src), 0);
	}

	group("part: a failed mapping leaves part and set");
	{
		char *p = map_file(set, "f");
		struct pmemset_part *same;

		make_file("short", (off_t)page);
		src = source("short");
		IS(pmemset_part_new(&part, set, src, 0, 2 * page), 0);
		same = part;
		for (int i = 0; i < 3; i++) {
			IS(pmemset_part_map(&part, NULL, &d), PMEMSET_E_INVALID_PMEM2_MAP);
			CHECK(part == same);
			CHECK(walk(set) == 1);
			CHECK(size_at(set, p) == 1 << 20);
		}
		MUST(truncate("short", (off_t)(2 * page)) == 0);
		IS(pmemset_part_map(&part, NULL, &d), 0); /* now it fits */
		CHECK(part == NULL && d.size == 2 * page);
		CHECK(walk(set) == 2);
		IS(pmemset_source_delete(&src), 0);
	}

	group("part: desc and extra");
	{
		enum pmemset_part_state state = (enum pmemset_part_state)77;
		struct pmemset_extras extra = { NULL, NULL, &state };

		src = source("f");
		IS(pmemset_part_new(&part, set, src, 0, page), 0);
		IS(pmemset_part_map(&part, &extra, NULL), 0);
		CHECKF(state == PMEMSET_PART_STATE_OK || state == PMEMSET_PART_STATE_INDETERMINATE, "state %d", (int)state);
		IS(pmemset_part_new(&part, set, src, 0, page), 0);
		extra.state = NULL; /* and the other two are looked at by nobody */
		extra.sds_in = (const struct pmemset_part_shutdown_state_data *)16;
		extra.sds_out = (struct pmemset_part_shutdown_state_data *)16;
		IS(pmemset_part_map(&part, &extra, &d), 0);
		CHECK(d.addr != NULL && d.size == page);
		IS(pmemset_part_new(&part, set, src, 0, page), 0);
		IS(pmemset_part_map(&part, NULL, NULL), 0);
		CHECK(walk(set) == 5);
		IS(pmemset_source_delete(&src), 0);
	}

	group("part: many parts of one source, waiting");
	{
		struct pmemset_part *parts[64];
		char *at_[64];

		src = source("f");
		for (size_t i = 0; i < 64; i++) {
			parts[i] = NULL;
			IS(pmemset_part_new(&parts[i], set, src, i * page, page), 0);
		}
		IS(pmemset_source_delete(&src), 0);
		for (size_t i = 64; i-- > 0;) {
			IS(pmemset_part_map(&parts[i], NULL, &d), 0);
			at_[i] = d.addr;
			*at_[i] = (char)i;
		}
		for (size_t i = 0; i < 64; i++) {
			char c;

			IS(pmemset_persist(set, at_[i], 1), 0);
			read_file("f", (off_t)(i * page), &c, 1);
			CHECK(c == (char)i);
		}
	}
	IS(pmemset_delete(&set), 0);

	group("part: deleted after its set's other parts, before its source");
	set = new_set();
	src = source("f");
	IS(pmemset_part_new(&part, set, src, 0, page), 0);
	IS(pmemset_part_delete(&part), 0);
	IS(pmemset_source_delete(&src), 0);
	IS(pmemset_delete(&set), 0);
	return t_end();
}
