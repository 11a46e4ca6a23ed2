/* SPDX-License-Identifier: BSD-3-Clause */
/* sync_fork.c -- parent and child share open files: what the kernel has told one of them the other knows */
#include "sync_view.h"
#include <sched.h>

static pid_t child;
static int to_child[2], to_parent[2];

/* forks; the two then go on in turns, by tell() and hear() */
static pid_t split(void)
{
	fflush(stdout);
	MUST(pipe(to_child) == 0 && pipe(to_parent) == 0);
	child = fork();
	MUST(child >= 0);
	t_fails = child ? t_fails : 0;
	close(child ? to_child[0] : to_child[1]);
	close(child ? to_parent[1] : to_parent[0]);
	return child;
}

static void tell(void)
{
	MUST(write(child ? to_child[1] : to_parent[1], "", 1) == 1);
}

static void hear(void)
{
	char c;

	MUST(read(child ? to_parent[0] : to_child[0], &c, 1) == 1);
}

/* the end of the child, whose failed checks are one of the parent's */
static void ends(void)
{
	int status = -1;

	if (child == 0)
		_exit(t_fails != 0);
	close(to_child[1]);
	MUST(waitpid(child, &status, 0) == child);
	close(to_parent[0]);
	IS(status, 0);
}

/* of two processes the one that drains first fails; nothing fails in the other, whose page is lost all the same */
static void one_hears(int child_first)
{
	open_view("hears", 16);
	dirty(set, &v, 5); /* both have it recorded */
	split();
	if ((child == 0) == child_first) {
		fails_once(&v, EIO);
		IS(pmemset_drain(set), -EIO);
		hook_set(0, 0);
		tell();
		hear();
		IS(pmemset_drain(set), -EIO);
	} else {
		hear();
		IS(pmemset_drain(set), -EIO);
		tell();
		IS(pmemset_drain(set), -EIO);
	}
	/* each has flushed, and takes back for itself */
	take_back(set, &v, 5);
	IS(pmemset_drain(set), 0);
	IS(pmemset_delete(&set), 0);
	ends();
}

static void parent_hears(void)
{
	one_hears(0);
}

static void child_hears(void)
{
	one_hears(1);
}

/* flushed after the fork, to another page, and through another source */
static void flushed_later(void)
{
	for (int how = 0; how < 4; how++) {
		open_view("later", 16);
		split();
		if ((child == 0) == how % 2) {
			struct pmemset *two = new_set();
			struct view w = view_of(two, "later");

			dirty(two, &w, 3);
			if (how < 2)
				dirty(set, &v, 2);
			tell();
			hear();
			IS(pmemset_drain(two), -EIO);
			IS(pmemset_drain(set), how < 2 ? -EIO : 0); /* a set with nothing recorded has lost nothing */
			take_back(two, &w, 3);
			IS(pmemset_drain(two), 0);
			IS(pmemset_delete(&two), 0);
			IS(pmemset_delete(&set), how < 2 ? -EIO : 0);
		} else {
			hear();
			lose(set, &v, 9, EIO);
			tell();
			IS(pmemset_delete(&set), -EIO);
		}
		ends();
	}
}

/* the failure is known in the other process, where pages have to be made dirty again, too */
static void known(void)
{
	open_view("known", 16);
	split();
	if (child == 0) {
		hear();
		take_back(set, &v, 9);
		IS(pmemset_drain(set), 0);
		set = new_set();
		v = view_of(set, "known");
		take_back(set, &v, 9);
		IS(pmemset_drain(set), 0);
		tell();
		hear();
		_exit(t_fails != 0);
	}
	lose(set, &v, 9, EIO);
	tell();
	hear();
	IS(pmemset_drain(set), -EIO); /* the child has flushed, this process has not */
	tell();
	IS(pmemset_delete(&set), -EIO);
	ends();
}

/* a grandchild that opened its first file itself, long after */
static void generations(void)
{
	open_view("generations", 16);
	written_file("another", 4);
	dirty(set, &v, 1);
	split();
	if (child == 0) {
		pid_t grandchild = fork();
		int status = -1;

		MUST(grandchild >= 0);
		if (grandchild == 0) {
			struct pmemset *two = new_set();
			struct view w = view_of(two, "generations");

			lose(two, &w, 7, EIO);
			IS(pmemset_delete(&two), -EIO);
			_exit(t_fails != 0);
		}
		MUST(waitpid(grandchild, &status, 0) == grandchild);
		IS(status, 0);
		tell();
		IS(pmemset_drain(set), -EIO);
		_exit(t_fails != 0);
	}
	hear();
	IS(pmemset_drain(set), -EIO);
	take_back(set, &v, 1);
	IS(pmemset_drain(set), 0);
	{ /* and of a file that has failed nowhere nothing is lost */
		struct view w = view_of(set, "another");

		IS(pmemset_persist(set, w.base, 1), 0);
	}
	IS(pmemset_delete(&set), 0);
	ends();
}

static void wait_in_msync(const struct hook *h)
{
	if (h->kind == HOOK_MSYNC) {
		tell();
		for (;;)
			pause();
	}
}

/*
 * A child is killed within a sync. Nobody knows what the kernel has told it, so an error is right; the others do not
 * wait for it, and what they flush again is durable.
 */
static void killed(void)
{
	open_view("killed", 16);
	dirty(set, &v, 3);
	split();
	if (child == 0) {
		hook_before = wait_in_msync;
		(void)pmemset_persist(set, v.base + 9 * page, 1);
		_exit(1);
	}
	hear();
	MUST(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
	double began = now();
	EITHER(pmemset_drain(set), 0, -EIO);
	CHECKF(now() - began < 10, "a drain waited %.1f s for a process that is gone", now() - began);
	IS(pmemset_flush(set, v.base + 3 * page, 1), 0);
	IS(pmemset_drain(set), 0);
	IS(pmemset_delete(&set), 0);
}

static int in_namespace(void *arg)
{
	(void)arg;
	child = 0;
	t_fails = 0;
	hear();
	IS(pmemset_persist(set, v.base + 9 * page, 1), 0);
	_exit(t_fails != 0);
}

static void *slow_persist(void *arg)
{
	(void)arg;
	IS(pmemset_persist(set, v.base, 1), 0);
	return NULL;
}

static void tell_and_sleep(const struct hook *h)
{
	if (h->kind == HOOK_MSYNC && child) {
		hook_before = NULL;
		tell();
		usleep(500000);
	}
}

/* a child that cannot see its parent's number: the parent is not gone, nor has it lost anything */
static void namespaces(void)
{
	static char stack[256 << 10] __attribute__((aligned(16)));
	pthread_t t;
	int status = -1;

	open_view("namespaces", 16);
	MUST(pipe(to_child) == 0 && pipe(to_parent) == 0);
	fflush(stdout);
	child = clone(in_namespace, stack + sizeof stack, CLONE_NEWPID | SIGCHLD, NULL);
	if (child < 0) {
		child_skip("no process may have a namespace of its own");
		return;
	}
	hook_before = tell_and_sleep;
	MUST(pthread_create(&t, NULL, slow_persist, NULL) == 0);
	MUST(waitpid(child, &status, 0) == child);
	IS(status, 0);
	pthread_join(t, NULL);
	hook_before = NULL;
	IS(pmemset_persist(set, v.base + page, 1), 0);
	IS(pmemset_delete(&set), 0);
}

static struct pmemset *busy;
static struct view busy_view;
static struct pmemset_source *src;
static volatile int stop;
static int work;

static void *works(void *arg)
{
	size_t at = 0;

	(void)arg;
	while (!stop) {
		struct pmemset_part_descriptor d;
		struct pmemset_source *new = NULL;

		switch (work) {
		case 0: /* drains, alone and of several ranges */
			(void)pmemset_persist(busy, busy_view.base, 1);
			(void)pmemset_flush(busy, busy_view.base, 1);
			(void)pmemset_flush(busy, busy_view.base + 5 * page, 1);
			(void)pmemset_drain(busy);
			break;
		case 1: /* drains that fail, and all that follows from that */
			fails_once(&busy_view, EIO);
			(void)pmemset_persist(busy, busy_view.base, 1);
			hook_set(0, 0);
			(void)pmemset_persist(busy, busy_view.base, 1);
			break;
		case 2: /* grows a file, and forgets it */
			unlink("growing");
			if (pmemset_xsource_from_file(&new, "growing", PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED |
				    (PMEMSET_API_VERSION == 111 ? 1 << 2 : 0)) == 0) {
				if (map_part(busy, new, 0, page, &d) == 0)
					(void)pmemset_remove_range(busy, d.addr, 1);
				(void)pmemset_source_delete(&new);
			}
			break;
		case 3: /* maps and removes parts of the same source */
			if (map_part(busy, src, at++ % 16 * page, page, &d) == 0)
				(void)pmemset_remove_range(busy, d.addr, 1);
			break;
		case 4: /* makes and fails to make sources */
			if (pmemset_source_from_file(&new, "busy") == 0)
				(void)pmemset_source_delete(&new);
			(void)pmemset_source_from_file(&new, "none");
			break;
		case 5: { /* copies that fail, in sets that come and go */
			struct pmemset *s = new_set();
			struct view w = { must_map(s, src, 0, 0), 0, 16 * page, busy_view.ino };

			pmemset_memset(s, w.base + page, 1, 1, 0);
			(void)pmemset_delete(&s);
			break;
		}
		}
	}
	return NULL;
}

/* what a child does with a set that nobody was inside of */
static void uses_mine(struct view *mine)
{
	struct pmemset_part_descriptor d;
	struct pmemset_source *new = NULL;
	struct pmemset *s;

	alarm(60); /* a hang, on however busy a machine */
	for (int i = 0; i < 2; i++) {
		int rc;

		dirty(set, mine, 2);
		dirty(set, mine, 9);
		rc = pmemset_drain(set);
		/* the busy thread of the parent has this file, too, and may have been told of a loss */
		if (rc && (work != 1 || rc != -EIO))
			_exit(2);
	}
	if (map_part(set, src, 4 * page, 2 * page, &d) || pmemset_remove_range(set, d.addr, 1))
		_exit(3);
	s = new_set();
	if (pmemset_source_from_file(&new, "busy") || map_part(s, new, 0, 0, &d) || pmemset_source_delete(&new) ||
		pmemset_delete(&s) || pmemset_source_from_file(&new, "none") == 0)
		_exit(4);
	(void)pmemset_delete(&set);
	if (pmemset_source_delete(&src))
		_exit(5);
	_exit(0);
}

/* forks at any moment of another thread's work, on the same file or source */
static void never_hangs(void)
{
	for (work = 0; work < 6; work++) {
		pthread_t t;
		struct view mine;
		double end;
		int forks = 0, status = 0;

		written_file("busy", 16);
		src = source("busy");
		set = new_set();
		busy = new_set();
		mine = (struct view){ must_map(set, src, 0, 0), 0, 16 * page, inode_of("busy") };
		busy_view = (struct view){ must_map(busy, src, 0, 0), 0, 16 * page, mine.ino };
		stop = 0;
		MUST(pthread_create(&t, NULL, works, NULL) == 0);
		for (end = now() + 1.5; now() < end && status == 0; forks++) {
			pid_t pid = fork();

			MUST(pid >= 0);
			if (pid == 0) {
				hook_set(0, 0);
				uses_mine(&mine);
			}
			MUST(waitpid(pid, &status, 0) == pid);
		}
		stop = 1;
		pthread_join(t, NULL);
		CHECKF(status == 0, "beside work %d, fork %d: signal %d, exit status %d", work, forks, WTERMSIG(status), WEXITSTATUS(status));
		hook_set(0, 0);
		EITHER(pmemset_delete(&set), 0, -EIO);
		EITHER(pmemset_delete(&busy), 0, -EIO);
		IS(pmemset_source_delete(&src), 0);
	}
}

int main(void)
{
	t_begin();
	page = page_size();
	CHILD_GROUP(parent_hears, "sync fork: the parent is told, the child knows");
	CHILD_GROUP(child_hears, "sync fork: the child is told, the parent knows");
	CHILD_GROUP(flushed_later, "sync fork: flushed after the fork, or elsewhere");
	CHILD_GROUP(known, "sync fork: a file that failed in the other process");
	CHILD_GROUP(generations, "sync fork: grandchildren");
	CHILD_GROUP(killed, "sync fork: a child is killed within a sync");
	CHILD_GROUP(namespaces, "sync fork: a child in a namespace of its own");
	CHILD_GROUP(never_hangs, "sync fork: a child of a busy process does not hang");
	return t_end();
}
