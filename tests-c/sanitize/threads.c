/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * threads.c -- a program with several threads and no race of its own, for race detectors to watch while it uses the
 * library. It knows no synchronisation but pthread's, since valgrind knows no other.
 *
 *     threads quiet        nothing is to be reported
 *     threads own          two threads count in one variable of the program
 *     threads mapped       two threads count in one word of a part map
 *     threads callback     two threads count in an event callback
 *     threads found        one thread maps a part and counts, another finds the part and counts
 *
 * What is said of all but the first must name the function racing().
 */
#include "t.h"
#include <pthread.h>
#include <sched.h>

#define THREADS 4

static size_t page;
static struct pmemset *set;
static struct pmemset_source *src;
static int rounds;
static pthread_barrier_t all;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void together(void *(*fn)(void *), int n)
{
	pthread_t t[THREADS];

	MUST(n <= THREADS);
	pthread_barrier_init(&all, NULL, (unsigned)n);
	for (long k = 0; k < n; k++)
		MUST(pthread_create(&t[k], NULL, fn, (void *)k) == 0);
	for (int k = 0; k < n; k++)
		pthread_join(t[k], NULL);
	pthread_barrier_destroy(&all);
}

static void remove_it(char *p)
{
	int rc;

	while ((rc = pmemset_remove_range(set, p, 1)) == PMEMSET_E_PART_MAP_POSSIBLE_USE_AFTER_DROP)
		sched_yield(); /* somebody looks at it */
	MUST(rc == 0);
}

/* Records of several threads lie in the same pages; each persists its own in one way or another. */
static char *records;

static void *recorder(void *arg)
{
	long k = (long)arg;

	for (int i = 0; i < rounds; i++) {
		char *mine = records + (size_t)(i % 32) * 256 + (size_t)k * 64, text[64];

		memset(text, 'a' + i % 26, sizeof text);
		switch (i % 5) {
		case 0:
			memcpy(mine, text, 64);
			MUST(pmemset_persist(set, mine, 64) == 0);
			break;
		case 1:
			memcpy(mine, text, 64);
			MUST(pmemset_flush(set, mine, 64) == 0);
			break;
		case 2:
			pmemset_memcpy(set, mine, text, 64, PMEMSET_F_MEM_NODRAIN);
			break;
		case 3:
			pmemset_memset(set, mine, i, 64, PMEMSET_F_MEM_NODRAIN | PMEMSET_F_MEM_NONTEMPORAL);
			break;
		default:
			mine[i % 64] = (char)i;
		}
		if (i % 7 == 0)
			MUST(pmemset_drain(set) == 0);
	}
	return NULL;
}

/* Parts come and go, so that one thread gets the addresses that another has used. Their first pages belong to who maps them.
   The second say which variable the part guards: as long as it is mapped, and somebody refers to it, nobody writes that. */
static long guarded[THREADS * 4];

static void *mapper(void *arg)
{
	long k = (long)arg;
	char *p[4] = { NULL };

	for (int i = 0; i < rounds; i++) {
		int j = (i * 7 + (int)k) % 4;
		size_t n = (size_t)k * 4 + (size_t)j;

		if (!p[j]) {
			guarded[n] = i;
			p[j] = must_map(set, src, (32 + n * 2) * page, 2 * page);
			snprintf(p[j], page, "thread %ld, round %d", k, i);
			MUST(pmemset_flush(set, p[j], 100) == 0);
		} else {
			MUST(strncmp(p[j], "thread ", 7) == 0);
			if (i % 2)
				MUST(pmemset_drain(set) == 0);
			remove_it(p[j]);
			p[j] = NULL;
			guarded[n] = -1;
		}
	}
	for (int j = 0; j < 4; j++)
		if (p[j])
			remove_it(p[j]);
	return NULL;
}

static void *finder(void *arg)
{
	(void)arg;
	for (int i = 0; i < rounds; i++) {
		struct pmemset_part_map *pm = NULL, *next, *again;

		pmemset_first_part_map(set, &pm);
		while (pm) {
			char *addr = pmemset_descriptor_part_map(pm).addr;

			MUST(guarded[(size_t)addr[page]] >= 0);
			if (pmemset_part_map_by_address(set, &again, addr + page) == 0)
				pmemset_part_map_drop(&again);
			next = NULL;
			pmemset_next_part_map(set, pm, &next);
			pmemset_part_map_drop(&pm);
			pm = next;
		}
		if (i % 4 == 0)
			usleep(500); /* leave removal a chance */
	}
	return NULL;
}

static void *map_and_find(void *arg)
{
	return (long)arg < 2 ? mapper(arg) : finder(arg);
}

/* A reference that one thread has found is given back by another, which got it by a lock. */
static struct pmemset_part_map *handed[8];

static void *hander(void *arg)
{
	(void)arg;
	for (int i = 0; i < rounds; i++) {
		struct pmemset_part_map *pm = NULL, *old;

		MUST(pmemset_part_map_by_address(set, &pm, records + (size_t)i % page) == 0);
		pthread_mutex_lock(&lock);
		old = handed[i % 8];
		handed[i % 8] = pm;
		/* and what lies in the part map is the lock's */
		records[16 * page + (size_t)i % 64]++;
		pthread_mutex_unlock(&lock);
		if (old)
			pmemset_part_map_drop(&old);
		if (i % 16 == 0)
			MUST(pmemset_persist(set, records + 16 * page, 64) == 0);
	}
	return NULL;
}

/* A set, a configuration and a source for each thread, on one file, and errors, which leave a message for each. */
static void *loner(void *arg)
{
	long k = (long)arg;

	/* DRD takes a second for the address space of each set. */
	for (int i = 0; i < rounds / 100; i++) {
		struct pmemset *mine = new_set();
		struct pmemset_source *from = source("parts");
		char *p = must_map(mine, from, (size_t)k * page, page);

		memset(p, i, 100);
		MUST(pmemset_persist(mine, p, 100) == 0);
		MUST(pmemset_source_delete(&from) == 0);
		MUST(pmemset_source_from_file(&from, "no such file") == PMEMSET_E_INVALID_SOURCE_PATH);
		MUST(strstr(pmemset_errormsg(), "no such file"));
		MUST(pmemset_delete(&mine) == 0);
	}
	return NULL;
}

/* Parts of several threads become one run. */
static void *joiner(void *arg)
{
	(void)arg;
	for (int i = 0; i < rounds / 10; i++) {
		struct pmemset_part_descriptor run;
		size_t at;

		MUST(map_part(set, src, 0, page, &run) == 0);
		at = run.size - page; /* this thread's page, all along */
		*(volatile char *)((char *)run.addr + at + 64) = 1;
		MUST(pmemset_flush(set, (char *)run.addr + at + 64, 1) == 0);
	}
	return NULL;
}

static long told, drained;

/* What a callback shares with others it protects as other code does. */
static int count_told(struct pmemset *s, struct pmemset_event_context *ctx, void *arg)
{
	(void)s;
	(void)arg;
	pthread_mutex_lock(&lock);
	told++;
	if (ctx->type == PMEMSET_EVENT_DRAIN)
		drained++;
	pthread_mutex_unlock(&lock);
	return 0;
}

static void begin(pmemset_event_callback *cb, int coalescing)
{
	set = new_set_ev(PMEM2_GRANULARITY_PAGE, cb, NULL);
	MUST(pmemset_set_contiguous_part_coalescing(set, coalescing) == 0);
	src = source("parts");
	records = NULL;
}

static void end(void)
{
	MUST(pmemset_source_delete(&src) == 0);
	MUST(pmemset_delete(&set) == 0);
}

static void quiet(void)
{
	begin(NULL, PMEMSET_COALESCING_NONE);
	records = must_map(set, src, 0, 32 * page);
	together(recorder, THREADS);
	memset(handed, 0, sizeof handed);
	together(hander, THREADS);
	for (int i = 0; i < 8; i++)
		if (handed[i])
			pmemset_part_map_drop(&handed[i]);
	end();

	begin(NULL, PMEMSET_COALESCING_NONE);
	records = must_map(set, src, 32 * page, 32 * page);
	for (int n = 0; n < 4 * THREADS; n++)
		records[(size_t)(2 * n + 1) * page] = (char)n;
	remove_it(records);
	together(map_and_find, THREADS);
	end();

	together(loner, THREADS);

	begin(NULL, PMEMSET_COALESCING_FULL);
	together(joiner, THREADS);
	end();

	begin(count_told, PMEMSET_COALESCING_NONE);
	records = must_map(set, src, 0, 32 * page);
	together(recorder, THREADS);
	remove_it(records);
	together(mapper, THREADS);
	end();
	MUST(told > drained && drained > 0);
}

/* ---- planted races ---- */

static long counter;
static char *word;

__attribute__((noinline)) static void racing(volatile long *what)
{
	++*what;
}

static void *counts(void *arg)
{
	(void)arg;
	pthread_barrier_wait(&all);
	for (int i = 0; i < 50; i++) {
		racing(&counter);
		MUST(pmemset_persist(set, word + 64, 8) == 0);
	}
	return NULL;
}

static void *stores(void *arg)
{
	(void)arg;
	pthread_barrier_wait(&all);
	for (int i = 0; i < 50; i++) {
		racing((volatile long *)word);
		MUST(pmemset_persist(set, word, 8) == 0);
	}
	return NULL;
}

static int count_racing(struct pmemset *s, struct pmemset_event_context *ctx, void *arg)
{
	(void)s;
	(void)arg;
	if (ctx->type == PMEMSET_EVENT_DRAIN)
		racing(&counter);
	return 0;
}

static void *drains(void *arg)
{
	(void)arg;
	pthread_barrier_wait(&all);
	for (int i = 0; i < 50; i++)
		MUST(pmemset_persist(set, word + 64, 8) == 0);
	return NULL;
}

/* A look-up comes after the mapping that it finds, and not after what else the thread has done that mapped. */
static void *maps_or_finds(void *arg)
{
	struct pmemset_part_map *first = NULL, *second = NULL;

	pthread_barrier_wait(&all);
	if (arg) {
		(void)must_map(set, src, 0, page);
	} else {
		pmemset_first_part_map(set, &first);
		while (!second) {
			pmemset_next_part_map(set, first, &second);
			sched_yield();
		}
		pmemset_part_map_drop(&first);
		pmemset_part_map_drop(&second);
	}
	racing(&counter);
	return NULL;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	alarm(280);
	page = page_size();
	rounds = instrumented() ? 100 : 2000;
	make_file("parts", (off_t)(64 * page));
	if (strcmp(what, "quiet") == 0) {
		quiet();
		return 0;
	}
	begin(strcmp(what, "callback") == 0 ? count_racing : NULL, PMEMSET_COALESCING_NONE);
	word = must_map(set, src, 32 * page, page);
	if (strcmp(what, "own") == 0)
		together(counts, 2);
	else if (strcmp(what, "mapped") == 0)
		together(stores, 2);
	else if (strcmp(what, "callback") == 0)
		together(drains, 2);
	else if (strcmp(what, "found") == 0)
		together(maps_or_finds, 2);
	else
		return 2;
	end();
	return 0;
}
