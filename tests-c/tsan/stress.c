/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * stress.c -- one set and several threads that map, remove, look up, walk, drop, flush, drain and persist, for
 * ThreadSanitizer to watch. `stress SECONDS DIRECTORY [race]`; with `race` two threads also count in one plain variable,
 * which the sanitizer must report.
 */
#include <errno.h>
#include <fcntl.h>
#include <libpmemset.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MAPPERS 2
#define SLOTS 16

static size_t page;
static struct pmemset *set;
static int stop;
static char *slot[MAPPERS * SLOTS]; /* addresses that come and go */
static char names[MAPPERS][400];
static long mapped, found, walked, drained;
static long planted;
static int race;

#define MUST(cond) do { \
	if (!(cond)) { \
		printf("%s:%d: not so: %s (%s)\n", __FILE__, __LINE__, #cond, pmemset_errormsg()); \
		exit(3); \
	} \
} while (0)

#define GET(var) __atomic_load_n(&(var), __ATOMIC_RELAXED)
#define PUT(var, value) __atomic_store_n(&(var), value, __ATOMIC_RELAXED)
#define COUNT(var) __atomic_fetch_add(&(var), 1, __ATOMIC_RELAXED)

static uint64_t rnd(uint64_t *state)
{
	*state = *state * 6364136223846793005u + 1442695040888963407u;
	return *state >> 33;
}

/* maps pages of its own file, stores to them, makes that durable, removes them again */
static void *mapper(void *arg)
{
	long k = (long)arg;
	uint64_t seed = (uint64_t)k + 1;
	struct pmemset_source *src = NULL;
	char **mine = slot + k * SLOTS;

	MUST(pmemset_source_from_file(&src, names[k]) == 0);
	while (!GET(stop)) {
		size_t i = rnd(&seed) % SLOTS;
		char *p = GET(mine[i]);

		if (!p) {
			struct pmemset_part *part = NULL;
			struct pmemset_part_descriptor d = { NULL, 0 };

			MUST(pmemset_part_new(&part, set, src, i * 2 * page, (1 + rnd(&seed) % 2) * page) == 0);
			MUST(pmemset_part_map(&part, NULL, &d) == 0 && part == NULL);
			PUT(mine[i], d.addr);
			COUNT(mapped);
			continue;
		}
		__atomic_store_n((uint64_t *)p + k, seed, __ATOMIC_RELAXED);
		switch (rnd(&seed) % 4) {
		case 0:
			MUST(pmemset_persist(set, p, 8) == 0);
			break;
		case 1:
			MUST(pmemset_flush(set, p, page) == 0);
			break;
		case 2:
			MUST(pmemset_drain(set) == 0);
			COUNT(drained);
			break;
		default: {
			int rc;

			PUT(mine[i], NULL);
			while ((rc = pmemset_remove_range(set, p, 1)) == PMEMSET_E_PART_MAP_POSSIBLE_USE_AFTER_DROP)
				sched_yield(); /* somebody looks at it */
			MUST(rc == 0);
		}
		}
		if (race)
			planted++;
	}
	MUST(pmemset_source_delete(&src) == 0);
	return NULL;
}

static void *looker(void *arg)
{
	uint64_t seed = 100 + (uint64_t)(long)arg;

	while (!GET(stop)) {
		char *a = GET(slot[rnd(&seed) % (MAPPERS * SLOTS)]);
		struct pmemset_part_map *pm = NULL;
		int rc;

		if (!a)
			continue;
		rc = pmemset_part_map_by_address(set, &pm, a);
		if (rc == 0) {
			struct pmemset_part_descriptor d = pmemset_descriptor_part_map(pm);

			MUST((char *)d.addr <= a && a < (char *)d.addr + d.size);
			(void)__atomic_load_n((uint64_t *)d.addr + 7, __ATOMIC_RELAXED);
			pmemset_part_map_drop(&pm);
			COUNT(found);
		} else {
			MUST(rc == PMEMSET_E_CANNOT_FIND_PART_MAP && pm == NULL);
		}
	}
	return NULL;
}

/* walks, and removes what it meets now and then */
static void *walker(void *arg)
{
	(void)arg;
	while (!GET(stop)) {
		struct pmemset_part_map *pm = NULL, *next;

		pmemset_first_part_map(set, &pm);
		while (pm) {
			(void)__atomic_load_n((uint64_t *)pmemset_descriptor_part_map(pm).addr + 7, __ATOMIC_RELAXED);
			next = NULL;
			pmemset_next_part_map(set, pm, &next);
			pmemset_part_map_drop(&pm);
			pm = next;
			COUNT(walked);
		}
		usleep(200); /* leave removal a chance */
	}
	return NULL;
}

int main(int argc, char **argv)
{
	struct pmemset_config *cfg = NULL;
	struct pmemset_part_map *left = NULL;
	pthread_t t[MAPPERS + 3];
	int n = 0;

	if (argc < 3)
		return 2;
	race = argc > 3 && strcmp(argv[3], "race") == 0;
	page = (size_t)sysconf(_SC_PAGESIZE);
	for (int k = 0; k < MAPPERS; k++) {
		int fd;

		snprintf(names[k], sizeof names[k], "%s/stress%d", argv[2], k);
		fd = open(names[k], O_CREAT | O_RDWR | O_TRUNC, 0600);
		MUST(fd >= 0 && ftruncate(fd, (off_t)(2 * SLOTS * page)) == 0);
		close(fd);
	}
	MUST(pmemset_config_new(&cfg) == 0);
	MUST(pmemset_config_set_required_store_granularity(cfg, PMEM2_GRANULARITY_PAGE) == 0);
	MUST(pmemset_new(&set, cfg) == 0);
	MUST(pmemset_config_delete(&cfg) == 0);
	for (long k = 0; k < MAPPERS; k++)
		MUST(pthread_create(&t[n++], NULL, mapper, (void *)k) == 0);
	for (long k = 0; k < 2; k++)
		MUST(pthread_create(&t[n++], NULL, looker, (void *)k) == 0);
	MUST(pthread_create(&t[n++], NULL, walker, NULL) == 0);
	for (int i = atoi(argv[1]) * 10; i > 0; i--)
		usleep(100000);
	PUT(stop, 1);
	while (n > 0)
		pthread_join(t[--n], NULL);
	pmemset_first_part_map(set, &left);
	MUST(pmemset_delete(&set) == 0);
	if (left)
		pmemset_part_map_drop(&left);
	printf("%ld mapped, %ld found, %ld walked, %ld drained\n", mapped, found, walked, drained);
	MUST(mapped > 50 && found > 50 && walked > 50 && drained > 10);
	return 0;
}
