/* SPDX-License-Identifier: BSD-3-Clause */
/* cancel.c -- a thread that is to be cancelled calls each function: it comes back from it, and others can go on */
#include "sync_hooks.h"
#include <pthread.h>

static size_t page;

/* What every call is made on; all of it made anew in each round, by a thread that nobody cancels. */
static struct pmemset *set, *gone;          /* with parts; to be deleted */
static struct pmemset_config *cfg;
static struct pmemset_map_config *mapping;
static struct pmemset_source *file, *last, *temporary; /* a new one; the only one of a file with parts; in memory */
static struct pmemset_part_map *found;
static char *p, *lone;                      /* three parts; the last of a file without a source */
static char buffer[64];
static int failure;                         /* of the call */
static int callbacks;

#if PMEMSET_API_VERSION == 112
#define GROWS PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED
static struct pmemset_sds sds;
#else
#define GROWS (PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED | PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED)
static struct pmemset_part *part, *late;    /* one to be mapped, one whose source is gone */
#endif

/* A callback that comes to points where threads are cancelled. */
static int waits(struct pmemset *s, struct pmemset_event_context *ctx, void *arg)
{
	(void)s;
	(void)ctx;
	(void)arg;
	pthread_testcancel();
	usleep(1);
	callbacks++;
	return 0;
}

static void config_new(void)
{
	struct pmemset_config *made = NULL;

	failure = pmemset_config_new(&made);
	pmemset_config_delete(&made);
}

static void config_delete(void)
{
	failure = pmemset_config_delete(&cfg);
}

static void config_set(void)
{
	failure = pmemset_config_set_required_store_granularity(cfg, PMEM2_GRANULARITY_PAGE);
	pmemset_config_set_reservation(cfg, NULL);
	pmemset_config_set_event_callback(cfg, NULL, NULL);
}

static void new_and_delete(void)
{
	struct pmemset *made = NULL;

	failure = pmemset_new(&made, cfg);
	failure |= pmemset_delete(&made);
}

static void delete(void)
{
	failure = pmemset_delete(&gone);
}

static void of_the_set(void)
{
	enum pmem2_granularity g;

	failure = pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_OPPORTUNISTIC);
	failure |= pmemset_get_store_granularity(set, &g);
}

static void source_from_file(void)
{
	struct pmemset_source *made = NULL;

	failure = pmemset_source_from_file(&made, "f");
	failure |= pmemset_source_delete(&made);
}

static void xsource_from_file(void)
{
	struct pmemset_source *made = NULL;

	failure = pmemset_xsource_from_file(&made, "new", GROWS);
	failure |= pmemset_source_delete(&made);
	unlink("new");
}

static void source_from_temporary(void)
{
	struct pmemset_source *made = NULL;

	failure = pmemset_source_from_temporary(&made, ".");
	failure |= pmemset_source_delete(&made);
}

static void source_from_pmem2(void)
{
	struct pmemset_source *made = NULL;

	failure = pmemset_source_from_pmem2(&made, NULL) == PMEMSET_E_INVALID_PMEM2_SOURCE ? 0 : -1;
}

static void source_delete(void)
{
	failure = pmemset_source_delete(&last);
}

static void temporary_delete(void)
{
	failure = pmemset_source_delete(&temporary);
}

static void source_mcsafe(void)
{
	failure = pmemset_source_pwrite_mcsafe(file, buffer, sizeof buffer, 10);
	failure |= pmemset_source_pread_mcsafe(file, buffer, sizeof buffer, 10);
}

static void source_facts(void)
{
	struct pmemset_badblock none = { 0, page };
	size_t align;

	pmemset_source_set_badblock_detection(file, true);
	failure = pmemset_source_alignment(file, &align);
	(void)pmemset_badblock_clear(&none, file); /* supported or not */
	pmemset_source_set_badblock_detection(file, false);
}

static void map_config(void)
{
	struct pmemset_map_config *made = NULL;

	failure = pmemset_map_config_new(&made);
	failure |= pmemset_map_config_set_offset(made, page);
	pmemset_map_config_set_length(made, page);
	failure |= pmemset_map_config_delete(&made);
}

static void map(void)
{
	failure = pmemset_map(set, file, mapping, NULL);
}

static void walk_all(void)
{
	struct pmemset_part_map *one = NULL, *two = NULL;

	pmemset_first_part_map(set, &one);
	pmemset_next_part_map(set, one, &two);
	failure = !one || pmemset_descriptor_part_map(one).size == 0;
	pmemset_part_map_drop(&one);
	pmemset_part_map_drop(&two);
}

static void by_address(void)
{
	struct pmemset_part_map *one = NULL;

	failure = pmemset_part_map_by_address(set, &one, p);
	pmemset_part_map_drop(&one);
}

static void remove_part_map(void)
{
	failure = pmemset_remove_part_map(set, &found);
}

static void remove_range(void)
{
	failure = pmemset_remove_range(set, p, 2 * page);
}

static void remove_last(void)
{
	failure = pmemset_remove_range(set, lone, 1);
}

static void flush(void)
{
	p[0]++;
	failure = pmemset_flush(set, p, page);
}

static void flush_others(void)
{
	failure = pmemset_flush(set, buffer, sizeof buffer);
}

static void drain(void)
{
	failure = pmemset_drain(set);
}

static void persist(void)
{
	p[page]++;
	failure = pmemset_persist(set, p, 2 * page);
}

static void deep_flush(void)
{
	failure = pmemset_deep_flush(set, p, 2 * page);
}

static void copies(void)
{
	failure = pmemset_memcpy(set, p, buffer, sizeof buffer, 0) != p;
	failure |= pmemset_memmove(set, p + 1, p, 100, PMEMSET_F_MEM_NODRAIN) != p + 1;
	failure |= pmemset_memset(set, p, 1, page, PMEMSET_F_MEM_NONTEMPORAL) != p;
}

static void messages(void)
{
	struct pmemset_source *made = NULL;

	failure = pmemset_source_from_file(&made, "nothing") != PMEMSET_E_INVALID_SOURCE_PATH;
	failure |= pmemset_err_to_errno(-EIO) != EIO || !*pmemset_errormsg();
}

static void says(void)
{
	pmemset_perror("to be cancelled, %d", 1);
	failure = 0;
}

#if PMEMSET_API_VERSION == 112
static void map_grows(void)
{
	failure = pmemset_map_config_set_offset(mapping, 64 * page);
	failure |= pmemset_map(set, file, mapping, NULL);
}

static void states(void)
{
	failure = pmemset_config_set_acceptable_states(cfg, PMEMSET_PART_STATE_OK);
}

static void shutdown_state(void)
{
	enum pmemset_part_state state;
	int rc = pmemset_source_set_sds(file, &sds, &state);

	failure = rc == PMEMSET_E_SDS_NOSUPP ? 0 : rc;
	failure |= pmemset_source_set_sds(file, NULL, NULL);
}
#else
static void part_new(void)
{
	struct pmemset_part *made = NULL;

	failure = pmemset_part_new(&made, set, file, 0, page);
	failure |= pmemset_part_delete(&made);
}

static void part_map(void)
{
	struct pmemset_part_descriptor d;

	failure = pmemset_part_map(&part, NULL, &d);
}

static void part_map_last(void)
{
	failure = pmemset_part_map(&late, NULL, NULL);
}

static void part_delete_last(void)
{
	failure = pmemset_part_delete(&late);
}
#endif

static const struct { const char *name; void (*fn)(void); } calls[] = {
#define CALL(fn) { #fn, fn }
	CALL(config_new), CALL(config_delete), CALL(config_set), CALL(new_and_delete), CALL(delete), CALL(of_the_set),
	CALL(source_from_file), CALL(xsource_from_file), CALL(source_from_temporary), CALL(source_from_pmem2),
	CALL(source_delete), CALL(temporary_delete), CALL(source_mcsafe), CALL(source_facts), CALL(map_config), CALL(map),
	CALL(walk_all), CALL(by_address), CALL(remove_part_map), CALL(remove_range), CALL(remove_last),
	CALL(flush), CALL(flush_others), CALL(drain), CALL(persist), CALL(deep_flush), CALL(copies), CALL(messages), CALL(says),
#if PMEMSET_API_VERSION == 112
	CALL(map_grows), CALL(states), CALL(shutdown_state),
#else
	CALL(part_new), CALL(part_map), CALL(part_map_last), CALL(part_delete_last),
#endif
};
#define CALLS (sizeof calls / sizeof *calls)

static int observed; /* the sets have a callback */

static void prepare(void)
{
	struct pmemset_source *other = NULL;
	char path[256];

	tmpfs_name(path, sizeof path, "cancel");
	MUST(pmemset_config_new(&cfg) == 0 && pmemset_map_config_new(&mapping) == 0);
	MUST(pmemset_config_set_required_store_granularity(cfg, PMEM2_GRANULARITY_PAGE) == 0);
	pmemset_map_config_set_length(mapping, page);
	set = new_set_ev(PMEM2_GRANULARITY_PAGE, observed ? waits : NULL, NULL);
	gone = new_set_ev(PMEM2_GRANULARITY_PAGE, observed ? waits : NULL, NULL);
	/* a file that is new, so that its directory has to be synced */
	unlink("made");
	MUST(pmemset_xsource_from_file(&file, "made", GROWS) == 0);
	p = must_map(set, file, 0, 3 * page);
	must_map(gone, file, 0, page)[0] = 'g';
	found = at(set, must_map(set, file, 0, page));
	unlink("last");
	MUST(pmemset_xsource_from_file(&last, "last", GROWS) == 0);
	must_map(set, last, 0, page)[0] = 'l';
	MUST(pmemset_xsource_from_file(&temporary, path, GROWS) == 0);
	must_map(set, temporary, 0, page)[0] = 't';
	unlink(path);
	unlink("lone");
	MUST(pmemset_xsource_from_file(&other, "lone", GROWS) == 0);
	lone = must_map(set, other, 0, page);
	MUST(pmemset_source_delete(&other) == 0);
#if PMEMSET_API_VERSION == 111
	MUST(pmemset_part_new(&part, set, file, 3 * page, 4 * page) == 0);
	unlink("late");
	MUST(pmemset_xsource_from_file(&other, "late", GROWS) == 0);
	MUST(pmemset_part_new(&late, set, other, 0, page) == 0);
	MUST(pmemset_source_delete(&other) == 0);
#endif
	p[0]++;
	p[2 * page]++;
	MUST(pmemset_flush(set, p, 1) == 0 && pmemset_flush(set, p + 2 * page, 1) == 0);
}

static void dispose(void)
{
	pmemset_part_map_drop(&found);
#if PMEMSET_API_VERSION == 111
	if (part)
		IS(pmemset_part_delete(&part), 0);
	if (late)
		IS(pmemset_part_delete(&late), 0);
#endif
	if (set)
		IS(pmemset_delete(&set), 0);
	if (gone)
		IS(pmemset_delete(&gone), 0);
	IS(pmemset_source_delete(&file), 0);
	IS(pmemset_source_delete(&last), 0);
	IS(pmemset_source_delete(&temporary), 0);
	if (cfg)
		IS(pmemset_config_delete(&cfg), 0);
	IS(pmemset_map_config_delete(&mapping), 0);
}

/* msync and fsync are points of cancellation; here they do no more than that, as they take long */
static void is_point(const struct hook *h)
{
	(void)h;
	pthread_testcancel();
}

static size_t now_called;
static volatile int came_back;

static void *cancelled(void *arg)
{
	(void)arg;
	/* as it would be if another thread had asked for it just before the call */
	pthread_cancel(pthread_self());
	calls[now_called].fn();
	came_back = 1;
	pthread_testcancel();
	return NULL;
}

/* what a thread does that nobody cancels, on whatever the other has left */
static void *goes_on(void *arg)
{
	(void)arg;
	for (size_t i = 0; i < CALLS; i++) {
		prepare();
		calls[i].fn();
		CHECKF(failure == 0, "%s: %d %s", calls[i].name, failure, pmemset_errormsg());
		dispose();
	}
	return NULL;
}

static void one_call(void)
{
	int fds = 0, maps = 0;
	pthread_attr_t attr;
	pthread_t t;
	void *end;

	alarm(20);
	MUST(freopen("/dev/null", "w", stderr));
	MUST(pthread_attr_init(&attr) == 0);
	for (int round = 0; round < 3; round++) {
		prepare();
		callbacks = came_back = 0;
		failure = -1;
		MUST(pthread_create(&t, NULL, cancelled, NULL) == 0);
		MUST(pthread_join(t, &end) == 0);
		CHECK(came_back);
		CHECK(end == PTHREAD_CANCELED);
		CHECKF(failure == 0, "%d", failure);
		/* what it has worked on can be used */
		if (set) {
			p = must_map(set, file, 0, 2 * page);
			p[page]++;
			IS(pmemset_persist(set, p, 2 * page), 0);
			IS(pmemset_flush(set, p, 1), 0);
			IS(pmemset_flush(set, p + page, 1), 0);
			IS(pmemset_drain(set), 0);
		}
		dispose();
		if (round == 1) {
			fds = count_fds();
			maps = count_maps();
		}
	}
	CHECKF(count_fds() == fds, "%d descriptors, then %d", fds, count_fds());
	CHECKF(count_maps() <= maps, "%d address ranges, then %d", maps, count_maps());
	MUST(pthread_create(&t, NULL, goes_on, NULL) == 0);
	MUST(pthread_join(t, &end) == 0);
	CHECK(end == NULL);
}

static void each_call(void)
{
	for (now_called = 0; now_called < CALLS; now_called++) {
		int before = t_fails;

		in_child(one_call);
		if (t_fails != before)
			t_failed(NULL, 0, "with the call %s", calls[now_called].name);
	}
}

int main(void)
{
	t_begin();
	page = page_size();
	hook_skip = 1;
	hook_before = is_point;
	make_file("f", (off_t)(4 * page));
	group("cancel: each call by a thread that is to be cancelled");
	each_call();
	group("cancel: logged, with a callback that comes to points of cancellation");
	observed = 1;
	MUST(setenv("PMEMSET_LOG_LEVEL", "4", 1) == 0 && setenv("PMEMSET_LOG_FILE", "log", 1) == 0);
	each_call();
	return t_end();
}
