/* SPDX-License-Identifier: BSD-3-Clause */
/* source_lifetime.c -- sources that go before their parts, and thousands of files with few descriptors */
#include "t.h"

#define FILES 3000

static void name_of(char *buf, int i)
{
	snprintf(buf, 32, "many/%04d", i);
}

static void many(void)
{
	struct rlimit rl;
	struct pmemset *set;
	char name[32], c, **p = calloc(FILES, sizeof *p);
	int fds, max = 0;
	size_t page = page_size();

	MUST(p);
	MUST(mkdir("many", 0755) == 0);
	for (int i = 0; i < FILES; i++) {
		name_of(name, i);
		make_file(name, (off_t)page);
	}
	MUST(getrlimit(RLIMIT_NOFILE, &rl) == 0);
	rl.rlim_cur = 64;
	MUST(setrlimit(RLIMIT_NOFILE, &rl) == 0);
	set = new_set();
	fds = count_fds();
	for (int i = 0; i < FILES; i++) {
		struct pmemset_source *src = NULL;
		struct pmemset_part_descriptor d;
		int rc;

		name_of(name, i);
		rc = pmemset_source_from_file(&src, name);
		IS(rc, 0);
		if (rc)
			return;
		rc = map_part(set, src, 0, 0, &d);
		IS(rc, 0);
		if (rc)
			return;
		p[i] = d.addr;
		IS(pmemset_source_delete(&src), 0);
		if (i % 64 == 0 && count_fds() - fds > max)
			max = count_fds() - fds;
	}
	CHECK(walk(set) == FILES);
	CHECKF(max <= 64 / 8, "%d descriptors kept, an eighth of 64 is the bound", max);
	CHECKF(count_fds() - fds <= 64 / 8, "%d descriptors kept", count_fds() - fds);
	for (int i = 0; i < FILES; i++) { /* flush them all, one drain now and then */
		memcpy(p[i], &i, sizeof i);
		if (i % 3 == 0)
			IS(pmemset_persist(set, p[i], sizeof i), 0);
		else
			IS(pmemset_flush(set, p[i], sizeof i), 0);
		if (i % 500 == 499)
			IS(pmemset_drain(set), 0);
	}
	IS(pmemset_drain(set), 0);
	CHECK(count_fds() - fds <= 64 / 8);
	for (int i = 0; i < FILES; i++) {
		int v = -1;

		name_of(name, i);
		read_file(name, 0, &v, sizeof v);
		CHECKF(v == i, "file %d holds %d", i, v);
	}
	for (int i = 0; i < FILES; i += 2)
		IS(remove_at(set, p[i]), 0);
	CHECK(walk(set) == FILES / 2);
	for (int i = 1; i < FILES; i += 2) {
		p[i][10] = 'z';
		IS(pmemset_flush(set, p[i] + 10, 1), 0);
	}
	IS(pmemset_delete(&set), 0);
	CHECK(count_fds() == fds); /* nothing stays */
	for (int i = 1; i < FILES; i += 2) {
		name_of(name, i);
		read_file(name, 10, &c, 1);
		CHECK(c == 'z');
	}
	free(p);
}

/* sources kept: each its one descriptor, until there are no more */
static void kept(void)
{
	struct rlimit rl;
	struct pmemset_source *src[80];
	struct pmemset *set = new_set();
	char name[32];
	int n, fds, rc = 0;

	MUST(getrlimit(RLIMIT_NOFILE, &rl) == 0);
	rl.rlim_cur = 64;
	MUST(setrlimit(RLIMIT_NOFILE, &rl) == 0);
	fds = count_fds();
	for (n = 0; n < 80; n++) {
		name_of(name, n);
		src[n] = NULL;
		rc = pmemset_source_from_file(&src[n], name);
		if (rc)
			break;
		IS(map_part(set, src[n], 0, 0, NULL), 0);
	}
	IS(rc, -EMFILE);
	CHECKF(n == 64 - fds, "%d sources with %d descriptors open before", n, fds);
	CHECK(walk(set) == n);
	for (int i = 0; i < n; i++)
		IS(pmemset_source_delete(&src[i]), 0);
	CHECK(count_fds() - fds <= 8);
	IS(pmemset_delete(&set), 0);
	CHECK(count_fds() == fds);
}

/* a descriptor kept by a part map goes with it */
static void own_syncs(void)
{
	struct pmemset *set = new_set();
	int fds = count_fds();
	size_t page = page_size();

	for (int round = 0; round < 5; round++) {
		char *p[20], name[32];

		for (int i = 0; i < 20; i++) {
			name_of(name, i);
			p[i] = map_file(set, name);
			p[i][1] = (char)round;
			IS(pmemset_persist(set, p[i], page), 0);
		}
		for (int i = 0; i < 20; i++)
			IS(remove_at(set, p[i]), 0);
		CHECK(count_fds() == fds);
	}
	IS(pmemset_delete(&set), 0);
}

int main(void)
{
	struct pmemset *set;
	struct pmemset_source *src;
	struct pmemset_part *part = NULL, *late = NULL;
	struct pmemset_part_descriptor d;
	size_t page = page_size();
	int fds;

	t_begin();
	make_file("f", (off_t)(4 * page));

	group("lifetime: the source goes before the mapping");
	set = new_set();
	fds = count_fds();
	src = source("f");
	IS(pmemset_part_new(&part, set, src, 0, page), 0);
	IS(pmemset_part_new(&late, set, src, page, 0), 0);
	IS(pmemset_source_delete(&src), 0);
	CHECK(src == NULL);
	IS(pmemset_part_map(&part, NULL, &d), 0);
	strcpy(d.addr, "early");
	IS(pmemset_persist(set, d.addr, 6), 0);
	CHECK(file_holds("f", 0, "early", 6));
	IS(pmemset_part_map(&late, NULL, &d), 0);
	CHECK(d.size == 3 * page);
	strcpy(d.addr, "late");
	IS(pmemset_persist(set, d.addr, 6), 0);
	CHECK(file_holds("f", (off_t)page, "late", 5));
	IS(pmemset_delete(&set), 0);
	CHECK(count_fds() == fds);

	group("lifetime: the source goes, the part is never mapped");
	set = new_set();
	src = source("f");
	IS(pmemset_part_new(&part, set, src, 0, page), 0);
	IS(pmemset_source_delete(&src), 0);
	IS(pmemset_part_delete(&part), 0);
	CHECK(count_fds() == fds);
	IS(pmemset_delete(&set), 0);

	group("lifetime: a temporary source goes before its part grows it");
	set = new_set();
	IS(pmemset_source_from_temporary(&src, "."), 0);
	IS(pmemset_part_new(&part, set, src, 0, 8 * page), 0);
	IS(pmemset_source_delete(&src), 0);
	IS(pmemset_part_map(&part, NULL, &d), 0);
	CHECK(d.size == 8 * page);
	memset(d.addr, 5, d.size);
	IS(pmemset_persist(set, d.addr, d.size), 0);
	IS(pmemset_delete(&set), 0);
	CHECK(count_fds() == fds);

	group("lifetime: one source, several sets");
	{
		struct pmemset *two = new_set();

		set = new_set();
		src = source("f");
		IS(map_part(set, src, 0, page, &d), 0);
		IS(pmemset_part_new(&part, two, src, 0, page), 0);
		IS(pmemset_delete(&set), 0);
		IS(pmemset_source_delete(&src), 0);
		IS(pmemset_part_map(&part, NULL, &d), 0);
		CHECK(memcmp(d.addr, "early", 6) == 0);
		IS(pmemset_delete(&two), 0);
	}

	group("lifetime: the file's name goes after the mapping");
	set = new_set();
	{
		char *p = map_file(set, "f");

		MUST(unlink("f") == 0);
		p[0] = 'u';
		IS(pmemset_persist(set, p, 4 * page), 0);
		IS(pmemset_flush(set, p, 4 * page), 0);
		IS(remove_at(set, p), 0);
	}
	IS(pmemset_delete(&set), 0);

	if (instrumented()) /* valgrind keeps descriptors of its own */
		return t_end();
	CHILD_GROUP(many, "lifetime: 3000 files, 64 descriptors, each source deleted after mapping");
	CHILD_GROUP(kept, "lifetime: sources that stay hold one descriptor each");
	CHILD_GROUP(own_syncs, "lifetime: descriptors of removed part maps");
	return t_end();
}
