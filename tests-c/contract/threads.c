/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * threads.c -- one set, several threads that map, remove, look up, flush and drain, beside a thread whose own mmap
 * and munmap must never meet the library's. Contents are checked everywhere.
 */
#include "t.h"
#include <pthread.h>

#define WORKERS 4
#define SLOTS 64

static size_t page;
static struct pmemset *set;
static volatile int stop;
static char *volatile slot[SLOTS];      /* addresses that come and go */
static char dir[300];
static long done[WORKERS + 4], found, refused_;

static void file_name(char *buf, size_t size, long k)
{
	snprintf(buf, size, "%s/threads%ld", dir, k);
}

/* maps ranges of a file of its own, stamps and checks them, removes them */
static void *worker(void *arg)
{
	long k = (long)arg;
	uint64_t seed = (uint64_t)k * 7919 + 1;
	struct pmemset_source *src;
	char name[400], *p[8] = { NULL };
	size_t off[8] = { 0 }, len[8] = { 0 };
	uint64_t stamp[8] = { 0 };
	int busy[32] = { 0 };

	file_name(name, sizeof name, k);
	src = source(name);
	while (!stop) {
		size_t i = rnd(&seed) % 8;

		if (!p[i]) {
			size_t o = rnd(&seed) % 28, n = 1 + rnd(&seed) % 4;
			int clash = 0;

			for (size_t j = o; j < o + n; j++)
				clash |= busy[j];
			if (clash)
				continue; /* one part per page, so that a stamp has one owner */
			for (size_t j = o; j < o + n; j++)
				busy[j] = 1;
			off[i] = o;
			len[i] = n;
			p[i] = must_map(set, src, o * page, n * page);
			stamp[i] = rnd(&seed);
			for (size_t b = 0; b < n * page; b += 512)
				memcpy(p[i] + b, &stamp[i], 8);
			slot[(k * 8 + (long)i) % SLOTS] = p[i];
		} else {
			uint64_t v;
			int rc, tries = 0;

			for (size_t b = 0; b < len[i] * page; b += 512) {
				memcpy(&v, p[i] + b, 8);
				T_COUNT();
				if (v != stamp[i]) {
					t_failed(__FILE__, __LINE__, "thread %ld: foreign bytes at %p", k, (void *)(p[i] + b));
					stop = 1;
					break;
				}
			}
			switch (rnd(&seed) % 4) {
			case 0:
				IS(pmemset_persist(set, p[i], len[i] * page), 0);
				break;
			case 1:
				IS(pmemset_flush(set, p[i], 8), 0);
				break;
			case 2:
				pmemset_memcpy(set, p[i], &stamp[i], 8, PMEMSET_F_MEM_NODRAIN);
				break;
			default:
				IS(pmemset_drain(set), 0);
			}
			if (rnd(&seed) % 3)
				continue; /* keep it a while */
			/* somebody may be looking: then it is refused, and tried again */
			do {
				rc = pmemset_remove_range(set, p[i], 1);
				if (rc == PMEMSET_E_PART_MAP_POSSIBLE_USE_AFTER_DROP) {
					__atomic_fetch_add(&refused_, 1, __ATOMIC_RELAXED);
					sched_yield();
				}
			} while (rc == PMEMSET_E_PART_MAP_POSSIBLE_USE_AFTER_DROP && ++tries < 1000000);
			IS(rc, 0);
			read_file(name, (off_t)(off[i] * page), &v, 8);
			CHECK(v == stamp[i]); /* in the file, not somewhere else */
			for (size_t j = off[i]; j < off[i] + len[i]; j++)
				busy[j] = 0;
			p[i] = NULL;
		}
		done[k]++;
	}
	for (int i = 0; i < 8; i++)
		if (p[i]) {
			int rc, tries = 0;

			do
				rc = pmemset_remove_range(set, p[i], len[i] * page);
			while (rc == PMEMSET_E_PART_MAP_POSSIBLE_USE_AFTER_DROP && ++tries < 1000000);
			IS(rc, 0);
		}
	IS(pmemset_source_delete(&src), 0);
	return NULL;
}

/* the program's own memory: it must stay the program's */
static void *stranger(void *arg)
{
	uint64_t seed = 77;

	(void)arg;
	while (!stop) {
		size_t n = (1 + rnd(&seed) % 4) * page;
		uint64_t v = rnd(&seed);
		char *m = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		MUST(m != MAP_FAILED);
		for (size_t b = 0; b < n; b += 512)
			memcpy(m + b, &v, 8);
		sched_yield();
		for (size_t b = 0; b < n; b += 512) {
			T_COUNT();
			if (memcmp(m + b, &v, 8) != 0) {
				t_failed(__FILE__, __LINE__, "the program's own memory at %p was overwritten", (void *)(m + b));
				stop = 1;
			}
		}
		munmap(m, n);
		done[WORKERS]++;
	}
	return NULL;
}

/* either a valid reference or not found; what is referenced stays readable */
static void *looker(void *arg)
{
	uint64_t seed = 99;

	(void)arg;
	while (!stop) {
		struct pmemset_part_map *pm = (struct pmemset_part_map *)1, *again;
		char *a = slot[rnd(&seed) % SLOTS];
		int rc;

		if (!a)
			continue;
		rc = pmemset_part_map_by_address(set, &pm, a);
		if (rc == 0) {
			struct pmemset_part_descriptor d = pmemset_descriptor_part_map(pm);

			CHECK((char *)d.addr <= a && a < (char *)d.addr + d.size);
			for (size_t b = 0; b < d.size; b += page)
				(void)*((volatile char *)d.addr + b);
			again = at(set, a); /* it cannot go while it is held */
			CHECK(again == pm);
			pmemset_part_map_drop(&again);
			pmemset_part_map_drop(&pm);
			found++;
		} else {
			IS(rc, PMEMSET_E_CANNOT_FIND_PART_MAP);
			CHECK(pm == NULL);
		}
		done[WORKERS + 1]++;
	}
	return NULL;
}

/* walks in address order whatever happens */
static void *walker(void *arg)
{
	(void)arg;
	while (!stop) {
		struct pmemset_part_map *pm = NULL, *next;
		char *last = NULL;

		pmemset_first_part_map(set, &pm);
		while (pm) {
			struct pmemset_part_descriptor d = pmemset_descriptor_part_map(pm);

			CHECK((char *)d.addr > last && d.size >= page && d.size <= 4 * page);
			last = d.addr;
			(void)*(volatile char *)d.addr;
			next = NULL;
			pmemset_next_part_map(set, pm, &next);
			pmemset_part_map_drop(&pm);
			pm = next;
		}
		done[WORKERS + 2]++;
		usleep(200); /* leave removal a chance */
	}
	return NULL;
}

static void storm(const char *where, const char *force, double seconds)
{
	pthread_t t[WORKERS + 3];
	char name[400];
	double end;

	snprintf(dir, sizeof dir, "%s", where);
	if (force)
		MUST(setenv("PMEM2_FORCE_GRANULARITY", force, 1) == 0);
	for (long k = 0; k < WORKERS; k++) {
		file_name(name, sizeof name, k);
		make_file(name, (off_t)(32 * page));
	}
	memset((void *)slot, 0, sizeof slot);
	memset(done, 0, sizeof done);
	found = refused_ = 0;
	stop = 0;
	set = new_set();
	for (long k = 0; k < WORKERS; k++)
		MUST(pthread_create(&t[k], NULL, worker, (void *)k) == 0);
	MUST(pthread_create(&t[WORKERS], NULL, stranger, NULL) == 0);
	MUST(pthread_create(&t[WORKERS + 1], NULL, looker, NULL) == 0);
	MUST(pthread_create(&t[WORKERS + 2], NULL, walker, NULL) == 0);
	end = now() + seconds;
	while (now() < end && !stop)
		usleep(10000);
	stop = 1;
	for (int k = 0; k < WORKERS + 3; k++)
		pthread_join(t[k], NULL);
	for (int k = 0; k < WORKERS + 3; k++)
		CHECKF(done[k] > 0, "thread %d never got through", k);
	CHECK(found > 0);
	CHECK(walk(set) == 0);
	IS(pmemset_drain(set), 0);
	IS(pmemset_delete(&set), 0);
	unsetenv("PMEM2_FORCE_GRANULARITY");
	for (long k = 0; k < WORKERS; k++) {
		file_name(name, sizeof name, k);
		unlink(name);
	}
}

/* references under contention: exact to the last one */
static struct pmemset_part_map *shared;
static char *shared_at;

static void *refs(void *arg)
{
	(void)arg;
	for (int i = 0; i < 30000; i++) {
		struct pmemset_part_map *a = NULL, *b = NULL;

		if (pmemset_part_map_by_address(set, &a, shared_at + i % 4096) != 0 || a != shared)
			CHECKF(0, "look-up %d failed", i);
		pmemset_first_part_map(set, &b);
		pmemset_part_map_drop(&a);
		pmemset_part_map_drop(&b);
	}
	return NULL;
}

static void references(void)
{
	pthread_t t[4];
	struct pmemset_part_map *pm;

	make_file("refs", (off_t)(4 * page));
	set = new_set();
	shared_at = map_file(set, "refs");
	shared = at(set, shared_at);
	for (int k = 0; k < 4; k++)
		MUST(pthread_create(&t[k], NULL, refs, NULL) == 0);
	for (int k = 0; k < 4; k++)
		pthread_join(t[k], NULL);
	pm = shared;
	IS(pmemset_remove_part_map(set, &pm), 0); /* ours was the only one left */
	IS(pmemset_delete(&set), 0);
}

/* one removal of one part map wins, whatever else is tried at the same time */
static volatile int go;
static int winners;

static void *race(void *arg)
{
	long k = (long)arg;
	struct pmemset_part_map *pm = NULL;
	int rc;

	while (!go)
		;
	if (k & 1) {
		rc = pmemset_remove_range(set, shared_at, 1);
		if (rc)
			IS(rc, PMEMSET_E_PART_MAP_POSSIBLE_USE_AFTER_DROP);
		return NULL;
	}
	rc = pmemset_part_map_by_address(set, &pm, shared_at);
	if (rc) {
		IS(rc, PMEMSET_E_CANNOT_FIND_PART_MAP);
		return NULL;
	}
	rc = pmemset_remove_part_map(set, &pm);
	if (rc == 0)
		__atomic_fetch_add(&winners, 1, __ATOMIC_SEQ_CST);
	else {
		EITHER(rc, PMEMSET_E_PART_MAP_POSSIBLE_USE_AFTER_DROP, PMEMSET_E_PART_NOT_FOUND);
		pmemset_part_map_drop(&pm);
	}
	return NULL;
}

static void races(void)
{
	pthread_t t[4];

	set = new_set();
	for (int i = 0; i < 500; i++) {
		shared_at = map_file(set, "refs");
		go = winners = 0;
		for (long k = 0; k < 4; k++)
			MUST(pthread_create(&t[k], NULL, race, (void *)k) == 0);
		go = 1;
		for (int k = 0; k < 4; k++)
			pthread_join(t[k], NULL);
		CHECKF(winners <= 1, "%d threads removed one part map", winners);
		(void)pmemset_remove_range(set, shared_at, 1);
		CHECK(walk(set) == 0 && !readable(shared_at));
	}
	IS(pmemset_delete(&set), 0);
}

/* the same source, by everybody, in sets of their own */
static struct pmemset_source *common;

static void *own_set(void *arg)
{
	uint64_t stamp = 0x1111111111111111ull * (uint64_t)((long)arg + 1);
	struct pmemset *mine;

	for (int i = 0; i < 300; i++) {
		char *p;

		mine = new_set();
		p = must_map(mine, common, (size_t)(long)arg * page, page);
		memcpy(p, &stamp, 8);
		IS(pmemset_flush(mine, p, 8), 0);
		CHECK(memcmp(p, &stamp, 8) == 0);
		CHECK(walk(mine) == 1);
		IS(pmemset_delete(&mine), 0);
	}
	return NULL;
}

static void own_sets(void)
{
	pthread_t t[8];

	make_file("common", (off_t)(8 * page));
	common = source("common");
	for (long k = 0; k < 8; k++)
		MUST(pthread_create(&t[k], NULL, own_set, (void *)k) == 0);
	for (int k = 0; k < 8; k++)
		pthread_join(t[k], NULL);
	IS(pmemset_source_delete(&common), 0);
}

/* FULL coalescing by several threads: one run, every part in it */
static void *coalescer(void *arg)
{
	for (int i = 0; i < 200; i++) {
		char *p = must_map(set, common, 0, page);

		CHECK(p == shared_at);
		(void)arg;
	}
	return NULL;
}

static void coalescing(void)
{
	pthread_t t[4];

	common = source("common");
	set = new_set();
	IS(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_FULL), 0);
	shared_at = must_map(set, common, 0, page);
	for (int k = 0; k < 4; k++)
		MUST(pthread_create(&t[k], NULL, coalescer, NULL) == 0);
	for (int k = 0; k < 4; k++)
		pthread_join(t[k], NULL);
	CHECK(walk(set) == 1 && size_at(set, shared_at) == 801 * page);
	IS(pmemset_delete(&set), 0);
	IS(pmemset_source_delete(&common), 0);
}

int main(void)
{
	double seconds = instrumented() ? 1 : 3;

	t_begin();
	page = page_size();
	group("threads: map, remove, look up, work directory");
	storm(".", NULL, seconds);
	group("threads: map, remove, look up, tmpfs");
	storm(tmpfs_dir(), NULL, seconds);
	group("threads: map, remove, look up, cache line");
	storm(".", "CACHE_LINE", seconds);
	group("threads: references are exact");
	references();
	group("threads: one removal wins");
	races();
	group("threads: a set for each");
	own_sets();
	group("threads: one run by several");
	coalescing();
	return t_end();
}
