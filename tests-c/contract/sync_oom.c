/* SPDX-License-Identifier: BSD-3-Clause */
/* sync_oom.c -- a sync that was not tried for lack of memory has lost nothing; one that has failed stays so without memory */
#include "oom_hooks.h"
#include "sync_view.h"

enum { FILES = 70, BAD = 5 };

static struct view w[FILES];

static void open_files(void)
{
	set = new_set();
	for (int i = 0; i < FILES; i++) {
		char name[16];

		snprintf(name, sizeof name, "f%d", i);
		if (i == BAD)
			written_file(name, 16); /* so that its blocks count as written, although nothing is written to them here */
		else
			make_file(name, (off_t)(16 * page));
		w[i] = view_of(set, name);
	}
	hook_skip = 1; /* the disk has no part in this */
	hook_set(0, 0);
}

static void dirty_all(void)
{
	for (int i = 0; i < FILES; i++)
		for (size_t k = 0; k < 16; k += 3)
			dirty(set, &w[i], k);
	hook_reset();
}

static void all_durable(const char *when, long n)
{
	for (int i = 0; i < FILES; i++)
		for (size_t k = 0; k < 16; k += 3)
			CHECKF(hook_durable(&w[i], w[i].base + k * page, 1), "%s, allocation %ld: file %d, page %zu", when, n, i, k);
}

/* the n-th allocation of a drain fails, or that and all that follow; the next drain has memory, and needs no flush */
static void drains_without(void)
{
	long n;
	int failed = 0;

	open_files();
	for (int all = 0; all < 2; all++)
		for (n = 0; n < 200; n++) {
			int rc;

			dirty_all();
			hits = 0;
			fail_all = all;
			fail_in = n;
			rc = pmemset_drain(set);
			fail_in = -1;
			fail_all = 0;
			CHECKF(rc == 0 || (rc == -ENOMEM && hits), "allocation %ld: %d", n, rc);
			failed += rc != 0;
			if (rc)
				IS(pmemset_drain(set), 0);
			all_durable("drain", n);
			hook_reset();
			IS(pmemset_drain(set), 0);
			CHECKF(nhooks == 0, "allocation %ld: something was left", n);
			if (!hits)
				break;
		}
	CHECK(failed > 0);
	IS(pmemset_delete(&set), 0);
}

/* the same of a removal */
static void removes_without(void)
{
	int failed = 0;

	open_files();
	for (long n = 0; n < 200; n++) {
		struct view *x = &w[n % FILES];
		char name[16];
		int rc;

		for (size_t k = 0; k < 16; k += 3)
			dirty(set, x, k);
		hook_reset();
		hits = 0;
		fail_in = n;
		rc = pmemset_remove_range(set, x->base, 1);
		fail_in = -1;
		CHECKF(rc == 0 || (rc == -ENOMEM && hits), "allocation %ld: %d", n, rc);
		failed += rc != 0;
		if (rc)
			IS(pmemset_remove_range(set, x->base, 1), 0); /* nothing was lost: it is not refused for that */
		for (size_t k = 0; k < 16; k += 3)
			CHECKF(hook_durable(x, x->base + k * page, 1), "allocation %ld: page %zu", n, k);
		if (!hits)
			break;
		snprintf(name, sizeof name, "f%ld", n % FILES);
		*x = view_of(set, name);
	}
	CHECK(failed > 0);
	IS(pmemset_delete(&set), 0);
}

/* memory and a sync fail at the same time */
static void both(void)
{
	open_files();
	for (long n = 0; n < 200; n++) {
		int rc;

		dirty_all();
		hits = 0;
		fail_in = n;
		fail_all = n % 2;
		hook_set(EIO, -1);
		hook_lo = (uintptr_t)w[BAD].base;
		hook_hi = hook_lo + w[BAD].len;
		hook_ino = w[BAD].ino;
		rc = pmemset_drain(set);
		fail_in = -1;
		fail_all = 0;
		CHECKF(rc == -EIO || (rc == -ENOMEM && hits), "allocation %ld: %d", n, rc);
		rc = pmemset_drain(set);
		IS(rc, -EIO);
		hook_set(0, 0);
		IS(pmemset_drain(set), -EIO);
		for (int i = 0; i < FILES; i++)
			for (size_t k = 0; k < 16; k += 3)
				if (i != BAD)
					CHECKF(hook_durable(&w[i], w[i].base + k * page, 1), "allocation %ld: file %d, page %zu", n, i, k);
		/* a flush needs none */
		fail_in = 0;
		fail_all = 1;
		for (size_t k = 0; k < 16; k += 3)
			IS(pmemset_flush(set, w[BAD].base + k * page, 1), 0);
		fail_in = -1;
		fail_all = 0;
		IS(pmemset_drain(set), 0);
		if (!hits)
			break;
	}
	IS(pmemset_delete(&set), 0);
}

/* a set ends without memory: it says so, or makes all durable */
static void deletes_without(void)
{
	for (long n = 0; n < 60; n++) {
		int rc, fds = count_fds();

		open_files();
		dirty_all();
		hits = 0;
		fail_in = n;
		rc = pmemset_delete(&set);
		fail_in = -1;
		CHECKF(rc == 0 || (rc == -ENOMEM && hits), "allocation %ld: %d", n, rc);
		CHECK(set == NULL && !readable(w[0].base) && count_fds() == fds);
		if (rc == 0)
			all_durable("deletion", n);
		if (!hits)
			break;
	}
}

int main(void)
{
	t_begin();
	page = page_size();
#ifndef CAN_INTERPOSE
	group("sync oom");
	skip("no way to interpose malloc here");
	return t_end();
#endif
	if (instrumented()) {
		group("sync oom");
		skip("not under valgrind or a sanitizer");
		return t_end();
	}
	CHILD_GROUP(drains_without, "sync oom: a drain without memory has lost nothing");
	CHILD_GROUP(removes_without, "sync oom: a removal without memory has lost nothing");
	CHILD_GROUP(both, "sync oom: a sync fails, and there is no memory");
	CHILD_GROUP(deletes_without, "sync oom: a set ends without memory");
	return t_end();
}
