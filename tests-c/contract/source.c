/* SPDX-License-Identifier: BSD-3-Clause */
/* source.c -- sources: paths, flags, temporary files, what is refused */
#include "t.h"
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/un.h>

#define JUNK ((struct pmemset_source *)0x5a5a5a50)

/* a refused path: the code, the NULL, the message, and no descriptor left behind */
#define REFUSED(call, want) do { \
	int fds_ = count_fds(); \
	src = JUNK; \
	IS(call, want); \
	CHECK(src == NULL); \
	CHECK(*pmemset_errormsg() != 0); \
	CHECK(count_fds() == fds_); \
} while (0)

static int message_ends(const char *tail)
{
	const char *m = pmemset_errormsg();
	size_t a = strlen(m), b = strlen(tail);

	return a >= b && strcmp(m + a - b, tail) == 0;
}

#define REFUSED_ERRNO(call, e) do { \
	char tail_[100]; \
	snprintf(tail_, sizeof tail_, ": %s", strerror(e)); \
	REFUSED(call, -(e)); \
	CHECKF(message_ends(tail_), "%s", pmemset_errormsg()); \
} while (0)

static void accepted(struct pmemset_source **src, int rc)
{
	IS(rc, 0);
	CHECK(*src != NULL && *src != JUNK);
	IS(pmemset_source_delete(src), 0);
	CHECK(*src == NULL);
}

static void as_nobody(void)
{
	struct pmemset_source *src = NULL;

	MUST(mkdir("closed", 0700) == 0 && mkdir("readonly-dir", 0755) == 0);
	make_file("closed/f", 4096);
	make_file("readonly", 4096);
	MUST(chmod("readonly", 0444) == 0);
	if (geteuid() == 0 && become_nobody() != 0) {
		child_skip("cannot become another user");
		return;
	}
	REFUSED_ERRNO(pmemset_source_from_file(&src, "readonly"), EACCES);
	REFUSED_ERRNO(pmemset_xsource_from_file(&src, "readonly", PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED), EACCES);
	REFUSED_ERRNO(pmemset_xsource_from_file(&src, "readonly", PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED), EACCES);
	if (getuid() == 0) { /* the directories are the other user's */
		REFUSED_ERRNO(pmemset_source_from_file(&src, "closed/f"), EACCES);
		REFUSED_ERRNO(pmemset_xsource_from_file(&src, "readonly-dir/n", PMEMSET_SOURCE_FILE_CREATE_ALWAYS), EACCES);
		REFUSED(pmemset_source_from_temporary(&src, "readonly-dir"), PMEMSET_E_CANNOT_CREATE_TEMP_FILE);
	}
	CHECK(file_size("readonly") == 4096);
}

static void on_readonly_fs(void)
{
	struct pmemset_source *src = NULL;

	MUST(mkdir("ro", 0755) == 0);
	if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", "none", MS_REC | MS_PRIVATE, "") != 0 ||
	    mount("none", "ro", "tmpfs", 0, "size=1m") != 0) {
		child_skip("cannot mount");
		return;
	}
	make_file("ro/f", 4096);
	MUST(mount("none", "ro", "none", MS_REMOUNT | MS_RDONLY, "") == 0);
	REFUSED_ERRNO(pmemset_source_from_file(&src, "ro/f"), EROFS);
	REFUSED_ERRNO(pmemset_xsource_from_file(&src, "ro/f", PMEMSET_SOURCE_FILE_CREATE_ALWAYS), EROFS);
	REFUSED_ERRNO(pmemset_xsource_from_file(&src, "ro/new", PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED), EROFS);
	REFUSED(pmemset_source_from_temporary(&src, "ro"), PMEMSET_E_CANNOT_CREATE_TEMP_FILE);
	CHECK(file_size("ro/f") == 4096);
	umount("ro");
}

/* the descriptor that appeared since before[] was taken */
static int new_fd(const char *before)
{
	for (int fd = 0; fd < 256; fd++)
		if (!before[fd] && fcntl(fd, F_GETFD) >= 0)
			return fd;
	return -1;
}

/*
 * A program for 1.11 passes 32 bits, and what the other half of the register holds is whatever it was used for before. Through a
 * pointer to what the function is called with in the end, so that a test can say what that is.
 */
static int open_with(const char *path, unsigned flags, uint64_t above)
{
	int (*open_in_full)(struct pmemset_source **, const char *, uint64_t) =
		(int (*)(struct pmemset_source **, const char *, uint64_t))(void (*)(void))pmemset_xsource_from_file;
	struct pmemset_source *src = NULL;
	int rc = open_in_full(&src, path, above << 32 | flags);

	CHECK((rc == 0) == (src != NULL));
	if (src)
		IS(pmemset_source_delete(&src), 0);
	return rc;
}

static mode_t mode_made(const char *path)
{
	struct stat st;
	mode_t mode = stat(path, &st) == 0 ? st.st_mode & 07777 : 0xffff;

	unlink(path);
	return mode;
}

static void upper_half(void)
{
	/* halves of pointers, lengths, -1, kinds of files that are none */
	static const uint64_t garbage[] = { 0x7ffd, 0x5555, 0x7f12, 0x1234, 0xffffffff, 0xdeadbeef, 0x10000, 1ull << 31, 0x12345, 020644,
		0170000 };
	const unsigned always = PMEMSET_SOURCE_FILE_CREATE_ALWAYS, needed = PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED,
		grow = PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED, creating[] = { always, needed, always | needed };

	for (size_t g = 0; g < sizeof garbage / sizeof garbage[0]; g++) {
		for (size_t c = 0; c < 3; c++) {
			IS(open_with("upper", creating[c] | grow, garbage[g]), 0);
			IS(mode_made("upper"), 0644);
			/* what no program for 1.12 says with a right mode is an error there; without bit 2 that is all it can be */
			IS(open_with("upper", creating[c], garbage[g]), PMEMSET_E_INVALID_SOURCE_FILE_CREATE_FLAGS);
			IS(mode_made("upper"), 0xffff);
			/* unknown bits below stay unknown */
			IS(open_with("upper", creating[c] | grow | 8, garbage[g]), PMEMSET_E_INVALID_SOURCE_FILE_CREATE_FLAGS);
		}
		IS(open_with("upper", 0, garbage[g]), PMEMSET_E_INVALID_SOURCE_PATH);
		IS(open_with("upper", grow, garbage[g]), -ENOENT);
		make_file("upper", 0);
		IS(open_with("upper", grow, garbage[g]), 0);
		unlink("upper");
	}
	/* modes, right ones and wrong ones, are what they are in 1.12, with and without bit 2 */
	for (size_t c = 0; c < 6; c++) {
		unsigned flags = creating[c % 3] | (c < 3 ? 0 : grow);

		IS(open_with("upper", flags, 0600), 0);
		IS(mode_made("upper"), 0600);
		IS(open_with("upper", flags, 0777), 0);
		IS(mode_made("upper"), 0755);
		IS(open_with("upper", flags, 0), 0);
		IS(mode_made("upper"), 0644);
		IS(open_with("upper", flags, 01000), PMEMSET_E_INVALID_SOURCE_FILE_CREATE_FLAGS);
		IS(open_with("upper", flags, 04755), PMEMSET_E_INVALID_SOURCE_FILE_CREATE_FLAGS);
		IS(open_with("upper", flags, 0100644), PMEMSET_E_INVALID_SOURCE_FILE_CREATE_FLAGS); /* st_mode of a file */
		IS(mode_made("upper"), 0xffff);
	}
}

int main(void)
{
	struct pmemset_source *src = NULL;
	const unsigned always = PMEMSET_SOURCE_FILE_CREATE_ALWAYS, needed = PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED,
		grow = PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED;
	struct stat st;
	char abs[4096], longname[6000];
	size_t page = page_size();

	t_begin();
	make_file("f", 1 << 20);
	MUST(getcwd(abs, sizeof abs - 3));
	strcat(abs, "/f");

	group("source: a file");
	accepted(&src, pmemset_source_from_file(&src, "f"));
	accepted(&src, pmemset_source_from_file(&src, abs));
	accepted(&src, pmemset_source_from_file(&src, "./f"));
	MUST(symlink("f", "link") == 0);
	accepted(&src, pmemset_source_from_file(&src, "link"));
	IS(pmemset_source_delete(&src), 0); /* NULL already */
	{
		int before = count_fds();

		IS(pmemset_source_from_file(&src, "f"), 0);
		CHECK(count_fds() == before + 1); /* a source holds one */
		IS(pmemset_source_delete(&src), 0);
		CHECK(count_fds() == before);
	}
	CHECK(file_size("f") == 1 << 20);

	group("source: no such path");
	REFUSED(pmemset_source_from_file(&src, "nothing"), PMEMSET_E_INVALID_SOURCE_PATH);
	REFUSED(pmemset_source_from_file(&src, "nowhere/nothing"), PMEMSET_E_INVALID_SOURCE_PATH);
	REFUSED(pmemset_source_from_file(&src, ""), PMEMSET_E_INVALID_SOURCE_PATH);
	REFUSED(pmemset_xsource_from_file(&src, "nothing", 0), PMEMSET_E_INVALID_SOURCE_PATH);
	MUST(symlink("nothing", "dangling") == 0);
	REFUSED(pmemset_source_from_file(&src, "dangling"), PMEMSET_E_INVALID_SOURCE_PATH);
	CHECK(access("nothing", F_OK) != 0);

	group("source: NULL path");
	REFUSED(pmemset_source_from_file(&src, NULL), PMEMSET_E_INVALID_SOURCE_PATH);
	CHECKF(strcmp(pmemset_errormsg(), "file path cannot be empty") == 0, "%s", pmemset_errormsg());
	for (unsigned flags = 0; flags < 8; flags++) {
		FAILS(pmemset_source_from_file(&src, "nothing"));
		REFUSED(pmemset_xsource_from_file(&src, NULL, flags), PMEMSET_E_INVALID_SOURCE_PATH);
		CHECKF(strcmp(pmemset_errormsg(), "file path cannot be empty") == 0, "%s", pmemset_errormsg());
	}

	group("source: other errors of stat");
	REFUSED_ERRNO(pmemset_source_from_file(&src, "f/below"), ENOTDIR);
	memset(longname, 'n', sizeof longname - 1);
	longname[sizeof longname - 1] = 0;
	REFUSED_ERRNO(pmemset_source_from_file(&src, longname), ENAMETOOLONG);
	MUST(symlink("loop", "loop") == 0);
	REFUSED_ERRNO(pmemset_source_from_file(&src, "loop"), ELOOP);
	REFUSED_ERRNO(pmemset_xsource_from_file(&src, "f/below", always), ENOTDIR);
	REFUSED_ERRNO(pmemset_xsource_from_file(&src, "nowhere/new", needed), ENOENT);

	group("source: a directory");
	MUST(mkdir("dir", 0755) == 0);
	REFUSED(pmemset_source_from_file(&src, "dir"), -EISDIR);
	REFUSED(pmemset_source_from_file(&src, "."), -EISDIR);
	REFUSED(pmemset_xsource_from_file(&src, "dir", always), -EISDIR);
	REFUSED(pmemset_xsource_from_file(&src, "dir", needed), -EISDIR);
	REFUSED(pmemset_xsource_from_file(&src, "dir", grow), -EISDIR);
	MUST(symlink("dir", "dirlink") == 0);
	REFUSED(pmemset_source_from_file(&src, "dirlink"), -EISDIR);

	group("source: neither file nor directory");
	REFUSED(pmemset_source_from_file(&src, "/dev/null"), PMEMSET_E_INVALID_SOURCE_TYPE);
	REFUSED(pmemset_xsource_from_file(&src, "/dev/null", 0), PMEMSET_E_INVALID_SOURCE_TYPE);
	REFUSED(pmemset_xsource_from_file(&src, "/dev/null", needed), PMEMSET_E_INVALID_SOURCE_TYPE);
	REFUSED(pmemset_xsource_from_file(&src, "/dev/null", always | grow), PMEMSET_E_INVALID_SOURCE_TYPE);
	REFUSED(pmemset_source_from_file(&src, "/dev/zero"), PMEMSET_E_INVALID_SOURCE_TYPE);
	REFUSED(pmemset_source_from_file(&src, "/dev/full"), PMEMSET_E_INVALID_SOURCE_TYPE);
	MUST(mkfifo("fifo", 0600) == 0);
	REFUSED(pmemset_source_from_file(&src, "fifo"), PMEMSET_E_INVALID_SOURCE_TYPE); /* and does not block */
	REFUSED(pmemset_xsource_from_file(&src, "fifo", needed), PMEMSET_E_INVALID_SOURCE_TYPE);
	{
		struct sockaddr_un un = { .sun_family = AF_UNIX, .sun_path = "sock" };
		int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

		if (s >= 0 && bind(s, (struct sockaddr *)&un, sizeof un) == 0) {
			REFUSED(pmemset_source_from_file(&src, "sock"), PMEMSET_E_INVALID_SOURCE_TYPE);
			REFUSED(pmemset_xsource_from_file(&src, "sock", needed), PMEMSET_E_INVALID_SOURCE_TYPE);
			REFUSED(pmemset_xsource_from_file(&src, "sock", grow), PMEMSET_E_INVALID_SOURCE_TYPE);
		}
		if (s >= 0)
			close(s);
	}
	if (geteuid() == 0 && stat("/dev/loop0", &st) == 0 && S_ISBLK(st.st_mode))
		REFUSED(pmemset_source_from_file(&src, "/dev/loop0"), PMEMSET_E_INVALID_SOURCE_TYPE);

	CHILD_GROUP(as_nobody, "source: without permission");
	CHILD_GROUP(on_readonly_fs, "source: a read-only file system");

	group("source: create flags");
	accepted(&src, pmemset_xsource_from_file(&src, "f", 0));
	CHECK(file_size("f") == 1 << 20);
	accepted(&src, pmemset_xsource_from_file(&src, "new1", needed));
	CHECK(stat("new1", &st) == 0 && st.st_size == 0 && S_ISREG(st.st_mode));
	CHECKF((st.st_mode & 07777) == 0644, "mode %o", st.st_mode & 07777);
	accepted(&src, pmemset_xsource_from_file(&src, "new2", always));
	CHECK(stat("new2", &st) == 0 && st.st_size == 0);
	CHECKF((st.st_mode & 07777) == 0644, "mode %o", st.st_mode & 07777);
	umask(077);
	accepted(&src, pmemset_xsource_from_file(&src, "new3", always | grow));
	umask(022);
	CHECK(stat("new3", &st) == 0);
	CHECKF((st.st_mode & 07777) == 0600, "mode %o under umask 077", st.st_mode & 07777);
	accepted(&src, pmemset_xsource_from_file(&src, "f", needed));
	accepted(&src, pmemset_xsource_from_file(&src, "f", needed | grow));
	accepted(&src, pmemset_xsource_from_file(&src, "f", grow));
	CHECK(file_size("f") == 1 << 20); /* kept */
	accepted(&src, pmemset_xsource_from_file(&src, "f", always));
	CHECK(file_size("f") == 0);
	make_file("f", 1 << 20);
	accepted(&src, pmemset_xsource_from_file(&src, "f", always | needed)); /* ALWAYS wins */
	CHECK(file_size("f") == 0);
	make_file("f", 1 << 20);
	accepted(&src, pmemset_xsource_from_file(&src, "f", PMEMSET_SOURCE_FILE_CREATE_VALID_FLAGS));
	CHECK(file_size("f") == 0);
	make_file("f", 1 << 20);
	src = JUNK;
	FAILS(pmemset_xsource_from_file(&src, "nothing", grow)); /* it creates nothing */
	CHECK(src == NULL && access("nothing", F_OK) != 0);
	accepted(&src, pmemset_xsource_from_file(&src, "link", always)); /* through the link */
	CHECK(file_size("f") == 0);
	make_file("f", 1 << 20);

	group("source: anything in the upper half of a register");
	upper_half();

	group("source: unknown flags");
	for (int bit = 3; bit < 32; bit++) {
		REFUSED(pmemset_xsource_from_file(&src, "nothing", 1u << bit), PMEMSET_E_INVALID_SOURCE_FILE_CREATE_FLAGS);
		REFUSED(pmemset_xsource_from_file(&src, "f", 1u << bit | always), PMEMSET_E_INVALID_SOURCE_FILE_CREATE_FLAGS);
	}
	REFUSED(pmemset_xsource_from_file(&src, "f", ~0u), PMEMSET_E_INVALID_SOURCE_FILE_CREATE_FLAGS);
	CHECK(file_size("f") == 1 << 20 && access("nothing", F_OK) != 0);

	group("source: a temporary file");
	{
		char before[256];
		int fds = count_fds(), fd;

		for (fd = 0; fd < 256; fd++)
			before[fd] = fcntl(fd, F_GETFD) >= 0;
		MUST(mkdir("tmp", 0755) == 0);
		src = NULL;
		IS(pmemset_source_from_temporary(&src, "tmp"), 0);
		CHECK(src != NULL);
		CHECK(count_fds() == fds + 1);
		fd = new_fd(before);
		CHECK(fd >= 0 && fstat(fd, &st) == 0);
		CHECK(S_ISREG(st.st_mode) && st.st_size == 0 && st.st_nlink == 0);
		CHECKF((st.st_mode & 07777) == 0600, "mode %o", st.st_mode & 07777);
		CHECK(rmdir("tmp") == 0); /* nothing in it */
		MUST(mkdir("tmp", 0755) == 0);
		IS(pmemset_source_delete(&src), 0);
		CHECK(count_fds() == fds);
	}
	{
		struct pmemset *set = new_set();
		char *p, *q;

		IS(pmemset_source_from_temporary(&src, "."), 0);
		p = must_map(set, src, 0, 3 * page); /* grows */
		q = must_map(set, src, page, 4 * page);
		memset(p, 7, 3 * page);
		CHECK(q[2 * page - 1] == 7 && q[2 * page] == 0);
		IS(pmemset_persist(set, p, 3 * page), 0);
		IS(pmemset_source_delete(&src), 0);
		CHECK(p[0] == 7);
		IS(pmemset_delete(&set), 0);
		src = NULL;
		accepted(&src, pmemset_source_from_temporary(&src, tmpfs_dir()));
	}

	group("source: no place for a temporary file");
	REFUSED(pmemset_source_from_temporary(&src, NULL), PMEMSET_E_INVALID_SOURCE_PATH);
	REFUSED(pmemset_source_from_temporary(&src, "nowhere"), PMEMSET_E_INVALID_SOURCE_PATH);
	REFUSED(pmemset_source_from_temporary(&src, ""), PMEMSET_E_INVALID_SOURCE_PATH);
	REFUSED(pmemset_source_from_temporary(&src, "f"), PMEMSET_E_CANNOT_CREATE_TEMP_FILE);
	REFUSED(pmemset_source_from_temporary(&src, "f/below"), PMEMSET_E_CANNOT_CREATE_TEMP_FILE);
	REFUSED(pmemset_source_from_temporary(&src, "/proc"), PMEMSET_E_CANNOT_CREATE_TEMP_FILE);

	group("source: no libpmem2 source");
	REFUSED(pmemset_source_from_pmem2(&src, NULL), PMEMSET_E_INVALID_PMEM2_SOURCE);

	group("source: memory files and descriptors by path");
	{
		int fd = memfd_create("m", MFD_CLOEXEC);
		char path[64];

		MUST(fd >= 0 && ftruncate(fd, (off_t)page) == 0);
		snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
		accepted(&src, pmemset_source_from_file(&src, path));
		close(fd);
		fd = open("f", O_RDWR | O_CLOEXEC);
		snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
		accepted(&src, pmemset_source_from_file(&src, path));
		close(fd);
	}
	return t_end();
}
