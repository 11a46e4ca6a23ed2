/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Placing, finding and removing parts against the bare system calls and, if there is one, against another library.
 *
 * usage: parts -l LIBRARY [-p PEER] [-r ROUNDS] DIR
 * DIR should be on tmpfs. Prints rows as bench.h says. Every sample is taken in a process of its own, so that nothing
 * that one leaves behind weighs on the next; a library that fails there has no sample, and why goes to standard error.
 */
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>
#include <sys/wait.h>

#include "bench.h"

#define LOOKUPS 100000
#define CYCLES 40000

static char path[4096];
static int file;

/* ---- samples ------------------------------------------------------------------------------------------------------ */

struct job {
	size_t n;
	int coalesce;
	/* each part is an address range of its own, whoever places it: none continues the one before */
	int scattered;
	/* the bare machine leaves a page between parts */
	int apart;
};
#define RESULTS 8
typedef void measure(struct lib *, const struct job *, double *);

/* Runs one measurement in a child; what it does not get to is not a number. */
static void sample(enum way way, measure *measure, const struct job *job, double *results)
{
	int channel[2], status;
	pid_t pid;
	for (int i = 0; i < RESULTS; i++)
		results[i] = NAN;
	if (pipe(channel))
		give_up("pipe");
	fflush(stdout);
	pid = fork();
	if (pid < 0)
		give_up("fork");
	if (pid == 0) {
		struct lib *l = way == BARE ? NULL : open_lib(way);
		measure(l, job, results);
		if (write(channel[1], results, RESULTS * sizeof(*results)) < 0)
			give_up("write");
		_exit(0);
	}
	close(channel[1]);
	if (read(channel[0], results, RESULTS * sizeof(*results)) < 0)
		give_up("read");
	close(channel[0]);
	if (waitpid(pid, &status, 0) != pid || status)
		fprintf(stderr, "%s: %s: no sample (status %#x)\n", bench.program, way == BARE ? "limit" : bench.path[way],
			status);
}

static void series(measure *measure, const struct job *job, int rounds, struct samples *s, int results)
{
	double r[RESULTS];
	for (int i = 0; i < results; i++)
		clear_samples(&s[i]);
	for (int round = 0; round < rounds; round++)
		for (int k = 0; k < WAYS; k++) {
			int w = (k + round) % WAYS;
			if (w == STREAM || (w != BARE && bench.path[w] == NULL))
				continue;
			sample(w, measure, job, r);
			for (int i = 0; i < results; i++)
				s[i].v[w][round] = r[i];
		}
}

static struct pmemset_source *source(struct lib *l)
{
	struct pmemset_source *src;
	OK(l, source_from_file(&src, path));
	return src;
}

static void *map(struct lib *l, struct pmemset *set, struct pmemset_source *src, size_t offset)
{
	struct pmemset_part_descriptor desc;
	if (map_part(l, set, src, offset, bench.page, &desc))
		give_up_lib(l, "map");
	return desc.addr;
}

static void *map_bare(void *at, size_t offset)
{
	void *p = mmap(at, bench.page, PROT_READ | PROT_WRITE, MAP_SHARED | (at ? MAP_FIXED : 0), file, (off_t)offset);
	if (p == MAP_FAILED)
		give_up("mmap");
	return p;
}

/* ---- one part mapped and removed ------------------------------------------------------------------------------------ */

static void map_and_remove(struct lib *l, const struct job *job, double *ns)
{
	struct pmemset *set = NULL;
	struct pmemset_source *src = NULL;
	double t = 0;
	if (l) {
		set = new_set(l, PMEM2_GRANULARITY_PAGE);
		src = source(l);
	}
	/* a tenth more, to warm up */
	for (size_t i = 0; i < job->n + job->n / 10; i++) {
		if (i == job->n / 10)
			t = busy();
		if (l) {
			struct pmemset_part_map *m;
			void *at = map(l, set, src, 0);
			OK(l, part_map_by_address(set, &m, at));
			OK(l, remove_part_map(set, &m));
		} else {
			munmap(map_bare(NULL, 0), bench.page);
		}
	}
	ns[0] = (busy() - t) / (double)job->n;
}

/* ---- many parts ----------------------------------------------------------------------------------------------------- */

static void **addresses;
static size_t count;

struct looker {
	struct lib *l;
	struct pmemset *set;
	unsigned seed;
	pthread_barrier_t *start;
	double from, to, time;
};

/* Random addresses: 100 bytes into some part. */
static void *look(void *arg)
{
	struct looker *k = arg;
	unsigned x = k->seed;
	pthread_barrier_wait(k->start);
	k->from = now();
	k->time = busy();
	for (int i = 0; i < LOOKUPS; i++) {
		char *wanted;
		x ^= x << 13;
		x ^= x >> 17;
		x ^= x << 5;
		wanted = (char *)addresses[x % count] + 100;
		if (k->l) {
			struct pmemset_part_map *m;
			OK(k->l, part_map_by_address(k->set, &m, wanted));
			k->l->part_map_drop(&m);
		} else {
			size_t lo = 0, hi = count;
			while (hi - lo > 1) {
				size_t middle = lo + (hi - lo) / 2;
				if ((char *)addresses[middle] <= wanted)
					lo = middle;
				else
					hi = middle;
			}
			__asm__ volatile("" : : "r"(lo));
		}
	}
	k->time = busy() - k->time;
	k->to = now();
	return NULL;
}

static double look_up(struct lib *l, struct pmemset *set, int threads)
{
	pthread_barrier_t start;
	struct looker k[2];
	pthread_t th[2];
	double from, to;
	pthread_barrier_init(&start, NULL, (unsigned)threads);
	for (int i = 0; i < threads; i++) {
		k[i] = (struct looker){ l, set, 12345u + (unsigned)i * 777u, &start, 0, 0, 0 };
		errno = pthread_create(&th[i], NULL, look, &k[i]);
		if (errno)
			give_up("pthread_create");
	}
	for (int i = 0; i < threads; i++)
		pthread_join(th[i], NULL);
	if (threads == 1)
		return k[0].time / LOOKUPS;
	from = k[0].from;
	to = k[0].to;
	for (int i = 1; i < threads; i++) {
		from = k[i].from < from ? k[i].from : from;
		to = k[i].to > to ? k[i].to : to;
	}
	return (to - from) / ((double)LOOKUPS * threads);
}

static double steps(struct lib *l, struct pmemset *set)
{
	struct pmemset_part_map *m, *next;
	size_t k = 0;
	double t = busy();
	for (l->first_part_map(set, &m); m; m = next) {
		k++;
		l->next_part_map(set, m, &next);
		l->part_map_drop(&m);
	}
	t = busy() - t;
	if (k != count) {
		fprintf(stderr, "%s: %zu part maps in place of %zu\n", bench.program, k, count);
		exit(1);
	}
	return t / (double)count;
}

static size_t page_of(const struct job *job, size_t i)
{
	return job->scattered ? i * 7919 % job->n : i;
}

enum { MAP, LOOK, LOOK2, STEP, DELETE, MANY };

static void many(struct lib *l, const struct job *job, double *ns)
{
	struct pmemset *set = NULL;
	struct pmemset_source *src = NULL;
	char *base = NULL;
	size_t stride = job->apart ? 2 * bench.page : bench.page;
	double t;
	count = job->n;
	addresses = malloc(count * sizeof(*addresses));
	if (addresses == NULL)
		give_up("malloc");
	memset(addresses, 0, count * sizeof(*addresses));
	if (l) {
		set = new_set(l, PMEM2_GRANULARITY_PAGE);
		src = source(l);
		OK(l, set_contiguous_part_coalescing(set, job->coalesce ? PMEMSET_COALESCING_FULL : PMEMSET_COALESCING_NONE));
		t = busy();
		for (size_t i = 0; i < count; i++) {
			struct pmemset_part_descriptor d;
			if (map_part(l, set, src, page_of(job, i) * bench.page, bench.page, &d)) {
				fprintf(stderr, "%s: part %zu: ", bench.program, i);
				give_up_lib(l, "map");
			}
			addresses[i] = d.addr;
		}
		t = busy() - t;
	} else {
		t = busy();
		base = mmap(NULL, count * stride, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (base == MAP_FAILED)
			give_up("mmap");
		for (size_t i = 0; i < count; i++)
			addresses[i] = map_bare(base + i * stride, page_of(job, i) * bench.page);
		t = busy() - t;
	}
	ns[MAP] = t / (double)count;
	if (!job->coalesce) {
		/* the best of a few: two threads are a measure of the library only while both really run */
		for (int threads = 1; threads <= 2; threads++) {
			double *best = &ns[threads == 1 ? LOOK : LOOK2];
			for (int i = 0; i < 5; i++) {
				t = look_up(l, set, threads);
				if (i == 0 || t < *best)
					*best = t;
			}
		}
		if (l)
			ns[STEP] = steps(l, set);
	}
	t = busy();
	if (l)
		OK(l, delete(&set));
	else
		munmap(base, count * stride);
	ns[DELETE] = (busy() - t) / (double)count;
}

/* ---- what parts take, and what they leave --------------------------------------------------------------------------- */

static double heap(void)
{
	struct mallinfo2 m = mallinfo2();
	return (double)(m.uordblks + m.hblkhd);
}

/* Anonymous memory that is really there, in bytes. */
static double resident(void)
{
	char text[4096], *line;
	int fd = open("/proc/self/status", O_RDONLY);
	ssize_t n = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n < 0 ? 0 : n] = 0;
	line = strstr(text, "RssAnon:");
	return line ? atof(line + 8) * 1024 : NAN;
}

static void memory(struct lib *l, const struct job *job, double *bytes)
{
	struct pmemset *set;
	struct pmemset_source *src;
	double h, r;
	if (l == NULL)
		return;
	set = new_set(l, PMEM2_GRANULARITY_PAGE);
	src = source(l);
	map(l, set, src, 0);
	h = heap();
	r = resident();
	for (size_t i = 0; i < job->n; i++)
		map(l, set, src, page_of(job, i) * bench.page);
	bytes[0] = (heap() - h) / (double)job->n;
	bytes[1] = (resident() - r) / (double)job->n;
}

/* Address ranges, and GiB of address space. */
static void space(double *ranges, double *gib)
{
	static char text[1 << 16];
	int fd = open("/proc/self/maps", O_RDONLY);
	double lines = 0;
	for (ssize_t n; (n = read(fd, text, sizeof(text))) > 0;)
		for (ssize_t i = 0; i < n; i++)
			lines += text[i] == '\n';
	close(fd);
	fd = open("/proc/self/statm", O_RDONLY);
	if (read(fd, text, sizeof(text)) < 1)
		give_up("/proc/self/statm");
	close(fd);
	*ranges = lines;
	*gib = atof(text) * (double)bench.page / (double)(1 << 30);
}

static void cycles(struct lib *l, const struct job *job, double *left)
{
	double ranges[4], gib[4];
	struct pmemset *set;
	struct pmemset_source *src;
	if (l == NULL)
		return;
	/* what a first set makes the library and malloc keep is no matter of the cycles */
	for (size_t i = 0; i < 2; i++) {
		size_t n = i ? job->n : 1;
		space(&ranges[0], &gib[0]);
		set = new_set(l, PMEM2_GRANULARITY_PAGE);
		src = source(l);
		for (size_t k = 0; k < n; k++) {
			struct pmemset_part_map *m;
			void *at = map(l, set, src, 0);
			OK(l, part_map_by_address(set, &m, at));
			OK(l, remove_part_map(set, &m));
			if (k == 0)
				space(&ranges[1], &gib[1]);
		}
		space(&ranges[2], &gib[2]);
		OK(l, delete(&set));
		OK(l, source_delete(&src));
		space(&ranges[3], &gib[3]);
	}
	left[0] = ranges[2] - ranges[1];
	left[1] = gib[2] - gib[1];
	left[2] = ranges[3] - ranges[0];
	left[3] = gib[3] - gib[0];
}

/* ---- the table ------------------------------------------------------------------------------------------------------ */

static const char *named(const char *format, size_t n)
{
	static char name[128];
	snprintf(name, sizeof(name), format, n);
	return name;
}

int main(int argc, char **argv)
{
	static struct samples s[RESULTS], ratio;
	static const struct { size_t n; double step; } sizes[] = { { 1000, 0.38 }, { 10000, 0.30 }, { 30000, 0.27 } };
	int rounds;

	bench_start(argc, argv);
	unsetenv("PMEM2_FORCE_GRANULARITY");
	rounds = bench.rounds;
	file = make_file(path, sizeof(path), "parts", 30000 * bench.page, 1);

	series(map_and_remove, &(struct job){ .n = 2000 }, rounds, s, 1);
	row("parts", "map and remove one part", "ns", s, rounds, LIMIT_BAR(2));
	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		size_t n = sizes[i].n;
		series(many, &(struct job){ .n = n, .apart = 1 }, rounds, s, MANY);
		row("parts", named("map, N = %zu, per part", n), "ns", &s[MAP], rounds, LIMIT_BAR(1.4));
		row("parts", named("look up and drop, N = %zu", n), "ns", &s[LOOK], rounds, PEER_BAR(0.125));
		row("parts", named("look up and drop, N = %zu, 2 threads", n), "ns", &s[LOOK2], rounds, NO_BAR);
		/* judged only where a second processor was free: where two threads of the bare machine gain something */
		clear_samples(&ratio);
		for (int w = 0; w < WAYS; w++)
			for (int r = 0; r < rounds; r++)
				ratio.v[w][r] = s[LOOK2].v[w][r] / s[LOOK].v[w][r];
		row("parts", named("look up and drop, N = %zu, 2 threads / 1", n), "ratio", &ratio, rounds,
			median(ratio.v[BARE], rounds) < 0.6 ? OURS_BAR(0.6) : NO_BAR);
		row("parts", named("first and next, N = %zu, per step", n), "ns", &s[STEP], rounds, PEER_BAR(sizes[i].step));
		row("parts", named("delete the set, N = %zu, per part", n), "ns", &s[DELETE], rounds, LIMIT_BAR(1.2));
	}
	series(many, &(struct job){ .n = 10000, .scattered = 1 }, rounds, s, MANY);
	row("parts", "map scattered offsets, N = 10000, per part", "ns", &s[MAP], rounds, NO_BAR);
	row("parts", "look up and drop, scattered, N = 10000", "ns", &s[LOOK], rounds, NO_BAR);
	row("parts", "delete the set, scattered, N = 10000, per part", "ns", &s[DELETE], rounds, NO_BAR);
	series(many, &(struct job){ .n = 10000, .coalesce = 1 }, rounds, s, MANY);
	row("parts", "map with FULL coalescing, N = 10000, per part", "ns", &s[MAP], rounds, LIMIT_BAR(1.6));

	series(memory, &(struct job){ .n = 20000, .scattered = 1 }, 1, s, 2);
	row("parts", "heap per part", "bytes", &s[0], 1, OURS_BAR(200));
	row("parts", "resident anonymous memory per part", "bytes", &s[1], 1, NO_BAR);
	series(cycles, &(struct job){ .n = CYCLES }, 1, s, 4);
	row("parts", "left by 40000 cycles of map and remove", "ranges", &s[0], 1, OURS_BAR(0));
	row("parts", "left by 40000 cycles of map and remove", "GiB", &s[1], 1, OURS_BAR(0));
	row("parts", "left when the set is deleted", "ranges", &s[2], 1, OURS_BAR(0));
	row("parts", "left when the set is deleted", "GiB", &s[3], 1, OURS_BAR(0));
	close(file);
	unlink(path);
	return 0;
}
