/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Drains at PAGE granularity against the bare system calls, in pairs: every round times both on the same file, one after
 * the other, so that a drifting disk hits both alike.
 *
 * usage: drains DIR [ROUNDS]
 * Prints for each case the median microseconds an operation of the bare calls and of the library, and the median of the
 * ratios of the rounds (library / bare).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <libpmemset.h>

#define SIZE ((size_t)64 << 20)
#define PAGES 64
#define THREADS 8
#define EACH 100

static struct pmemset *set;
static char *mem;
static size_t page;

static void die(const char *what)
{
	fprintf(stderr, "drains: %s: %s (%s)\n", what, pmemset_errormsg(), strerror(errno));
	exit(1);
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void sync_bare(char *p, size_t len)
{
	if (msync(p, len, MS_SYNC))
		die("msync");
}

/* 64 scattered pages: flushes and a drain against one msync over all */
static double scattered(int bare, int copy, int round)
{
	static const char text[64] = "x";
	double t;
	if (!copy)
		for (int i = 0; i < PAGES; i++)
			mem[(size_t)i * (SIZE / PAGES)] = (char)(round + i);
	t = now();
	for (int i = 0; i < PAGES; i++) {
		char *p = mem + (size_t)i * (SIZE / PAGES);
		if (copy && bare)
			memcpy(p, text, sizeof(text));
		else if (copy)
			pmemset_memcpy(set, p, (void *)text, sizeof(text), PMEMSET_F_MEM_NODRAIN);
		else if (!bare && pmemset_flush(set, p, 64))
			die("flush");
	}
	if (bare)
		sync_bare(mem, SIZE);
	else if (pmemset_drain(set))
		die("drain");
	return now() - t;
}
static double flushes(int bare, int round) { return scattered(bare, 0, round); }
static double copies(int bare, int round) { return scattered(bare, 1, round); }

/* 8 flushes and a drain beside 64 MiB that nobody flushed, against 8 msyncs */
static double beside(int bare, int round)
{
	double t;
	for (size_t o = 0; o < SIZE; o += page)
		mem[o] = (char)round;
	t = now();
	for (int i = 0; i < 8; i++) {
		char *p = mem + (size_t)i * (SIZE / 8);
		if (bare)
			sync_bare(p, page);
		else if (pmemset_flush(set, p, 64))
			die("flush");
	}
	if (!bare && pmemset_drain(set))
		die("drain");
	t = now() - t;
	sync_bare(mem, SIZE);
	return t;
}

static double one(int bare, int round)
{
	double t = 0;
	for (int i = 0; i < 20; i++) {
		char *p = mem + (size_t)(i * 37) * page;
		double from;
		*p = (char)round;
		from = now();
		if (bare)
			sync_bare(p, page);
		else if (pmemset_persist(set, p, 64))
			die("persist");
		t += now() - from;
	}
	return t / 20;
}

struct job { int bare, id; size_t step, stride; };
static void *work(void *arg)
{
	struct job *j = arg;
	for (int i = 0; i < EACH; i++) {
		char *p = mem + (size_t)j->id * j->step + (size_t)i * j->stride;
		*p = (char)(i + 1 + j->bare);
		if (j->bare)
			sync_bare(p, page);
		else if (pmemset_flush(set, p, 64) || pmemset_drain(set))
			die("flush and drain");
	}
	return NULL;
}
static double threads(int bare, size_t step, size_t stride)
{
	pthread_t th[THREADS];
	struct job job[THREADS];
	double t = now();
	for (int i = 0; i < THREADS; i++) {
		job[i] = (struct job){ bare, i, step, stride };
		if (pthread_create(&th[i], NULL, work, &job[i]))
			die("pthread_create");
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(th[i], NULL);
	return (now() - t) / (THREADS * EACH);
}
static double apart(int bare, int round) { (void)round; return threads(bare, SIZE / THREADS, page); }
static double block(int bare, int round) { (void)round; return threads(bare, page, 8 * page); }

static int cmp(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return x < y ? -1 : x > y;
}
static double median(double *v, int n)
{
	qsort(v, (size_t)n, sizeof(*v), cmp);
	return v[n / 2];
}

int main(int argc, char **argv)
{
	static const struct { const char *name; double (*run)(int, int); } cases[] = {
		{ "64 scattered flushes + drain / one msync over all", flushes },
		{ "64 scattered NODRAIN copies + drain / the same", copies },
		{ "8 flushes + drain beside 64 MiB / 8 msyncs", beside },
		{ "persist 64 B / msync", one },
		{ "8 threads, pages far apart / msync each", apart },
		{ "8 threads, one block / msync each", block },
	};
	char path[4096];
	int rounds = argc > 2 ? atoi(argv[2]) : 9;
	struct pmemset_config *cfg;
	struct pmemset_source *src;
	struct pmemset_part *part;
	struct pmemset_part_descriptor desc;
	int fd;

	if (argc < 2 || rounds < 1 || rounds > 1000) {
		fprintf(stderr, "usage: drains DIR [ROUNDS]\n");
		return 2;
	}
	page = (size_t)sysconf(_SC_PAGESIZE);
	snprintf(path, sizeof(path), "%s/drains.%d", argv[1], (int)getpid());
	fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
	if (fd < 0 || posix_fallocate(fd, 0, (off_t)SIZE))
		die(path);
	if (pmemset_config_new(&cfg) ||
	    pmemset_config_set_required_store_granularity(cfg, PMEM2_GRANULARITY_PAGE) || pmemset_new(&set, cfg) ||
	    pmemset_source_from_file(&src, path) || pmemset_part_new(&part, set, src, 0, SIZE) ||
	    pmemset_part_map(&part, NULL, &desc))
		die("set-up");
	unlink(path);
	mem = desc.addr;
	memset(mem, 1, SIZE);
	sync_bare(mem, SIZE);

	printf("%-52s %10s %10s %8s\n", "case", "bare us", "ours us", "ratio");
	for (size_t c = 0; c < sizeof(cases) / sizeof(*cases); c++) {
		double *v = calloc((size_t)rounds * 3, sizeof(*v));
		if (v == NULL)
			die("calloc");
		for (int r = -1; r < rounds; r++) {
			/* who goes first takes turns; the first round warms up */
			double t[2];
			t[r & 1] = cases[c].run(r & 1, r);
			t[!(r & 1)] = cases[c].run(!(r & 1), r);
			if (r < 0)
				continue;
			v[r] = t[1];
			v[rounds + r] = t[0];
			v[2 * rounds + r] = t[0] / t[1];
		}
		printf("%-52s %10.1f %10.1f %8.2f\n", cases[c].name, median(v, rounds), median(v + rounds, rounds),
			median(v + 2 * rounds, rounds));
		fflush(stdout);
		free(v);
	}
	if (pmemset_delete(&set) || pmemset_source_delete(&src) || pmemset_config_delete(&cfg))
		die("delete");
	close(fd);
	return 0;
}
