/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * publish.c -- what another thread sees of a set while its first part is mapped
 *
 * The mapping thread goes one instruction at a time (ptrace), and after each the other one looks: whenever it finds the part map,
 * the set has a granularity, and a copy to it copies.
 */
#include "t.h"
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <sys/ptrace.h>

#define LOOKERS 800

/* asked counts up; what has looked at the number is started, then answered */
static struct looker {
	sem_t wake;
	int asked, started, answered;
	pid_t thread;
} *lookers;
static struct shared {
	struct looker lookers[LOOKERS];
	int looks, found, no_granularity, not_copied;
} *shared;
static struct pmemset *set;

/* each with a byte of its own: those that waited for the lock look all at once */
static void look(int n, size_t byte)
{
	struct pmemset_part_map *pm = NULL;
	enum pmem2_granularity g;

	pmemset_first_part_map(set, &pm);
	__atomic_add_fetch(&shared->looks, 1, __ATOMIC_RELAXED);
	if (pm) {
		unsigned char *p = (unsigned char *)pmemset_descriptor_part_map(pm).addr + byte, c = (unsigned char)(n | 1);

		__atomic_add_fetch(&shared->found, 1, __ATOMIC_RELAXED);
		*p = 0;
		pmemset_memcpy(set, p, &c, 1, PMEMSET_F_MEM_NOFLUSH);
		if (*(volatile unsigned char *)p != c)
			__atomic_add_fetch(&shared->not_copied, 1, __ATOMIC_RELAXED);
		if (pmemset_get_store_granularity(set, &g) != 0 || g != PMEM2_GRANULARITY_PAGE)
			__atomic_add_fetch(&shared->no_granularity, 1, __ATOMIC_RELAXED);
		pmemset_part_map_drop(&pm);
	}
}

static void *looks(void *arg)
{
	struct looker *me = arg;

	__atomic_store_n(&me->thread, (pid_t)syscall(SYS_gettid), __ATOMIC_RELEASE);
	for (;;) {
		int n;

		while (sem_wait(&me->wake) != 0)
			;
		n = __atomic_load_n(&me->asked, __ATOMIC_ACQUIRE);
		__atomic_store_n(&me->started, n, __ATOMIC_RELEASE);
		look(n, (size_t)(me - lookers));
		__atomic_store_n(&me->answered, n, __ATOMIC_RELEASE);
	}
	return NULL;
}

/* the process that is watched; direct: by the call of 1.12 */
static void maps(int direct)
{
	struct pmemset_part_descriptor d;
	struct pmemset_part *part = NULL;
	struct pmemset_source *src;
	pthread_attr_t small;
	pthread_t looker;
	int rc;

	set = new_set();
	src = source("f");
	MUST(pthread_attr_init(&small) == 0 && pthread_attr_setstacksize(&small, 1 << 17) == 0);
	for (int i = 0; i < LOOKERS; i++)
		if (sem_init(&lookers[i].wake, 1, 0) != 0 || pthread_create(&looker, &small, looks, &lookers[i]) != 0)
			_exit(2);
	for (int i = 0; i < LOOKERS; i++)
		while (!__atomic_load_n(&lookers[i].thread, __ATOMIC_ACQUIRE))
			sched_yield();
	if (pmemset_part_new(&part, set, src, 0, 0) != 0)
		_exit(3);
	/* whatever is bound at the first call is bound before */
	if (pmemset_part_map(NULL, NULL, NULL) == 0 || pmemset_map(set, NULL, NULL, NULL) == 0)
		_exit(4);
	if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
		_exit(77);
	raise(SIGSTOP);
	rc = direct ? pmemset_map(set, src, NULL, &d) : pmemset_part_map(&part, NULL, &d);
	raise(SIGSTOP);
	for (int i = 0; i < LOOKERS; i++)
		while (__atomic_load_n(&lookers[i].answered, __ATOMIC_ACQUIRE) != lookers[i].asked)
			sched_yield();
	_exit(rc == 0 ? 0 : 5);
}

/* does the thread sleep, as for a lock that the stopped one has? */
static int sleeps(pid_t process, pid_t thread)
{
	char name[64], text[256], *end;
	ssize_t n;
	int fd;

	snprintf(name, sizeof name, "/proc/%ld/task/%ld/stat", (long)process, (long)thread);
	fd = open(name, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	if (fd >= 0)
		close(fd);
	if (n <= 0)
		return 0;
	text[n] = 0;
	end = strrchr(text, ')');
	return end && end[1] == ' ' && end[2] == 'S';
}

/* one that waits for the lock gives its answer when it has it: somebody else looks meanwhile */
static void have_one_look(pid_t pid)
{
	struct looker *one = NULL;

	for (int i = 0; i < LOOKERS && !one; i++)
		if (__atomic_load_n(&lookers[i].answered, __ATOMIC_ACQUIRE) == lookers[i].asked)
			one = &lookers[i];
	if (!one)
		return;
	__atomic_store_n(&one->asked, one->asked + 1, __ATOMIC_RELEASE);
	MUST(sem_post(&one->wake) == 0);
	for (int tries = 1; __atomic_load_n(&one->answered, __ATOMIC_ACQUIRE) != one->asked; tries++) {
		if (tries % 20 == 0 && __atomic_load_n(&one->started, __ATOMIC_ACQUIRE) == one->asked && sleeps(pid, one->thread))
			return;
		sched_yield();
	}
}

static void watch(int direct)
{
	long steps = 0;
	int status;
	pid_t pid;

	shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	MUST(shared != MAP_FAILED);
	lookers = shared->lookers;
	fflush(stdout);
	pid = fork();
	MUST(pid >= 0);
	if (pid == 0)
		maps(direct);
	MUST(waitpid(pid, &status, 0) == pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
		skip("processes may not be traced here");
		return;
	}
	MUST(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
	for (;;) {
		MUST(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) == 0);
		MUST(waitpid(pid, &status, 0) == pid);
		MUST(WIFSTOPPED(status));
		if (WSTOPSIG(status) != SIGTRAP)
			break;
		steps++;
		have_one_look(pid);
	}
	MUST(ptrace(PTRACE_DETACH, pid, NULL, NULL) == 0);
	MUST(waitpid(pid, &status, 0) == pid);
	CHECKF(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %#x", (unsigned)status);
	CHECKF(steps > 1000 && shared->looks > steps / 2 && shared->found > 10 && shared->found < steps / 2,
		"%ld steps, %d looks, found %d times", steps, shared->looks, shared->found);
	CHECKF(shared->no_granularity == 0, "found %d times in a set without a granularity", shared->no_granularity);
	CHECKF(shared->not_copied == 0, "%d copies did not copy", shared->not_copied);
	munmap(shared, sizeof *shared);
}

int main(void)
{
	t_begin();
	make_file("f", (off_t)page_size());

	group("publish: the first part, by pmemset_part_map");
	watch(0);
	group("publish: the first part, by pmemset_map");
	watch(1);
	return t_end();
}
