/* SPDX-License-Identifier: BSD-3-Clause */
/* descriptors.c -- a program that closes descriptors which it does not know, and what opens under their numbers then */
#include "sync_view.h"
#include <sys/select.h>

#define MANY 300

#if PMEMSET_API_VERSION == 112
#define GROWS PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED
#else
#define GROWS (PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED | PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED)
#endif

static int closed_mask;         /* which of 0, 1 and 2 the program has closed */
static int saved[3];
static const char *low_after;   /* the first call after which one of them was open */
static int refuse_unnamed;      /* files without a name cannot be made */

/* the program's own, as a file system has it that has no O_TMPFILE */
#define OPEN_AS(name) \
int name(const char *path, int flags, ...) \
{ \
	unsigned mode = 0; \
	va_list ap; \
	va_start(ap, flags); \
	if (flags & (O_CREAT | __O_TMPFILE)) \
		mode = va_arg(ap, unsigned); \
	va_end(ap); \
	if (refuse_unnamed && (flags & O_TMPFILE) == O_TMPFILE) { \
		errno = EOPNOTSUPP; \
		return -1; \
	} \
	return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode); \
}
OPEN_AS(open)
OPEN_AS(open64)

static void look(const char *call)
{
	for (int fd = 0; fd < 3; fd++)
		if (closed_mask & 1 << fd && !low_after && fcntl(fd, F_GETFD) >= 0)
			low_after = call;
}
#define LOW(call, want) do { \
	long long got_ = (long long)(call); \
	look(#call); \
	if (got_ != (want) && !low_failed) { \
		low_failed = #call; \
		low_code = got_; \
	} \
} while (0)

/* every call that opens something, by a program without some of its standard descriptors */
static void never_low(void)
{
	struct pmemset_source *src = NULL, *made = NULL, *temporary = NULL, *named = NULL;
	const char *low_failed = NULL;
	long long low_code = 0;
	char b[100] = "", *p;

	MUST(setenv("PMEMSET_LOG_LEVEL", "4", 1) == 0 && setenv("PMEMSET_LOG_FILE", "log", 1) == 0);
	for (int fd = 0; fd < 3; fd++) {
		saved[fd] = fcntl(fd, F_DUPFD_CLOEXEC, 50);
		MUST(saved[fd] >= 0);
	}
	for (int fd = 0; fd < 3; fd++)
		if (closed_mask & 1 << fd)
			close(fd);
	set = new_set();
	look("pmemset_new");
	LOW(pmemset_source_from_file(&src, "f"), 0);
	LOW(pmemset_xsource_from_file(&made, "made", GROWS), 0);
	LOW(pmemset_source_from_temporary(&temporary, "."), 0);
	refuse_unnamed = 1;
	LOW(pmemset_source_from_temporary(&named, "."), 0);
	refuse_unnamed = 0;
	LOW(pmemset_source_from_file(&(struct pmemset_source *){ NULL }, "nothing"), PMEMSET_E_INVALID_SOURCE_PATH);
	p = must_map(set, src, 0, 2 * page);
	must_map(set, made, 0, page)[0] = 'm';
	must_map(set, temporary, 0, page)[0] = 't';
	must_map(set, named, 0, page)[0] = 'n';
	LOW(pmemset_source_pread_mcsafe(src, b, sizeof b, 0), 0);
	LOW(pmemset_source_pwrite_mcsafe(src, b, sizeof b, 0), 0);
	LOW(pmemset_source_delete(&src), 0);
	LOW(pmemset_source_delete(&made), 0);
	LOW(pmemset_source_delete(&temporary), 0);
	LOW(pmemset_source_delete(&named), 0);
	p[0] = p[page] = 'x';
	LOW(pmemset_flush(set, p, 1), 0);
	LOW(pmemset_flush(set, p + page, 1), 0);
	LOW(pmemset_drain(set), 0);
	LOW(pmemset_deep_flush(set, p, page), 0);
	(void)pmemset_perror("nobody reads this");
	look("pmemset_perror");
	LOW(pmemset_delete(&set), 0);
	for (int fd = 0; fd < 3; fd++)
		MUST(dup2(saved[fd], fd) == fd);
	CHECKF(!low_after, "after %s, with %d closed", low_after, closed_mask);
	CHECKF(!low_failed, "%s gives %lld", low_failed, low_code);
	CHECK(access("log", F_OK) == 0 && file_size("log") > 0);
}

/* ---- numbers that are somebody else's now ---- */

enum puts { NOTHING, ANOTHER, SAME, SAME_AT_END, PIPES, PUTS };

static struct { int fd; ino_t ino; off_t off; } own[8];
static int owns;

/* as programs do that become daemons; what a test itself needs is above */
static void close_all(void)
{
	for (int fd = 3; fd < 200; fd++)
		close(fd);
}

static void put(enum puts what)
{
	int fds[2];

	owns = 0;
	for (int i = 0; i < 8 && what != NOTHING; i++) {
		if (what == PIPES)
			MUST(pipe2(fds, O_NONBLOCK) == 0);
		else
			fds[0] = open(what == ANOTHER ? "another" : "v", O_RDWR | O_CREAT | (what == SAME_AT_END ? O_APPEND : 0), 0644);
		MUST(fds[0] >= 0);
		own[owns].fd = fds[0];
		own[owns].ino = hook_inode(fds[0]);
		own[owns].off = what == PIPES ? -1 : 7 * i;
		if (what != PIPES)
			MUST(lseek(fds[0], own[owns].off, SEEK_SET) == own[owns].off);
		owns++;
	}
}

static int is_locked(const char *path);

static enum puts what;

static void untouched(const char *when)
{
	if (owns && what != PIPES)
		CHECKF(is_locked(what == ANOTHER ? "another" : "v"), "%s: the lock is gone", when);
	for (int i = 0; i < owns; i++) {
		CHECKF(fcntl(own[i].fd, F_GETFD) == 0, "%s: descriptor %d is closed", when, own[i].fd);
		CHECKF(hook_inode(own[i].fd) == own[i].ino, "%s: descriptor %d is another file", when, own[i].fd);
		CHECKF(lseek(own[i].fd, 0, SEEK_CUR) == own[i].off, "%s: descriptor %d is at %ld", when, own[i].fd,
			(long)lseek(own[i].fd, 0, SEEK_CUR));
	}
}

/* does another process see this one's lock on the file? */
static int is_locked(const char *path)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
		int fd;

		for (fd = 3; fd < 400; fd++)
			close(fd);
		fd = open(path, O_RDWR);
		_exit(fd >= 0 && fcntl(fd, F_GETLK, &l) == 0 && l.l_type != F_UNLCK ? 1 : 0);
	}
	MUST(pid > 0 && waitpid(pid, &status, 0) == pid);
	return WIFEXITED(status) && WEXITSTATUS(status) == 1;
}

static int kept_until;          /* the source is deleted: 0 before they are closed, 1 after */
static int later;               /* a part has been made, and is mapped after they are closed */

static void drained(const char *when)
{
	hook_reset();
	for (size_t i = 0; i < 8; i += 3)
		dirty(set, &v, i);
	IS(pmemset_drain(set), 0);
	for (size_t i = 0; i < 8; i += 3)
		CHECKF(hook_durable(&v, v.base + i * page, 1), "%s: page %zu is not durable", when, i);
	hook_reset();
	v.base[5 * page]++;
	IS(pmemset_persist(set, v.base + 5 * page, 1), 0);
	CHECKF(hook_durable(&v, v.base + 5 * page, 1), "%s: what was persisted is not durable", when);
	IS(pmemset_deep_flush(set, v.base, 8 * page), 0);
}

static void closes_all(void)
{
	struct flock whole = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	char bytes[100], now_has[100];
	struct pmemset_source *src;
#if PMEMSET_API_VERSION == 111
	struct pmemset_part *part = NULL;
	int rc;
#endif

	for (int i = 0; i < 100; i++)
		bytes[i] = (char)i;
	make_file("another", 0);
	written_file("v", 16);
	{
		int fd = open("another", O_RDWR);

		MUST(fd >= 0 && write(fd, bytes, sizeof bytes) == (ssize_t)sizeof bytes);
		close(fd);
	}
	set = new_set();
	src = source("v");
	v = (struct view){ must_map(set, src, 0, 8 * page), 0, 8 * page, inode_of("v") };
	dirty(set, &v, 1); /* flushed before, drained after */
#if PMEMSET_API_VERSION == 111
	if (later)
		MUST(pmemset_part_new(&part, set, src, 8 * page, page) == 0);
#endif
	if (!kept_until)
		IS(pmemset_source_delete(&src), 0);
	/* the pipe by which the result is told is kept */
	{
		int result = fcntl(4, F_GETFD) >= 0 ? fcntl(4, F_DUPFD_CLOEXEC, 300) : -1;

		close_all();
		if (result >= 0)
			MUST(dup2(result, 4) == 4 && close(result) == 0);
	}
	put(what);
	if (owns) /* a record lock goes with any descriptor of its file, one that the library opens for a sync, too */
		MUST(what == PIPES || fcntl(own[0].fd, what == ANOTHER ? F_SETLK : F_OFD_SETLK, &whole) == 0);
	drained("closed");
	untouched("after drains");
#if PMEMSET_API_VERSION == 111
	if (part) {
		struct pmemset_part_descriptor d = { NULL, 0 };

		/* there is nothing left to map it by, and it is not another file that is mapped */
		rc = pmemset_part_map(&part, NULL, &d);
		if (rc == 0)
			CHECK(what == SAME || what == SAME_AT_END); /* by which the same pages are reached */
		else
			IS(pmemset_part_delete(&part), 0);
		untouched("after a part");
	}
#endif
	if (kept_until) {
		struct pmemset_part_descriptor d = { NULL, 0 };

		if (what == ANOTHER || what == NOTHING || what == PIPES)
			FAILS(map_part(set, src, 0, page, &d));
		if (what == ANOTHER) /* nor written to */
			FAILS(pmemset_source_pwrite_mcsafe(src, now_has, 10, 0));
		IS(pmemset_source_delete(&src), 0);
		untouched("after the source");
		drained("without the source");
	}
	untouched("before the end");
	IS(remove_at(set, v.base), 0);
	IS(pmemset_delete(&set), 0);
	untouched("at the end");
	read_file("another", 0, now_has, 100);
	CHECK(memcmp(bytes, now_has, 100) == 0 && file_size("another") == 100);
}

/* ---- few ---- */

static void few(void)
{
	struct rlimit rl;
	char name[32], *p[MANY];
	int before, fds[2];
	fd_set ready;

	MUST(getrlimit(RLIMIT_NOFILE, &rl) == 0);
	rl.rlim_cur = rl.rlim_max < 4096 ? rl.rlim_max : 4096;
	MUST(setrlimit(RLIMIT_NOFILE, &rl) == 0);
	before = count_fds();
	set = new_set();
	for (int i = 0; i < MANY; i++) {
		snprintf(name, sizeof name, "many-%d", i);
		make_file(name, (off_t)(2 * page));
		p[i] = map_file(set, name);
		CHECKF(count_fds() - before <= 64, "%d descriptors of %d files", count_fds() - before, i);
	}
	/* so a program that looks at descriptors with select can go on */
	MUST(pipe(fds) == 0 && write(fds[1], "", 1) == 1);
	CHECKF(fds[1] < before + 70 && fds[1] < FD_SETSIZE, "the next descriptor is %d", fds[1]);
	if (fds[0] < FD_SETSIZE) {
		FD_ZERO(&ready);
		FD_SET(fds[0], &ready);
		IS(select(fds[0] + 1, &ready, NULL, NULL, &(struct timeval){ 5, 0 }), 1);
	}
	close(fds[0]);
	close(fds[1]);
	hook_skip = 1; /* as so many syncs take long */
	for (int i = 0; i < MANY; i++) {
		p[i][0] = p[i][page] = 'd';
		IS(pmemset_flush(set, p[i], 2 * page), 0);
	}
	IS(pmemset_drain(set), 0);
	CHECK(count_fds() - before <= 64);
	IS(pmemset_delete(&set), 0);
	CHECKF(count_fds() == before, "%d", count_fds() - before);
}

int main(void)
{
	static const char *names[] = { "nothing", "another file", "the same file", "the same file to append", "pipes" };
	static char name[3 * PUTS][120];
	int n = 0;

	t_begin();
	page = page_size();
	make_file("f", (off_t)(4 * page));
	group("descriptors: never 0, 1 or 2");
	MUST(freopen("/dev/null", "w", stderr));
	for (closed_mask = 1; closed_mask < 8; closed_mask++)
		in_child(never_low);
	for (what = NOTHING; what < PUTS; what++)
		for (int how = 0; how < 3; how++) {
			kept_until = how == 1;
			later = how == 2;
			snprintf(name[n], sizeof name[n], "descriptors: closed %s, with %s in their place",
				how == 0 ? "after the source is deleted" : how == 1 ? "before the source is deleted" : "before a part is mapped",
				names[what]);
			CHILD_GROUP(closes_all, name[n]);
			n++;
		}
	CHILD_GROUP(few, "descriptors: few for 300 files");
	return t_end();
}
