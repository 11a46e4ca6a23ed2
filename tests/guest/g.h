/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * g.h -- what the guest's programs share: tests that print "ok NAME" or "FAIL NAME", and a set in one call.
 */
#ifndef G_H
#define G_H

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libpmemset.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAY __attribute__((unused)) static
#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)

MAY const char *g_prefix = "";
MAY const char *g_test;
MAY int g_failed;
MAY int g_bad;

/* begins a test, and ends the one before; NULL only ends */
MAY void test(const char *name)
{
	if (g_test)
		printf("%s %s: %s\n", g_failed ? "FAIL" : "ok", g_prefix, g_test);
	fflush(stdout);
	g_bad |= g_failed;
	g_failed = 0;
	g_test = name;
}

#define CHECK(cond) \
	do { \
		if (!(cond)) { \
			printf("  %s:%d: %s; last message: %s\n", __FILE__, __LINE__, #cond, pmemset_errormsg()); \
			g_failed = 1; \
		} \
	} while (0)

#define EQ(got, want) \
	do { \
		long long got_ = (long long)(got), want_ = (long long)(want); \
		if (got_ != want_) { \
			printf("  %s:%d: %s is %lld, not %lld; last message: %s\n", __FILE__, __LINE__, #got, got_, want_, \
			       pmemset_errormsg()); \
			g_failed = 1; \
		} \
	} while (0)

/* what the test cannot go on without */
#define MUST(call) \
	do { \
		long long rc_ = (long long)(call); \
		if (rc_ != 0) { \
			printf("  %s:%d: %s: %lld (errno %d); last message: %s\n", __FILE__, __LINE__, #call, rc_, errno, \
			       pmemset_errormsg()); \
			g_failed = 1; \
			test(NULL); \
			exit(1); \
		} \
	} while (0)

MAY struct pmemset *new_set(enum pmem2_granularity required)
{
	struct pmemset_config *cfg;
	struct pmemset *set;

	MUST(pmemset_config_new(&cfg));
	MUST(pmemset_config_set_required_store_granularity(cfg, required));
	MUST(pmemset_new(&set, cfg));
	MUST(pmemset_config_delete(&cfg));
	return set;
}

#if PMEMSET_API_VERSION == 111
/* maps a range of a source; the result is part_map's */
MAY int map_source(struct pmemset *set, struct pmemset_source *src, size_t offset, size_t len,
		   struct pmemset_part_descriptor *desc, enum pmemset_part_state *state)
{
	struct pmemset_extras extras = { NULL, NULL, state };
	struct pmemset_part *part;

	MUST(pmemset_part_new(&part, set, src, offset, len));
	int rc = pmemset_part_map(&part, state ? &extras : NULL, desc);
	if (rc)
		MUST(pmemset_part_delete(&part));
	return rc;
}

/* the same of a path, whose source does not outlive the call */
MAY int map_path(struct pmemset *set, const char *path, size_t offset, size_t len, struct pmemset_part_descriptor *desc)
{
	struct pmemset_source *src;

	MUST(pmemset_source_from_file(&src, path));
	int rc = map_source(set, src, offset, len, desc, NULL);
	MUST(pmemset_source_delete(&src));
	return rc;
}
#endif

MAY char *path_in(const char *dir, const char *name)
{
	char *path;

	MUST(asprintf(&path, "%s/%s", dir, name) < 0);
	return path;
}

/* a file of zeros, with its blocks on the medium */
MAY char *make_file(const char *dir, const char *name, size_t size)
{
	char *path = path_in(dir, name);
	int fd = open(path, O_CREAT | O_TRUNC | O_RDWR, 0644);

	MUST(fd < 0);
	MUST(posix_fallocate(fd, 0, (off_t)size));
	MUST(close(fd));
	return path;
}

/* the first report of a writer has been made; whoever waits for that sees a file */
MAY void has_reported(const char *name)
{
	char *path = path_in("/tmp/reported", name);

	close(open(path, O_CREAT | O_WRONLY, 0644));
	free(path);
}

#endif
