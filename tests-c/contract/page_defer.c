/* SPDX-License-Identifier: BSD-3-Clause */
/* page_defer.c -- PAGE: a drain syncs what was flushed, all of it, merged, and nothing else */
#include "sync_hooks.h"
#include <pthread.h>

static size_t page;
static struct pmemset *set;
static struct view v;

static void open_view(const char *path, size_t pages)
{
	make_file(path, (off_t)(pages * page));
	set = new_set();
	v.base = map_file(set, path);
	v.off = 0;
	v.len = pages * page;
	v.ino = inode_of(path);
	memset(v.base, 1, v.len < (64 << 20) ? v.len : 64 << 20); /* everything is dirty: what is not flushed must stay so */
	hook_set(0, 0);
	hook_reset();
}

/* every flushed page durable, no other touched; flags[i]: page i was flushed */
static void exact(const char *flags, size_t pages)
{
	size_t missed = 0, extra = 0, first_missed = 0, first_extra = 0;

	for (size_t i = 0; i < pages; i++) {
		char *p = v.base + i * page;

		if (flags[i] && !hook_durable(&v, p, page) && !missed++)
			first_missed = i;
		if (!flags[i] && hook_touched(&v, p, page) && !extra++)
			first_extra = i;
	}
	CHECKF(missed == 0, "%zu flushed pages were not synced, page %zu the first", missed, first_missed);
	CHECKF(extra == 0, "%zu pages that nobody flushed were synced, page %zu the first", extra, first_extra);
}

static void scattered(void)
{
	char flags[512] = { 0 };
	int n;

	open_view("scattered", 512);
	for (size_t i = 0; i < 512; i += 8) {
		v.base[i * page + 100]++;
		flags[i] = 1;
		IS(pmemset_flush(set, v.base + i * page + 100, 64), 0);
	}
	IS(pmemset_drain(set), 0);
	exact(flags, 512);
	n = hook_count(HOOK_MSYNC) + hook_count(HOOK_FSYNC) + hook_count(HOOK_FDATASYNC);
	CHECKF(n <= 64, "%d syncs for 64 flushes", n);
	printf("     64 scattered pages: %d msync, %d fsync or fdatasync, %d range starts, %d range waits\n", hook_count(HOOK_MSYNC),
		hook_count(HOOK_FSYNC) + hook_count(HOOK_FDATASYNC), hook_count(HOOK_RANGE_START), hook_count(HOOK_RANGE_WAIT));
	hook_reset();
	IS(pmemset_drain(set), 0); /* nothing is left */
	CHECKF(nhooks == 0, "%d calls in an empty drain", nhooks);
	IS(pmemset_delete(&set), 0);
	CHECKF(nhooks == 0, "%d calls in the deletion", nhooks);
}

static void patterns(void)
{
	uint64_t seed = 11;

	for (int round = 0; round < 60; round++) {
		char flags[256] = { 0 };
		int flushes = 1 + (int)(rnd(&seed) % 40);

		if (round % 10 == 0) {
			if (set)
				IS(pmemset_delete(&set), 0);
			open_view("patterns", 256);
		}
		hook_reset();
		for (int k = 0; k < flushes; k++) {
			size_t at_ = rnd(&seed) % (255 * page), len = 1 + rnd(&seed) % (k % 5 ? 200 : 6 * page);

			if (at_ + len > 256 * page)
				len = 256 * page - at_;
			for (size_t i = at_ / page; i <= (at_ + len - 1) / page; i++)
				flags[i] = 1;
			switch (rnd(&seed) % 5) {
			case 0:
				pmemset_memset(set, v.base + at_, k, len, PMEMSET_F_MEM_NODRAIN);
				break;
			case 1: /* recorded, too */
				pmemset_memset(set, v.base + at_, k, len, PMEMSET_F_MEM_NOFLUSH | PMEMSET_F_MEM_NODRAIN);
				break;
			case 2:
				pmemset_memmove(set, v.base + at_, v.base, len, PMEMSET_F_MEM_NODRAIN | PMEMSET_F_MEM_NONTEMPORAL);
				break;
			default:
				IS(pmemset_flush(set, v.base + at_, len), 0);
			}
		}
		switch (round % 3) {
		case 0:
			IS(pmemset_drain(set), 0);
			break;
		case 1: /* persist drains what was flushed before */
			flags[200] = 1;
			IS(pmemset_persist(set, v.base + 200 * page + 1, 7), 0);
			break;
		default: /* so does a copy that is not NODRAIN */
			flags[100] = 1;
			pmemset_memcpy(set, v.base + 100 * page, "12345678", 8, 0);
		}
		exact(flags, 256);
	}
	IS(pmemset_delete(&set), 0);
}

static void merged(void)
{
	char flags[64] = { 0 };
	int n;

	open_view("merged", 64);
	for (int i = 0; i < 1000; i++)
		IS(pmemset_flush(set, v.base + 5 * page + i, 8), 0);
	IS(pmemset_drain(set), 0);
	flags[5] = 1;
	exact(flags, 64);
	n = hook_count(HOOK_MSYNC) + hook_count(HOOK_FSYNC) + hook_count(HOOK_FDATASYNC);
	CHECKF(n <= 2, "%d syncs for 1000 flushes of one page", n);

	hook_reset();
	memset(flags, 0, 64);
	for (size_t i = 10; i < 50; i++) { /* side by side, in no order */
		size_t k = 10 + (i * 17) % 40;

		IS(pmemset_flush(set, v.base + k * page, page), 0);
		flags[k] = 1;
	}
	IS(pmemset_drain(set), 0);
	exact(flags, 64);
	n = hook_count(HOOK_MSYNC) + hook_count(HOOK_FSYNC) + hook_count(HOOK_FDATASYNC);
	CHECKF(n <= 2, "%d syncs for 40 pages side by side", n);
	IS(pmemset_delete(&set), 0);
}

static void single(void)
{
	char flags[64] = { 0 };

	open_view("single", 64);
	IS(pmemset_persist(set, v.base + 7 * page + 4000 % page, 1), 0);
	flags[7] = 1;
	exact(flags, 64);
	hook_reset();
	IS(pmemset_persist(set, v.base + 9 * page - 1, 2), 0); /* two pages */
	memset(flags, 0, 64);
	flags[8] = flags[9] = 1;
	exact(flags, 64);
	hook_reset();
	IS(pmemset_persist(set, v.base, 0), 0);
	CHECKF(nhooks == 0, "%d calls for no bytes", nhooks);
	pmemset_memset(set, v.base + 3 * page, 9, 100, 0);
	memset(flags, 0, 64);
	flags[3] = 1;
	exact(flags, 64);
	hook_reset();
	pmemset_memset(set, v.base + 4 * page, 9, 100, PMEMSET_F_MEM_NODRAIN);
	pmemset_memset(set, v.base + 6 * page, 9, 100, PMEMSET_F_MEM_NOFLUSH);
	IS(pmemset_drain(set), 0);
	CHECK(hook_durable(&v, v.base + 4 * page, 100));
	CHECK(hook_durable(&v, v.base + 6 * page, 100));
	CHECK(!hook_touched(&v, v.base + 5 * page, page));
	IS(pmemset_delete(&set), 0);
}

/* one thread flushes, another drains */
static void *flusher(void *arg)
{
	size_t first = (size_t)arg;

	for (size_t i = first; i < 256; i += 4) {
		v.base[i * page] = 3;
		IS(pmemset_flush(set, v.base + i * page, 1), 0);
	}
	return NULL;
}

static void *drainer(void *arg)
{
	(void)arg;
	IS(pmemset_drain(set), 0);
	return NULL;
}

static void by_threads(void)
{
	char flags[256] = { 0 };
	pthread_t t[2];

	open_view("threads", 256);
	for (size_t k = 0; k < 2; k++)
		MUST(pthread_create(&t[k], NULL, flusher, (void *)(k * 2)) == 0);
	for (size_t k = 0; k < 2; k++)
		pthread_join(t[k], NULL);
	MUST(pthread_create(&t[0], NULL, drainer, NULL) == 0);
	pthread_join(t[0], NULL);
	for (size_t i = 0; i < 256; i += 2)
		flags[i] = 1;
	exact(flags, 256);
	hook_reset();
	IS(pmemset_drain(set), 0);
	CHECK(nhooks == 0);
	IS(pmemset_delete(&set), 0);
}

/* several drains at once: each returns when what it covers is durable */
static void *own_page(void *arg)
{
	size_t k = (size_t)arg;

	for (int i = 0; i < 300; i++) {
		v.base[k * page] = (char)i;
		IS(pmemset_flush(set, v.base + k * page, 64), 0);
		IS(pmemset_drain(set), 0);
	}
	return NULL;
}

static void group_commit(void)
{
	pthread_t t[8];
	char flags[16] = { 0 };
	int n;

	open_view("group", 16);
	for (size_t k = 0; k < 8; k++)
		MUST(pthread_create(&t[k], NULL, own_page, (void *)k) == 0);
	for (size_t k = 0; k < 8; k++)
		pthread_join(t[k], NULL);
	memset(flags, 1, 8);
	exact(flags, 16);
	n = hook_count(HOOK_MSYNC) + hook_count(HOOK_FSYNC) + hook_count(HOOK_FDATASYNC);
	CHECKF(n >= 300 && n <= 4800, "%d syncs in 2400 drains", n);
	printf("     2400 drains of 8 threads: %d syncs\n", n);
	IS(pmemset_delete(&set), 0);
}

static void removal(void)
{
	struct pmemset_source *src;
	struct view part[3];

	make_file("removal", (off_t)(30 * page));
	src = source("removal");
	set = new_set();
	hook_set(0, 0);
	for (size_t i = 0; i < 3; i++) {
		part[i].base = must_map(set, src, i * 10 * page, 10 * page);
		part[i].off = (off_t)(i * 10 * page);
		part[i].len = 10 * page;
		part[i].ino = inode_of("removal");
		memset(part[i].base, 1, 10 * page);
		IS(pmemset_flush(set, part[i].base + 2 * page, 1), 0);
		pmemset_memset(set, part[i].base + 4 * page, 7, 10, PMEMSET_F_MEM_NODRAIN);
	}
	/* remove_part_map */
	hook_reset();
	IS(remove_at(set, part[0].base), 0);
	CHECK(hook_durable(&part[0], part[0].base + 2 * page, 1));
	CHECK(hook_durable(&part[0], part[0].base + 4 * page, 1));
	CHECK(!hook_touched(&part[0], part[0].base + 3 * page, page));
	CHECK(!hook_touched(&part[1], part[1].base + 2 * page, page)); /* not its business */
	/* remove_range, by one byte elsewhere in the part */
	hook_reset();
	IS(pmemset_remove_range(set, part[1].base + 9 * page, 1), 0);
	CHECK(hook_durable(&part[1], part[1].base + 2 * page, 1));
	CHECK(hook_durable(&part[1], part[1].base + 4 * page, 1));
	/* delete */
	hook_reset();
	IS(pmemset_delete(&set), 0);
	CHECK(hook_durable(&part[2], part[2].base + 2 * page, 1));
	CHECK(hook_durable(&part[2], part[2].base + 4 * page, 1));
	CHECK(!hook_touched(&part[2], part[2].base + 6 * page, page));
	IS(pmemset_source_delete(&src), 0);

	/* a part of a run */
	make_file("run0", (off_t)(4 * page));
	make_file("run1", (off_t)(4 * page));
	set = new_set();
	IS(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_FULL), 0);
	part[0].base = map_file(set, "run0");
	map_file(set, "run1");
	part[0].len = part[1].len = 4 * page;
	part[0].off = part[1].off = 0;
	part[1].base = part[0].base + 4 * page;
	part[0].ino = inode_of("run0");
	part[1].ino = inode_of("run1");
	memset(part[0].base, 1, 8 * page);
	IS(pmemset_flush(set, part[0].base + 3 * page, 2 * page), 0); /* over the border */
	hook_reset();
	IS(pmemset_remove_range(set, part[1].base, 1), 0);
	CHECK(hook_durable(&part[1], part[1].base, 1));
	hook_reset();
	IS(pmemset_drain(set), 0); /* the lower half's share was kept, or is durable */
	IS(pmemset_flush(set, part[0].base, 1), 0);
	IS(pmemset_drain(set), 0);
	CHECK(hook_durable(&part[0], part[0].base, 1));
	IS(pmemset_delete(&set), 0);

	/* over the border of two files: one drain, both durable */
	set = new_set();
	IS(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_FULL), 0);
	part[0].base = map_file(set, "run0");
	map_file(set, "run1");
	part[1].base = part[0].base + 4 * page;
	memset(part[0].base, 2, 8 * page);
	hook_reset();
	IS(pmemset_flush(set, part[1].base - 1, 2), 0);
	IS(pmemset_drain(set), 0);
	CHECK(hook_durable(&part[0], part[1].base - 1, 1));
	CHECK(hook_durable(&part[1], part[1].base, 1));
	CHECK(!hook_touched(&part[0], part[0].base, page) && !hook_touched(&part[1], part[1].base + page, page));
	IS(pmemset_delete(&set), 0);
}

/* a place used again does not inherit what its former tenant had recorded */
static void reused(void)
{
	struct view w;

	open_view("old", 16);
	IS(pmemset_flush(set, v.base + 3 * page, 1), 0);
	IS(remove_at(set, v.base), 0);
	make_file("new", (off_t)(16 * page));
	w.base = map_file(set, "new");
	w.off = 0;
	w.len = 16 * page;
	w.ino = inode_of("new");
	memset(w.base, 1, w.len);
	hook_reset();
	IS(pmemset_flush(set, w.base + 5 * page, 1), 0);
	IS(pmemset_drain(set), 0);
	CHECK(hook_durable(&w, w.base + 5 * page, 1));
	CHECK(!hook_touched(&w, w.base + 3 * page, page));
	CHECK(!hook_touched(&v, v.base + 3 * page, page) || v.base == w.base);
	IS(pmemset_delete(&set), 0);
}

static void outside(void)
{
	struct view w;
	int fd;

	open_view("inside", 8);
	make_file("outside", (off_t)(8 * page));
	fd = open("outside", O_RDWR | O_CLOEXEC);
	w.base = mmap(NULL, 8 * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	MUST(fd >= 0 && w.base != MAP_FAILED);
	w.off = 0;
	w.len = 8 * page;
	w.ino = inode_of("outside");
	memset(w.base, 1, w.len);
	IS(pmemset_flush(set, w.base + 2 * page + 5, 10), 0); /* at once: the program may unmap it */
	CHECK(hook_durable(&w, w.base + 2 * page, page));
	CHECK(!hook_touched(&w, w.base + 3 * page, page));
	munmap(w.base, 8 * page);
	close(fd);
	hook_reset();
	IS(pmemset_drain(set), 0);
	CHECK(nhooks == 0);
	IS(pmemset_delete(&set), 0);
}

/* more flushes than anyone would keep: none is dropped */
static void flood(void)
{
	size_t pages = 30000, missed = 0;
	uint64_t seed = 3;

	open_view("flood", 2 * pages);
	hook_skip = 1; /* only what is asked for counts here */
	for (size_t i = 0; i < pages; i++)
		IS(pmemset_flush(set, v.base + 2 * ((i * 7919) % pages) * page + rnd(&seed) % page, 1), 0);
	IS(pmemset_drain(set), 0);
	CHECKF(nhooks < HOOKS, "too many calls to look at");
	/* by a map of the pages: the pairwise check is too slow for so many */
	{
		char *synced = calloc(2 * pages, 1);
		int ended = 0;

		MUST(synced);
		for (int i = 0; i < nhooks && i < HOOKS; i++) {
			size_t first = SIZE_MAX, n = 0;

			if (hooks[i].kind == HOOK_MSYNC && hooks[i].addr >= (uintptr_t)v.base && hooks[i].addr < (uintptr_t)v.base + v.len) {
				first = (hooks[i].addr - (uintptr_t)v.base) / page;
				n = hooks[i].len / page;
				ended = 1;
			} else if (hooks[i].kind == HOOK_RANGE_WAIT && hooks[i].ino == v.ino) {
				first = (size_t)hooks[i].off / page;
				n = hooks[i].len / page;
			} else if ((hooks[i].kind == HOOK_FSYNC || hooks[i].kind == HOOK_FDATASYNC) && hooks[i].ino == v.ino) {
				first = 0;
				n = 2 * pages;
				ended = 1;
			}
			for (size_t k = first; k < first + n && k < 2 * pages; k++)
				synced[k] = 1;
		}
		for (size_t i = 0; i < 2 * pages; i += 2)
			missed += !synced[i];
		CHECKF(missed == 0, "%zu of %zu flushed pages were never synced", missed, pages);
		CHECK(ended);
		free(synced);
	}
	hook_skip = 0;
	IS(pmemset_delete(&set), 0);
}

static void eager(void)
{
	char flags[16] = { 0 };

	MUST(setenv("PMEMSET_EAGER_FLUSH", "1", 1) == 0);
	open_view("eager", 16);
	IS(pmemset_flush(set, v.base + 3 * page, 1), 0);
	flags[3] = 1;
	exact(flags, 16);
	CHECK(nhooks > 0);
	hook_reset();
	IS(pmemset_drain(set), 0);
	CHECK(nhooks == 0);
	IS(pmemset_flush(set, v.base + 3 * page, 1), 0);
	CHECK(hook_durable(&v, v.base + 3 * page, 1)); /* every one */
	hook_reset();
	IS(pmemset_persist(set, v.base + 5 * page, 1), 0);
	CHECK(hook_durable(&v, v.base + 5 * page, 1));
	IS(pmemset_delete(&set), 0);
}

static void finer(void)
{
	for (int g = 0; g < 2; g++) {
		MUST(setenv("PMEM2_FORCE_GRANULARITY", g ? "BYTE" : "CACHE_LINE", 1) == 0);
		open_view("finer", 16);
		IS(pmemset_flush(set, v.base, 5 * page), 0);
		IS(pmemset_drain(set), 0);
		IS(pmemset_persist(set, v.base + 1, 1), 0);
		pmemset_memset(set, v.base, 1, 5 * page, 0);
		pmemset_memset(set, v.base, 1, 5 * page, PMEMSET_F_MEM_NODRAIN);
		IS(pmemset_drain(set), 0);
		CHECKF(nhooks == 0, "%d system calls", nhooks); /* that is what DAX is for */
		IS(pmemset_delete(&set), 0);
	}
}

/* a file that the library creates or grows: its size and name are durable, too */
static void created(void)
{
	struct pmemset_source *src = NULL;
	struct view w;

	set = new_set();
	MUST(mkdir("dir", 0755) == 0);
	hook_set(0, 0);
	hook_reset();
	IS(pmemset_xsource_from_file(&src, "dir/created", PMEMSET_SOURCE_FILE_CREATE_ALWAYS | PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED), 0);
	w.base = must_map(set, src, 0, 4 * page);
	w.off = 0;
	w.len = 4 * page;
	w.ino = inode_of("dir/created");
	w.base[page] = 1;
	IS(pmemset_persist(set, w.base + page, 1), 0);
	CHECK(hook_durable(&w, w.base + page, 1));
	{
		ino_t dir = inode_of("dir");
		int seen = 0, whole = 0;

		for (int i = 0; i < nhooks; i++) {
			if (hooks[i].kind == HOOK_FSYNC && hooks[i].ino == dir)
				seen = 1;
			if ((hooks[i].kind == HOOK_FSYNC || hooks[i].kind == HOOK_FDATASYNC) && hooks[i].ino == w.ino)
				whole = 1;
		}
		CHECKF(seen || whole, "neither the file nor its directory was synced");
	}
	IS(pmemset_source_delete(&src), 0);
	IS(pmemset_delete(&set), 0);
}

/* bytes of files that this process has made dirty */
static long long dirtied(void)
{
	char line[128];
	long long n = -1;
	FILE *f = fopen("/proc/self/io", "r");

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "write_bytes: %lld", &n) == 1)
			break;
	if (f)
		fclose(f);
	return n;
}

static long long store_and_flush(size_t at_)
{
	long long before = dirtied(), made;

	v.base[at_]++;
	made = dirtied() - before;
	IS(pmemset_flush(set, v.base + at_, 1), 0);
	return made;
}

/*
 * What is filled in order is cached in large folios, of which one store makes all dirty, and a drain writes it. Pages that are
 * flushed by themselves do not stay in them.
 */
static void apart(void)
{
	const size_t step = 1024 * page;
	long long whole = 0, once = 0, probe;

	open_view("apart", 16 * 1024);
	MUST(msync(v.base, v.len, MS_SYNC) == 0);
	probe = store_and_flush(15 * step);
	IS(pmemset_drain(set), 0);
	madvise(v.base + 15 * step, page, 20); /* MADV_COLD */
	if (probe < 16 * (long long)page || store_and_flush(15 * step) > (long long)page) {
		child_skip("no large folios here, or nothing that splits them");
	} else {
		for (size_t i = 0; i < 15; i++)
			whole += store_and_flush(i * step);
		IS(pmemset_drain(set), 0);
		for (size_t i = 0; i < 15; i++)
			once += store_and_flush(i * step + i * page);
		IS(pmemset_drain(set), 0);
		/* One may have been busy at the wrong moment. */
		CHECKF(once < whole / 2, "15 stores made %lld bytes dirty, %lld before the first drain", once, whole);
	}
	IS(pmemset_delete(&set), 0);
}

int main(void)
{
	t_begin();
	page = page_size();
	CHILD_GROUP(single, "defer: persist and copies");
	CHILD_GROUP(scattered, "defer: scattered flushes, one drain, no other page");
	CHILD_GROUP(merged, "defer: many flushes cost about one sync");
	CHILD_GROUP(patterns, "defer: random ranges, all ways to flush and to drain");
	CHILD_GROUP(by_threads, "defer: flushed by some threads, drained by another");
	CHILD_GROUP(group_commit, "defer: eight threads drain at once");
	CHILD_GROUP(apart, "defer: a page that is flushed alone is written alone");
	CHILD_GROUP(removal, "defer: removal and deletion sync what is recorded");
	CHILD_GROUP(reused, "defer: a place that is used again");
	CHILD_GROUP(outside, "defer: outside the part maps, at once");
	CHILD_GROUP(flood, "defer: 30 000 scattered flushes");
	CHILD_GROUP(eager, "defer: PMEMSET_EAGER_FLUSH");
	CHILD_GROUP(finer, "defer: no sync at the finer granularities");
	CHILD_GROUP(created, "defer: a created file is durable with its first persist");
	return t_end();
}
