/* SPDX-License-Identifier: BSD-3-Clause */
/* oom_hooks.h -- malloc and mmap of the program's own, which stand before libc's and fail when told to */
#ifndef OOM_HOOKS_H
#define OOM_HOOKS_H

#include "t.h"

static __thread long fail_in = -1;    /* allocations until one fails; -1: none */
static __thread int fail_all;         /* that one and all that follow */
static __thread long mmap_fail_in = -1;
static __thread int hits;

static int fails_now(void)
{
	if (fail_in < 0)
		return 0;
	if (fail_in == 0) {
		hits++;
		if (!fail_all)
			fail_in = -1;
		errno = ENOMEM;
		return 1;
	}
	fail_in--;
	return 0;
}

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define CAN_INTERPOSE 1
extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

void *malloc(size_t n)
{
	return fails_now() ? NULL : __libc_malloc(n);
}

void *calloc(size_t n, size_t m)
{
	return fails_now() ? NULL : __libc_calloc(n, m);
}

void *realloc(void *p, size_t n)
{
	return fails_now() ? NULL : __libc_realloc(p, n);
}

void *memalign(size_t a, size_t n)
{
	return fails_now() ? NULL : __libc_memalign(a, n);
}

void *aligned_alloc(size_t a, size_t n)
{
	return fails_now() ? NULL : __libc_memalign(a, n);
}

int posix_memalign(void **p, size_t a, size_t n)
{
	void *m = fails_now() ? NULL : __libc_memalign(a, n);

	if (!m)
		return ENOMEM;
	*p = m;
	return 0;
}

static void *raw_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	if (mmap_fail_in == 0) {
		hits++;
		mmap_fail_in = -1;
		errno = ENOMEM;
		return MAP_FAILED;
	}
	if (mmap_fail_in > 0)
		mmap_fail_in--;
	return (void *)syscall(SYS_mmap, addr, len, prot, flags, fd, off);
}

void *mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	return raw_mmap(addr, len, prot, flags, fd, off);
}

void *mmap64(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	return raw_mmap(addr, len, prot, flags, fd, off);
}
#endif

/* run call with the n-th allocation failing until it works; every failure must be the one wanted */
#define UNTIL_IT_WORKS(call, want, undo) do { \
	int worked_ = 0; \
	for (int all_ = 0; all_ < 2; all_++) \
		for (long n_ = 0; n_ < 200; n_++) { \
			int rc_; \
			hits = 0; \
			fail_all = all_; \
			fail_in = n_; \
			rc_ = (call); \
			fail_in = -1; \
			fail_all = 0; \
			T_COUNT(); \
			if (rc_ != 0 && rc_ != (want)) \
				t_failed(__FILE__, __LINE__, "%s, allocation %ld: %d, wanted %d (%s)", #call, n_, rc_, want, pmemset_errormsg()); \
			if (rc_ != 0 && !hits) \
				t_failed(__FILE__, __LINE__, "%s failed although no allocation did: %d", #call, rc_); \
			if (rc_ == 0) { \
				undo; \
				worked_ = 1; \
				if (!hits) \
					break; \
			} \
		} \
	CHECKF(worked_, "%s never worked", #call); \
} while (0)

#endif
