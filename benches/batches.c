/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Why drains that meet on a file go together, and when their pages are started: without the library, what a disk takes when
 * threads with a page each
 *     sync it themselves with msync, which is what the ratios are to,
 *     do that and wait for those who began before them, as every drain must,
 *     share a batch: one of them starts all pages, waits for all and syncs one, once half of the threads or all of them are
 *     there; with the pages started by that one or by each when it comes;
 * and what io_uring takes from one thread for eight pages, against sync_file_range and msync. All of it once more with
 * MADV_RANDOM, and what that costs who reads a file from end to end.
 *
 * usage: batches [-r ROUNDS] DIR
 * DIR should be on a disk with ext4 or xfs. Prints a text, times in microseconds a page, medians of the rounds.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SIZE ((size_t)64 << 20)
#define PAGE ((size_t)4096)
#define EACH 60
#define MOST 8
#define ROUNDS 99

static int fd;
static char *mem;
static int advised;

static void give_up(const char *what)
{
	fprintf(stderr, "batches: %s: %s\n", what, strerror(errno));
	exit(1);
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void sync_page(size_t at)
{
	if (msync(mem + at, PAGE, MS_SYNC))
		give_up("msync");
}

static void range(size_t at, unsigned flags)
{
	if (sync_file_range(fd, (off_t)at, (off_t)PAGE, flags))
		give_up("sync_file_range");
}

/* starts all that has not been started, waits for all, and makes it durable */
static void sync_all(const size_t *at, int n, int started)
{
	if (n > 1) {
		for (int i = 0; i < n && !started; i++)
			range(at[i], SYNC_FILE_RANGE_WRITE);
		for (int i = 0; i < n; i++)
			range(at[i], SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
	}
	sync_page(at[0]);
}

/* ---- threads ---- */

struct way { const char *name; int alone, gather, early; };
static const struct way ways[] = {
	{ "msync each", 1, 0, 0 },
	{ "and wait for earlier", 1, 1, 0 },
	{ "batch of all", 0, 1, 0 },
	{ "batch of half", 0, 2, 0 },
	{ "all, started early", 0, 1, 1 },
};
#define WAYS (sizeof(ways) / sizeof(*ways))

struct batch { size_t at[MOST]; int n, done, users; pthread_cond_t changed; };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct batch *queued;
static int in_flight, threads, left;
static long begun, running[MOST];
static const struct way *way;
static size_t step, stride;

static long oldest(void)
{
	long least = begun + 1;
	for (int i = 0; i < MOST; i++)
		if (running[i] && running[i] < least)
			least = running[i];
	return least;
}

static void alone(size_t at)
{
	long me;
	int slot = 0;
	if (!way->gather) {
		sync_page(at);
		return;
	}
	pthread_mutex_lock(&mutex);
	me = ++begun;
	while (running[slot])
		slot++;
	running[slot] = me;
	pthread_mutex_unlock(&mutex);
	sync_page(at);
	pthread_mutex_lock(&mutex);
	running[slot] = 0;
	pthread_cond_broadcast(&changed);
	while (oldest() < me)
		pthread_cond_wait(&changed, &mutex);
	pthread_mutex_unlock(&mutex);
}

static void together(size_t at)
{
	struct batch *b;
	int leads, last;
	pthread_mutex_lock(&mutex);
	leads = queued == NULL;
	if (leads) {
		queued = calloc(1, sizeof(*queued));
		if (queued == NULL)
			give_up("calloc");
		pthread_cond_init(&queued->changed, NULL);
	}
	b = queued;
	b->at[b->n++] = at;
	b->users++;
	if (way->early) {
		pthread_mutex_unlock(&mutex);
		range(at, SYNC_FILE_RANGE_WRITE);
		pthread_mutex_lock(&mutex);
	}
	if (leads) {
		while (in_flight)
			pthread_cond_wait(&changed, &mutex);
		while (b->n < threads / way->gather && b->n < left) {
			pthread_mutex_unlock(&mutex);
			sched_yield();
			pthread_mutex_lock(&mutex);
		}
		queued = NULL;
		in_flight = 1;
		pthread_mutex_unlock(&mutex);
		sync_all(b->at, b->n, way->early);
		pthread_mutex_lock(&mutex);
		in_flight = 0;
		b->done = 1;
		pthread_cond_broadcast(&b->changed);
		pthread_cond_signal(&changed);
	}
	while (!b->done)
		pthread_cond_wait(&b->changed, &mutex);
	last = --b->users == 0;
	pthread_mutex_unlock(&mutex);
	if (last) {
		pthread_cond_destroy(&b->changed);
		free(b);
	}
}

static void *work(void *arg)
{
	for (size_t i = 0; i < EACH; i++) {
		size_t at = (size_t)arg * step + i * stride;
		mem[at]++;
		if (way->alone)
			alone(at);
		else
			together(at);
	}
	pthread_mutex_lock(&mutex);
	left--;
	pthread_mutex_unlock(&mutex);
	return NULL;
}

static double run_threads(void)
{
	pthread_t th[MOST];
	double t = now();
	left = threads;
	for (int i = 0; i < threads; i++)
		if ((errno = pthread_create(&th[i], NULL, work, (void *)(size_t)i)))
			give_up("pthread_create");
	for (int i = 0; i < threads; i++)
		pthread_join(th[i], NULL);
	return (now() - t) / (EACH * threads);
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return x < y ? -1 : x > y;
}

static double median(double *v, int n)
{
	qsort(v, (size_t)n, sizeof(*v), compare);
	return v[n / 2];
}

static void meet(int n, size_t st, size_t sr, int rounds)
{
	static double v[WAYS][ROUNDS];
	double bare;
	threads = n;
	step = st;
	stride = sr;
	for (int r = -1; r < rounds; r++)
		for (size_t w = 0; w < WAYS; w++) {
			double t;
			way = &ways[w];
			t = run_threads();
			if (r >= 0)
				v[w][r] = t;
		}
	bare = median(v[0], rounds);
	printf("%d threads, pages %5zu KiB apart: %s %.0f us", n, st >> 10, ways[0].name, bare);
	for (size_t w = 1; w < WAYS; w++)
		printf("; %s %.2f", ways[w].name, median(v[w], rounds) / bare);
	printf("\n");
	fflush(stdout);
}

/* ---- io_uring ---- */

static int ring = -1;
static struct io_uring_params params;
static char *queues;
static struct io_uring_sqe *entries;
#define SQ(field) ((unsigned *)(void *)(queues + params.sq_off.field))
#define CQ(field) ((unsigned *)(void *)(queues + params.cq_off.field))

static int open_ring(void)
{
	size_t sq, cq;
	ring = (int)syscall(SYS_io_uring_setup, 16, &params);
	if (ring < 0 || !(params.features & IORING_FEAT_SINGLE_MMAP))
		return 0;
	sq = params.sq_off.array + params.sq_entries * sizeof(unsigned);
	cq = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
	queues = mmap(NULL, sq > cq ? sq : cq, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQ_RING);
	entries = mmap(NULL, params.sq_entries * sizeof(*entries), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring,
		       IORING_OFF_SQES);
	return queues != MAP_FAILED && (void *)entries != MAP_FAILED;
}

static void push(unsigned char op, size_t at, unsigned flags, unsigned char how)
{
	unsigned tail = *SQ(tail), i = tail & *SQ(ring_mask);
	struct io_uring_sqe *e = &entries[i];
	memset(e, 0, sizeof(*e));
	e->opcode = op;
	e->fd = fd;
	e->off = at;
	e->len = (unsigned)PAGE;
	e->sync_range_flags = flags;
	e->flags = how;
	SQ(array)[i] = i;
	__atomic_store_n(SQ(tail), tail + 1, __ATOMIC_RELEASE);
}

static void submit(unsigned n)
{
	unsigned head = *CQ(head);
	if (syscall(SYS_io_uring_enter, ring, n, n, IORING_ENTER_GETEVENTS, NULL, 0) != (long)n)
		give_up("io_uring_enter");
	for (unsigned i = 0; i < n; i++) {
		struct io_uring_cqe *c = (struct io_uring_cqe *)(void *)(queues + params.cq_off.cqes);
		c += (head + i) & *CQ(ring_mask);
		if (c->res < 0) {
			errno = -c->res;
			give_up("io_uring");
		}
	}
	__atomic_store_n(CQ(head), head + n, __ATOMIC_RELEASE);
}

/* eight pages, one thread */
static double eight(int how, size_t st, size_t i)
{
	size_t at[MOST];
	double t;
	for (size_t j = 0; j < MOST; j++) {
		at[j] = j * st + i * PAGE;
		mem[at[j]]++;
	}
	t = now();
	switch (how) {
	case 0:
		sync_all(at, MOST, 0);
		break;
	case 1: /* ranges side by side, then one that commits */
		for (int j = 0; j < MOST; j++)
			push(IORING_OP_SYNC_FILE_RANGE, at[j],
			     SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER, 0);
		push(IORING_OP_FSYNC, at[0], IORING_FSYNC_DATASYNC, IOSQE_IO_DRAIN);
		submit(MOST + 1);
		break;
	default: /* all by themselves, side by side */
		for (int j = 0; j < MOST; j++)
			push(IORING_OP_FSYNC, at[j], IORING_FSYNC_DATASYNC, 0);
		submit(MOST);
		break;
	}
	return (now() - t) / MOST;
}

static void uring(size_t st, int rounds)
{
	static double v[3][ROUNDS * 4];
	int n = rounds * 4;
	double bare;
	for (int r = -1; r < n; r++)
		for (int how = 0; how < 3; how++) {
			double t = eight(how, st, (size_t)((r + 1) * 3 + how) % 250);
			if (r >= 0)
				v[how][r] = t;
		}
	bare = median(v[0], n);
	printf("8 pages %5zu KiB apart: sync_file_range and msync %.0f us; io_uring, the same %.2f, fsync each %.2f\n", st >> 10,
	       bare, median(v[1], n) / bare, median(v[2], n) / bare);
}

/* from end to end, not in the page cache */
static double cold(void)
{
	double t;
	unsigned sum = 0;
	munmap(mem, SIZE);
	mem = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (mem == MAP_FAILED || fsync(fd) || (errno = posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED)))
		give_up("a cold file");
	if (advised && madvise(mem, SIZE, MADV_RANDOM))
		give_up("madvise");
	t = now();
	for (size_t at = 0; at < SIZE; at += PAGE)
		sum += *(volatile unsigned char *)(mem + at);
	(void)sum;
	return (now() - t) / 1e3;
}

int main(int argc, char **argv)
{
	char path[4096];
	int c, rounds = 11;
	while ((c = getopt(argc, argv, "r:")) != -1) {
		if (c != 'r')
			return 2;
		rounds = atoi(optarg);
	}
	if (optind != argc - 1 || rounds < 1 || rounds > ROUNDS) {
		fprintf(stderr, "usage: batches [-r ROUNDS] DIR\n");
		return 2;
	}
	snprintf(path, sizeof(path), "%s/batches.%d", argv[optind], (int)getpid());
	fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
	if (fd < 0)
		give_up(path);
	unlink(path);
	if ((errno = posix_fallocate(fd, 0, (off_t)SIZE)))
		give_up("posix_fallocate");
	for (advised = 0; advised < 2; advised++) {
		mem = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (mem == MAP_FAILED)
			give_up("mmap");
		/* what is in the page cache keeps its size */
		if (advised && (posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) || madvise(mem, SIZE, MADV_RANDOM)))
			give_up("advice");
		memset(mem, 1 + advised, SIZE);
		if (msync(mem, SIZE, MS_SYNC))
			give_up("msync");
		printf(advised ? "\nwith MADV_RANDOM, so that the page cache has pages of 4 KiB:\n"
			       : "the page cache as the kernel likes it, after the file was filled through a mapping:\n");
		meet(8, PAGE, 8 * PAGE, rounds);
		meet(8, (size_t)1 << 20, PAGE, rounds);
		meet(8, SIZE / 8, PAGE, rounds);
		meet(4, SIZE / 8, PAGE, rounds);
		if (ring >= 0 || open_ring()) {
			uring((size_t)1 << 20, rounds);
			uring(SIZE / 8, rounds);
		} else {
			printf("there is no io_uring here\n");
		}
		printf("reading %zu MiB that are not in the page cache, from end to end: %.0f ms\n", SIZE >> 20, cold());
		munmap(mem, SIZE);
	}
	return 0;
}
