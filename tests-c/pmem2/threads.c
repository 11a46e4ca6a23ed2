/* SPDX-License-Identifier: BSD-3-Clause */
/* threads.c -- two sets and four threads in one reservation; mappings that cannot be ended */
#include "p.h"
#include <dlfcn.h>
#include <pthread.h>

static size_t page;
static struct pmem2_vm_reservation *rsv;
static struct pmemset *sets[2];
static struct pmemset_source *files[4];
static int rounds;

/* each maps its own file here and there, stores its mark and finds it there again */
static void *work(void *arg)
{
	int me = (int)(intptr_t)arg;
	struct pmemset *set = sets[me % 2];
	struct pmemset_source *src = files[me];
	uint64_t seed = (uint64_t)me * 77 + 5;
	char *mine[8] = { NULL };
	size_t len[8];

	for (int i = 0; i < rounds; i++) {
		int k = (int)(rnd(&seed) % 8);

		if (mine[k]) {
			for (size_t at = 0; at < len[k]; at += page)
				CHECKF(mine[k][at] == 'a' + me, "%c is not %d's", mine[k][at], me);
			IS(remove_at(set, mine[k]), 0);
			mine[k] = NULL;
		} else {
			len[k] = (1 + rnd(&seed) % 8) * page;
			mine[k] = must_map(set, src, 0, len[k]);
			for (size_t at = 0; at < len[k]; at += page)
				mine[k][at] = (char)('a' + me);
			if (i % 8 == 0)
				IS(pmemset_persist(set, mine[k], len[k]), 0);
		}
	}
	return NULL;
}

/* stands before libpmem2's: fails when told to */
static int failing;

int pmem2_map_delete(struct pmem2_map **map)
{
	static int (*real)(struct pmem2_map **);

	if (!real)
		real = (int (*)(struct pmem2_map **))dlsym(RTLD_NEXT, "pmem2_map_delete");
	if (failing == 1)
		return -ENOMEM;
	if (failing > 0)
		failing--;
	return real(map);
}

static void refused(void)
{
	struct pmemset_source *src;
	struct pmemset_part_descriptor d = { NULL, 0 };
	struct pmemset *set, *other;
	char *base;

	group("mappings that cannot be ended");
	rsv = reserve(16 * page);
	base = base_of(rsv);
	make_file("f", (off_t)(8 * page));
	src = source("f");
	set = set_in(rsv, PMEM2_GRANULARITY_PAGE, NULL);
	other = set_in(rsv, PMEM2_GRANULARITY_PAGE, NULL);
	IS(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_FULL), 0);
	for (int i = 0; i < 4; i++)
		IS(map_part(set, src, 2 * page * (size_t)i, 2 * page, &d), 0);
	memset(base, 'r', 8 * page);
	failing = 1;
	IS(remove_at(set, base), -ENOMEM);
	CHECK(strstr(pmemset_errormsg(), "pmem2_map_delete"));
	IS(pmemset_remove_range(set, base + page, 3 * page), -ENOMEM);
	failing = 0;
	IS(size_at(set, base), 8 * page);
	IS(known(rsv), 4);
	CHECK(base[0] == 'r' && base[8 * page - 1] == 'r');
	IS(pmemset_persist(set, base, 8 * page), 0);

	/* the second of three: what is gone is gone, what is left is kept out of the way until it can be ended */
	failing = 2;
	IS(pmemset_remove_range(set, base, 6 * page), 0);
	IS(size_at(set, base + 6 * page), 2 * page);
	CHECK(at(set, base) == NULL);
	CHECK(known(rsv) == 3);
	CHECK(must_map(other, src, 0, 2 * page) == base);
	CHECK(must_map(other, src, 0, 2 * page) == base + 8 * page); /* not where something is left */
	IS(pmemset_delete(&other), -ENOMEM);
	failing = 0;
	IS(pmemset_delete(&set), 0);
	IS(known(rsv), 2); /* the other's, which could not be ended */
	IS(delete_rsv(&rsv), PMEM2_E_VM_RESERVATION_NOT_EMPTY);
	pmemset_source_delete(&src);
}

int main(void)
{
	pthread_t t[4];

	t_begin();
	page = page_size();
	group("threads in one reservation");
	rounds = instrumented() ? 60 : 4000;
	rsv = reserve(400 * page);
	for (int i = 0; i < 2; i++)
		sets[i] = set_in(rsv, PMEM2_GRANULARITY_PAGE, NULL);
	for (int i = 0; i < 4; i++) {
		char name[] = "t0";

		/* not while others map: libpmem2 changes the working directory for a moment */
		name[1] = (char)('0' + i);
		make_file(name, (off_t)(8 * page));
		files[i] = source(name);
	}
	for (int i = 0; i < 4; i++)
		MUST(pthread_create(&t[i], NULL, work, (void *)(intptr_t)i) == 0);
	for (int i = 0; i < 4; i++)
		MUST(pthread_join(t[i], NULL) == 0);
	for (int i = 0; i < 4; i++)
		IS(pmemset_source_delete(&files[i]), 0);
	IS(known(rsv), walk(sets[0]) + walk(sets[1]));
	IS(pmemset_delete(&sets[0]), 0);
	IS(known(rsv), walk(sets[1]));
	IS(pmemset_delete(&sets[1]), 0);
	IS(known(rsv), 0);
	IS(delete_rsv(&rsv), 0);
	if (!instrumented())
		refused();
	return t_end();
}
