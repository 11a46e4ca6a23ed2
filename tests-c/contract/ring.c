/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * ring.c -- one range mapped twice, side by side, by PMEMSET_COALESCING_FULL: what lies over the end of the first part goes on
 * at the beginning of the range.
 */
#include "t.h"

static size_t page;

/* addresses of two parts in a row, each the same n bytes at an offset */
static char *twice(struct pmemset *set, struct pmemset_source *src, size_t off, size_t n)
{
	struct pmemset_part_descriptor one, run;

	IS(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_FULL), 0);
	MUST(map_part(set, src, off, n, &one) == 0);
	MUST(map_part(set, src, off, n, &run) == 0);
	CHECK(one.size == n && run.addr == one.addr && run.size == 2 * n);
	return run.addr;
}

/* stores of every length and place are seen at both addresses, and in the file; name NULL: it has none */
static void window(struct pmemset *set, char *p, size_t n, const char *name, off_t off)
{
	uint64_t seed = 5;
	char *copy = calloc(1, n), text[300];

	MUST(copy);
	for (int i = 0; i < 400; i++) {
		size_t at = i % 3 ? rnd(&seed) % n : n - rnd(&seed) % 300, len = 1 + rnd(&seed) % sizeof text;
		char *to = p + at + (at + len <= n && i % 2 ? n : 0);

		memset(text, 'a' + i % 26, len);
		text[0] = (char)i;
		switch (i % 4) {
		case 0:
			memcpy(to, text, len);
			IS(pmemset_persist(set, to, len), 0);
			break;
		case 1:
			pmemset_memcpy(set, to, text, len, 0);
			break;
		case 2:
			pmemset_memcpy(set, to, text, len, PMEMSET_F_MEM_NODRAIN | PMEMSET_F_MEM_NONTEMPORAL);
			IS(pmemset_drain(set), 0);
			break;
		default:
			memcpy(to, text, len);
			IS(pmemset_flush(set, to, len), 0);
			IS(pmemset_drain(set), 0);
		}
		for (size_t j = 0; j < len; j++)
			copy[((size_t)(to - p) + j) % n] = text[j];
		CHECKF(memcmp(p, copy, n) == 0 && memcmp(p + n, copy, n) == 0, "store %d of %zu bytes at %zu of %zu", i, len,
			(size_t)(to - p), n);
	}
	if (name)
		CHECK(file_holds(name, off, copy, n));
	free(copy);
}

static void named(const char *name, const char *granularity)
{
	struct pmemset_source *src;
	struct pmemset *set;
	char *p, *q;

	if (granularity)
		MUST(setenv("PMEM2_FORCE_GRANULARITY", granularity, 1) == 0);
	make_file(name, (off_t)(8 * page));
	src = source(name);
	set = new_set();
	p = twice(set, src, 2 * page, 4 * page);
	window(set, p, 4 * page, name, (off_t)(2 * page));
	CHECK(walk(set) == 1 && size_at(set, p + 6 * page) == 8 * page);
	/* a set of its own sees the same bytes */
	{
		struct pmemset *other = new_set();

		q = must_map(other, src, 0, 8 * page);
		p[4 * page] = 'Q'; /* the second time byte 0 of the range */
		CHECK(q[2 * page] == 'Q' && p[0] == 'Q');
		IS(pmemset_persist(other, q, page), 0);
		IS(pmemset_delete(&other), 0);
	}
	IS(pmemset_source_delete(&src), 0);
	/* half a ring is a mapping like another */
	IS(pmemset_remove_range(set, p + 4 * page, 4 * page), 0);
	CHECK(walk(set) == 1 && size_at(set, p) == 4 * page && p[0] == 'Q');
	p[1] = 'R';
	IS(pmemset_persist(set, p, 2), 0);
	IS(pmemset_delete(&set), 0);
	CHECK(file_holds(name, (off_t)(2 * page), "QR", 2));
	unsetenv("PMEM2_FORCE_GRANULARITY");
	unlink(name);
}

static void unnamed(const char *where, size_t n)
{
	struct pmemset_source *src = NULL;
	struct pmemset *set = new_set();
	char *p;

	IS(pmemset_source_from_temporary(&src, where), 0);
	p = twice(set, src, 0, n);
	IS(pmemset_source_delete(&src), 0);
	if (n <= 16 * page) {
		window(set, p, n, NULL, 0);
	} else {
		memcpy(p + n - 4, "wraparound", 10);
		IS(pmemset_persist(set, p + n - 4, 10), 0);
		CHECK(memcmp(p, "around", 6) == 0 && memcmp(p + 2 * n - 4, "wrap", 4) == 0);
	}
	CHECK(walk(set) == 1 && size_at(set, p) == 2 * n);
	/* both halves at once */
	IS(pmemset_remove_range(set, p + n - 1, 2), 0);
	CHECK(walk(set) == 0);
	IS(pmemset_delete(&set), 0);
}

int main(void)
{
	char memory[300];

	t_begin();
	page = page_size();
	tmpfs_name(memory, sizeof memory, "ring");
	group("ring: a range of a file, work directory");
	named("ring", NULL);
	group("ring: a range of a file, tmpfs");
	named(memory, NULL);
	group("ring: a range of a file, cache line");
	named("ring", "CACHE_LINE");
	group("ring: a range of a file, byte");
	named("ring", "BYTE");
	group("ring: unnamed, work directory");
	unnamed(".", page);
	unnamed(".", 16 * page);
	group("ring: unnamed, tmpfs");
	unnamed(tmpfs_dir(), 3 * page);
	group("ring: unnamed, of large pages");
	unnamed(".", 6 << 20);
	unnamed(tmpfs_dir(), 2 << 20);
	return t_end();
}
