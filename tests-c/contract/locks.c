/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * locks.c -- locks that a program has on a file that it maps. POSIX record locks go with the first descriptor of the file
 * that the process closes, whoever opened it: while a source lives the library closes none. Locks of open file
 * descriptions, and those of flock(2), are the program's own.
 */
#include "t.h"
#include <sys/file.h>

static size_t page;
static int fd; /* the program's own */

/* where a lock begins, so that it is told apart from others; not at the file's very end, where growing has its own */
#define POSIX_AT 100
#define OFD_AT 200

static int set_lock(int how, off_t at, short type)
{
	struct flock l = { .l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = 1 };

	return fcntl(fd, how, &l);
}

/* would another process be refused? */
static int is_locked(const char *name, off_t at)
{
	int status;
	pid_t pid = fork();

	MUST(pid >= 0);
	if (pid == 0) {
		struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1 };
		int mine = open(name, O_RDWR | O_CLOEXEC);

		_exit(mine < 0 || fcntl(mine, F_GETLK, &l) != 0 ? 2 : l.l_type != F_UNLCK);
	}
	MUST(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) < 2);
	return WEXITSTATUS(status);
}

static int is_flocked(const char *name)
{
	int other = open(name, O_RDWR | O_CLOEXEC), rc, e;

	MUST(other >= 0);
	rc = flock(other, LOCK_EX | LOCK_NB);
	e = errno;
	close(other);
	MUST(rc == 0 || e == EWOULDBLOCK);
	return rc != 0;
}

/* everything that is done with a source that lives on */
static void use(struct pmemset_source *src, const char *name)
{
	struct pmemset_part_descriptor d;
	struct pmemset *set;
	char *p, *q;

	CHECK(is_locked(name, POSIX_AT));
	for (int round = 0; round < 3; round++) {
		set = new_set();
		p = must_map(set, src, 0, 16 * page);
		CHECK(is_locked(name, POSIX_AT));
		q = must_map(set, src, 16 * page, 2 * page);
		IS(map_part(set, src, 1, page, &d), PMEMSET_E_INVALID_PMEM2_MAP);
		CHECK(is_locked(name, POSIX_AT));
		for (size_t i = 0; i < 16; i += 2) {
			p[i * page] = (char)(i + 1);
			IS(pmemset_flush(set, p + i * page, 1), 0);
		}
		IS(pmemset_drain(set), 0);
		CHECK(is_locked(name, POSIX_AT));
		pmemset_memset(set, q, 'x', page, 0);
		IS(pmemset_drain(set), 0);
		IS(pmemset_deep_flush(set, p, page), 0);
		IS(pmemset_persist(set, q, 2 * page), 0);
		CHECK(is_locked(name, POSIX_AT));
#if PMEMSET_API_VERSION != 112
		struct pmemset_part *part = NULL;

		IS(pmemset_part_new(&part, set, src, 0, page), 0);
		IS(pmemset_part_delete(&part), 0);
#endif
		CHECK(is_locked(name, POSIX_AT));
		IS(remove_at(set, q), 0);
		CHECK(is_locked(name, POSIX_AT));
		if (round == 1)
			IS(pmemset_remove_range(set, p, 16 * page), 0);
		IS(pmemset_delete(&set), 0);
		CHECK(is_locked(name, POSIX_AT));
	}
}

static void posix(const char *name, unsigned flags)
{
	struct pmemset_source *src = NULL;
	struct pmemset *set = new_set();
	char *p;

	make_file(name, flags ? 0 : (off_t)(18 * page));
	IS(flags ? pmemset_xsource_from_file(&src, name, flags) : pmemset_source_from_file(&src, name), 0);
	fd = open(name, O_RDWR | O_CLOEXEC);
	MUST(fd >= 0 && set_lock(F_SETLK, POSIX_AT, F_WRLCK) == 0);
	use(src, name);
	/* a part that is mapped makes no difference to what deleting the source does */
	p = must_map(set, src, 0, page);
	IS(pmemset_source_delete(&src), 0);
	p[0] = 1;
	IS(pmemset_persist(set, p, 1), 0);
	IS(pmemset_delete(&set), 0);
	/* by now the source's descriptor has been closed, and the lock with it, as the manual says: the test sees such a thing */
	CHECK(!is_locked(name, POSIX_AT));
	close(fd);
	unlink(name);
}

static void of_the_descriptor(const char *name)
{
	struct pmemset_source *src = NULL, *two = NULL;
	struct pmemset *set = new_set();
	char *p;

	make_file(name, (off_t)(18 * page));
	fd = open(name, O_RDWR | O_CLOEXEC);
	MUST(fd >= 0 && set_lock(F_OFD_SETLK, OFD_AT, F_WRLCK) == 0 && flock(fd, LOCK_EX) == 0);
	IS(pmemset_source_from_file(&src, name), 0);
	IS(pmemset_source_from_file(&two, name), 0);
	IS(pmemset_source_delete(&two), 0);
	CHECK(is_locked(name, OFD_AT) && is_flocked(name));
	p = must_map(set, src, 0, 16 * page);
	IS(pmemset_source_delete(&src), 0);
	CHECK(is_locked(name, OFD_AT) && is_flocked(name));
	p[0] = 1;
	IS(pmemset_persist(set, p, 1), 0);
	IS(remove_at(set, p), 0);
	IS(pmemset_delete(&set), 0);
	CHECK(is_locked(name, OFD_AT) && is_flocked(name));
	close(fd);
	CHECK(!is_locked(name, OFD_AT) && !is_flocked(name));
	unlink(name);
}

int main(void)
{
	char memory[300];

	t_begin();
	page = page_size();
	tmpfs_name(memory, sizeof memory, "locks");
	group("locks: record locks stay while the source lives, work directory");
	posix("locked", 0);
	group("locks: record locks stay while the source lives, tmpfs");
	posix(memory, 0);
	group("locks: record locks stay while the source lives, a file that is made and grows");
	posix("grown", PMEMSET_SOURCE_FILE_CREATE_ALWAYS
#if PMEMSET_API_VERSION != 112
		| PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED
#endif
	);
	group("locks: of open file descriptions, and flock");
	of_the_descriptor("owned");
	return t_end();
}
