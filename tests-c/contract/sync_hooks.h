/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * sync_hooks.h -- the program's own msync, sync_file_range, fsync, fdatasync and madvise stand before libc's:
 * they write down what is asked for, fail when told to, and else make the system call.
 * Included by one file of a program. The linker exports them because the library refers to these names.
 */
#ifndef SYNC_HOOKS_H
#define SYNC_HOOKS_H

#include "t.h"

enum hook_kind { HOOK_MSYNC, HOOK_RANGE_START, HOOK_RANGE_WAIT, HOOK_FSYNC, HOOK_FDATASYNC, HOOK_POPULATE };

struct hook {
	enum hook_kind kind;
	uintptr_t addr;     /* of msync and madvise */
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
static int hook_skip;           /* do not make the system call: quick */

static int hook_failing(int meets)
{
	if (!hook_errno || !meets || hook_fail == 0)
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
	int failing = hook_failing(!hook_hi || (h.addr < hook_hi && h.addr + len > hook_lo));

	return hook_end(h, failing, failing || hook_skip ? 0 : syscall(SYS_msync, addr, len, flags));
}

int sync_file_range(int fd, off64_t off, off64_t len, unsigned flags)
{
	struct hook h = { .kind = flags & (SYNC_FILE_RANGE_WAIT_AFTER | SYNC_FILE_RANGE_WAIT_BEFORE) ? HOOK_RANGE_WAIT : HOOK_RANGE_START,
		.ino = hook_inode(fd), .off = off, .len = len ? (size_t)len : SIZE_MAX / 2 };
	int failing = h.kind == HOOK_RANGE_WAIT && hook_failing(!hook_ino || h.ino == hook_ino);

	return hook_end(h, failing, failing || hook_skip ? 0 : syscall(SYS_sync_file_range, fd, off, len, flags));
}

int fsync(int fd)
{
	struct hook h = { .kind = HOOK_FSYNC, .ino = hook_inode(fd), .len = SIZE_MAX / 2 };
	int failing = hook_failing(!hook_ino || h.ino == hook_ino);

	return hook_end(h, failing, failing || hook_skip ? 0 : syscall(SYS_fsync, fd));
}

int fdatasync(int fd)
{
	struct hook h = { .kind = HOOK_FDATASYNC, .ino = hook_inode(fd), .len = SIZE_MAX / 2 };
	int failing = hook_failing(!hook_ino || h.ino == hook_ino);

	return hook_end(h, failing, failing || hook_skip ? 0 : syscall(SYS_fdatasync, fd));
}

int madvise(void *addr, size_t len, int advice)
{
	struct hook h = { .kind = HOOK_POPULATE, .addr = (uintptr_t)addr, .len = len };
	long rc = syscall(SYS_madvise, addr, len, advice);

	if (advice == 23) /* MADV_POPULATE_WRITE */
		return hook_end(h, 0, rc);
	return (int)rc;
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

	if (h->kind == HOOK_POPULATE)
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
