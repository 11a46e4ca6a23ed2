/* SPDX-License-Identifier: BSD-3-Clause */
/* sync_errors.c -- PAGE: what a failed sync has lost stays lost, and is reported, until it has been flushed again */
#include "sync_view.h"

static void persist_fails(void)
{
	static const int errors[] = { EIO, ENOSPC, EDQUOT, ENOMEM };

	for (size_t k = 0; k < 4; k++) {
		int e = errors[k];
		char *p;

		open_view("persist", 16);
		p = v.base + 3 * page;
		hook_set(e, -1);
		IS(pmemset_persist(set, p, 100), -e);
		CHECKF(message_says(e), "%s", pmemset_errormsg());
		CHECKF(message_has("%#llx", (uintptr_t)p), "%s", pmemset_errormsg());
		CHECKF(message_has("%llu", 3 * page) && strstr(pmemset_errormsg(), "persist"), "%s", pmemset_errormsg());
		CHECK(drains == 0 && flushes == 1); /* a failed drain fires no DRAIN */
		hook_set(0, 0);
		hook_reset();
		for (int i = 0; i < 3; i++) {
			IS(pmemset_drain(set), -e);
			CHECKF(message_says(e), "%s", pmemset_errormsg());
		}
		CHECKF(!hook_touched(&v, p, 1), "a drain has retried");
		CHECK(hook_count(HOOK_POPULATE) == 0 && drains == 0);
		/* what is durable beside it does not help it */
		IS(pmemset_persist(set, v.base + 9 * page, 1), -e);
		CHECK(hook_durable(&v, v.base + 9 * page, 1));
		take_back(set, &v, 3);
		drains = 0;
		IS(pmemset_drain(set), 0);
		CHECK(drains == 1);
		IS(pmemset_persist(set, p, 100), 0);
		IS(pmemset_delete(&set), 0);
		CHECK(drains == 2 && others == 0);
	}
}

/* one persist that works is enough, and so is a copy */
static void taken_back(void)
{
	open_view("back", 16);
	lose(set, &v, 3, EIO);
	hook_reset();
	IS(pmemset_flush(set, v.base + 3 * page, 1), 0);
	CHECKF(!hook_touched(&v, v.base, v.len), "a flush syncs");
	IS(pmemset_drain(set), 0);
	lose(set, &v, 3, EIO);
	IS(pmemset_persist(set, v.base + 3 * page, 1), 0);
	IS(pmemset_drain(set), 0);
	lose(set, &v, 3, EIO);
	CHECK(pmemset_memset(set, v.base + 3 * page, 7, 8, 0) == v.base + 3 * page);
	IS(pmemset_drain(set), 0);
	lose(set, &v, 3, EIO);
	CHECK(pmemset_memcpy(set, v.base + 3 * page, "words", 6, PMEMSET_F_MEM_NODRAIN) == v.base + 3 * page);
	IS(pmemset_drain(set), 0);
	lose(set, &v, 3, EIO);
	CHECK(pmemset_memmove(set, v.base + 3 * page, "words", 6, PMEMSET_F_MEM_NOFLUSH) == v.base + 3 * page);
	IS(pmemset_drain(set), 0);
	/* and lost once more while it is taken back */
	lose(set, &v, 3, EIO);
	fails_once(&v, ENOSPC);
	IS(pmemset_persist(set, v.base + 3 * page, 1), -ENOSPC);
	hook_set(0, 0);
	IS(pmemset_drain(set), -ENOSPC);
	take_back(set, &v, 3);
	IS(pmemset_drain(set), 0);
	IS(pmemset_delete(&set), 0);
}

static void many(void)
{
	open_view("many", 64);
	for (size_t i = 0; i < 32; i += 2)
		dirty(set, &v, i);
	IS(pmemset_flush(set, v.base + 40 * page, 8 * page), 0);
	fails_once(&v, EIO);
	IS(pmemset_drain(set), -EIO); /* the kernel tells once, whatever was recorded is suspect */
	hook_set(0, 0);
	CHECKF(message_has("%#llx", (uintptr_t)v.base), "%s", pmemset_errormsg());
	/* half of them, and half of the run */
	hook_reset();
	for (size_t i = 0; i < 16; i += 2)
		IS(pmemset_flush(set, v.base + i * page + 5, 1), 0);
	IS(pmemset_flush(set, v.base + 42 * page, 4 * page), 0);
	IS(pmemset_drain(set), -EIO);
	CHECKF(message_has("%#llx", (uintptr_t)v.base + 16 * page), "%s", pmemset_errormsg());
	for (size_t i = 0; i < 64; i++) {
		int again = (i < 16 && i % 2 == 0) || (i >= 42 && i < 46);

		CHECKF(hook_durable(&v, v.base + i * page, 1) == again, "page %zu", i);
		CHECKF(!can_populate() || hook_redirtied(v.base + i * page, 1) == again, "page %zu made dirty", i);
	}
	/* the other half: both ends of the run remain to the last */
	for (size_t i = 16; i < 32; i += 2) {
		IS(pmemset_drain(set), -EIO);
		take_back(set, &v, i);
	}
	IS(pmemset_drain(set), -EIO);
	CHECKF(message_has("%#llx", (uintptr_t)v.base + 40 * page), "%s", pmemset_errormsg());
	IS(pmemset_persist(set, v.base + 40 * page, 2 * page), -EIO);
	CHECKF(message_has("%#llx", (uintptr_t)v.base + 46 * page), "%s", pmemset_errormsg());
	IS(pmemset_persist(set, v.base + 46 * page, page + 1), 0); /* one byte of the last page is the page */
	IS(pmemset_drain(set), 0);
	IS(pmemset_delete(&set), 0);
}

/* of all calls that a drain makes one is told, whichever: none is made whose result does not count */
static void any_call(void)
{
	static const enum hook_kind kinds[] = { HOOK_MSYNC, HOOK_RANGE_START, HOOK_RANGE_WAIT, HOOK_FSYNC, HOOK_FDATASYNC, HOOK_SYNCFS };
	char name[200];

	/* a file system can give back any of these for a lost write; then it is not a refusal of the call */
	static const int errors[] = { EIO, EPERM, EINVAL, ENOSYS };

	for (size_t n = 0; n < sizeof kinds / sizeof *kinds * sizeof errors / sizeof *errors * 4; n++) {
		enum hook_kind kind = kinds[n / 16];
		int how = n % 4, e = errors[n / 4 % 4], rc;

		if (kind == HOOK_RANGE_START && e != EIO) /* the kernel has no reports for it */
			continue;
		if (how & 1)
			tmpfs_name(name, sizeof name, "call");
		else
			strcpy(name, "call");
		open_view(name, 32);
		for (size_t i = 0; i < (how & 2 ? 32 : 1); i += 3)
			dirty(set, &v, i);
		hook_set(e, 1);
		hook_kinds = HOOK_BIT(kind);
		rc = pmemset_drain(set);
		if (rc == 0) {
			CHECKF(hook_fail == 1, "kind %d has failed with %s, the drain has not", (int)kind, strerror(e));
		} else {
			IS(rc, -e);
			IS(pmemset_drain(set), -e);
		}
		hook_set(0, 0);
		(void)pmemset_delete(&set);
		unlink(name);
	}
}

/* a flush that began before the failure was reported takes nothing back: it may have been what was lost */
static void before_the_report(void)
{
	struct pmemset *two;
	struct view w;

	open_view("before", 16);
	two = new_set();
	w = view_of(two, "before");
	/* the loss is known to the process, by way of another set, and not to this one's user */
	dirty(set, &v, 5);
	lose(two, &w, 9, EIO);
	dirty(set, &v, 5);
	IS(pmemset_flush(set, v.base + 7 * page, 1), 0);
	CHECK(pmemset_memset(set, v.base + 5 * page, 3, 1, PMEMSET_F_MEM_NODRAIN) == v.base + 5 * page);
	hook_reset();
	IS(pmemset_drain(set), -EIO);
	CHECK(message_has("%#llx", (uintptr_t)v.base + 5 * page));
	CHECK(hook_durable(&v, v.base + 7 * page, 1)); /* flushed after the loss */
	IS(pmemset_drain(set), -EIO);
	take_back(set, &v, 5);
	IS(pmemset_drain(set), 0);
	/* the other set is owed its own */
	IS(pmemset_drain(two), -EIO);
	take_back(two, &w, 9);
	IS(pmemset_drain(two), 0);
	IS(pmemset_delete(&two), 0);
	IS(pmemset_delete(&set), 0);
}

/* one file's loss keeps nothing else from becoming durable, and concerns no set that does not have the file */
static void other_files(void)
{
	struct pmemset *healthy = new_set();
	struct view w, x;

	open_view("bad", 8);
	written_file("good", 8);
	w = view_of(set, "good");
	x = view_of(healthy, "good");
	hook_set(EIO, -1);
	hook_lo = (uintptr_t)v.base;
	hook_hi = hook_lo + v.len;
	hook_ino = v.ino;
	dirty(set, &v, 0);
	dirty(set, &w, 1);
	dirty(healthy, &x, 2);
	IS(pmemset_drain(set), -EIO);
	CHECKF(strstr(pmemset_errormsg(), "bad"), "%s", pmemset_errormsg());
	CHECK(hook_durable(&w, w.base + page, 1));
	IS(pmemset_drain(healthy), 0);
	CHECK(hook_durable(&x, x.base + 2 * page, 1));
	for (size_t i = 0; i < 8; i++) {
		hook_reset();
		IS(pmemset_persist(set, w.base + i * page, 1), -EIO);
		CHECK(hook_durable(&w, w.base + i * page, 1));
		IS(pmemset_persist(healthy, x.base + i * page, 1), 0);
	}
	hook_set(0, 0);
	take_back(set, &v, 0);
	IS(pmemset_drain(set), 0);
	IS(pmemset_delete(&set), 0);
	IS(pmemset_delete(&healthy), 0);
}

static void copies(void)
{
	open_view("copies", 16);
	hook_set(EIO, -1);
	CHECK(pmemset_memset(set, v.base + 2 * page, 5, 100, 0) == v.base + 2 * page); /* cannot tell */
	CHECK(v.base[2 * page] == 5 && drains == 0);
	CHECK(pmemset_memcpy(set, v.base + 4 * page, "copied", 7, 0) == v.base + 4 * page);
	CHECK(pmemset_memmove(set, v.base + 6 * page, v.base + 4 * page, 7, 0) == v.base + 6 * page);
	hook_set(0, 0);
	hook_reset();
	/* nothing has been reported so far: a copy more does not take it back */
	CHECK(pmemset_memset(set, v.base + 2 * page, 6, 100, 0) == v.base + 2 * page);
	CHECK(drains == 0);
	IS(pmemset_drain(set), -EIO);
	CHECKF(message_says(EIO), "%s", pmemset_errormsg());
	CHECK(drains == 0);
	for (size_t i = 2; i <= 6; i += 2) {
		IS(pmemset_drain(set), -EIO);
		take_back(set, &v, i);
	}
	IS(pmemset_drain(set), 0);
	IS(pmemset_delete(&set), 0);
}

static void *takes_back(void *arg)
{
	(void)arg;
	IS(pmemset_drain(set), -EIO); /* what one thread's copy has lost another's drain says as well */
	take_back(set, &v, 2);
	IS(pmemset_drain(set), 0);
	return NULL;
}

static void copies_of_threads(void)
{
	pthread_t t;

	open_view("thread", 16);
	fails_once(&v, EIO);
	CHECK(pmemset_memset(set, v.base + 2 * page, 5, 100, 0) == v.base + 2 * page);
	hook_set(0, 0);
	MUST(pthread_create(&t, NULL, takes_back, NULL) == 0);
	pthread_join(t, NULL);
	IS(pmemset_drain(set), -EIO); /* the thread that copied has heard nothing yet */
	IS(pmemset_drain(set), 0);
	IS(pmemset_delete(&set), 0);
}

static void *drain_thread(void *arg)
{
	(void)arg;
	for (int i = 0; i < 3; i++) {
		IS(pmemset_drain(set), -EIO);
		CHECKF(message_says(EIO), "%s", pmemset_errormsg());
	}
	return NULL;
}

/* whoever drains hears of it, whoever flushed */
static void threads(void)
{
	pthread_t t[4];

	open_view("threads", 16);
	dirty(set, &v, 9);
	fails_once(&v, EIO);
	for (int i = 0; i < 4; i++)
		MUST(pthread_create(&t[i], NULL, drain_thread, NULL) == 0);
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	hook_set(0, 0);
	take_back(set, &v, 9);
	IS(pmemset_drain(set), 0);
	IS(pmemset_delete(&set), 0);
}

static void deep(void)
{
	open_view("deep", 8);
	dirty(set, &v, 3);
	hook_set(EIO, -1);
	IS(pmemset_deep_flush(set, v.base, 8 * page), PMEMSET_E_DEEP_FLUSH_FAIL);
	CHECK(*pmemset_errormsg() != 0);
	hook_set(0, 0);
	IS(pmemset_drain(set), -EIO);
	for (size_t i = 0; i < 8; i++)
		IS(pmemset_flush(set, v.base + i * page, 1), 0);
	IS(pmemset_drain(set), 0);
	v.base[0] = 9;
	IS(pmemset_deep_flush(set, v.base, 8 * page), 0);
	/* what is lost elsewhere in the set is not its business */
	lose(set, &v, 7, EIO);
	IS(pmemset_deep_flush(set, v.base, 4 * page), 0);
	IS(pmemset_drain(set), -EIO);
	take_back(set, &v, 7);
	IS(remove_at(set, v.base), 0); /* the failure left no reference */
	IS(pmemset_delete(&set), 0);
}

/* addresses that are not the set's: of no file, and of a file that the set has a part of */
static void outside(void)
{
	char *mine = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *other;
	struct view w;
	int fd;

	MUST(mine != MAP_FAILED);
	open_view("outside", 4);
	written_file("inside", 4);
	w = view_of(set, "inside");
	fd = open("outside", O_RDWR);
	other = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	MUST(other != MAP_FAILED);
	hook_set(EIO, -1);
	IS(pmemset_flush(set, mine, 1), -EIO);
	CHECKF(message_says(EIO), "%s", pmemset_errormsg());
	IS(pmemset_persist(set, mine, 1), -EIO);
	hook_set(0, 0);
	IS(pmemset_drain(set), 0); /* nothing was recorded */
	dirty(set, &v, 1);
	dirty(set, &w, 1);
	hook_set(EIO, -1);
	IS(pmemset_flush(set, other + 2 * page, 1), -EIO);
	hook_set(0, 0);
	hook_reset();
	IS(pmemset_drain(set), -EIO); /* what the kernel has told may have been about the part's page */
	CHECKF(strstr(pmemset_errormsg(), "outside"), "%s", pmemset_errormsg());
	CHECK(hook_durable(&w, w.base + page, 1));
	take_back(set, &v, 1);
	IS(pmemset_drain(set), 0);
	IS(pmemset_delete(&set), 0);
	munmap(other, 4 * page);
	close(fd);
}

static void eager(void)
{
	MUST(setenv("PMEMSET_EAGER_FLUSH", "1", 1) == 0);
	open_view("eager", 8);
	hook_set(EIO, -1);
	IS(pmemset_flush(set, v.base + page, 1), -EIO); /* the flush that needed it */
	CHECKF(message_says(EIO), "%s", pmemset_errormsg());
	hook_set(0, 0);
	IS(pmemset_flush(set, v.base + 3 * page, 1), 0); /* and it is not this one */
	IS(pmemset_drain(set), -EIO);
	IS(pmemset_flush(set, v.base + page, 1), 0);
	IS(pmemset_drain(set), 0);
	fails_once(&v, EIO);
	CHECK(pmemset_memset(set, v.base + 2 * page, 1, 1, PMEMSET_F_MEM_NODRAIN) == v.base + 2 * page);
	hook_set(0, 0);
	IS(pmemset_drain(set), -EIO);
	IS(pmemset_flush(set, v.base + 2 * page, 1), 0);
	IS(pmemset_drain(set), 0);
	fails_once(&v, EIO);
	IS(pmemset_persist(set, v.base + page, 1), -EIO);
	hook_set(0, 0);
	IS(pmemset_persist(set, v.base + page, 1), 0);
	IS(pmemset_delete(&set), 0);
}

int main(void)
{
	t_begin();
	page = page_size();
	CHILD_GROUP(persist_fails, "sync errors: a lost page stays lost");
	CHILD_GROUP(taken_back, "sync errors: flushed again by every kind of call");
	CHILD_GROUP(many, "sync errors: many ranges, half of them flushed again");
	CHILD_GROUP(any_call, "sync errors: whichever call is told");
	CHILD_GROUP(before_the_report, "sync errors: flushed before the report");
	CHILD_GROUP(other_files, "sync errors: files apart from each other");
	CHILD_GROUP(copies, "sync errors: memcpy, memmove, memset");
	CHILD_GROUP(copies_of_threads, "sync errors: a copy's loss, and its thread");
	CHILD_GROUP(threads, "sync errors: several threads");
	CHILD_GROUP(deep, "sync errors: deep flush");
	CHILD_GROUP(outside, "sync errors: outside the part maps");
	CHILD_GROUP(eager, "sync errors: PMEMSET_EAGER_FLUSH");
	return t_end();
}
