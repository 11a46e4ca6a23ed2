/* SPDX-License-Identifier: BSD-3-Clause */
/* sync_stuck.c -- a disk that does not answer holds up nobody who has nothing on it */
#include "sync_view.h"

static struct pmemset *a, *b;
static struct view bad;                 /* what a has on the disk that is stuck */
static int result;

static void *flush_and_drain(void *arg)
{
	dirty(a, &bad, 0);
	result = pmemset_drain(a);
	return arg;
}

/*
 * A disk is stuck. A set that has none of its files goes on, also when another set has files of both, and that one's
 * healthy files become durable although its drain has no verdict yet.
 */
static void stuck(void)
{
	for (int how = 0; how < 4; how++) {
		int failed = how & 1;
		pthread_t t;
		struct view good, mine;
		double began;

		struct pmemset_source *from_bad = NULL, *from_good;

		written_file("bad", 16);
		written_file("good", 16);
		hook_reset();
		hook_skip = 1; /* real disks have no part in this */
		a = new_set();
		b = new_set();
		if (how & 2) /* in whichever order a drain comes to them */
			from_bad = source("bad");
		from_good = source("good");
		if (!from_bad)
			from_bad = source("bad");
		bad = (struct view){ must_map(a, from_bad, 0, 0), 0, 16 * page, inode_of("bad") };
		good = (struct view){ must_map(a, from_good, 0, 0), 0, 16 * page, inode_of("good") };
		mine = (struct view){ must_map(b, from_good, 0, 0), 0, 16 * page, good.ino };
		if (failed) { /* both have failed before */
			lost_by(a, &bad, 0, EIO);
			lost_by(b, &mine, 0, EIO);
			IS(pmemset_flush(a, bad.base, 1), 0);
			IS(pmemset_flush(b, mine.base, 1), 0);
			IS(pmemset_drain(b), 0);
		}
		dirty(a, &good, 3);
		slow_down(&bad, 2000000);
		MUST(pthread_create(&t, NULL, flush_and_drain, NULL) == 0);
		has_entered(1);
		began = now();
		for (size_t i = 0; i < 16; i++) {
			dirty(b, &mine, i);
			dirty(b, &mine, (i + 5) % 16);
			IS(pmemset_drain(b), 0);
		}
		IS(pmemset_remove_range(b, mine.base, 1), 0);
		mine.base = must_map(b, from_good, 0, 0);
		IS(pmemset_persist(b, mine.base, 1), 0);
		CHECKF(now() - began < 1, "healthy drains took %.1f s", now() - began);
		pthread_join(t, NULL);
		slow_down(NULL, 0);
		IS(result, 0);
		IS(pmemset_source_delete(&from_bad), 0);
		IS(pmemset_source_delete(&from_good), 0);
		IS(pmemset_delete(&a), 0);
		IS(pmemset_delete(&b), 0);
	}
}

static void *flush_bad(void *arg)
{
	double began = now();

	dirty(b, arg, 7);
	CHECKF(now() - began < 1, "a flush took %.1f s", now() - began);
	return NULL;
}

/* a flush does not wait for a disk, also to a file that has failed, and holds up nothing else of its set */
static void flush_does_not_wait(void)
{
	pthread_t t, u;
	struct view mine, good, other;
	struct pmemset *c = new_set();
	double began;

	written_file("bad", 16);
	written_file("good", 16);
	hook_skip = 1;
	a = new_set();
	b = new_set();
	bad = view_of(a, "bad");
	mine = view_of(b, "bad");
	good = view_of(b, "good");
	other = view_of(c, "bad");
	lost_by(c, &other, 1, EIO);
	slow_down(&bad, 3000000);
	MUST(pthread_create(&t, NULL, flush_and_drain, NULL) == 0);
	has_entered(1);
	began = now();
	MUST(pthread_create(&u, NULL, flush_bad, &mine) == 0);
	usleep(100000);
	for (size_t i = 0; i < 16; i++)
		IS(pmemset_flush(b, good.base + i * page, 1), 0);
	(void)view_of(b, "good");
	CHECKF(now() - began < 1.5, "other calls took %.1f s", now() - began);
	pthread_join(u, NULL);
	pthread_join(t, NULL);
	slow_down(NULL, 0);
	IS(result, 0);
	IS(pmemset_drain(b), 0);
	IS(pmemset_delete(&a), 0);
	IS(pmemset_delete(&b), 0);
	IS(pmemset_delete(&c), -EIO);
}

int main(void)
{
	t_begin();
	page = page_size();
	CHILD_GROUP(stuck, "sync stuck: a disk that is stuck, and another");
	CHILD_GROUP(flush_does_not_wait, "sync stuck: a flush does not wait for a disk");
	return t_end();
}
