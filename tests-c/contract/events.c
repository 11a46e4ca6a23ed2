/* SPDX-License-Identifier: BSD-3-Clause */
/* events.c -- which events fire, in which order, with what, and what a callback may do */
#include "t.h"
#include <pthread.h>

static struct pmemset_event_context seen[1000];
static int nseen;
static struct pmemset *seen_set;
static int answer; /* what the callback returns: ignored */
static pthread_t seen_thread;
static void (*extra)(struct pmemset *set, struct pmemset_event_context *ctx);

static int record(struct pmemset *set, struct pmemset_event_context *ctx, void *arg)
{
	CHECK(arg == seen);
	CHECK(ctx != NULL && set != NULL);
	if (nseen < 1000)
		seen[nseen++] = *ctx;
	seen_set = set;
	seen_thread = pthread_self();
	if (extra)
		extra(set, ctx);
	return answer;
}

static int is(int i, enum pmemset_event type)
{
	return i < nseen && seen[i].type == type;
}

static char *dest;
static char before;

/* work not yet done at COPY, MOVE, SET; done at DRAIN */
static void look(struct pmemset *set, struct pmemset_event_context *ctx)
{
	(void)set;
	if (ctx->type == PMEMSET_EVENT_DRAIN)
		CHECK(*dest != before);
	else if (ctx->type != PMEMSET_EVENT_FLUSH)
		CHECK(*dest == before);
}

static struct pmemset_source *file;
static int depth;

/* a callback that calls back in */
static void reenter(struct pmemset *set, struct pmemset_event_context *ctx)
{
	struct pmemset_part_map *pm = NULL;
	struct pmemset_part_descriptor d = { NULL, 0 };

	if (depth)
		return;
	depth = 1;
	IS(map_part(set, file, 8 * page_size(), page_size(), &d), 0);
	IS(pmemset_part_map_by_address(set, &pm, d.addr), 0);
	IS(pmemset_flush(set, d.addr, 10), 0);
	IS(pmemset_drain(set), 0);
	IS(pmemset_persist(set, d.addr, 10), 0);
	pmemset_memset(set, d.addr, 1, 100, 0);
	IS(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_NONE), 0);
	IS(pmemset_deep_flush(set, d.addr, 1), 0);
	IS(pmemset_remove_part_map(set, &pm), 0);
	if (ctx->type == PMEMSET_EVENT_PART_ADD) { /* the new part map is there */
		pm = at(set, ctx->data.part_add.addr);
		CHECK(pm != NULL);
		d = pmemset_descriptor_part_map(pm);
		CHECK(d.addr == ctx->data.part_add.addr && d.size == ctx->data.part_add.len);
		pmemset_part_map_drop(&pm);
	}
	CHECK(walk(set) >= 1);
	depth = 0;
}

/* removes what was just mapped */
static void remove_it(struct pmemset *set, struct pmemset_event_context *ctx)
{
	if (ctx->type == PMEMSET_EVENT_PART_ADD)
		IS(pmemset_remove_range(set, ctx->data.part_add.addr, 1), 0);
}

static void *persist_thread(void *arg)
{
	IS(pmemset_persist(arg, dest, 8), 0);
	CHECK(pthread_equal(seen_thread, pthread_self()));
	return NULL;
}

static void kinds(const char *granularity)
{
	struct pmemset *set;
	char from[256] = "data";
	char *p;

	if (granularity)
		MUST(setenv("PMEM2_FORCE_GRANULARITY", granularity, 1) == 0);
	nseen = 0;
	extra = NULL;
	set = new_set_ev(PMEM2_GRANULARITY_PAGE, record, seen);
	CHECK(nseen == 0);
	p = must_map(set, file, 0, 4 * page_size());
	CHECK(nseen == 1 && is(0, PMEMSET_EVENT_PART_ADD));
	CHECK(seen[0].data.part_add.addr == p && seen[0].data.part_add.len == 4 * page_size());
	CHECK(seen_set == set && pthread_equal(seen_thread, pthread_self()));

	for (answer = -1; answer <= 1; answer++) { /* whatever it returns */
		nseen = 0;
		IS(pmemset_flush(set, p + 1, 77), 0);
		CHECK(nseen == 1 && is(0, PMEMSET_EVENT_FLUSH));
		CHECK(seen[0].data.flush.addr == p + 1 && seen[0].data.flush.len == 77);
		nseen = 0;
		IS(pmemset_drain(set), 0);
		CHECK(nseen == 1 && is(0, PMEMSET_EVENT_DRAIN));
		nseen = 0;
		IS(pmemset_persist(set, p + 2, 78), 0);
		CHECK(nseen == 2 && is(0, PMEMSET_EVENT_FLUSH) && is(1, PMEMSET_EVENT_DRAIN));
		CHECK(seen[0].data.flush.addr == p + 2 && seen[0].data.flush.len == 78);
	}
	answer = 0;

	extra = look;
	for (unsigned flags = 0; flags <= PMEMSET_F_MEM_VALID_FLAGS; flags++) {
		int want = flags & PMEMSET_F_MEM_NODRAIN ? 1 : 2; /* NOFLUSH alone still fires it */

		dest = p + flags;
		before = *dest;
		from[0] = (char)(before + 1);
		nseen = 0;
		pmemset_memcpy(set, p + flags, from, 100, flags);
		CHECKF(nseen == want && is(0, PMEMSET_EVENT_COPY) && (want == 1 || is(1, PMEMSET_EVENT_DRAIN)), "memcpy, flags %#x: %d events", flags, nseen);
		CHECK(seen[0].data.copy.dest == p + flags && seen[0].data.copy.src == from);
		CHECK(seen[0].data.copy.len == 100 && seen[0].data.copy.flags == flags);
		before = *dest;
		from[0] = (char)(before + 1);
		nseen = 0;
		pmemset_memmove(set, p + flags, from, 101, flags);
		CHECKF(nseen == want && is(0, PMEMSET_EVENT_MOVE) && (want == 1 || is(1, PMEMSET_EVENT_DRAIN)), "memmove, flags %#x: %d events", flags, nseen);
		CHECK(seen[0].data.move.dest == p + flags && seen[0].data.move.src == from);
		CHECK(seen[0].data.move.len == 101 && seen[0].data.move.flags == flags);
		before = *dest;
		nseen = 0;
		pmemset_memset(set, p + flags, before + 1, 102, flags);
		CHECKF(nseen == want && is(0, PMEMSET_EVENT_SET) && (want == 1 || is(1, PMEMSET_EVENT_DRAIN)), "memset, flags %#x: %d events", flags, nseen);
		CHECK(seen[0].data.set.dest == p + flags && seen[0].data.set.value == before + 1);
		CHECK(seen[0].data.set.len == 102 && seen[0].data.set.flags == flags);
	}
	extra = NULL;
	IS(pmemset_delete(&set), 0);
	unsetenv("PMEM2_FORCE_GRANULARITY");
}

int main(void)
{
	struct pmemset *set;
	struct pmemset_part_descriptor d;
	size_t page = page_size();
	pthread_t t;
	char *p;

	t_begin();
	make_file("f", (off_t)(16 * page));
	file = source("f");

	group("events: which, in what order, with what");
	kinds(NULL);
	kinds("CACHE_LINE");
	kinds("BYTE");
	kinds("PAGE");

	group("events: a mapping that fails fires none");
	nseen = 0;
	set = new_set_ev(PMEM2_GRANULARITY_PAGE, record, seen);
	FAILS(map_part(set, file, 1, page, NULL));
	FAILS(map_part(set, file, 0, 17 * page, NULL));
	CHECK(nseen == 0);

	group("events: PART_ADD of a coalesced part");
	IS(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_FULL), 0);
	p = must_map(set, file, 0, page);
	IS(map_part(set, file, 4 * page, 2 * page, &d), 0);
	CHECK(nseen == 2 && is(0, PMEMSET_EVENT_PART_ADD) && is(1, PMEMSET_EVENT_PART_ADD));
	CHECK(seen[0].data.part_add.addr == p && seen[0].data.part_add.len == page);
	CHECK(d.addr == p && d.size == 3 * page);
	CHECK(seen[1].data.part_add.addr == d.addr && seen[1].data.part_add.len == d.size);

	group("events: removal and look-ups fire none");
	nseen = 0;
	IS(pmemset_remove_range(set, p + page, 1), 0);
	CHECK(size_at(set, p) == page);
	IS(remove_at(set, p), 0);
	CHECK(nseen == 0);
	p = must_map(set, file, 0, page);
	IS(pmemset_flush(set, p, 1), 0);
	nseen = 0;
	IS(remove_at(set, p), 0); /* syncs of the library's own fire none */
	p = must_map(set, file, 0, page);
	IS(pmemset_flush(set, p, 1), 0);
	nseen = 0;
	IS(pmemset_delete(&set), 0);
	CHECK(nseen == 0);

	group("events: in the calling thread");
	set = new_set_ev(PMEM2_GRANULARITY_PAGE, record, seen);
	dest = must_map(set, file, 0, page);
	MUST(pthread_create(&t, NULL, persist_thread, set) == 0);
	pthread_join(t, NULL);
	IS(pmemset_delete(&set), 0);

	group("events: a callback may call the library");
	for (int g = 0; g < 2; g++) {
		if (g)
			MUST(setenv("PMEM2_FORCE_GRANULARITY", "CACHE_LINE", 1) == 0);
		extra = NULL;
		nseen = 0;
		set = new_set_ev(PMEM2_GRANULARITY_PAGE, record, seen);
		extra = reenter;
		p = must_map(set, file, 0, 2 * page);
		IS(pmemset_flush(set, p, 9), 0);
		IS(pmemset_drain(set), 0);
		IS(pmemset_persist(set, p, 9), 0);
		pmemset_memcpy(set, p, "12345678", 8, 0);
		CHECK(memcmp(p, "12345678", 8) == 0);
		pmemset_memmove(set, p + 1, p, 8, 0);
		CHECK(memcmp(p + 1, "12345678", 8) == 0);
		pmemset_memset(set, p, 0, 8, PMEMSET_F_MEM_NODRAIN);
		CHECK(walk(set) == 1);
		extra = NULL;
		IS(pmemset_delete(&set), 0);
		unsetenv("PMEM2_FORCE_GRANULARITY");
	}

	group("events: a callback that removes what was just mapped");
	set = new_set_ev(PMEM2_GRANULARITY_PAGE, record, seen);
	extra = remove_it;
	IS(map_part(set, file, 0, page, NULL), 0);
	extra = NULL;
	CHECK(walk(set) == 0);
	IS(pmemset_delete(&set), 0);

	group("events: none without a callback");
	nseen = 0;
	set = new_set();
	p = must_map(set, file, 0, page);
	IS(pmemset_persist(set, p, 1), 0);
	CHECK(nseen == 0);
	IS(pmemset_delete(&set), 0);
	IS(pmemset_source_delete(&file), 0);
	return t_end();
}
