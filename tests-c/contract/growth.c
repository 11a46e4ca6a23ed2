/* SPDX-License-Identifier: BSD-3-Clause */
/* growth.c -- a file that several grow at once never gets shorter; also those who share an open file, and where nothing is allocated */
#include "t.h"
#include <pthread.h>
#include <sched.h>
#include <sys/mount.h>

#if PMEMSET_API_VERSION == 112
#define GROWS PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED
#else
#define GROWS (PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED | PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED)
#endif

#define GROWERS 4
#define STEPS 16

static size_t page;
static int fallocate_errno;     /* what it fails with; 0: it works */
static volatile int interrupted; /* how many calls are interrupted yet */
static volatile int *shorter;   /* calls that made a file shorter, of all processes */

static int is_interrupted(void)
{
	if (interrupted <= 0)
		return 0;
	interrupted--;
	errno = EINTR;
	return 1;
}

int fallocate(int fd, int mode, off_t off, off_t len)
{
	if (is_interrupted())
		return -1;
	if (fallocate_errno) {
		errno = fallocate_errno;
		return -1;
	}
	return (int)syscall(SYS_fallocate, fd, mode, off, len);
}

/* Whoever sets a size that he has looked up before gives the others time to set theirs. */
int ftruncate(int fd, off_t size)
{
	struct stat st;

	if (is_interrupted())
		return -1;
	if (shorter)
		usleep((useconds_t)(size / (off_t)page_size() % 7 * 100));
	if (shorter && syscall(SYS_fstat, fd, &st) == 0 && st.st_size > size)
		__atomic_add_fetch(shorter, 1, __ATOMIC_SEQ_CST);
	return (int)syscall(SYS_ftruncate, fd, size);
}

static struct pmemset *set;
static struct pmemset_source *src;
static volatile int *at_start;

/* one of several that map longer and longer parts, and store to the last byte of each */
static int grow(int k)
{
	struct pmemset_part_descriptor d;

	__atomic_add_fetch(at_start, 1, __ATOMIC_SEQ_CST);
	while (*at_start < GROWERS)
		sched_yield();
	for (int i = 0; i < STEPS; i++) {
		size_t len = (size_t)(1 + i * GROWERS + k) * page;

		if (map_part(set, src, 0, len, &d) != 0)
			return 1;
		((volatile char *)d.addr)[len - 1] = 1;
	}
	return 0;
}

static void *growing_thread(void *k)
{
	return (void *)(intptr_t)grow((int)(intptr_t)k);
}

static void grown(const char *path, int processes)
{
	*at_start = *shorter = 0;
	unlink(path);
	MUST(pmemset_xsource_from_file(&src, path, GROWS) == 0);
	set = new_set();
	if (processes) {
		pid_t pid[GROWERS];
		int status;

		fflush(stdout);
		for (int k = 0; k < GROWERS; k++) {
			pid[k] = fork();
			MUST(pid[k] >= 0);
			if (pid[k] == 0) {
				alarm(60);
				_exit(grow(k));
			}
		}
		for (int k = 0; k < GROWERS; k++) {
			MUST(waitpid(pid[k], &status, 0) == pid[k]);
			CHECKF(status == 0, "process %d: %#x", k, (unsigned)status);
		}
	} else {
		pthread_t t[GROWERS];
		void *failed;

		for (int k = 0; k < GROWERS; k++)
			MUST(pthread_create(&t[k], NULL, growing_thread, (void *)(intptr_t)k) == 0);
		for (int k = 0; k < GROWERS; k++) {
			MUST(pthread_join(t[k], &failed) == 0);
			CHECK(!failed);
		}
	}
	CHECKF(*shorter == 0, "made shorter %d times", *shorter);
	CHECKF(file_size(path) == (off_t)(GROWERS * STEPS * page), "%ld", (long)file_size(path));
	IS(pmemset_source_delete(&src), 0);
	IS(pmemset_delete(&set), 0);
	unlink(path);
}

static void many_rounds(void)
{
	char path[256];

	tmpfs_name(path, sizeof path, "growth");
	for (int round = 0; round < 10; round++)
		for (int processes = 0; processes < 2; processes++) {
			grown("growth", processes);
			grown(path, processes);
		}
}

static void is_made_again(void)
{
	for (int sparse = 0; sparse < 2; sparse++) {
		struct pmemset_part_descriptor d;

		fallocate_errno = sparse ? EOPNOTSUPP : 0;
		set = new_set();
		MUST(pmemset_xsource_from_file(&src, "again", GROWS) == 0);
		interrupted = 3;
		IS(map_part(set, src, 0, 5 * page, &d), 0);
		CHECK(interrupted == 0 && file_size("again") == (off_t)(5 * page));
		IS(pmemset_source_delete(&src), 0);
		IS(pmemset_delete(&set), 0);
		unlink("again");
	}
	fallocate_errno = 0;
}

/* A shorter part of a longer file, and a file that others have made longer since. */
static void longer_already(void)
{
	set = new_set();
	make_file("long", (off_t)(64 * page));
	MUST(pmemset_xsource_from_file(&src, "long", GROWS) == 0);
	must_map(set, src, 0, 3 * page);
	CHECK(file_size("long") == (off_t)(64 * page));
	MUST(truncate("long", (off_t)(100 * page)) == 0);
	must_map(set, src, 60 * page, 10 * page);
	CHECK(file_size("long") == (off_t)(100 * page));
	must_map(set, src, 60 * page, 50 * page);
	CHECK(file_size("long") == (off_t)(110 * page));
	IS(pmemset_source_delete(&src), 0);
	IS(pmemset_delete(&set), 0);
	unlink("long");
}

static void full(void)
{
	char bytes[4096] = "";
	struct pmemset_part_descriptor d;
	int fd;

	if (geteuid() != 0 || mkdir("small", 0755) != 0 || mount("none", "small", "tmpfs", 0, "size=1m") != 0) {
		child_skip("not root, or nothing can be mounted");
		return;
	}
	set = new_set();
	MUST(pmemset_xsource_from_file(&src, "small/f", GROWS) == 0);
	must_map(set, src, 0, page)[0] = 'f';
	fd = open("small/rest", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	MUST(fd >= 0);
	while (write(fd, bytes, sizeof bytes) > 0)
		;
	MUST(errno == ENOSPC);
	/* a file with a hole at its end takes no room */
	IS(map_part(set, src, page, 300 * page, &d), 0);
	CHECK(file_size("small/f") == (off_t)(301 * page));
	IS(map_part(set, src, 0, 0, &d), 0);
	CHECK(d.size == 301 * page && *(char *)d.addr == 'f');
	/* with room again it can be stored to */
	MUST(ftruncate(fd, 0) == 0);
	((char *)d.addr)[301 * page - 1] = 'z';
	IS(pmemset_persist(set, d.addr, d.size), 0);
	close(fd);
	IS(pmemset_source_delete(&src), 0);
	IS(pmemset_delete(&set), 0);
	MUST(umount("small") == 0);
}

int main(void)
{
	static const int errnos[] = { 0, EOPNOTSUPP, ENOSYS, EPERM, ENOSPC, EDQUOT };
	static char names[6][80];

	t_begin();
	page = page_size();
	at_start = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	MUST(at_start != MAP_FAILED);
	shorter = at_start + 64;
	for (size_t i = 0; i < sizeof errnos / sizeof *errnos; i++) {
		snprintf(names[i], sizeof names[i], "growth: threads and relatives; fallocate: %s", errnos[i] ? strerror(errnos[i]) : "works");
		fallocate_errno = errnos[i];
		CHILD_GROUP(many_rounds, names[i]);
		fallocate_errno = errnos[i];
		in_child(longer_already);
	}
	fallocate_errno = 0;
	CHILD_GROUP(is_made_again, "growth: interrupted by a signal");
	CHILD_GROUP(full, "growth: on a full disk");
	return t_end();
}
