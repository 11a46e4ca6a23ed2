/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the benchmarks share: any library with this interface opened by its path, samples, and rows of a table.
 *
 * A row compares up to four ways of doing the same. Every round samples all of them one after the other, and who goes
 * first changes from round to round, so that a drifting machine hits all alike. What counts is the median of the rounds,
 * and the median of the rounds' ratios.
 */
#ifndef BENCH_H
#define BENCH_H

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <libpmemset.h>

/* BARE and STREAM are both the bare machine: the row takes the one that is faster. */
enum way { BARE, STREAM, OURS, PEER, WAYS };

struct lib {
	__typeof__(pmemset_config_new) *config_new;
	__typeof__(pmemset_config_delete) *config_delete;
	__typeof__(pmemset_config_set_required_store_granularity) *config_set_required_store_granularity;
	__typeof__(pmemset_new) *new;
	__typeof__(pmemset_delete) *delete;
	__typeof__(pmemset_source_from_file) *source_from_file;
	__typeof__(pmemset_source_delete) *source_delete;
	__typeof__(pmemset_part_new) *part_new;
	__typeof__(pmemset_part_delete) *part_delete;
	__typeof__(pmemset_part_map) *part_map;
	__typeof__(pmemset_part_map_by_address) *part_map_by_address;
	__typeof__(pmemset_part_map_drop) *part_map_drop;
	__typeof__(pmemset_first_part_map) *first_part_map;
	__typeof__(pmemset_next_part_map) *next_part_map;
	__typeof__(pmemset_remove_part_map) *remove_part_map;
	__typeof__(pmemset_remove_range) *remove_range;
	__typeof__(pmemset_set_contiguous_part_coalescing) *set_contiguous_part_coalescing;
	__typeof__(pmemset_persist) *persist;
	__typeof__(pmemset_flush) *flush;
	__typeof__(pmemset_drain) *drain;
	__typeof__(pmemset_memcpy) *memcpy;
	__typeof__(pmemset_memset) *memset;
	__typeof__(pmemset_errormsg) *errormsg;
};

#define MAX_ROUNDS 999

static struct {
	const char *program, *dir;
	const char *path[WAYS];
	int rounds;
	size_t page;
} bench;

static void give_up(const char *what)
{
	fprintf(stderr, "%s: %s: %s\n", bench.program, what, strerror(errno));
	exit(1);
}

/* Opened by path and to itself: two libraries of the same name do not meet. */
static inline struct lib *open_lib(enum way way)
{
	static struct lib libs[WAYS];
	struct lib *l = &libs[way];
	void *handle = dlopen(bench.path[way], RTLD_NOW | RTLD_LOCAL);
	if (handle == NULL) {
		fprintf(stderr, "%s: %s\n", bench.program, dlerror());
		exit(1);
	}
#define FIND(f) do { \
		*(void **)&l->f = dlsym(handle, "pmemset_" #f); \
		if (l->f == NULL) { \
			fprintf(stderr, "%s: %s has no pmemset_" #f "\n", bench.program, bench.path[way]); \
			exit(1); \
		} \
	} while (0)
	FIND(config_new); FIND(config_delete); FIND(config_set_required_store_granularity); FIND(new); FIND(delete);
	FIND(source_from_file); FIND(source_delete); FIND(part_new); FIND(part_delete); FIND(part_map);
	FIND(part_map_by_address); FIND(part_map_drop); FIND(first_part_map); FIND(next_part_map); FIND(remove_part_map);
	FIND(remove_range); FIND(set_contiguous_part_coalescing); FIND(persist); FIND(flush); FIND(drain); FIND(memcpy);
	FIND(memset); FIND(errormsg);
#undef FIND
	return l;
}

static inline void give_up_lib(struct lib *l, const char *what)
{
	fprintf(stderr, "%s: %s: %s\n", bench.program, what, l->errormsg());
	exit(1);
}
#define OK(l, call) do { if ((l)->call) give_up_lib(l, #call); } while (0)

static inline struct pmemset *new_set(struct lib *l, enum pmem2_granularity g)
{
	struct pmemset_config *cfg;
	struct pmemset *set;
	OK(l, config_new(&cfg));
	OK(l, config_set_required_store_granularity(cfg, g));
	OK(l, new(&set, cfg));
	OK(l, config_delete(&cfg));
	return set;
}

/* Returns what part_new or part_map returned; nothing is left of a part that could not be mapped. */
static inline int map_part(struct lib *l, struct pmemset *set, struct pmemset_source *src, size_t offset, size_t len,
	struct pmemset_part_descriptor *desc)
{
	struct pmemset_part *part;
	int rc = l->part_new(&part, set, src, offset, len);
	if (rc)
		return rc;
	rc = l->part_map(&part, NULL, desc);
	if (rc)
		l->part_delete(&part);
	return rc;
}

/* Nanoseconds. */
static inline double clock_ns(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}
static inline double now(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

/* For work of one thread that waits for nothing: its time on a processor, in the kernel too, whoever else wants one. */
static inline double busy(void)
{
	return clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

/* A new file; fallocated if it is to have blocks. */
static inline int make_file(char *path, size_t room, const char *name, size_t size, int blocks)
{
	int fd, rc;
	snprintf(path, room, "%s/%s.%d", bench.dir, name, (int)getpid());
	fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
	if (fd < 0)
		give_up(path);
	rc = blocks ? posix_fallocate(fd, 0, (off_t)size) : ftruncate(fd, (off_t)size) ? errno : 0;
	if (rc) {
		unlink(path);
		errno = rc;
		give_up(path);
	}
	return fd;
}

/* usage: PROGRAM -l LIBRARY [-p PEER] [-r ROUNDS] DIR [...]; returns the index of what follows DIR. */
static inline int bench_start(int argc, char **argv)
{
	int c;
	bench.program = strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argv[0];
	bench.rounds = 15;
	bench.page = (size_t)sysconf(_SC_PAGESIZE);
	while ((c = getopt(argc, argv, "l:p:r:")) != -1) {
		if (c == 'l')
			bench.path[OURS] = optarg;
		else if (c == 'p')
			bench.path[PEER] = optarg;
		else if (c == 'r')
			bench.rounds = atoi(optarg);
		else
			exit(2);
	}
	if (bench.path[OURS] == NULL || optind >= argc || bench.rounds < 1 || bench.rounds > MAX_ROUNDS) {
		fprintf(stderr, "usage: %s -l LIBRARY [-p PEER] [-r ROUNDS] DIR\n", bench.program);
		exit(2);
	}
	bench.dir = argv[optind];
	return optind + 1;
}

/* What is asked of a row: times at most `limit` of the bare machine's (or `slack` more than it) or `peer` of the peer's,
 * or a value of at most `ours`. A bar that is 0 is none, but for `ours`, which is none when it is negative. */
struct bar { double limit, peer, ours, slack; };
#define NO_BAR ((struct bar){ 0, 0, -1, 0 })
#define LIMIT_BAR(x) ((struct bar){ x, 0, -1, 0 })
#define PEER_BAR(x) ((struct bar){ 0, x, -1, 0 })
#define OURS_BAR(x) ((struct bar){ 0, 0, x, 0 })

struct samples { double v[WAYS][MAX_ROUNDS]; };

static inline int bench_cmp(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return x < y ? -1 : x > y;
}

/* The median of the samples that there are; NaN if there are none. */
static inline double median(const double *v, int n)
{
	double sorted[MAX_ROUNDS];
	int k = 0;
	for (int i = 0; i < n; i++)
		if (!isnan(v[i]))
			sorted[k++] = v[i];
	if (k == 0)
		return NAN;
	qsort(sorted, (size_t)k, sizeof(*sorted), bench_cmp);
	return k % 2 ? sorted[k / 2] : (sorted[k / 2 - 1] + sorted[k / 2]) / 2;
}

static inline double median_ratio(const double *a, const double *b, int n)
{
	double r[MAX_ROUNDS];
	for (int i = 0; i < n; i++)
		r[i] = b[i] > 0 ? a[i] / b[i] : NAN;
	return median(r, n);
}

static inline void cell(double x, const char *format)
{
	putchar('\t');
	if (isnan(x))
		putchar('-');
	else
		printf(format, x);
}

/* table, case, unit, limit, ours, peer, ours/limit, ours/peer, bar, whether it is met */
static inline void row(const char *table, const char *name, const char *unit, const struct samples *s, int rounds, struct bar bar)
{
	double m[WAYS], limit, to_limit, to_peer;
	const char *met = "-";
	int best;
	for (int w = 0; w < WAYS; w++)
		m[w] = median(s->v[w], rounds);
	best = !isnan(m[STREAM]) && !(m[STREAM] > m[BARE]) ? STREAM : BARE;
	limit = m[best];
	to_limit = median_ratio(s->v[OURS], s->v[best], rounds);
	to_peer = median_ratio(s->v[OURS], s->v[PEER], rounds);
	printf("%s\t%s\t%s", table, name, unit);
	cell(limit, "%.2f");
	cell(m[OURS], "%.2f");
	cell(m[PEER], "%.2f");
	cell(to_limit, "%.3f");
	cell(to_peer, "%.3f");
	if (bar.limit > 0) {
		printf("\t%.3g limit", bar.limit);
		met = to_limit <= bar.limit || (bar.slack > 0 && m[OURS] - limit <= bar.slack) ? "yes" : "no";
		if (bar.slack > 0)
			printf(" or +%.0f", bar.slack);
	} else if (bar.peer > 0) {
		printf("\t%.3g peer", bar.peer);
		if (!isnan(to_peer))
			met = to_peer <= bar.peer ? "yes" : "no";
	} else if (bar.ours >= 0) {
		printf("\t%.3g", bar.ours);
		met = m[OURS] <= bar.ours ? "yes" : "no";
	} else {
		printf("\t-");
	}
	printf("\t%s\n", met);
	fflush(stdout);
}

/* Fills a row's samples with "not measured". */
static inline void clear_samples(struct samples *s)
{
	for (int w = 0; w < WAYS; w++)
		for (int r = 0; r < MAX_ROUNDS; r++)
			s->v[w][r] = NAN;
}

#endif
