/* SPDX-License-Identifier: BSD-3-Clause */
/* fork_inside.c -- a child that is made while another thread is inside a call on something else: it never waits for that */
#include "sync_hooks.h"
#include <pthread.h>

#if PMEMSET_API_VERSION == 112
#define GROWS PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED
#else
#define GROWS (PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED | PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED)
#endif

static size_t page;

/* what the thread works on */
static struct pmemset *theirs;
static struct pmemset_source *their_file, *their_memory;
static char *q;
static size_t at_page;
/* what the child works on */
static struct pmemset *mine;
static struct pmemset_source *my_file, *my_memory;
static char *p;

static int unconcerned(struct pmemset *s, struct pmemset_event_context *ctx, void *arg)
{
	(void)s;
	(void)ctx;
	(void)arg;
	return 0;
}

static void makes_configs(void)
{
	struct pmemset_config *cfg = NULL;
	struct pmemset_map_config *map = NULL;

	pmemset_config_new(&cfg);
	pmemset_config_set_event_callback(cfg, unconcerned, NULL);
	pmemset_config_delete(&cfg);
	pmemset_map_config_new(&map);
	pmemset_map_config_delete(&map);
}

static void makes_sets(void)
{
	struct pmemset *made = new_set();

	must_map(made, their_file, 0, page)[0]++;
	pmemset_delete(&made);
}

static void makes_sources(void)
{
	struct pmemset_source *made = NULL;

	pmemset_source_from_file(&made, "theirs");
	pmemset_source_delete(&made);
	pmemset_xsource_from_file(&made, "mine", GROWS); /* the child's file, too */
	pmemset_source_delete(&made);
	pmemset_source_from_temporary(&made, ".");
	pmemset_source_delete(&made);
}

static void grows_file(void)
{
	must_map(theirs, their_file, ++at_page * page, page);
	pmemset_remove_range(theirs, q + page, SIZE_MAX / 2);
}

static void grows_memory(void)
{
	/* by an opening of its own, and by the child's */
	at_page++;
	must_map(theirs, at_page % 2 ? their_memory : my_memory, at_page * page, page);
	pmemset_remove_range(theirs, q + page, SIZE_MAX / 2);
}

static void maps_mine(void)
{
	char *m = must_map(theirs, my_file, 0, 2 * page);

	m[0]++;
	pmemset_persist(theirs, m, 1);
	remove_at(theirs, m);
}

static void drains(void)
{
	q[0]++;
	q[3 * page]++;
	pmemset_flush(theirs, q, 1);
	pmemset_flush(theirs, q + 3 * page, 1);
	pmemset_drain(theirs);
	pmemset_persist(theirs, q, page);
	pmemset_deep_flush(theirs, q, page);
}

static void copies(void)
{
	pmemset_memcpy(theirs, q, "copied", 6, 0);
	pmemset_memmove(theirs, q + 1, q, 100, 0);
	pmemset_memset(theirs, q, 1, page, PMEMSET_F_MEM_NODRAIN);
	pmemset_drain(theirs);
}

static void looks(void)
{
	struct pmemset_part_map *pm = NULL;
	enum pmem2_granularity g;

	walk(theirs);
	pmemset_first_part_map(theirs, &pm);
	pmemset_part_map_drop(&pm);
	pmemset_get_store_granularity(theirs, &g);
	pmemset_set_contiguous_part_coalescing(theirs, PMEMSET_COALESCING_NONE);
}

static void reads(void)
{
	char b[64];
	size_t align;

	pmemset_source_pwrite_mcsafe(their_file, b, sizeof b, 0);
	pmemset_source_pread_mcsafe(their_file, b, sizeof b, 0);
	pmemset_source_alignment(their_file, &align);
}

static void fails(void)
{
	struct pmemset_source *made = NULL;

	pmemset_source_from_file(&made, "nothing");
	pmemset_err_to_errno(-1);
	pmemset_perror("%s", pmemset_errormsg());
	pmemset_flush(theirs, &made, 1);
}

static const struct { const char *name; void (*fn)(void); } calls[] = {
	{ "makes configs", makes_configs }, { "makes sets", makes_sets }, { "makes sources", makes_sources },
	{ "makes a file grow", grows_file }, { "makes one in memory grow", grows_memory }, { "maps the same file", maps_mine },
	{ "drains", drains }, { "copies", copies }, { "looks", looks }, { "reads", reads }, { "fails", fails },
};
#define CALLS (sizeof calls / sizeof *calls)

static volatile int stop;
static int which;
static uint64_t turns;

static void *works(void *arg)
{
	(void)arg;
	while (!stop) {
		calls[which].fn();
		__atomic_add_fetch(&turns, 1, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

static int child(int i)
{
	struct pmemset_part_descriptor d;
	struct pmemset_source *made = NULL;
	struct pmemset *own;

	alarm(10);
	p[0]++;
	p[2 * page]++;
	if (pmemset_flush(mine, p, 1) || pmemset_flush(mine, p + 2 * page, 1) || pmemset_drain(mine))
		return 1;
	if (pmemset_persist(mine, p, 3 * page) || pmemset_deep_flush(mine, p, page))
		return 2;
	if (!pmemset_memcpy(mine, p, "child", 6, 0))
		return 3;
	if (map_part(mine, my_file, (size_t)(4 + i) * page, page, &d) || map_part(mine, my_memory, (size_t)(4 + i) * page, page, &d))
		return 4;
	if (remove_at(mine, d.addr) || walk(mine) != 3)
		return 5;
	if (pmemset_source_from_file(&made, "nothing") == 0 || pmemset_xsource_from_file(&made, "theirs", GROWS) != 0)
		return 6;
	own = new_set();
	if (map_part(own, made, 0, page, &d) || pmemset_persist(own, d.addr, 1) || pmemset_delete(&own))
		return 7;
	if (pmemset_source_delete(&made) || pmemset_source_delete(&my_file) || pmemset_source_delete(&my_memory))
		return 8;
	return pmemset_delete(&mine) ? 9 : 0;
}

static void forks(void)
{
	char path[256];
	pthread_t t;
	double end;
	int n = 0, status;

	MUST(freopen("/dev/null", "w", stderr));
	hook_skip = 1; /* syncs take long, and the more so the more locks are held over them */
	tmpfs_name(path, sizeof path, "forks");
	unlink("theirs");
	unlink("mine");
	MUST(pmemset_xsource_from_file(&their_file, "theirs", GROWS) == 0);
	MUST(pmemset_xsource_from_file(&my_file, "mine", GROWS) == 0);
	MUST(pmemset_xsource_from_file(&their_memory, path, GROWS) == 0);
	theirs = new_set();
	mine = new_set();
	q = must_map(theirs, their_file, 0, 4 * page);
	p = must_map(mine, my_file, 0, 4 * page);
	/* another opening of the same file */
	MUST(pmemset_xsource_from_file(&my_memory, path, GROWS) == 0);
	must_map(mine, my_memory, 0, page)[0] = 'm';
	MUST(remove_at(mine, p) == 0);
	p = must_map(mine, my_file, 0, 4 * page);
	MUST(pthread_create(&t, NULL, works, NULL) == 0);
	end = now() + 0.5;
	while (now() < end || n < 20) {
		uint64_t before = __atomic_load_n(&turns, __ATOMIC_SEQ_CST);
		pid_t pid;

		for (uint64_t k = 0; k < before % 64 * 100; k++) /* at another instruction each time */
			__asm__ volatile("");
		nhooks = 0;
		pid = fork();
		MUST(pid >= 0);
		if (pid == 0)
			_exit(child(n % 200));
		MUST(waitpid(pid, &status, 0) == pid);
		CHECKF(status == 0, "fork %d: %#x", n, (unsigned)status);
		n++;
		if (t_fails)
			break;
	}
	stop = 1;
	pthread_join(t, NULL);
	CHECK(turns > 0);
	IS(pmemset_delete(&mine), 0);
	IS(pmemset_delete(&theirs), 0);
	IS(pmemset_source_delete(&their_file), 0);
	IS(pmemset_source_delete(&their_memory), 0);
	IS(pmemset_source_delete(&my_file), 0);
	IS(pmemset_source_delete(&my_memory), 0);
	unlink(path);
}

int main(void)
{
	static char names[CALLS][80];

	t_begin();
	page = page_size();
	for (which = 0; which < (int)CALLS; which++) {
		snprintf(names[which], sizeof names[which], "fork: while another thread %s", calls[which].name);
		CHILD_GROUP(forks, names[which]);
	}
	return t_end();
}
