/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * sync_hooks.h -- the program's own msync, sync_file_range, fsync, fdatasync, syncfs, futimens, mincore and madvise stand
 * before libc's: they write down what is asked for, fail when told to, and else make the system call.
 * Included by one file of a program. The linker exports them because the library refers to these names.
 */
#ifndef SYNC_HOOKS_H
#define SYNC_HOOKS_H

#include "t.h"

enum hook_kind {
	HOOK_MSYNC, HOOK_RANGE_START, HOOK_RANGE_WAIT, HOOK_FSYNC, HOOK_FDATASYNC, HOOK_POPULATE, /* the last: MADV_POPULATE_WRITE */
	HOOK_SYNCFS, HOOK_TOUCH, HOOK_RESIDENT, HOOK_ADVICE, /* futimens, mincore, other madvise */
	HOOK_ASK /* sync_file_range where no file reaches: nothing is written, a report may be handed out */
};
#define HOOK_BIT(kind) (1u << (kind))
/* the calls to which the kernel says that a write has been lost */
#define HOOK_REPORTS (HOOK_BIT(HOOK_MSYNC) | HOOK_BIT(HOOK_RANGE_WAIT) | HOOK_BIT(HOOK_FSYNC) | HOOK_BIT(HOOK_FDATASYNC) | \
	HOOK_BIT(HOOK_SYNCFS))

struct hook {
	enum hook_kind kind;
	uintptr_t addr;     /* of msync, madvise and mincore */
	ino_t ino;          /* of the others */
	off_t off;
	size_t len;
	int result;         /* 0 or errno */
};

#define HOOKS 400000
static struct hook hooks[HOOKS];
static int nhooks;

static int hook_errno;          /* what failing calls fail with */
static volatile int hook_fail;  /* how many of them: -1 all */
static uintptr_t hook_lo, hook_hi; /* only msync that meets this range fails; 0, 0: any */
static ino_t hook_ino;          /* only calls on this file fail; 0: any */
static unsigned hook_kinds = HOOK_REPORTS; /* only calls of these kinds fail */
static int hook_skip;           /* do not make the system call: quick */
static void (*volatile hook_before)(const struct hook *h); /* called before each call, and may take its time */

static int hook_failing(const struct hook *h, int meets)
{
	void (*before)(const struct hook *) = hook_before;

	if (before)
		before(h);
	if (!hook_errno || !meets || hook_fail == 0 || !(hook_kinds & HOOK_BIT(h->kind)))
		return 0;
	if (hook_fail > 0 && __atomic_sub_fetch(&hook_fail, 1, __ATOMIC_SEQ_CST) < 0)
		return 0;
	return 1;
}

static void hook_note(struct hook h)
{
	int i = __atomic_fetch_add(&nhooks, 1, __ATOMIC_SEQ_CST);

	if (i < HOOKS)
		hooks[i] = h;
	else
		__atomic_store_n(&nhooks, HOOKS, __ATOMIC_SEQ_CST);
}

static int hook_meets_range(const struct hook *h)
{
	return !hook_hi || (h->addr < hook_hi && h->addr + h->len > hook_lo);
}

static int hook_meets_file(const struct hook *h)
{
	return !hook_ino || h->ino == hook_ino;
}

static ino_t hook_inode(int fd)
{
	struct stat st;

	return syscall(SYS_fstat, fd, &st) == 0 ? st.st_ino : 0;
}

static int hook_end(struct hook h, int failing, long rc)
{
	if (failing) {
		errno = hook_errno;
		rc = -1;
	}
	h.result = rc ? errno : 0;
	hook_note(h);
	if (rc)
		errno = h.result;
	return (int)rc;
}

int msync(void *addr, size_t len, int flags)
{
	struct hook h = { .kind = HOOK_MSYNC, .addr = (uintptr_t)addr, .len = len };
	int failing = hook_failing(&h, hook_meets_range(&h));

	return hook_end(h, failing, failing || hook_skip ? 0 : syscall(SYS_msync, addr, len, flags));
}

int sync_file_range(int fd, off64_t off, off64_t len, unsigned flags)
{
	struct hook h = { .kind = flags & (SYNC_FILE_RANGE_WAIT_AFTER | SYNC_FILE_RANGE_WAIT_BEFORE) ? HOOK_RANGE_WAIT : HOOK_RANGE_START,
		.ino = hook_inode(fd), .off = off, .len = len ? (size_t)len : SIZE_MAX / 2 };
	int failing;

	if (off >= (off64_t)1 << 60)
		h.kind = HOOK_ASK;
	failing = hook_failing(&h, hook_meets_file(&h));

	return hook_end(h, failing, failing || hook_skip ? 0 : syscall(SYS_sync_file_range, fd, off, len, flags));
}

/* a call on a descriptor that is about all of its file, or its file system */
static int hook_whole(enum hook_kind kind, int fd, long number, const void *times)
{
	struct hook h = { .kind = kind, .ino = hook_inode(fd), .len = SIZE_MAX / 2 };
	int failing = hook_failing(&h, hook_meets_file(&h));

	if (failing || hook_skip)
		return hook_end(h, failing, 0);
	if (kind == HOOK_TOUCH)
		return hook_end(h, 0, syscall(number, fd, NULL, times, 0));
	return hook_end(h, 0, syscall(number, fd));
}

int fsync(int fd)
{
	return hook_whole(HOOK_FSYNC, fd, SYS_fsync, NULL);
}

int fdatasync(int fd)
{
	return hook_whole(HOOK_FDATASYNC, fd, SYS_fdatasync, NULL);
}

int syncfs(int fd)
{
	return hook_whole(HOOK_SYNCFS, fd, SYS_syncfs, NULL);
}

int futimens(int fd, const struct timespec times[2])
{
	return hook_whole(HOOK_TOUCH, fd, SYS_utimensat, times);
}

int madvise(void *addr, size_t len, int advice)
{
	struct hook h = { .kind = advice == 23 ? HOOK_POPULATE : HOOK_ADVICE, .addr = (uintptr_t)addr, .len = len };
	int failing = hook_failing(&h, hook_meets_range(&h));

	if (!failing && h.kind == HOOK_ADVICE)
		return (int)syscall(SYS_madvise, addr, len, advice);
	return hook_end(h, failing, failing ? 0 : syscall(SYS_madvise, addr, len, advice));
}

int mincore(void *addr, size_t len, unsigned char *vec)
{
	struct hook h = { .kind = HOOK_RESIDENT, .addr = (uintptr_t)addr, .len = len };
	int failing = hook_failing(&h, hook_meets_range(&h));

	return hook_end(h, failing, failing ? 0 : syscall(SYS_mincore, addr, len, vec));
}

/* forget what was seen */
T_MAY void hook_reset(void)
{
	nhooks = 0;
}

T_MAY void hook_set(int e, int times)
{
	hook_errno = e;
	hook_lo = hook_hi = 0;
	hook_ino = 0;
	hook_kinds = HOOK_REPORTS;
	hook_fail = e ? times : 0;
}

/* how many calls of a kind */
T_MAY int hook_count(enum hook_kind kind)
{
	int n = 0;

	for (int i = 0; i < nhooks; i++)
		n += hooks[i].kind == kind;
	return n;
}

/* a file of which page `off` is mapped at `base` */
struct view { char *base; off_t off; size_t len; ino_t ino; };

T_MAY ino_t inode_of(const char *path)
{
	struct stat st;

	MUST(stat(path, &st) == 0);
	return st.st_ino;
}

/* does call h write or wait for any byte of [addr, addr + len) of the view? */
T_MAY int hook_meets(const struct hook *h, const struct view *v, char *addr, size_t len)
{
	uintptr_t a = (uintptr_t)addr;

	if (!(HOOK_BIT(h->kind) & (HOOK_REPORTS | HOOK_BIT(HOOK_RANGE_START))) || h->kind == HOOK_SYNCFS)
		return 0;
	if (h->kind == HOOK_MSYNC)
		return h->addr < a + len && h->addr + h->len > a;
	if (h->ino != v->ino)
		return 0;
	if (h->kind == HOOK_FSYNC || h->kind == HOOK_FDATASYNC)
		return 1;
	{
		off_t from = v->off + (addr - v->base);

		/* starts before the end, and does not end before the start */
		return h->off < from + (off_t)len && (from < h->off || (size_t)(from - h->off) < h->len);
	}
}

/*
 * Was every page of [addr, addr + len) made durable by successful calls since hook_reset? Either msync over it (or a
 * sync of the whole file), or a range sync that was waited for, followed by a successful sync of that file.
 */
T_MAY int hook_durable(const struct view *v, char *addr, size_t len)
{
	size_t page = page_size();
	char *from = (char *)((uintptr_t)addr & ~(page - 1)), *p;

	for (p = from; p < addr + len; p += page) {
		int done = 0, written = 0;

		for (int i = 0; i < nhooks && !done; i++) {
			const struct hook *h = &hooks[i];
			int ends = h->kind == HOOK_MSYNC ? h->addr < (uintptr_t)v->base + v->len && h->addr + h->len > (uintptr_t)v->base :
				(h->kind == HOOK_FSYNC || h->kind == HOOK_FDATASYNC) && h->ino == v->ino;

			if (h->result)
				continue;
			if (h->kind == HOOK_RANGE_WAIT && hook_meets(h, v, p, page))
				written = 1;
			else if (ends && (written || hook_meets(h, v, p, page)))
				done = 1;
		}
		if (!done)
			return 0;
	}
	return 1;
}

/* did any call write a page of [addr, addr + len)? */
T_MAY int hook_touched(const struct view *v, char *addr, size_t len)
{
	for (int i = 0; i < nhooks; i++)
		if (hook_meets(&hooks[i], v, addr, len))
			return 1;
	return 0;
}

/* was every page of the range made dirty again by a populate that worked? */
T_MAY int hook_redirtied(char *addr, size_t len)
{
	size_t page = page_size();

	for (char *p = (char *)((uintptr_t)addr & ~(page - 1)); p < addr + len; p += page) {
		int done = 0;

		for (int i = 0; i < nhooks && !done; i++)
			done = hooks[i].kind == HOOK_POPULATE && !hooks[i].result && hooks[i].addr <= (uintptr_t)p &&
				hooks[i].addr + hooks[i].len >= (uintptr_t)p + page;
		if (!done)
			return 0;
	}
	return 1;
}

#endif
