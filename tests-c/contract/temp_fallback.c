/* SPDX-License-Identifier: BSD-3-Clause */
/* temp_fallback.c -- a temporary source where the file system has no O_TMPFILE: the program's own open() refuses it */
#include "t.h"
#include <dirent.h>

static int refuse; /* the errno for O_TMPFILE, 0: let it pass */
static int refused;

static int do_open(int dir, const char *path, int flags, unsigned mode)
{
	if (refuse && (flags & O_TMPFILE) == O_TMPFILE) {
		refused++;
		errno = refuse;
		return -1;
	}
	return (int)syscall(SYS_openat, dir, path, flags, mode);
}

#define MODE_OF(flags, mode) do { \
	va_list ap_; \
	va_start(ap_, flags); \
	mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(ap_, unsigned) : 0; \
	va_end(ap_); \
} while (0)

int open(const char *path, int flags, ...)
{
	unsigned mode;

	MODE_OF(flags, mode);
	return do_open(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
	unsigned mode;

	MODE_OF(flags, mode);
	return do_open(AT_FDCWD, path, flags, mode);
}

int openat(int dir, const char *path, int flags, ...)
{
	unsigned mode;

	MODE_OF(flags, mode);
	return do_open(dir, path, flags, mode);
}

int openat64(int dir, const char *path, int flags, ...)
{
	unsigned mode;

	MODE_OF(flags, mode);
	return do_open(dir, path, flags, mode);
}

static int entries(const char *dir)
{
	DIR *d = opendir(dir);
	int n = 0;

	MUST(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n - 2;
}

int main(void)
{
	static const int how[] = { 0, EOPNOTSUPP, EISDIR, EINVAL };
	static char names[4][64];
	size_t page = page_size();

	t_begin();
	MUST(mkdir("t", 0755) == 0);
	for (size_t i = 0; i < 4; i++) {
		struct pmemset_source *src = NULL, *two = NULL;
		struct pmemset *set;
		struct stat st;
		char *p, *q;
		int fds, fd, n = 0;

		snprintf(names[i], sizeof names[i], "temporary: O_TMPFILE %s", how[i] ? strerror(how[i]) : "works");
		group(names[i]);
		set = new_set();
		refused = 0;
		refuse = how[i];
		fds = count_fds();
		IS(pmemset_source_from_temporary(&src, "t"), 0);
		IS(pmemset_source_from_temporary(&two, "t"), 0);
		if (src && two) {
			CHECK(count_fds() == fds + 2);
			CHECK(entries("t") == 0); /* nothing to be seen */
			for (fd = 3; fd < 100; fd++)
				if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_nlink == 0) {
					n++;
					CHECKF((st.st_mode & 07777) == 0600 && st.st_size == 0, "mode %o size %ld", st.st_mode & 07777, (long)st.st_size);
				}
			CHECKF(n == 2, "%d files with no name", n);
			p = must_map(set, src, 0, 2 * page);
			q = must_map(set, two, 0, 2 * page);
			memset(p, 'p', 2 * page);
			memset(q, 'q', 2 * page);
			CHECK(p[0] == 'p' && p[2 * page - 1] == 'p'); /* two files, not one */
			IS(pmemset_persist(set, p, 2 * page), 0);
			IS(pmemset_persist(set, q, 2 * page), 0);
			IS(pmemset_source_delete(&src), 0);
			IS(pmemset_source_delete(&two), 0);
		}
		src = (struct pmemset_source *)1;
		IS(pmemset_source_from_temporary(&src, "nowhere"), PMEMSET_E_INVALID_SOURCE_PATH);
		CHECK(src == NULL);
		refuse = 0;
		IS(pmemset_delete(&set), 0);
		CHECK(count_fds() == fds);
		CHECK(entries("t") == 0);
		if (how[i] && !refused)
			skip("the library does not open through libc here");
	}
	return t_end();
}
