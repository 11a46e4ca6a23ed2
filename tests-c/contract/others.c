/* SPDX-License-Identifier: BSD-3-Clause */
/* others.c -- files that others have a hold on: leases, pipes and sockets, sticky directories; and calls that signals interrupt */
#include "t.h"
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/vfs.h>

#if PMEMSET_API_VERSION == 112
#define GROWS PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED
#else
#define GROWS (PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED | PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED)
#endif

static size_t page;

/* ---- calls that a signal interrupts, as on network file systems ---- */

enum kind { OPEN, FSTAT, STAT, FSTATFS, MSYNC, FSYNC, FDATASYNC, SYNCFS, RANGE, PREAD, PWRITE, FTRUNCATE, FALLOCATE, KINDS };
static const char *const kinds[KINDS] = {
	"open", "fstat", "stat", "fstatfs", "msync", "fsync", "fdatasync", "syncfs", "sync_file_range", "pread", "pwrite", "ftruncate",
	"fallocate"
};
static int armed = -1;          /* the kind of call that is interrupted, every second time */
static int seen[KINDS], turn;
static int no_fallocate;

static int hit(enum kind k)
{
	seen[k]++;
	if (armed != (int)k || turn++ % 2)
		return 0;
	errno = EINTR;
	return 1;
}

#define HOOK(name, kind, params, ...) \
int name params \
{ \
	return hit(kind) ? -1 : (int)syscall(__VA_ARGS__); \
}
#define HOOK_OPEN(name) \
int name(const char *path, int flags, ...) \
{ \
	unsigned mode = 0; \
	va_list ap; \
	va_start(ap, flags); \
	if (flags & (O_CREAT | __O_TMPFILE)) \
		mode = va_arg(ap, unsigned); \
	va_end(ap); \
	return hit(OPEN) ? -1 : (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode); \
}
HOOK_OPEN(open)
HOOK_OPEN(open64)
HOOK(fstat, FSTAT, (int fd, struct stat *st), SYS_fstat, fd, st)
HOOK(fstat64, FSTAT, (int fd, struct stat64 *st), SYS_fstat, fd, st)
HOOK(stat, STAT, (const char *path, struct stat *st), SYS_newfstatat, AT_FDCWD, path, st, 0)
HOOK(stat64, STAT, (const char *path, struct stat64 *st), SYS_newfstatat, AT_FDCWD, path, st, 0)
HOOK(fstatfs, FSTATFS, (int fd, struct statfs *st), SYS_fstatfs, fd, st)
HOOK(msync, MSYNC, (void *addr, size_t len, int flags), SYS_msync, addr, len, flags)
HOOK(fsync, FSYNC, (int fd), SYS_fsync, fd)
HOOK(fdatasync, FDATASYNC, (int fd), SYS_fdatasync, fd)
HOOK(syncfs, SYNCFS, (int fd), SYS_syncfs, fd)
HOOK(sync_file_range, RANGE, (int fd, off64_t off, off64_t len, unsigned flags), SYS_sync_file_range, fd, off, len, flags)
HOOK(ftruncate, FTRUNCATE, (int fd, off_t size), SYS_ftruncate, fd, size)

int fallocate(int fd, int mode, off_t off, off_t len)
{
	if (hit(FALLOCATE))
		return -1;
	if (no_fallocate) {
		errno = EOPNOTSUPP;
		return -1;
	}
	return (int)syscall(SYS_fallocate, fd, mode, off, len);
}

ssize_t pread(int fd, void *buf, size_t len, off_t off)
{
	return hit(PREAD) ? -1 : syscall(SYS_pread64, fd, buf, len, off);
}

ssize_t pwrite(int fd, const void *buf, size_t len, off_t off)
{
	return hit(PWRITE) ? -1 : syscall(SYS_pwrite64, fd, buf, len, off);
}

/* the life of a set; each of its calls succeeds */
static void a_life(void)
{
	struct pmemset_source *src = NULL, *made = NULL, *temporary = NULL;
	struct pmemset *set = new_set();
	struct pmemset_part_descriptor d;
	char b[100], *p, *q;
	size_t align;

	IS(pmemset_source_from_file(&src, "f"), 0);
	IS(pmemset_xsource_from_file(&made, "made", GROWS), 0);
	IS(pmemset_source_from_temporary(&temporary, "."), 0);
	MUST(src && made && temporary);
	IS(pmemset_source_alignment(src, &align), 0);
	IS(map_part(set, src, 0, 0, &d), 0);
	p = d.addr;
	IS(map_part(set, made, page, 20 * page, &d), 0);
	q = d.addr;
	IS(map_part(set, temporary, 0, 3 * page, NULL), 0);
	IS(pmemset_source_pwrite_mcsafe(src, b, sizeof b, 10), 0);
	IS(pmemset_source_pread_mcsafe(src, b, sizeof b, 10), 0);
	for (int k = 0; k < 2; k++) {
		p[0] = p[page] = p[3 * page] = q[0] = q[10 * page] = 'e';
		IS(pmemset_persist(set, p, 1), 0);
		IS(pmemset_flush(set, p + page, 1), 0);
		IS(pmemset_flush(set, p + 3 * page, 1), 0);
		IS(pmemset_flush(set, q, 1), 0);
		IS(pmemset_flush(set, q + 10 * page, 1), 0);
		IS(pmemset_drain(set), 0);
		IS(pmemset_deep_flush(set, p, 2 * page), 0);
		if (k == 0) {
			IS(pmemset_source_delete(&src), 0);
			IS(pmemset_source_delete(&made), 0);
			IS(pmemset_source_delete(&temporary), 0);
		}
	}
	q[0]++;
	IS(pmemset_flush(set, q, 1), 0);
	IS(remove_at(set, q), 0);
	IS(pmemset_delete(&set), 0);
	MUST(unlink("made") == 0);
}

static void interrupted(void)
{
	make_file("f", (off_t)(4 * page));
	for (no_fallocate = 0; no_fallocate < 2; no_fallocate++)
		for (int k = 0; k < KINDS; k++) {
			int before = t_fails;

			armed = k;
			turn = 0;
			a_life();
			armed = -1;
			if (t_fails != before)
				t_failed(NULL, 0, "with %s interrupted", kinds[k]);
		}
	CHECK(seen[OPEN] && seen[FSTAT] && seen[STAT] && seen[MSYNC] && seen[FSYNC] && seen[PREAD] && seen[PWRITE]);
}

/* ---- leases ---- */

static int leased;

static void gives_up(int sig)
{
	(void)sig;
	usleep(20000);
	fcntl(leased, F_SETLEASE, F_UNLCK);
}

static void leases(void)
{
	static const struct { int lease; unsigned flags; } how[] = {
		{ F_WRLCK, 0 }, { F_RDLCK, 0 }, { F_WRLCK, GROWS }, { F_RDLCK, GROWS },
		{ F_WRLCK, PMEMSET_SOURCE_FILE_CREATE_ALWAYS }, { F_RDLCK, PMEMSET_SOURCE_FILE_CREATE_ALWAYS }
	};

	for (size_t i = 0; i < sizeof how / sizeof *how; i++) {
		struct pmemset_source *src = NULL;
		int fds[2];
		char c = 0;
		pid_t pid;

		make_file("leased", (off_t)page);
		MUST(pipe(fds) == 0);
		pid = fork();
		MUST(pid >= 0);
		if (pid == 0) {
			signal(SIGIO, gives_up);
			alarm(20);
			leased = open("leased", how[i].lease == F_WRLCK ? O_RDWR : O_RDONLY);
			c = fcntl(leased, F_SETLEASE, how[i].lease) == 0 ? 'y' : 'n';
			if (write(fds[1], &c, 1) != 1)
				_exit(1);
			for (;;)
				pause();
		}
		MUST(read(fds[0], &c, 1) == 1);
		if (c == 'y') {
			IS(pmemset_xsource_from_file(&src, "leased", how[i].flags), 0);
			if (src)
				IS(pmemset_source_delete(&src), 0);
		} else
			child_skip("the file system has no leases");
		kill(pid, SIGKILL);
		MUST(waitpid(pid, NULL, 0) == pid);
		close(fds[0]);
		close(fds[1]);
	}
}

/* ---- what is no file ---- */

static void no_files(void)
{
	static const char *const paths[] = { "fifo", "to-fifo", "socket", "to-socket", "read-fifo" };
	static const unsigned flags[] = { 0, GROWS, PMEMSET_SOURCE_FILE_CREATE_ALWAYS };
	struct sockaddr_un name = { .sun_family = AF_UNIX, .sun_path = "socket" };
	int s = socket(AF_UNIX, SOCK_STREAM, 0), reader, before;

	alarm(20);
	MUST(s >= 0 && bind(s, (struct sockaddr *)&name, sizeof name) == 0 && listen(s, 1) == 0);
	MUST(mkfifo("fifo", 0644) == 0 && mkfifo("read-fifo", 0644) == 0);
	MUST(symlink("fifo", "to-fifo") == 0 && symlink("socket", "to-socket") == 0);
	reader = open("read-fifo", O_RDONLY | O_NONBLOCK);
	MUST(reader >= 0);
	before = count_fds();
	for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
		for (size_t k = 0; k < sizeof flags / sizeof *flags; k++) {
			struct pmemset_source *src = (struct pmemset_source *)1;

			IS(pmemset_xsource_from_file(&src, paths[i], flags[k]), PMEMSET_E_INVALID_SOURCE_TYPE);
			CHECK(src == NULL);
			if (!flags[k])
				IS(pmemset_source_from_file(&src, paths[i]), PMEMSET_E_INVALID_SOURCE_TYPE);
			IS(pmemset_source_from_temporary(&src, paths[i]), PMEMSET_E_CANNOT_CREATE_TEMP_FILE);
		}
	CHECK(count_fds() == before);
}

/* ---- sticky directories ---- */

static void opens_others(void)
{
	static const unsigned flags[] = { 0, GROWS, PMEMSET_SOURCE_FILE_CREATE_ALWAYS };
	struct pmemset *set = new_set();

	for (size_t k = 0; k < sizeof flags / sizeof *flags; k++) {
		struct pmemset_source *src = NULL;

		MUST(truncate("sticky/theirs", (off_t)page) == 0);
		IS(pmemset_xsource_from_file(&src, "sticky/theirs", flags[k]), 0);
		if (!src)
			continue;
		CHECK(file_size("sticky/theirs") == (flags[k] == PMEMSET_SOURCE_FILE_CREATE_ALWAYS ? 0 : (off_t)page));
		if (flags[k] != PMEMSET_SOURCE_FILE_CREATE_ALWAYS)
			must_map(set, src, 0, page)[0] = 's';
		IS(pmemset_source_delete(&src), 0);
		/* what is not there is made */
		if (flags[k]) {
			IS(pmemset_xsource_from_file(&src, "sticky/mine", flags[k]), 0);
			IS(pmemset_source_delete(&src), 0);
			MUST(unlink("sticky/mine") == 0);
		}
	}
	IS(pmemset_delete(&set), 0);
}

static void opens_others_as_nobody(void)
{
	MUST(become_nobody() == 0);
	opens_others();
}

static void sticky(void)
{
	char was[8] = "", to[2] = "1";
	int fd;

	if (geteuid() != 0 || (fd = open("/proc/sys/fs/protected_regular", O_RDWR | O_CLOEXEC)) < 0) {
		skip("not root");
		return;
	}
	flock(fd, LOCK_EX); /* others that run this test at the same time */
	MUST(read(fd, was, sizeof was - 1) > 0);
	make_file("theirs", (off_t)page);
	MUST(mkdir("sticky", 0755) == 0 && chown("sticky", 1001, 1001) == 0 && chmod("sticky", 01777) == 0);
	MUST(rename("theirs", "sticky/theirs") == 0);
	MUST(chown("sticky/theirs", 1002, 1002) == 0 && chmod("sticky/theirs", 0666) == 0);
	for (; to[0] <= '2'; to[0]++) {
		MUST(pwrite(fd, to, 1, 0) == 1);
		in_child(opens_others);
		in_child(opens_others_as_nobody);
		MUST(pwrite(fd, was, strlen(was), 0) == (ssize_t)strlen(was));
	}
	close(fd);
}

int main(void)
{
	t_begin();
	page = page_size();
	CHILD_GROUP(interrupted, "others: signals interrupt system calls");
	CHILD_GROUP(leases, "others: a lease on the file");
	CHILD_GROUP(no_files, "others: pipes and sockets");
	group("others: a file of somebody else's in a sticky directory");
	sticky();
	return t_end();
}
