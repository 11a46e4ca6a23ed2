/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * sync_refused.c -- system calls that are interrupted are made again, and those that only help are done without where a
 * sandbox or a kernel refuses them
 */
#include "sync_view.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>

/*
 * Every kind of call that a drain makes, on a created file, of one range and of several, after a failure, and at the end.
 * What interrupts does so a few times; what refuses does so always, else it may be the report of a lost write.
 */
static void whole_life(const char *name, int e, unsigned kinds)
{
	struct pmemset_part_descriptor d;
	struct pmemset_source *src = NULL;
	unsigned flags = PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED;

#if PMEMSET_API_VERSION == 111
	flags |= PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED;
#endif
	for (int times = e == EINTR ? 1 : -1; times <= 3 && times; times++) {
#define ONCE_MORE() (hook_set(e, times), hook_kinds = kinds)
		unlink(name);
		ONCE_MORE();
		set = new_set();
		MUST(pmemset_xsource_from_file(&src, name, flags) == 0);
		IS(map_part(set, src, 0, 32 * page, &d), 0);
		v = (struct view){ d.addr, 0, 32 * page, inode_of(name) };
		ONCE_MORE();
		dirty(set, &v, 0);
		IS(pmemset_drain(set), 0);
		ONCE_MORE();
		for (size_t i = 0; i < 32; i += 5)
			dirty(set, &v, i);
		hook_reset();
		IS(pmemset_drain(set), 0);
		for (size_t i = 0; i < 32; i += 5)
			CHECKF(hook_durable(&v, v.base + i * page, 1), "page %zu", i);
		ONCE_MORE();
		pmemset_memset(set, v.base + 3 * page, 3, 10, 0);
		IS(pmemset_drain(set), 0);
		ONCE_MORE();
		IS(pmemset_deep_flush(set, v.base, v.len), 0);
		/* flushes of a file that has failed ask for more */
		lose(set, &v, 3, EIO);
		ONCE_MORE();
		hook_reset();
		IS(pmemset_flush(set, v.base + 3 * page, 1), 0);
		IS(pmemset_drain(set), 0);
		CHECK(hook_durable(&v, v.base + 3 * page, 1));
		ONCE_MORE();
		dirty(set, &v, 7);
		dirty(set, &v, 9);
		IS(pmemset_remove_range(set, v.base, 1), 0);
		IS(map_part(set, src, 0, 32 * page, &d), 0);
		v.base = d.addr;
		dirty(set, &v, 7);
		ONCE_MORE();
		IS(pmemset_source_delete(&src), 0);
		IS(pmemset_delete(&set), 0);
		hook_set(0, 0);
	}
}

static void interrupted(void)
{
	whole_life("interrupted", EINTR, ~0u);
	for (enum hook_kind k = HOOK_MSYNC; k <= HOOK_ASK; k++)
		whole_life("interrupted", EINTR, HOOK_BIT(k));
	{
		char name[200];

		tmpfs_name(name, sizeof name, "interrupted");
		whole_life(name, EINTR, ~0u);
		unlink(name);
	}
}

/* kinds of calls without which nothing is lost; fsync and syncfs can be refused where msync is not */
static void refused_by_hooks(void)
{
	static const int errors[] = { EPERM, EACCES, ENOSYS, EOPNOTSUPP };
	static const enum hook_kind kinds[] = { HOOK_RANGE_START, HOOK_RANGE_WAIT, HOOK_POPULATE, HOOK_TOUCH, HOOK_RESIDENT,
		HOOK_ADVICE, HOOK_ASK };

	for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
		for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
			int before = t_fails;

			whole_life("refused", errors[i], HOOK_BIT(kinds[k]));
			if (t_fails > before)
				t_failed(NULL, 0, "calls of kind %d refused with %s", (int)kinds[k], strerror(errors[i]));
		}
}

/* a filter for this process: system call number `nr` fails with `e` */
static int refuse(long nr, int e)
{
	struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)nr, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)e),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog p = { sizeof f / sizeof *f, f };

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &p);
}

static long refused_call;
static int refused_errno;

static void under_filter(void)
{
	struct pmemset_part_descriptor d;
	struct pmemset_source *src = NULL;
	unsigned flags = PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED;
	char name[200];

#if PMEMSET_API_VERSION == 111
	flags |= PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED;
#endif
	alarm(60);
	if (refuse(refused_call, refused_errno)) {
		child_skip("no filter of system calls");
		return;
	}
	for (int where = 0; where < 2; where++) {
		if (where)
			tmpfs_name(name, sizeof name, "filtered");
		else
			strcpy(name, "filtered");
		unlink(name);
		set = new_set();
		MUST(pmemset_xsource_from_file(&src, name, flags) == 0);
		IS(map_part(set, src, 0, 64 * page, &d), 0);
		v = (struct view){ d.addr, 0, 64 * page, 0 };
		for (int round = 0; round < 2; round++) {
			for (size_t i = 0; i < 64; i += 7)
				dirty(set, &v, i);
			IS(pmemset_drain(set), 0);
			IS(pmemset_persist(set, v.base, 1), 0);
			/* a loss, and the way back */
			dirty(set, &v, 3);
			hook_set(EIO, 1);
			hook_kinds = HOOK_BIT(HOOK_MSYNC);
			IS(pmemset_drain(set), -EIO);
			hook_set(0, 0);
			IS(pmemset_drain(set), -EIO);
			IS(pmemset_flush(set, v.base + 3 * page, 1), 0);
			IS(pmemset_drain(set), 0);
			if (round == 0)
				IS(pmemset_source_delete(&src), 0);
		}
		for (size_t i = 0; i < 64; i += 7)
			dirty(set, &v, i);
		IS(pmemset_remove_range(set, v.base, 1), 0);
		IS(pmemset_delete(&set), 0);
		unlink(name);
	}
}

static const struct { long nr; const char *name; } calls[] = {
#define CALL(name) { SYS_##name, #name }
	CALL(sync_file_range), CALL(madvise), CALL(mincore), CALL(fcntl), CALL(fstatfs), CALL(readlink), CALL(syncfs), CALL(munlock),
	CALL(prlimit64), CALL(ioctl), CALL(sched_yield), CALL(utimensat), CALL(lseek), CALL(uname), CALL(kill), CALL(fallocate), CALL(mlock),
	CALL(pread64),
};

static void refused_by_filters(void)
{
	static const int errors[] = { EPERM, ENOSYS };

	for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
		for (size_t k = 0; k < sizeof errors / sizeof *errors; k++) {
			int before = t_fails, rc;

			refused_call = calls[i].nr;
			refused_errno = errors[k];
			rc = in_child(under_filter);
			if (rc == 77) {
				child_skip("no filter of system calls");
				return;
			}
			if (t_fails > before)
				t_failed(NULL, 0, "%s refused with %s", calls[i].name, strerror(errors[k]));
		}
}

/* fsync is no help but a sync; where that is forbidden, and msync is not, a drain can still be right */
static void without_fsync(void)
{
	static const int errors[] = { EPERM, ENOSYS };

	for (size_t k = 0; k < 2; k++) {
		whole_life("fsync", errors[k], HOOK_BIT(HOOK_FSYNC));
		whole_life("fsync", errors[k], HOOK_BIT(HOOK_FDATASYNC) | HOOK_BIT(HOOK_SYNCFS) | HOOK_BIT(HOOK_FSYNC));
	}
}

int main(void)
{
	t_begin();
	page = page_size();
	CHILD_GROUP(interrupted, "sync refused: interrupted calls are made again");
	CHILD_GROUP(refused_by_hooks, "sync refused: calls that only help");
	CHILD_GROUP(without_fsync, "sync refused: fsync and syncfs");
	CHILD_GROUP(refused_by_filters, "sync refused: system call filters");
	return t_end();
}
