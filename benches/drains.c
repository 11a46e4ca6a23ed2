/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Drains at PAGE granularity against the bare system calls and, if there is one, against another library: each with a file of
 * its own, since the library has an influence on how the kernel caches its file.
 *
 * usage: drains -l LIBRARY [-p PEER] [-r ROUNDS] DIR
 * DIR should be on a disk. Prints rows as bench.h says, in microseconds an operation.
 */
#define _GNU_SOURCE
#include <pthread.h>

#include "bench.h"

#define SIZE ((size_t)64 << 20)
#define PAGES 64
#define THREADS 8
#define EACH 100

/* One way of making bytes durable: a library with its set, or neither. */
struct one {
	struct lib *lib;
	struct pmemset *set;
	char *mem;
};
static struct one ones[WAYS];

static void sync_bare(const struct one *o, size_t at, size_t len)
{
	if (msync(o->mem + at, len, MS_SYNC))
		give_up("msync");
}
static void flush(const struct one *o, size_t at)
{
	OK(o->lib, flush(o->set, o->mem + at, 64));
}
static void drain(const struct one *o)
{
	OK(o->lib, drain(o->set));
}

/* 64 scattered pages: flushes and a drain against one msync over all. */
static double scattered(const struct one *o, int copy, int round)
{
	static const char text[64] = "x";
	double t;
	if (!copy)
		for (size_t i = 0; i < PAGES; i++)
			o->mem[i * (SIZE / PAGES)] = (char)(round + (int)i);
	t = now();
	for (size_t i = 0; i < PAGES; i++) {
		size_t at = i * (SIZE / PAGES);
		if (copy && o->lib)
			o->lib->memcpy(o->set, o->mem + at, (void *)text, sizeof(text), PMEMSET_F_MEM_NODRAIN);
		else if (copy)
			memcpy(o->mem + at, text, sizeof(text));
		else if (o->lib)
			flush(o, at);
	}
	if (o->lib)
		drain(o);
	else
		sync_bare(o, 0, SIZE);
	return now() - t;
}
static double flushes(const struct one *o, int round) { return scattered(o, 0, round); }
/* The same where the kernel caches the pages of the bare file apart, as it does those of a file whose pages were drained. */
static double flushes_apart(const struct one *o, int round)
{
	if (o->lib == NULL)
		for (size_t i = 0; i < PAGES; i++)
			madvise(o->mem + i * (SIZE / PAGES), bench.page, MADV_COLD);
	return scattered(o, 0, round);
}
static double copies(const struct one *o, int round) { return scattered(o, 1, round); }

/* 8 flushes and a drain beside 64 MiB that nobody flushed, against 8 msyncs. */
static double beside(const struct one *o, int round)
{
	double t;
	for (size_t at = 0; at < SIZE; at += bench.page)
		o->mem[at] = (char)round;
	t = now();
	for (size_t i = 0; i < 8; i++) {
		if (o->lib)
			flush(o, i * (SIZE / 8));
		else
			sync_bare(o, i * (SIZE / 8), bench.page);
	}
	if (o->lib)
		drain(o);
	t = now() - t;
	sync_bare(o, 0, SIZE);
	return t;
}

static double persist_one(const struct one *o, int round)
{
	double t = 0;
	for (size_t i = 0; i < 20; i++) {
		size_t at = i * 37 * bench.page;
		double from;
		o->mem[at] = (char)round;
		from = now();
		if (o->lib)
			OK(o->lib, persist(o->set, o->mem + at, 64));
		else
			sync_bare(o, at, bench.page);
		t += now() - from;
	}
	return t / 20;
}

/* What a drain costs that has nothing to do, and a flush that finds its page recorded already. */
static double idle(const struct one *o, int round)
{
	double t = now();
	(void)round;
	if (o->lib == NULL)
		return NAN;
	for (int i = 0; i < 1000; i++)
		drain(o);
	return (now() - t) / 1000;
}
static double again(const struct one *o, int round)
{
	double t;
	if (o->lib == NULL)
		return NAN;
	o->mem[0] = (char)round;
	flush(o, 0);
	t = now();
	for (int i = 0; i < 100; i++)
		flush(o, 0);
	t = now() - t;
	drain(o);
	return t / 100;
}

struct job { const struct one *o; size_t id, step, stride; };
static void *work(void *arg)
{
	struct job *j = arg;
	for (size_t i = 0; i < EACH; i++) {
		size_t at = j->id * j->step + i * j->stride;
		j->o->mem[at]++;
		if (j->o->lib) {
			flush(j->o, at);
			drain(j->o);
		} else {
			sync_bare(j->o, at, bench.page);
		}
	}
	return NULL;
}
static double threads(const struct one *o, size_t step, size_t stride)
{
	pthread_t th[THREADS];
	struct job job[THREADS];
	double t = now();
	for (size_t i = 0; i < THREADS; i++) {
		job[i] = (struct job){ o, i, step, stride };
		errno = pthread_create(&th[i], NULL, work, &job[i]);
		if (errno)
			give_up("pthread_create");
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(th[i], NULL);
	return (now() - t) / (THREADS * EACH);
}
static double apart(const struct one *o, int round) { (void)round; return threads(o, SIZE / THREADS, bench.page); }
static double block(const struct one *o, int round) { (void)round; return threads(o, bench.page, 8 * bench.page); }

int main(int argc, char **argv)
{
	static const struct { const char *name; double (*run)(const struct one *, int); struct bar bar; } cases[] = {
		{ "64 scattered flushes and a drain / one msync over all", flushes, LIMIT_BAR(0.9) },
		{ "64 scattered NODRAIN copies and a drain / the same", copies, LIMIT_BAR(0.9) },
		{ "8 flushes and a drain beside 64 MiB dirty / 8 msyncs", beside, LIMIT_BAR(0.7) },
		{ "persist of 64 bytes / msync", persist_one, LIMIT_BAR(1.15) },
		{ "8 threads, pages far apart / msync each", apart, LIMIT_BAR(1 / 0.95) },
		{ "8 threads, pages of one 32 KiB block / msync each", block, LIMIT_BAR(1 / 1.4) },
		{ "64 flushes and a drain / one msync, pages cached apart for both", flushes_apart, NO_BAR },
		{ "drain with nothing to do", idle, NO_BAR },
		{ "flush of a page that is recorded already", again, NO_BAR },
	};
	static struct samples s;

	bench_start(argc, argv);
	unsetenv("PMEM2_FORCE_GRANULARITY");
	for (int w = 0; w < WAYS; w++) {
		struct pmemset_source *src;
		struct pmemset_part_descriptor desc;
		struct one *o = &ones[w];
		char path[4096];
		int fd;
		if (w != BARE && bench.path[w] == NULL)
			continue;
		fd = make_file(path, sizeof(path), "drains", SIZE, 1);
		if (w == BARE) {
			o->mem = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
			if (o->mem == MAP_FAILED)
				give_up("mmap");
			unlink(path);
			close(fd);
			continue;
		}
		o->lib = open_lib(w);
		o->set = new_set(o->lib, PMEM2_GRANULARITY_PAGE);
		OK(o->lib, source_from_file(&src, path));
		if (map_part(o->lib, o->set, src, 0, SIZE, &desc))
			give_up_lib(o->lib, "map");
		OK(o->lib, source_delete(&src));
		o->mem = desc.addr;
		unlink(path);
		close(fd);
	}
	for (int w = 0; w < WAYS; w++) {
		if (ones[w].mem == NULL)
			continue;
		memset(ones[w].mem, 1, SIZE);
		sync_bare(&ones[w], 0, SIZE);
	}

	for (size_t c = 0; c < sizeof(cases) / sizeof(*cases); c++) {
		clear_samples(&s);
		/* the first round warms up */
		for (int r = -1; r < bench.rounds; r++)
			for (int k = 0; k < WAYS; k++) {
				int w = (k + r + WAYS) % WAYS;
				double t;
				if (ones[w].mem == NULL)
					continue;
				t = cases[c].run(&ones[w], r * WAYS + k) / 1e3;
				if (r >= 0)
					s.v[w][r] = t;
			}
		row("page", cases[c].name, "us", &s, bench.rounds, cases[c].bar);
	}
	for (int w = OURS; w <= PEER; w++)
		if (ones[w].lib)
			OK(ones[w].lib, delete(&ones[w].set));
	return 0;
}
