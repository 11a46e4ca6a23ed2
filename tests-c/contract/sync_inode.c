/* SPDX-License-Identifier: BSD-3-Clause */
/* sync_inode.c -- failures are remembered by file, whichever way it was opened, and after all that was open is gone */
#include "sync_view.h"

/* two openings, each with a set, a page of each recorded, and the kernel tells only the first that asks */
static void both_lose(struct pmemset *one, struct view *a, struct pmemset *two, struct view *b)
{
	hook_set(0, 0);
	dirty(one, a, 2);
	dirty(two, b, 9);
	fails_once(a, EIO);
	IS(pmemset_drain(one), -EIO);
	hook_set(0, 0);
	IS(pmemset_drain(two), -EIO);
	IS(pmemset_drain(two), -EIO);
	IS(pmemset_drain(one), -EIO);
	take_back(two, b, 9);
	IS(pmemset_drain(two), 0);
	IS(pmemset_drain(one), -EIO); /* one's page is another */
	take_back(one, a, 2);
	IS(pmemset_drain(one), 0);
	/* and the other way round */
	dirty(one, a, 3);
	dirty(two, b, 3);
	fails_once(b, ENOSPC);
	IS(pmemset_drain(two), -ENOSPC);
	hook_set(0, 0);
	IS(pmemset_drain(one), -ENOSPC);
	take_back(one, a, 3);
	take_back(two, b, 3);
	IS(pmemset_drain(one), 0);
	IS(pmemset_drain(two), 0);
}

static void sources(void)
{
	static const char *const names[] = { "sources", "linked", "renamed", "./sources", "through" };
	char through[64];
	int fd;

	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		struct pmemset *two;
		struct view w;

		open_view("sources", 16);
		if (i == 1)
			MUST(link("sources", "linked") == 0);
		if (i == 2)
			MUST(rename("sources", "renamed") == 0);
		fd = open(i == 2 ? "renamed" : "sources", O_RDWR | O_CLOEXEC);
		MUST(fd >= 0);
		two = new_set();
		if (i == 4) { /* the number of a duplicate */
			snprintf(through, sizeof through, "/proc/self/fd/%d", dup(fd));
			w = view_of(two, through);
		} else {
			w = view_of(two, names[i]);
		}
		CHECK(w.ino == v.ino);
		both_lose(set, &v, two, &w);
		both_lose(two, &w, set, &v);
		IS(pmemset_delete(&set), 0);
		IS(pmemset_delete(&two), 0);
		close(fd);
		unlink("linked");
		unlink("renamed");
		unlink("sources");
	}
}

static void one_source(void)
{
	struct pmemset *two = new_set(), *one = new_set();
	struct pmemset_source *src;
	struct view a, b;

	written_file("one", 16);
	src = source("one");
	a = (struct view){ must_map(one, src, 0, 0), 0, 16 * page, inode_of("one") };
	b = (struct view){ must_map(two, src, 0, 0), 0, 16 * page, a.ino };
	both_lose(one, &a, two, &b);
	/* a set with nothing recorded gets no error, whatever it has mapped */
	lose(one, &a, 1, EIO);
	IS(pmemset_drain(two), 0);
	IS(pmemset_persist(two, b.base + page, 1), 0); /* what memory holds is written by anybody */
	IS(pmemset_drain(one), -EIO); /* but one has flushed nothing again */
	IS(pmemset_delete(&one), -EIO);
	IS(pmemset_drain(two), 0);
	IS(pmemset_source_delete(&src), 0);
	IS(pmemset_delete(&two), 0);
}

/* the usual recovery: close all, open anew, write the same once more */
static void opened_again(void)
{
	for (int i = 0; i < 3; i++) {
		open_view("again", 16);
		lose(set, &v, 5, EIO);
		IS(pmemset_delete(&set), -EIO);
		set = new_set();
		v = view_of(set, "again");
		IS(pmemset_drain(set), 0); /* nothing of this set is lost */
		take_back(set, &v, 5); /* nor taken for durable because the kernel counts it as clean */
		IS(pmemset_drain(set), 0);
		take_back(set, &v, 6);
		IS(pmemset_drain(set), 0);
		IS(pmemset_delete(&set), 0);
	}
}

/*
 * A part is mapped after a failure of which the kernel still has a report for its source. When its own page is lost, the
 * report about that is the one which counts: whoever asks for reports that are known must not take it.
 */
static void mapped_later(void)
{
	struct pmemset *late = new_set(), *other = new_set();
	struct pmemset_source *src;
	struct view a, b, o;

	written_file("later", 16);
	set = new_set();
	src = source("later");
	a = (struct view){ must_map(set, src, 0, 0), 0, 16 * page, inode_of("later") };
	o = view_of(other, "later");
	lose(other, &o, 1, EIO);
	b = (struct view){ must_map(late, src, 0, 0), 0, 16 * page, a.ino };
	dirty(late, &b, 4);
	/* page 4 is written back and lost by the kernel, which tells the first call that asks */
	fails_once(&a, EIO);
	hook_kinds |= HOOK_BIT(HOOK_ASK);
	dirty(set, &a, 7);
	if (hook_fail > 0) { /* nobody has asked so far: the drain does */
		hook_lo = (uintptr_t)b.base;
		hook_hi = hook_lo + b.len;
	}
	IS(pmemset_drain(late), -EIO);
	hook_set(0, 0);
	IS(pmemset_source_delete(&src), 0);
	IS(pmemset_delete(&late), -EIO);
	IS(pmemset_delete(&other), -EIO);
	(void)pmemset_delete(&set);
}

/*
 * Where the library has no descriptor and there is no name to open one by, it works by address, and recovers by it. But a
 * file system on disk may count a block as unwritten, which cannot be seen by address: there the error may stay.
 */
static void nameless(int in_memory)
{
	enum { FILES = 24 };
	struct rlimit few = { 40, 40 };
	struct view w[FILES];

	MUST(setrlimit(RLIMIT_NOFILE, &few) == 0);
	set = new_set();
	for (int i = 0; i < FILES; i++) {
		char name[200];

		if (in_memory)
			tmpfs_name(name, sizeof name, "nameless");
		else
			strcpy(name, "nameless");
		written_file(name, 4);
		w[i] = view_of(set, name);
		unlink(name);
	}
	for (int i = 0; i < FILES; i++) {
		int rc;

		lose(set, &w[i], 2, EIO);
		IS(pmemset_drain(set), -EIO);
		take_back(set, &w[i], 2);
		rc = pmemset_drain(set);
		if (in_memory) {
			IS(rc, 0);
			continue;
		}
		EITHER(rc, 0, -EIO);
		if (rc)
			IS(pmemset_remove_range(set, w[i].base, 1), -EIO);
		IS(pmemset_remove_range(set, w[i].base, 1), 0);
		IS(pmemset_drain(set), 0);
	}
	IS(pmemset_delete(&set), 0);
}

static void nameless_on_disk(void)
{
	nameless(0);
}

static void nameless_in_memory(void)
{
	nameless(1);
}

/* memory files and temporary ones have no name at all */
static void unnamed(void)
{
	struct pmemset_source *src = NULL;
	char name[64];
	int fd = memfd_create("sync_inode", MFD_CLOEXEC);

	MUST(fd >= 0 && ftruncate(fd, (off_t)(8 * page)) == 0);
	snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
	set = new_set();
	v = view_of(set, name);
	close(fd);
	lose(set, &v, 3, EIO);
	take_back(set, &v, 3);
	IS(pmemset_drain(set), 0);
	IS(pmemset_source_from_temporary(&src, "."), 0);
#if PMEMSET_API_VERSION == 111
	v.base = must_map(set, src, 0, 8 * page);
	IS(pmemset_source_delete(&src), 0);
	v.ino = 0;
	memset(v.base, 1, 8 * page);
	IS(pmemset_persist(set, v.base, 8 * page), 0);
	dirty(set, &v, 2);
	hook_set(EIO, -1);
	IS(pmemset_drain(set), -EIO);
	hook_set(0, 0);
	IS(pmemset_flush(set, v.base + 2 * page, 1), 0);
	IS(pmemset_drain(set), 0);
#endif
	IS(pmemset_delete(&set), 0);
}

int main(void)
{
	t_begin();
	page = page_size();
	CHILD_GROUP(sources, "sync inode: two sources, links, other names");
	CHILD_GROUP(one_source, "sync inode: two sets on one source");
	CHILD_GROUP(opened_again, "sync inode: opened again after all is closed");
	CHILD_GROUP(mapped_later, "sync inode: a part that is mapped after a failure");
	CHILD_GROUP(nameless_on_disk, "sync inode: no descriptor and no name");
	CHILD_GROUP(nameless_in_memory, "sync inode: no descriptor and no name, on tmpfs");
	CHILD_GROUP(unnamed, "sync inode: memory files and temporary ones");
	return t_end();
}
