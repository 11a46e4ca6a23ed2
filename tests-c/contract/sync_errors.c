/* SPDX-License-Identifier: BSD-3-Clause */
/* sync_errors.c -- PAGE: a sync that fails is reported, by whom it concerns, and never forgotten */
#include "sync_hooks.h"
#include <pthread.h>

static size_t page;
static struct pmemset *set;
static struct view v;
static int drains, flushes, others;

static int count(struct pmemset *s, struct pmemset_event_context *ctx, void *arg)
{
	(void)s;
	(void)arg;
	drains += ctx->type == PMEMSET_EVENT_DRAIN;
	flushes += ctx->type == PMEMSET_EVENT_FLUSH;
	others += ctx->type != PMEMSET_EVENT_DRAIN && ctx->type != PMEMSET_EVENT_FLUSH;
	return 0;
}

static void open_view(const char *path, size_t pages)
{
	make_file(path, (off_t)(pages * page));
	set = new_set_ev(PMEM2_GRANULARITY_PAGE, count, NULL);
	v.base = map_file(set, path);
	v.off = 0;
	v.len = pages * page;
	v.ino = inode_of(path);
	memset(v.base, 1, v.len);
	hook_set(0, 0);
	hook_reset();
	drains = flushes = others = 0;
}

static int message_says(int e)
{
	const char *m = pmemset_errormsg();
	size_t a = strlen(m), b = strlen(strerror(e));

	return a > b + 2 && strcmp(m + a - b, strerror(e)) == 0 && strncmp(m + a - b - 2, ": ", 2) == 0;
}

/*
 * After a failure, with nothing failing any more: a drain is 0 only when the range was made dirty again and synced;
 * else it goes on failing.
 */
static void retried(char *addr, size_t len, int e)
{
	int rc;

	hook_set(0, 0);
	hook_reset();
	rc = pmemset_drain(set);
	if (rc == 0) {
		CHECKF(hook_redirtied(addr, len), "success without making the lost pages dirty again");
		CHECKF(hook_durable(&v, addr, len), "success without a sync of the lost range");
		/* populate before sync, not after */
		for (int i = 0; i < nhooks; i++)
			if (hooks[i].kind == HOOK_POPULATE)
				break;
			else if (hook_meets(&hooks[i], &v, addr, len))
				CHECKF(0, "synced before it was dirty");
	} else {
		IS(rc, -e);
		IS(pmemset_drain(set), -e); /* and it stays so until the part is gone */
	}
}

static void persist_fails(void)
{
	static const int errors[] = { EIO, ENOSPC, EDQUOT, ENOMEM };

	for (size_t k = 0; k < 4; k++) {
		int e = errors[k];

		open_view("persist", 16);
		hook_set(e, -1);
		IS(pmemset_persist(set, v.base + 3 * page, 100), -e);
		CHECKF(message_says(e), "%s", pmemset_errormsg());
		CHECK(drains == 0 && flushes == 1); /* a failed drain fires no DRAIN */
		IS(pmemset_drain(set), -e); /* still lost, still failing */
		CHECK(drains == 0);
		IS(pmemset_persist(set, v.base + 3 * page, 100), -e);
		retried(v.base + 3 * page, 100, e);
		IS(pmemset_delete(&set), 0);
	}
}

static void drain_fails(void)
{
	open_view("drain", 16);
	for (size_t i = 0; i < 16; i += 2)
		IS(pmemset_flush(set, v.base + i * page, 1), 0); /* recording cannot fail */
	hook_set(EIO, -1);
	IS(pmemset_drain(set), -EIO);
	CHECKF(message_says(EIO), "%s", pmemset_errormsg());
	CHECK(drains == 0);
	hook_set(0, 0);
	hook_reset();
	{
		int rc = pmemset_drain(set);

		if (rc == 0) /* every one of them, not just the one that was told about */
			for (size_t i = 0; i < 16; i += 2)
				CHECKF(hook_redirtied(v.base + i * page, 1) && hook_durable(&v, v.base + i * page, 1), "page %zu", i);
		else
			IS(rc, -EIO);
		CHECK(drains == (rc == 0));
	}
	IS(pmemset_drain(set), 0);
	IS(pmemset_delete(&set), 0);
}

/* the kernel tells once: whatever of that file was waiting is suspect */
static void told_once(void)
{
	open_view("once", 32);
	for (size_t i = 1; i < 32; i += 3)
		IS(pmemset_flush(set, v.base + i * page, 1), 0);
	hook_set(EIO, 1);
	IS(pmemset_drain(set), -EIO);
	hook_set(0, 0);
	hook_reset();
	{
		int rc = pmemset_drain(set);

		if (rc == 0)
			for (size_t i = 1; i < 32; i += 3)
				CHECKF(hook_redirtied(v.base + i * page, 1) && hook_durable(&v, v.base + i * page, 1), "page %zu", i);
		else
			IS(rc, -EIO);
	}
	IS(pmemset_delete(&set), 0);

	/* two sets on one file: the failure of one does not make the other's drain lie */
	{
		struct pmemset *one, *two;
		char *p, *q;

		open_view("shared", 16);
		one = set;
		p = v.base;
		two = new_set();
		q = map_file(two, "shared");
		IS(pmemset_flush(one, p + page, 1), 0);
		IS(pmemset_flush(two, q + 5 * page, 1), 0);
		hook_set(EIO, -1);
		IS(pmemset_drain(one), -EIO);
		IS(pmemset_drain(two), -EIO);
		hook_set(0, 0);
		hook_reset();
		{
			struct view w = { q, 0, 16 * page, v.ino };
			int rc = pmemset_drain(two);

			if (rc == 0)
				CHECK(hook_redirtied(q + 5 * page, 1) && hook_durable(&w, q + 5 * page, 1));
			else
				IS(rc, -EIO);
		}
		retried(p + page, 1, EIO);
		IS(pmemset_delete(&two), 0);
		set = one;
		IS(pmemset_delete(&set), 0);
	}
}

static void copies(void)
{
	open_view("copies", 16);
	hook_set(EIO, -1);
	CHECK(pmemset_memset(set, v.base + 2 * page, 5, 100, 0) == v.base + 2 * page); /* cannot tell */
	CHECK(v.base[2 * page] == 5);
	CHECK(drains == 0);
	IS(pmemset_drain(set), -EIO); /* the next drain does */
	CHECK(pmemset_memcpy(set, v.base + 4 * page, "copied", 7, 0) == v.base + 4 * page);
	CHECK(pmemset_memmove(set, v.base + 6 * page, v.base + 4 * page, 7, 0) == v.base + 6 * page);
	hook_set(0, 0);
	{
		int rc;

		hook_reset();
		/* told by the thread's next drain, even though nothing fails any more */
		rc = pmemset_drain(set);
		IS(rc, -EIO);
		rc = pmemset_drain(set);
		if (rc == 0) {
			static const size_t lost[] = { 2, 4, 6 };

			for (size_t i = 0; i < 3; i++)
				CHECKF(hook_redirtied(v.base + lost[i] * page, 1) && hook_durable(&v, v.base + lost[i] * page, 1), "page %zu", lost[i]);
		} else {
			IS(rc, -EIO);
		}
	}
	IS(pmemset_delete(&set), 0);
}

static void *drain_thread(void *arg)
{
	IS(pmemset_drain(set), (intptr_t)arg);
	if (arg)
		CHECKF(message_says(EIO), "%s", pmemset_errormsg());
	return NULL;
}

static void *flush_thread(void *arg)
{
	(void)arg;
	IS(pmemset_flush(set, v.base + 9 * page, 1), 0);
	return NULL;
}

/* whoever drains what was lost hears of it */
static void threads(void)
{
	pthread_t t[4];

	open_view("threads", 16);
	MUST(pthread_create(&t[0], NULL, flush_thread, NULL) == 0);
	pthread_join(t[0], NULL);
	hook_set(EIO, -1);
	for (int i = 0; i < 4; i++)
		MUST(pthread_create(&t[i], NULL, drain_thread, (void *)(intptr_t)-EIO) == 0);
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	retried(v.base + 9 * page, 1, EIO);
	IS(pmemset_delete(&set), 0);
}

static void removal(void)
{
	struct pmemset_part_map *pm, *same;
	char *p;
	int rc;

	open_view("removal", 8);
	IS(pmemset_flush(set, v.base + page, 1), 0);
	p = v.base;
	hook_set(ENOSPC, -1);
	pm = same = at(set, p);
	IS(pmemset_remove_part_map(set, &pm), -ENOSPC);
	CHECKF(message_says(ENOSPC), "%s", pmemset_errormsg());
	CHECK(pm == same); /* nothing changed */
	CHECK(walk(set) == 1 && size_at(set, p) == 8 * page && p[page] == 1);
	pmemset_part_map_drop(&pm);
	IS(pmemset_remove_range(set, p, 1), -ENOSPC);
	CHECK(walk(set) == 1 && size_at(set, p) == 8 * page && p[page] == 1);
	IS(pmemset_drain(set), -ENOSPC);
	hook_set(0, 0);
	hook_reset();
	rc = remove_at(set, p);
	if (rc == 0)
		CHECK(hook_redirtied(p + page, 1) && hook_durable(&v, p + page, 1));
	else
		IS(rc, -ENOSPC);
	CHECK(drains == 0 && (others == 0 || PMEMSET_API_VERSION == 112)); /* 1.12 tells of removals */
	IS(pmemset_delete(&set), 0);

	/* of several parts one fails: all or nothing */
	{
		struct pmemset_source *src;
		char *run, *a;

		make_file("several", (off_t)(8 * page));
		src = source("several");
		set = new_set();
		IS(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_FULL), 0);
		must_map(set, src, 0, 2 * page);
		must_map(set, src, 2 * page, 2 * page);
		run = must_map(set, src, 4 * page, 2 * page);
		memset(run, 4, 6 * page);
		for (size_t i = 0; i < 6; i++)
			IS(pmemset_flush(set, run + i * page, 1), 0);
		hook_set(EIO, -1);
		hook_lo = (uintptr_t)run + 2 * page;
		hook_hi = hook_lo + 2 * page;
		hook_ino = inode_of("several");
		a = run;
		IS(pmemset_remove_range(set, a, 6 * page), -EIO);
		CHECK(walk(set) == 1 && size_at(set, run) == 6 * page);
		for (size_t i = 0; i < 6; i++)
			CHECK(run[i * page] == 4);
		hook_set(0, 0);
		IS(pmemset_source_delete(&src), 0);
		rc = pmemset_delete(&set);
		EITHER(rc, 0, -EIO);
		CHECK(set == NULL);
	}
}

static void deletion(void)
{
	struct pmemset_part_map *pm;
	int fds = count_fds(), maps;

	open_view("deletion", 8);
	maps = count_maps();
	IS(pmemset_flush(set, v.base + page, 1), 0);
	pm = at(set, v.base);
	hook_set(EIO, -1);
	drains = 0;
	IS(pmemset_delete(&set), -EIO); /* always frees */
	CHECKF(message_says(EIO), "%s", pmemset_errormsg());
	CHECK(set == NULL && !readable(v.base));
	CHECK(drains == 0);
	pmemset_part_map_drop(&pm);
	hook_set(0, 0);
	CHECK(count_fds() == fds);
	CHECK(count_maps() <= maps);
}

static void deep(void)
{
	open_view("deep", 8);
	hook_set(EIO, -1);
	IS(pmemset_deep_flush(set, v.base, 8 * page), PMEMSET_E_DEEP_FLUSH_FAIL);
	CHECK(*pmemset_errormsg() != 0);
	hook_set(0, 0);
	(void)pmemset_drain(set);
	v.base[0] = 9;
	IS(pmemset_deep_flush(set, v.base, 8 * page), 0);
	{
		struct pmemset_part_map *pm = at(set, v.base);

		IS(pmemset_remove_part_map(set, &pm), 0); /* the failure left no reference */
	}
	IS(pmemset_delete(&set), 0);
}

static void outside_fails(void)
{
	char *mine = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	MUST(mine != MAP_FAILED);
	open_view("outside", 4);
	hook_set(EIO, -1);
	IS(pmemset_flush(set, mine, 1), -EIO);
	IS(pmemset_persist(set, mine, 1), -EIO);
	hook_set(0, 0);
	IS(pmemset_delete(&set), 0);
}

static void eager(void)
{
	MUST(setenv("PMEMSET_EAGER_FLUSH", "1", 1) == 0);
	open_view("eager", 8);
	hook_set(EIO, -1);
	IS(pmemset_flush(set, v.base + page, 1), -EIO); /* the flush that needed it */
	CHECKF(message_says(EIO), "%s", pmemset_errormsg());
	IS(pmemset_persist(set, v.base + page, 1), -EIO);
	CHECK(pmemset_memset(set, v.base + 2 * page, 1, 1, PMEMSET_F_MEM_NODRAIN) == v.base + 2 * page);
	IS(pmemset_drain(set), -EIO);
	retried(v.base + page, 1, EIO);
	IS(pmemset_delete(&set), 0);
}

/* a failure that hits only one file concerns only those who flushed it */
static void other_file(void)
{
	char *q;
	struct view w;

	open_view("bad", 8);
	make_file("good", (off_t)(8 * page));
	q = map_file(set, "good");
	w = (struct view){ q, 0, 8 * page, inode_of("good") };
	memset(q, 1, 8 * page);
	hook_set(EIO, -1);
	hook_lo = (uintptr_t)v.base;
	hook_hi = hook_lo + v.len;
	hook_ino = v.ino;
	hook_reset();
	IS(pmemset_persist(set, q, 1), 0);
	CHECK(hook_durable(&w, q, 1));
	IS(pmemset_flush(set, v.base, 1), 0);
	IS(pmemset_flush(set, q + page, 1), 0);
	IS(pmemset_drain(set), -EIO); /* it covers both */
	/* the bad part goes with its set; the good file is not lost by then */
	hook_set(0, 0);
	hook_reset();
	{
		int rc = pmemset_drain(set);

		EITHER(rc, 0, -EIO);
	}
	IS(pmemset_delete(&set), 0);
}

int main(void)
{
	t_begin();
	page = page_size();
	CHILD_GROUP(persist_fails, "sync errors: persist");
	CHILD_GROUP(drain_fails, "sync errors: drain of many ranges");
	CHILD_GROUP(told_once, "sync errors: the kernel tells once");
	CHILD_GROUP(copies, "sync errors: memcpy, memmove, memset");
	CHILD_GROUP(threads, "sync errors: several threads");
	CHILD_GROUP(removal, "sync errors: removal changes nothing");
	CHILD_GROUP(deletion, "sync errors: deletion frees and tells");
	CHILD_GROUP(deep, "sync errors: deep flush");
	CHILD_GROUP(outside_fails, "sync errors: outside the part maps");
	CHILD_GROUP(eager, "sync errors: PMEMSET_EAGER_FLUSH");
	CHILD_GROUP(other_file, "sync errors: one file of two");
	return t_end();
}
