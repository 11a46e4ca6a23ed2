/* SPDX-License-Identifier: BSD-3-Clause */
/* removal.c -- what a set tells before it removes, and what a callback may do then */
#include "t.h"
#include <pthread.h>

#define N 64

static size_t page;
static struct pmemset_event_context seen[N];
static int nseen;
static struct pmemset_source *src, *other;
static void (*during)(struct pmemset *set, struct pmemset_event_context *ctx);

static int record(struct pmemset *set, struct pmemset_event_context *ctx, void *arg)
{
	CHECK(arg == seen);
	if (ctx->type == PMEMSET_EVENT_FLUSH || ctx->type == PMEMSET_EVENT_DRAIN || ctx->type == PMEMSET_EVENT_SET)
		return 0;
	if (nseen < N)
		seen[nseen++] = *ctx;
	if (ctx->type == PMEMSET_EVENT_PART_REMOVE) {
		struct pmemset_part_map *pm = (struct pmemset_part_map *)1;
		char *addr = ctx->data.part_remove.addr;

		/* found no more, by address and by walking; still there */
		IS(pmemset_part_map_by_address(set, &pm, addr), PMEMSET_E_CANNOT_FIND_PART_MAP);
		CHECK(pm == NULL);
		for (pmemset_first_part_map(set, &pm); pm;) {
			struct pmemset_part_map *next = NULL;

			CHECK(pmemset_descriptor_part_map(pm).addr != addr);
			pmemset_next_part_map(set, pm, &next);
			pmemset_part_map_drop(&pm);
			pm = next;
		}
		CHECK(readable(addr) && readable(addr + ctx->data.part_remove.len - 1));
		addr[1]++;
	}
	if (during)
		during(set, ctx);
	return -1;
}

static struct pmemset *fresh(void)
{
	during = NULL;
	nseen = 0;
	return new_set_ev(PMEM2_GRANULARITY_PAGE, record, seen);
}

static int is(int i, enum pmemset_event type, void *addr, size_t len)
{
	/* addr and len come first in all three payloads */
	return i < nseen && seen[i].type == type && seen[i].data.part_remove.addr == addr && seen[i].data.part_remove.len == len;
}

/* stores, flushes, maps, removes another, asks for what is going already */
static char *victim;
static int joins;

static void busy(struct pmemset *set, struct pmemset_event_context *ctx)
{
	struct pmemset_part_descriptor d;
	char *addr = ctx->data.part_remove.addr;

	if (ctx->type != PMEMSET_EVENT_PART_REMOVE || addr == victim)
		return;
	during = NULL;
	memcpy(addr + 100, "the last words", 15);
	IS(pmemset_persist(set, addr + 100, 15), 0);
	memcpy(addr + 200, "flushed only", 13);
	IS(pmemset_flush(set, addr + 200, 13), 0);
	IS(pmemset_remove_range(set, addr, 1), PMEMSET_E_PART_MAP_POSSIBLE_USE_AFTER_DROP);
	IS(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_OPPORTUNISTIC), 0);
	IS(map_part(set, other, 0, page, &d), 0);
	/* it joins the part map of the latest mapping, or what is its neighbour if that is what goes */
	CHECK(joins ? d.addr == victim && d.size == 2 * page : d.size == page);
	CHECK((char *)d.addr + d.size <= addr || (char *)d.addr >= addr + ctx->data.part_remove.len);
	IS(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_NONE), 0);
	IS(remove_at(set, victim), 0);
	IS(pmemset_drain(set), 0);
}

/* takes a reference to what is going when it is told of the range */
static struct pmemset_part_map *taken;

static void take(struct pmemset *set, struct pmemset_event_context *ctx)
{
	if (ctx->type == PMEMSET_EVENT_REMOVE_RANGE)
		IS(pmemset_part_map_by_address(set, &taken, ctx->data.remove_range.addr), 0);
}

/* takes a reference to another part map of the range while the first goes */
static char *later;

static void take_partial(struct pmemset *set, struct pmemset_event_context *ctx)
{
	if (ctx->type == PMEMSET_EVENT_PART_REMOVE && !taken)
		IS(pmemset_part_map_by_address(set, &taken, later), 0);
}

static void delete_source(struct pmemset *set, struct pmemset_event_context *ctx)
{
	(void)set;
	if (ctx->type == PMEMSET_EVENT_REMOVE_RANGE)
		IS(pmemset_source_delete(&other), 0);
}

/* maps and removes, from every callback, two levels deep */
static int depth, nested;

static void nest(struct pmemset *set, struct pmemset_event_context *ctx)
{
	struct pmemset_part_descriptor d;

	if (depth >= 2 || ctx->type == PMEMSET_EVENT_PART_ADD)
		return;
	depth++;
	nested++;
	IS(map_part(set, src, 0, page, &d), 0);
	IS(depth == 1 ? pmemset_remove_range(set, d.addr, 1) : remove_at(set, d.addr), 0);
	depth--;
}

static struct pmemset *shared;

static void *churn(void *arg)
{
	for (int i = 0; i < 300; i++) {
		struct pmemset_part_descriptor d;

		MUST(map_part(shared, arg, 0, page, &d) == 0);
		IS(i % 2 ? remove_at(shared, d.addr) : pmemset_remove_range(shared, d.addr, d.size), 0);
	}
	return NULL;
}

static int quiet_removes;

static int count_removes(struct pmemset *set, struct pmemset_event_context *ctx, void *arg)
{
	struct pmemset_part_map *pm;

	(void)arg;
	if (ctx->type == PMEMSET_EVENT_PART_REMOVE) {
		__atomic_add_fetch(&quiet_removes, 1, __ATOMIC_RELAXED);
		IS(pmemset_part_map_by_address(set, &pm, ctx->data.part_remove.addr), PMEMSET_E_CANNOT_FIND_PART_MAP);
	}
	return 0;
}

static struct pmemset *run_of_four(char **run)
{
	struct pmemset *set = fresh();

	IS(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_FULL), 0);
	for (size_t i = 0; i < 4; i++)
		*run = must_map(set, i % 2 ? other : src, 2 * i * page, 2 * page);
	IS(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_NONE), 0);
	nseen = 0;
	return set;
}

int main(void)
{
	struct pmemset_part_map *pm;
	struct pmemset *set;
	pthread_t threads[4];
	char *a, *b, *c, *run = NULL;

	t_begin();
	page = page_size();
	make_file("f", (off_t)(16 * page));
	make_file("g", (off_t)(16 * page));
	src = source("f");
	other = source("g");

	group("removal: one part map");
	set = fresh();
	a = must_map(set, src, 0, 2 * page);
	CHECK(nseen == 1 && is(0, PMEMSET_EVENT_PART_ADD, a, 2 * page));
	IS(remove_at(set, a), 0);
	CHECK(nseen == 2 && is(1, PMEMSET_EVENT_PART_REMOVE, a, 2 * page));
	CHECK(seen[1].data.part_remove.src == src);
	IS(walk(set), 0);
	CHECK(!readable(a));

	group("removal: a range, the parts of it");
	nseen = 0;
	a = must_map(set, src, 0, page);
	b = must_map(set, other, 0, page);
	c = must_map(set, src, 0, page);
	nseen = 0;
	IS(pmemset_remove_range(set, NULL, 1), -EINVAL);
	IS(pmemset_remove_range(set, a, 0), 0);
	IS(pmemset_remove_range(set, (char *)page, 1), 0);
	CHECK(nseen == 0); /* nothing goes */
	{
		char *lo = a < b ? (a < c ? a : c) : (b < c ? b : c), *hi = a > b ? (a > c ? a : c) : (b > c ? b : c);
		size_t len = (size_t)(hi - lo) + 1;

		IS(pmemset_remove_range(set, lo, len), 0);
		CHECK(nseen == 4 && is(0, PMEMSET_EVENT_REMOVE_RANGE, lo, len));
		CHECK(is(1, PMEMSET_EVENT_PART_REMOVE, lo, page) && is(3, PMEMSET_EVENT_PART_REMOVE, hi, page));
		for (int i = 1; i < 4; i++)
			CHECK(seen[i].data.part_remove.src == (seen[i].data.part_remove.addr == b ? other : src));
	}
	IS(walk(set), 0);

	group("removal: told with the length that was given");
	a = must_map(set, src, 0, page);
	nseen = 0;
	IS(pmemset_remove_range(set, a, SIZE_MAX), 0); /* to the end of all addresses */
	CHECK(nseen == 2 && is(0, PMEMSET_EVENT_REMOVE_RANGE, a, SIZE_MAX));

	group("removal: what is referenced stays, and nothing is told");
	a = must_map(set, src, 0, page);
	nseen = 0;
	pm = at(set, a);
	IS(pmemset_remove_range(set, a, 1), PMEMSET_E_PART_MAP_POSSIBLE_USE_AFTER_DROP);
	{
		struct pmemset_part_map *again = at(set, a);

		IS(pmemset_remove_part_map(set, &pm), PMEMSET_E_PART_MAP_POSSIBLE_USE_AFTER_DROP);
		CHECK(pm != NULL);
		pmemset_part_map_drop(&again);
	}
	CHECK(nseen == 0);
	IS(pmemset_remove_part_map(set, &pm), 0);
	CHECK(nseen == 1 && pm == NULL);
	IS(pmemset_delete(&set), 0);
	CHECK(nseen == 1); /* deletion tells nothing */

	group("removal: parts of a run are no part map that goes");
	set = run_of_four(&run);
	IS(pmemset_remove_range(set, run + 2 * page, 1), 0);
	CHECK(nseen == 1 && is(0, PMEMSET_EVENT_REMOVE_RANGE, run + 2 * page, 1));
	CHECK(size_at(set, run) == 2 * page && size_at(set, run + 4 * page) == 4 * page && !readable(run + 2 * page));
	nseen = 0; /* the lower half whole, of the upper one part */
	IS(pmemset_remove_range(set, run, 5 * page), 0);
	CHECK(nseen == 2 && is(1, PMEMSET_EVENT_PART_REMOVE, run, 2 * page) && seen[1].data.part_remove.src == src);
	CHECK(size_at(set, run + 6 * page) == 2 * page && !readable(run) && !readable(run + 4 * page));
	IS(pmemset_delete(&set), 0);

	group("removal: the callback stores, flushes, maps, removes another");
	set = fresh();
	a = must_map(set, src, 0, 2 * page);
	victim = must_map(set, other, 0, page);
	joins = 1;
	during = busy;
	nseen = 0;
	IS(remove_at(set, a), 0);
	CHECK(file_holds("f", 100, "the last words", 15) && file_holds("f", 200, "flushed only", 13));
	CHECK(nseen == 3 && is(0, PMEMSET_EVENT_PART_REMOVE, a, 2 * page) && seen[1].type == PMEMSET_EVENT_PART_ADD &&
		is(2, PMEMSET_EVENT_PART_REMOVE, victim, 2 * page));
	IS(walk(set), 0);
	CHECK(!readable(a) && !readable(victim));
	IS(pmemset_delete(&set), 0);

	group("removal: nothing joins what is going");
	for (int order = 0; order < 2; order++) {
		set = fresh();
		victim = order ? must_map(set, other, 0, page) : NULL;
		run = must_map(set, src, 0, page);
		if (!order) {
			victim = must_map(set, other, 0, page);
			IS(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_FULL), 0);
			IS(remove_at(set, victim), 0);
			IS((uintptr_t)must_map(set, src, 0, page), (uintptr_t)run); /* has the role again */
			IS(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_NONE), 0);
			victim = must_map(set, other, 0, page);
			IS(remove_at(set, victim), 0);
			victim = must_map(set, other, 0, page);
			IS(remove_at(set, run), 0);
			run = must_map(set, src, 0, page);
		}
		/* the last mapped goes; its neighbour has no room behind it */
		joins = 0;
		during = busy;
		pm = at(set, run);
		IS(pmemset_remove_part_map(set, &pm), 0);
		IS(walk(set), 1);
		IS(pmemset_delete(&set), 0);
	}

	group("removal: a failure puts everything back");
	set = run_of_four(&run);
	during = take;
	IS(pmemset_remove_range(set, run, 1), PMEMSET_E_PART_MAP_POSSIBLE_USE_AFTER_DROP);
	during = NULL;
	pmemset_part_map_drop(&taken);
	CHECK(size_at(set, run) == 8 * page);
	IS(pmemset_remove_range(set, run + 4 * page, 1), 0); /* two part maps now */
	nseen = 0;
	CHECK(size_at(set, run) == 4 * page && size_at(set, run + 6 * page) == 2 * page);
	IS(pmemset_delete(&set), 0);

	group("removal: a partial neighbour that is taken meanwhile");
	set = fresh();
	a = must_map(set, src, 0, page);
	IS(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_NONE), 0);
	b = must_map(set, src, 0, page);
	IS(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_FULL), 0);
	IS((uintptr_t)must_map(set, src, 0, page), (uintptr_t)b);
	CHECK(b == a + page);
	later = b;
	during = take_partial;
	nseen = 0;
	IS(pmemset_remove_range(set, a, page + 1), PMEMSET_E_PART_MAP_POSSIBLE_USE_AFTER_DROP);
	CHECK(nseen == 2 && is(1, PMEMSET_EVENT_PART_REMOVE, a, page));
	during = NULL;
	pmemset_part_map_drop(&taken);
	CHECK(size_at(set, a) == page && size_at(set, b) == 2 * page);
	IS((uintptr_t)must_map(set, src, 0, page), (uintptr_t)b); /* the role is where it was */
	IS(pmemset_remove_range(set, a, page + 1), 0);
	CHECK(!readable(a) && !readable(b) && size_at(set, b + page) == 2 * page);
	IS(pmemset_delete(&set), 0);

	group("removal: a deleted source is NULL");
	set = fresh();
	a = must_map(set, other, 0, page);
	during = delete_source;
	IS(pmemset_remove_range(set, a, 1), 0);
	CHECK(nseen == 3 && is(2, PMEMSET_EVENT_PART_REMOVE, a, page) && seen[2].data.part_remove.src == NULL);
	during = NULL;
	other = source("g");
	a = must_map(set, other, 0, page);
	IS(pmemset_source_delete(&other), 0);
	nseen = 0;
	IS(remove_at(set, a), 0);
	CHECK(nseen == 1 && seen[0].data.part_remove.src == NULL);
	IS(pmemset_delete(&set), 0);
	other = source("g");

	group("removal: callbacks within callbacks");
	set = fresh();
	a = must_map(set, src, 0, page);
	during = nest;
	IS(pmemset_remove_range(set, a, 1), 0);
	CHECK(nested > 3);
	IS(walk(set), 0);
	IS(pmemset_delete(&set), 0);

	group("removal: from several threads");
	shared = new_set_ev(PMEM2_GRANULARITY_PAGE, count_removes, NULL);
	for (int i = 0; i < 4; i++)
		MUST(pthread_create(&threads[i], NULL, churn, i % 2 ? src : other) == 0);
	for (int i = 0; i < 4; i++)
		MUST(pthread_join(threads[i], NULL) == 0);
	IS(quiet_removes, 4 * 300);
	IS(walk(shared), 0);
	IS(pmemset_delete(&shared), 0);

	IS(pmemset_source_delete(&src), 0);
	IS(pmemset_source_delete(&other), 0);
	return t_end();
}
