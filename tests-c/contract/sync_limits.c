/* SPDX-License-Identifier: BSD-3-Clause */
/* sync_limits.c -- what failed syncs and crowded drains cost: time, memory, blocks of the file, waits that end */
#include "sync_view.h"
#include <malloc.h>

/* ---- a drain of more files than are told apart, beside others that keep coming ---- */

enum { FILES = 70, BESIDE = 12 };

static volatile int stop;
static uintptr_t slow_lo, slow_hi;
static char *run;
static double longest;
static int through;

static void one_millisecond(const struct hook *h)
{
	if (h->kind == HOOK_MSYNC && h->addr >= slow_lo && h->addr < slow_hi)
		usleep(1000);
}

static void *flush_run(void *arg)
{
	while (!stop) {
		double began = now(), took;

		if (pmemset_flush(set, run, FILES * page))
			CHECK(0);
		took = now() - began;
		if (!arg)
			continue;
		through++;
		if (took > longest)
			longest = took;
	}
	return NULL;
}

static void *flush_own(void *arg)
{
	while (!stop)
		if (pmemset_flush(set, arg, 1))
			CHECK(0);
	return NULL;
}

static void many_files(void)
{
	pthread_t t[2 + BESIDE];
	char *own[BESIDE], name[200];

	MUST(setenv("PMEMSET_EAGER_FLUSH", "1", 1) == 0);
	set = new_set();
	hook_skip = 1; /* the disk has no part in this */
	hook_before = one_millisecond;
	IS(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_FULL), 0);
	for (int i = 0; i < FILES; i++) {
		struct pmemset_source *src;

		snprintf(name, sizeof name, "run%d", i);
		make_file(name, (off_t)page);
		src = source(name);
		own[0] = must_map(set, src, 0, 0);
		if (i == 0)
			run = own[0];
		IS(pmemset_source_delete(&src), 0);
	}
	IS(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_NONE), 0);
	slow_lo = UINTPTR_MAX;
	for (int i = 0; i < BESIDE; i++) {
		tmpfs_name(name, sizeof name, "beside");
		make_file(name, (off_t)page);
		own[i] = map_file(set, name);
		unlink(name);
		slow_lo = (uintptr_t)own[i] < slow_lo ? (uintptr_t)own[i] : slow_lo;
		slow_hi = (uintptr_t)own[i] + page > slow_hi ? (uintptr_t)own[i] + page : slow_hi;
	}
	for (int i = 0; i < BESIDE; i++)
		MUST(pthread_create(&t[2 + i], NULL, flush_own, own[i]) == 0);
	for (int i = 0; i < 2; i++)
		MUST(pthread_create(&t[i], NULL, flush_run, i ? NULL : set) == 0);
	sleep(4);
	stop = 1;
	for (int i = 0; i < 2 + BESIDE; i++)
		pthread_join(t[i], NULL);
	/* a few milliseconds each; without bound it is through when the others have stopped */
	CHECKF(longest < 3 && through >= 3, "%d flushes of %d files, the longest took %.2f s", through, FILES, longest);
	nhooks = 0;
	IS(pmemset_delete(&set), 0);
}

/* ---- memory ---- */

static size_t heap(void)
{
	struct mallinfo2 m = mallinfo2();

	return m.uordblks + m.hblkhd;
}

static void cycles(struct pmemset_source *src, int n)
{
	struct pmemset_part_descriptor d;

	for (int i = 0; i < n; i++) {
		MUST(map_part(set, src, 0, 16 * page, &d) == 0);
		MUST(pmemset_remove_range(set, d.addr, 1) == 0);
		hook_reset();
	}
}

/* parts of a file that the library has created, mapped and removed over and over, with no drain in between */
static void created(void)
{
	struct pmemset_source *src = NULL;
	unsigned flags = PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED;
	char name[200];
	size_t before, after;
	double began, took;

#if PMEMSET_API_VERSION == 111
	flags |= PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED;
#endif
	tmpfs_name(name, sizeof name, "created");
	hook_skip = 1;
	set = new_set();
	MUST(pmemset_xsource_from_file(&src, name, flags) == 0);
	began = now();
	cycles(src, 2000);
	took = now() - began;
	before = heap();
	cycles(src, 20000);
	after = heap();
	CHECKF(after < before + 4096, "20 000 cycles: %zu bytes more", after - before);
	began = now();
	IS(pmemset_drain(set), 0); /* nor is there a list to go through */
	CHECKF(now() - began < took + 1, "a drain took %.1f s after that, 2000 cycles %.1f s", now() - began, took);
	IS(pmemset_source_delete(&src), 0);
	IS(pmemset_delete(&set), 0);
	unlink(name);
}

static void *copies_and_ends(void *arg)
{
	pmemset_memset(set, arg, 1, 1, 0);
	return NULL;
}

static void threads(int n)
{
	for (int i = 0; i < n; i++) {
		pthread_t t;

		MUST(pthread_create(&t, NULL, copies_and_ends, v.base + page) == 0);
		pthread_join(t, NULL);
		hook_reset();
	}
}

/* threads whose copies fail, and which end without a drain that could tell them */
static void threads_that_end(void)
{
	size_t before, after;

	open_view("threads", 4);
	hook_set(EIO, -1);
	threads(200);
	before = heap();
	threads(3000);
	after = heap();
	CHECKF(after < before + 16384, "3000 threads: %zu bytes more", after - before);
	hook_set(0, 0);
	IS(pmemset_drain(set), -EIO); /* this thread has copied nothing, and the page is lost */
	take_back(set, &v, 1);
	IS(pmemset_drain(set), 0);
	IS(pmemset_delete(&set), 0);
}

/* a page is lost of a part of so many bytes; KiB that became resident, and seconds */
static long lost_of(size_t size, double *took)
{
	char name[200];
	long before, after;
	double began;
	int fd;

	tmpfs_name(name, sizeof name, "huge");
	fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);
	MUST(fd >= 0);
	unlink(name);
	if (ftruncate(fd, (off_t)size)) {
		close(fd);
		return -1;
	}
	snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
	set = new_set();
	v = (struct view){ map_file(set, name), 0, size, 0 };
	close(fd);
	v.base[0] = 1;
	IS(pmemset_persist(set, v.base, 1), 0);
	before = status_kb("VmRSS:");
	began = now();
	for (int i = 0; i < 3; i++) {
		char *p = v.base + size / 3 * (size_t)i / page * page;

		*p = 2;
		IS(pmemset_flush(set, p, 1), 0);
		hook_set(EIO, -1);
		IS(pmemset_drain(set), -EIO);
		hook_set(0, 0);
		IS(pmemset_drain(set), -EIO);
		IS(pmemset_flush(set, p, 1), 0);
		IS(pmemset_drain(set), 0);
	}
	hook_set(EIO, -1);
	IS(pmemset_persist(set, v.base, 1), -EIO);
	hook_set(0, 0);
	IS(pmemset_remove_range(set, v.base, 1), -EIO);
	IS(pmemset_remove_range(set, v.base, 1), 0);
	*took = now() - began;
	after = status_kb("VmRSS:");
	IS(pmemset_delete(&set), 0);
	return after - before;
}

static void huge(void)
{
	double small_took, huge_took;
	long small, big;

	if (instrumented()) {
		child_skip("there is no such address space");
		return;
	}
	(void)lost_of(16 * page, &small_took); /* what is made once in a process */
	small = lost_of(16 * page, &small_took);
	big = lost_of((size_t)6 << 40, &huge_took);
	if (big < 0 && small >= 0) {
		child_skip("no file of 6 TiB");
		return;
	}
	printf("     a lost page of 64 KiB: %ld KiB, %.3f s; of 6 TiB: %ld KiB, %.3f s\n", small, small_took, big, huge_took);
	CHECKF(big < small + 2048, "%ld KiB more", big - small);
	CHECKF(huge_took < small_took + 1, "%.2f s", huge_took);
}

/* ---- blocks ---- */

static long blocks(int fd)
{
	struct stat st;

	MUST(fstat(fd, &st) == 0);
	return (long)st.st_blocks;
}

/* a file with some pages and many holes, all of it flushed again after a failure */
static void sparse(const char *name, int reads)
{
	const size_t size = (size_t)64 << 20;
	volatile char sum = 0;
	long stored;
	int fd;

	make_file(name, (off_t)size);
	fd = open(name, O_RDWR | O_CLOEXEC);
	MUST(fd >= 0);
	set = new_set();
	v = view_of(set, name);
	for (size_t i = 0; i < 16; i++)
		v.base[(i * i * 37) * page] = (char)(i + 1);
	IS(pmemset_persist(set, v.base, size), 0);
	if (reads) /* now there are pages in memory that are holes of the file */
		for (size_t at = 0; at < size; at += page)
			sum += v.base[at];
	stored = blocks(fd);
	for (int i = 0; i < 2; i++) {
		v.base[37 * page]++;
		hook_set(EIO, 1);
		IS(pmemset_persist(set, v.base, size), -EIO);
		hook_set(0, 0);
		IS(pmemset_flush(set, v.base, size), 0);
		IS(pmemset_drain(set), 0);
		CHECKF(blocks(fd) == stored, "%ld blocks, %ld before", blocks(fd), stored);
		IS(pmemset_drain(set), 0);
	}
	/* what is stored into a hole is stored */
	v.base[5 * page] = 7;
	IS(pmemset_persist(set, v.base, size), 0);
	CHECK(file_holds(name, (off_t)(5 * page), "\7", 1));
	/* no byte has changed */
	for (size_t i = 0; i < 16; i++)
		CHECKF(v.base[i * i * 37 * page] == (char)(i + 1 + (i == 1 ? 2 : 0)), "page %zu", i);
	IS(pmemset_delete(&set), 0);
	close(fd);
	unlink(name);
}

static void sparse_on_disk(void)
{
	sparse("sparse", 0);
	sparse("sparse", 1);
}

static void sparse_in_memory(void)
{
	char name[200];

	tmpfs_name(name, sizeof name, "sparse");
	sparse(name, 0); /* there a load from a hole fills it */
}

/* a flush makes nothing dirty beside its range */
static void nothing_beside(void)
{
	open_view("beside", 64);
	lose(set, &v, 20, EIO);
	hook_reset();
	IS(pmemset_flush(set, v.base + 20 * page + 9, 3 * page), 0);
	IS(pmemset_drain(set), 0);
	for (size_t i = 0; i < 64; i++)
		CHECKF(hook_touched(&v, v.base + i * page, 1) == (i >= 20 && i < 24) &&
			(!can_populate() || hook_redirtied(v.base + i * page, 1) == (i >= 20 && i < 24)), "page %zu", i);
	/* what was made dirty again is not so once more, until the file fails again */
	hook_reset();
	for (int i = 0; i < 10; i++)
		IS(pmemset_persist(set, v.base + 20 * page, 1), 0);
	CHECKF(hook_count(HOOK_POPULATE) == 0, "%d", hook_count(HOOK_POPULATE));
	IS(pmemset_delete(&set), 0);
}

/* ---- more files than a table holds ---- */

static void many_failures(void)
{
	enum { MANY = 1200 };
	struct pmemset *healthy;
	struct view w;
	char name[200];

	tmpfs_name(name, sizeof name, "healthy");
	make_file(name, (off_t)(4 * page));
	healthy = new_set();
	w = view_of(healthy, name);
	unlink(name);
	for (int round = 0; round < 2; round++)
		for (int i = 0; i < MANY; i++) {
			char number[16];

			snprintf(number, sizeof number, "many%d", i);
			tmpfs_name(name, sizeof name, number);
			if (round == 0)
				make_file(name, (off_t)(4 * page));
			set = new_set();
			v = view_of(set, name);
			if (round == 0) {
				lose(set, &v, 1, EIO);
				IS(pmemset_delete(&set), -EIO);
				continue;
			}
			v.base[page]++;
			unlink(name);
			take_back(set, &v, 1);
			IS(pmemset_drain(set), 0);
			IS(pmemset_delete(&set), 0);
		}
	for (int i = 0; i < 3; i++) {
		IS(pmemset_drain(healthy), 0);
		IS(pmemset_persist(healthy, w.base, w.len), 0);
	}
	lose(healthy, &w, 2, EIO);
	take_back(healthy, &w, 2);
	IS(pmemset_delete(&healthy), 0);
}

int main(void)
{
	t_begin();
	page = page_size();
	CHILD_GROUP(many_files, "sync limits: a drain of many files is through, whoever else drains");
	CHILD_GROUP(created, "sync limits: parts of created files that come and go");
	CHILD_GROUP(threads_that_end, "sync limits: threads that end without having been told");
	CHILD_GROUP(huge, "sync limits: a lost page of a huge part");
	CHILD_GROUP(sparse_on_disk, "sync limits: holes stay holes");
	CHILD_GROUP(sparse_in_memory, "sync limits: holes stay holes, on tmpfs");
	CHILD_GROUP(nothing_beside, "sync limits: nothing is made dirty beside a flush");
	CHILD_GROUP(many_failures, "sync limits: more files have failed than are told apart");
	return t_end();
}
