/* SPDX-License-Identifier: BSD-3-Clause */
/* fork.c -- a forked child may use a set, and what it does to it is its own */
#include "t.h"
#include <pthread.h>
#include <sched.h>

static size_t page;
static struct pmemset *set;
static struct pmemset_source *src;
static struct pmemset_part_map *held;
static char *p;

static void uses_it(void)
{
	char *q;

	CHECK(walk(set) == 1);
	CHECK(memcmp(p, "parent", 7) == 0);
	memcpy(p + 100, "child", 6);
	IS(pmemset_persist(set, p + 100, 6), 0);
	IS(pmemset_flush(set, p + page, 1), 0);
	IS(pmemset_drain(set), 0); /* with what the parent had flushed */
	pmemset_memset(set, p + 2 * page, 'c', page, 0);
	q = must_map(set, src, 4 * page, page);
	*q = 'q';
	CHECK(walk(set) == 2);
	IS(pmemset_deep_flush(set, p, page), 0);
	IS(remove_at(set, q), 0);
	FAILS(pmemset_source_from_file(&(struct pmemset_source *){ NULL }, "nothing"));
	CHECK(*pmemset_errormsg() != 0);
	pmemset_part_map_drop(&held); /* its own copy */
	IS(remove_at(set, p), 0);
	CHECK(walk(set) == 0 && !readable(p));
	IS(pmemset_source_delete(&src), 0);
	IS(pmemset_delete(&set), 0);
}

static void deletes_it(void)
{
	IS(pmemset_delete(&set), 0);
	CHECK(!readable(p));
	pmemset_part_map_drop(&held);
	set = new_set();
	p = map_file(set, "f");
	CHECK(memcmp(p, "parent", 7) == 0);
	IS(pmemset_delete(&set), 0);
}

static void does_nothing(void)
{
	CHECK(1);
}

static void grandchild(void)
{
	MUST(in_child(uses_it) == 0);
	CHECK(walk(set) == 1);
	memcpy(p + 300, "middle", 7);
	IS(pmemset_persist(set, p + 300, 7), 0);
}

static void unharmed(void)
{
	struct pmemset_part_map *pm = at(set, p);

	CHECK(pm == held);
	pmemset_part_map_drop(&pm);
	CHECK(walk(set) == 1 && size_at(set, p) == 4 * page);
	CHECK(memcmp(p, "parent", 7) == 0);
	IS(pmemset_persist(set, p, 4 * page), 0);
	IS(pmemset_flush(set, p, 1), 0);
	IS(pmemset_drain(set), 0);
	IS(pmemset_remove_range(set, p, 1), PMEMSET_E_PART_MAP_POSSIBLE_USE_AFTER_DROP); /* the child's drop was not ours */
}

static volatile int *steps; /* shared by the two */

/* waits for the other to come so far, awake at first so that both go on in the same moment */
static void together(int step)
{
	__atomic_add_fetch(steps, 1, __ATOMIC_SEQ_CST);
	for (long n = 0; *steps < 2 * step; n++)
		if (n > 100000)
			sched_yield();
}

#if PMEMSET_API_VERSION == 112
#define GROWS PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED
#else
#define GROWS (PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED | PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED)
#endif

static int grow(const char *path, size_t len, int rounds)
{
	struct pmemset *own = new_set();
	struct pmemset_source *file;
	struct stat st;
	char *q;

	alarm(100);
	for (int i = 0; i < rounds; i++) {
		if (len == page)
			unlink(path);
		together(3 * i + 1);
		MUST(pmemset_xsource_from_file(&file, path, GROWS) == 0);
		together(3 * i + 2);
		q = must_map(own, file, 0, len);
		if (stat(path, &st) != 0 || (size_t)st.st_size < len)
			return 1; /* and a store would be the end */
		q[len - 1] = 1;
		MUST(remove_at(own, q) == 0);
		MUST(pmemset_source_delete(&file) == 0);
		together(3 * i + 3);
	}
	return pmemset_delete(&own) != 0;
}

/* Each makes it as long as it needs, and neither makes it shorter again. */
static void two_processes_grow(void)
{
	int rounds = instrumented() ? 50 : 3000, status[2] = { -1, -1 };
	char path[256];
	pid_t pids[2];

	tmpfs_name(path, sizeof(path), "two-grow");
	steps = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	MUST(steps != MAP_FAILED);
	fflush(stdout);
	for (int k = 0; k < 2; k++) {
		pids[k] = fork();
		MUST(pids[k] >= 0);
		if (pids[k] == 0)
			_exit(grow(path, k ? 64 * page : page, rounds));
	}
	for (int k = 0; k < 2; k++) {
		pid_t first = waitpid(-1, &status[k], 0);

		if (status[k] != 0) /* the other would wait for ever */
			kill(pids[first == pids[0]], SIGKILL);
	}
	CHECKF(status[0] == 0 && status[1] == 0, "%#x, %#x", (unsigned)status[0], (unsigned)status[1]);
	unlink(path);
	munmap((void *)steps, page);
}

static volatile int growing;
static int refused, granted;

/* another program's lock on the whole file, taken and given back over and over */
static void *lock_whole(void *arg)
{
	struct flock whole = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	struct flock none = { .l_type = F_UNLCK, .l_whence = SEEK_SET };
	int fd = open("locked", O_RDWR);

	(void)arg;
	MUST(fd >= 0);
	while (growing) {
		if (fcntl(fd, F_OFD_SETLK, &whole) == 0)
			granted++;
		else
			refused++;
		MUST(fcntl(fd, F_OFD_SETLK, &none) == 0);
	}
	close(fd);
	return NULL;
}

/* Growth waits for nobody who has locked the file for reasons of his own, and refuses nobody such a lock. */
static void locked_file_grows(void)
{
	struct flock whole = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	struct pmemset *own = new_set();
	struct pmemset_source *file;
	pthread_t t;
	double begin;
	int fd;

	make_file("locked", 0);
	fd = open("locked", O_RDWR);
	MUST(fd >= 0);
	MUST(pmemset_xsource_from_file(&file, "locked", GROWS) == 0);
	MUST(fcntl(fd, F_SETLK, &whole) == 0);
	begin = now();
	for (size_t i = 0; i < 40; i++)
		must_map(own, file, i * page, page);
	CHECKF(now() - begin < 2, "%f s", now() - begin);
	CHECK(file_size("locked") == (off_t)(40 * page));
	close(fd);
	growing = 1;
	MUST(pthread_create(&t, NULL, lock_whole, NULL) == 0);
	for (size_t i = 40; i < 2000; i++) {
		must_map(own, file, i * page, page);
		if (i % 100 == 0)
			IS(pmemset_remove_range(own, (void *)page, SIZE_MAX - page), 0);
	}
	growing = 0;
	pthread_join(t, NULL);
	CHECKF(refused == 0 && granted > 0, "%d refused, %d granted", refused, granted);
	CHECK(file_size("locked") == (off_t)(2000 * page));
	IS(pmemset_source_delete(&file), 0);
	IS(pmemset_delete(&own), 0);
}

int main(void)
{
	static const struct { const char *name; void (*fn)(void); } what[] = {
		{ "fork: the child uses and removes", uses_it },
		{ "fork: the child deletes the set", deletes_it },
		{ "fork: the child leaves it alone", does_nothing },
		{ "fork: a child's child", grandchild },
	};

	t_begin();
	page = page_size();
	for (int g = 0; g < 2; g++) {
		if (g)
			MUST(setenv("PMEM2_FORCE_GRANULARITY", "CACHE_LINE", 1) == 0);
		for (size_t i = 0; i < sizeof what / sizeof *what; i++) {
			group(what[i].name);
			make_file("f", (off_t)(8 * page));
			set = new_set();
			src = source("f");
			p = must_map(set, src, 0, 4 * page);
			held = at(set, p);
			memcpy(p, "parent", 7);
			IS(pmemset_flush(set, p, 7), 0); /* recorded at the fork */
			in_child(what[i].fn);
			unharmed();
			if (what[i].fn == uses_it) {
				CHECK(memcmp(p + 100, "child", 6) == 0);
				CHECK(p[2 * page] == 'c');
			}
			for (int k = 0; k < 5; k++) /* again and again */
				in_child(what[i].fn);
			unharmed();
			pmemset_part_map_drop(&held);
			IS(remove_at(set, p), 0);
			IS(pmemset_source_delete(&src), 0);
			IS(pmemset_delete(&set), 0);
		}
		unsetenv("PMEM2_FORCE_GRANULARITY");
	}
	group("fork: two processes grow one file");
	two_processes_grow();
	group("fork: a file grows that the program has locked");
	locked_file_grows();
	return t_end();
}
