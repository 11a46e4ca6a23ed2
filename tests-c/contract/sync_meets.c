/* SPDX-License-Identifier: BSD-3-Clause */
/* sync_meets.c -- syncs of one file by several sets and threads, some of which fail, at the worst moments */
#include "sync_view.h"

static struct pmemset *a, *b;
static struct pmemset_source *src;
static struct view va, vb;              /* what a and b have mapped of the file, 16 pages each */
/* two sets on one source, with a half of the file each */
static void two_sets(const char *name)
{
	written_file(name, 32);
	src = source(name);
	a = new_set();
	b = new_set();
	va = (struct view){ must_map(a, src, 0, 16 * page), 0, 16 * page, inode_of(name) };
	vb = (struct view){ must_map(b, src, 16 * page, 16 * page), (off_t)(16 * page), 16 * page, va.ino };
	hook_reset();
}

static void done(int rc_a, int rc_b)
{
	slow_down(NULL, 0);
	IS(pmemset_source_delete(&src), 0);
	IS(pmemset_delete(&a), rc_a);
	IS(pmemset_delete(&b), rc_b);
}

static volatile int stop;

static void *keep_failing(void *arg)
{
	(void)arg;
	while (!stop) {
		hook_set(EIO, 1);
		hook_lo = (uintptr_t)vb.base;
		hook_hi = hook_lo + vb.len;
		(void)pmemset_persist(b, vb.base, 1);
	}
	hook_set(0, 0);
	return NULL;
}

/* sets with nothing recorded, on the file that fails all the time */
static void nothing_recorded(void)
{
	pthread_t t;
	double end;

	two_sets("nothing");
	MUST(pthread_create(&t, NULL, keep_failing, NULL) == 0);
	for (end = now() + 1.5; now() < end;) {
		struct pmemset *s = new_set();

		for (size_t i = 0; i < 8; i++)
			must_map(s, src, i * page, page);
		IS(pmemset_drain(s), 0);
		IS(pmemset_remove_range(s, (void *)page, SIZE_MAX - page), 0);
		must_map(s, src, 0, page);
		IS(pmemset_delete(&s), 0);
		IS(pmemset_drain(a), 0);
		nhooks = 0;
	}
	stop = 1;
	pthread_join(t, NULL);
	(void)pmemset_persist(b, vb.base, 1);
	IS(pmemset_persist(b, vb.base, 1), 0);
	done(0, 0);
}

/* what was flushed before another set's failure is lost, and a deletion says so */
static void deletion(void)
{
	two_sets("deletion");
	for (size_t i = 0; i < 8; i++)
		dirty(a, &va, i);
	lost_by(b, &vb, 3, EIO);
	done(-EIO, -EIO);
}

static int results[2];

static void *flush_and_drain(void *arg)
{
	size_t i = (size_t)arg;

	dirty(a, &va, i);
	results[i] = pmemset_drain(a);
	return NULL;
}

/* one drain in its sync, another waiting for it or in its own, when a third, of another set, is told of a loss */
static void in_flight(void)
{
	pthread_t t[2];

	two_sets("flight");
	slow_down(&va, 400000);
	for (size_t i = 0; i < 2; i++) {
		MUST(pthread_create(&t[i], NULL, flush_and_drain, (void *)i) == 0);
		if (i == 0)
			has_entered(1);
	}
	lost_by(b, &vb, 3, EIO);
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	slow_down(NULL, 0);
	IS(results[0], -EIO); /* in flight by then, whatever its own sync says */
	/* the other may have been flushed after the failure; then a drain, its own or this, has synced it */
	EITHER(results[1], 0, -EIO);
	IS(pmemset_drain(a), -EIO);
	take_back(a, &va, 0);
	IS(pmemset_persist(a, va.base + page, 1), 0);
	IS(pmemset_drain(a), 0);
	done(0, -EIO);
}

static void *persist_fails(void *arg)
{
	(void)arg;
	IS(pmemset_persist(b, vb.base, 1), -EIO);
	return NULL;
}

/* two syncs of the file at a time: the kernel tells one that the other's page is lost, and the other that all is well */
static void told_the_wrong_one(void)
{
	pthread_t t;

	two_sets("wrong");
	dirty(a, &va, 0);
	slow_down(&vb, 400000);
	hook_set(EIO, 1);
	hook_lo = (uintptr_t)vb.base;
	hook_hi = hook_lo + vb.len;
	hook_kinds = HOOK_BIT(HOOK_MSYNC);
	MUST(pthread_create(&t, NULL, persist_fails, NULL) == 0);
	has_entered(1);
	IS(pmemset_drain(a), -EIO); /* waits for the one that was under way */
	pthread_join(t, NULL);
	hook_set(0, 0);
	slow_down(NULL, 0);
	take_back(a, &va, 0);
	IS(pmemset_drain(a), 0);
	IS(pmemset_persist(b, vb.base, 1), 0);
	done(0, 0);
}

static void *drain_fails(void *arg)
{
	IS(pmemset_drain(arg), -EIO);
	return NULL;
}

/* a thread's work within a call of another's, and its end */
static void aside(void *(*work)(void *), void *arg)
{
	pthread_t t;

	MUST(pthread_create(&t, NULL, work, arg) == 0);
	pthread_join(t, NULL);
}

static volatile int reported_meanwhile;

static void drain_meanwhile(const struct hook *h)
{
	if (h->kind != HOOK_POPULATE)
		return;
	hook_before = NULL;
	reported_meanwhile = 1;
	aside(drain_fails, a);
}

/* the report comes while a flush is under way: that began before, and takes nothing back */
static void reported_within_a_flush(void)
{
	two_sets("within");
	dirty(a, &va, 5);
	lost_by(b, &vb, 3, EIO);
	hook_before = drain_meanwhile;
	dirty(a, &va, 5);
	hook_before = NULL;
	if (!reported_meanwhile)
		skip("a flush of this page asks the kernel for nothing");
	else
		IS(pmemset_drain(a), -EIO);
	take_back(a, &va, 5);
	IS(pmemset_drain(a), 0);
	done(0, -EIO);
}

/* a report about something else comes within a flush that began after its own: it takes back what it flushes */
static void another_report_within_a_flush(void)
{
	struct view other;

	two_sets("mine");
	written_file("else", 16);
	other = view_of(a, "else");
	lost_by(a, &va, 5, EIO);
	dirty(a, &other, 2);
	{
		struct pmemset *c = new_set();
		struct view w = view_of(c, "else");

		lost_by(c, &w, 1, EIO);
		IS(pmemset_delete(&c), -EIO);
	}
	reported_meanwhile = 0;
	hook_before = drain_meanwhile; /* reports what is lost of the other file */
	dirty(a, &va, 5);
	hook_before = NULL;
	if (!reported_meanwhile)
		skip("a flush of this page asks the kernel for nothing");
	take_back(a, &other, 2);
	IS(pmemset_drain(a), 0);
	done(reported_meanwhile ? 0 : -EIO, 0);
}

static void *lose_other(void *arg)
{
	(void)arg;
	lost_by(b, &vb, 3, ENOSPC);
	return NULL;
}

static void lose_meanwhile(const struct hook *h)
{
	if (h->kind != HOOK_POPULATE)
		return;
	hook_before = NULL;
	reported_meanwhile = 1;
	aside(lose_other, NULL);
}

/* the file fails once more while a flush makes a lost page dirty again: it may have been that page */
static void lost_within_a_flush(void)
{
	int rc;

	two_sets("twice");
	lost_by(a, &va, 5, EIO);
	hook_before = lose_meanwhile;
	dirty(a, &va, 5);
	hook_before = NULL;
	if (!reported_meanwhile)
		skip("a flush of this page asks the kernel for nothing");
	else
		CHECKF((rc = pmemset_drain(a)) == -EIO || rc == -ENOSPC, "%d", rc);
	take_back(a, &va, 5);
	IS(pmemset_drain(a), 0);
	done(0, -ENOSPC);
}

/* and while the sync of that page is under way */
static void lost_within_a_drain(void)
{
	pthread_t t;

	two_sets("retried");
	lost_by(a, &va, 0, EIO);
	slow_down(&va, 300000);
	MUST(pthread_create(&t, NULL, flush_and_drain, (void *)0) == 0);
	has_entered(1);
	lost_by(b, &vb, 3, EIO);
	pthread_join(t, NULL);
	slow_down(NULL, 0);
	IS(results[0], -EIO);
	take_back(a, &va, 0);
	IS(pmemset_drain(a), 0);
	done(0, -EIO);
}

static void *slow_sync(void *arg)
{
	(void)arg;
	va.base[0] = 1;
	IS(pmemset_persist(a, va.base, 1), 0);
	return NULL;
}

static void cancelled(void)
{
	pthread_t t;
	void *how = NULL;

	two_sets("cancelled");
	slow_down(&va, 200000);
	MUST(pthread_create(&t, NULL, slow_sync, NULL) == 0);
	has_entered(1);
	pthread_cancel(t);
	pthread_join(t, &how);
	slow_down(NULL, 0);
	alarm(60);
	IS(pmemset_persist(a, va.base, 1), 0); /* nobody waits for a thread that is gone */
	IS(pmemset_persist(b, vb.base, 1), 0);
	done(0, 0);
}

int main(void)
{
	t_begin();
	page = page_size();
	CHILD_GROUP(nothing_recorded, "syncs meet: sets with nothing recorded while others fail");
	CHILD_GROUP(deletion, "syncs meet: a set is deleted that has lost something by another's failure");
	CHILD_GROUP(in_flight, "syncs meet: a loss while drains are under way");
	CHILD_GROUP(told_the_wrong_one, "syncs meet: the report goes to the other sync");
	CHILD_GROUP(reported_within_a_flush, "syncs meet: a report within a flush");
	CHILD_GROUP(another_report_within_a_flush, "syncs meet: another report within a flush");
	CHILD_GROUP(lost_within_a_flush, "syncs meet: a loss within a flush");
	CHILD_GROUP(lost_within_a_drain, "syncs meet: a loss within the drain of what was lost");
	CHILD_GROUP(cancelled, "syncs meet: a thread that is cancelled in a drain");
	return t_end();
}
