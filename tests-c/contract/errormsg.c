/* SPDX-License-Identifier: BSD-3-Clause */
/* errormsg.c -- the message, perror, err_to_errno */
#include "t.h"
#include <pthread.h>

static void fail_path(void)
{
	struct pmemset_source *src;

	IS(pmemset_source_from_file(&src, NULL), PMEMSET_E_INVALID_SOURCE_PATH);
}

static void *other_thread(void *arg)
{
	struct pmemset_config *cfg = NULL;
	struct pmemset *set = NULL;
	const char *m = pmemset_errormsg();

	(void)arg;
	CHECK(m != NULL); /* never NULL, on a thread with no failure */
	CHECKF(strcmp(m, "file path cannot be empty") != 0, "another thread's message");
	IS(pmemset_config_new(&cfg), 0);
	IS(pmemset_new(&set, cfg), PMEMSET_E_GRANULARITY_NOT_SET);
	m = pmemset_errormsg();
	CHECK(*m != 0 && strcmp(m, "file path cannot be empty") != 0);
	IS(pmemset_config_delete(&cfg), 0);
	return NULL;
}

/* what perror writes */
static size_t captured(char *buf, size_t size, void (*fn)(void))
{
	int keep = dup(2), fd = open("err", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	ssize_t n;

	MUST(keep >= 0 && fd >= 0);
	fflush(stderr);
	MUST(dup2(fd, 2) == 2);
	fn();
	fflush(stderr);
	MUST(dup2(keep, 2) == 2);
	close(keep);
	n = pread(fd, buf, size - 1, 0);
	MUST(n >= 0);
	buf[n] = 0;
	close(fd);
	return (size_t)n;
}

static void print_simple(void)
{
	pmemset_perror("what %d", 3);
}

static void print_more(void)
{
	pmemset_perror("%s-%ld-%c-%5.2f-%zu%%", "text", -7L, 'z', 2.5, (size_t)9);
}

static void print_plain(void)
{
	pmemset_perror("plain");
}

static char big[5001];

static void print_big(void)
{
	pmemset_perror("<%s>", big);
}

int main(void)
{
	struct pmemset_source *src;
	const char *m;
	char copy[1000], out[20000];
	pthread_t t;

	t_begin();
	group("errormsg: before any failure");
	m = pmemset_errormsg();
	CHECK(m != NULL);
	CHECK(strlen(m) < 10000);

	group("errormsg: set by failure, kept by success");
	fail_path();
	m = pmemset_errormsg();
	CHECK(strcmp(m, "file path cannot be empty") == 0);
	make_file("f", 1 << 20);
	{
		struct pmemset *set = new_set();
		char *p = map_file(set, "f");

		IS(pmemset_persist(set, p, 5), 0);
		CHECK(walk(set) == 1);
		IS(pmemset_delete(&set), 0);
	}
	CHECK(strcmp(m, "file path cannot be empty") == 0); /* the pointer from before */
	CHECK(strcmp(pmemset_errormsg(), "file path cannot be empty") == 0);
	errno = EXDEV;
	(void)pmemset_errormsg();
	CHECK(errno == EXDEV);

	group("errormsg: replaced by the next failure");
	src = NULL;
	IS(pmemset_source_from_file(&src, "nothing"), PMEMSET_E_INVALID_SOURCE_PATH);
	CHECK(strcmp(pmemset_errormsg(), "file path cannot be empty") != 0 && *pmemset_errormsg() != 0);

	group("errormsg: system calls by name of their error");
	IS(pmemset_source_from_file(&src, "f/below"), -ENOTDIR);
	snprintf(copy, sizeof copy, ": %s", strerror(ENOTDIR));
	m = pmemset_errormsg();
	CHECKF(strlen(m) > strlen(copy) && strcmp(m + strlen(m) - strlen(copy), copy) == 0, "%s", m);
	{
		char *longpath = malloc(20001);

		MUST(longpath);
		memset(longpath, 'a', 20000);
		longpath[20000] = 0;
		IS(pmemset_source_from_file(&src, longpath), -ENAMETOOLONG);
		snprintf(copy, sizeof copy, ": %s", strerror(ENAMETOOLONG));
		m = pmemset_errormsg();
		CHECKF(strlen(m) > strlen(copy) && strcmp(m + strlen(m) - strlen(copy), copy) == 0, "%.60s...%s", m, m + strlen(m) - 10);
		free(longpath);
	}

	group("errormsg: how many references are in the way");
	{
		struct pmemset *set = new_set();
		char *p = map_file(set, "f");
		struct pmemset_part_map *pm = at(set, p), *more;

		/* the caller's own, which this call does not take */
		IS(pmemset_remove_range(set, p, 1), PMEMSET_E_PART_MAP_POSSIBLE_USE_AFTER_DROP);
		m = pmemset_errormsg();
		CHECKF(strstr(m, ": 1 reference has to be dropped first"), "%s", m);
		more = at(set, p);
		IS(pmemset_remove_range(set, p, 1), PMEMSET_E_PART_MAP_POSSIBLE_USE_AFTER_DROP);
		CHECKF(strstr(m, ": 2 references have to be dropped first"), "%s", m);
		/* which this one does */
		IS(pmemset_remove_part_map(set, &pm), PMEMSET_E_PART_MAP_POSSIBLE_USE_AFTER_DROP);
		CHECKF(strstr(m, ": 1 reference has to be dropped first"), "%s", m);
		pmemset_part_map_drop(&more);
		more = pm;
		pmemset_part_map_drop(&more);
		IS(pmemset_remove_part_map(set, &pm), PMEMSET_E_PART_MAP_POSSIBLE_USE_AFTER_DROP);
		CHECKF(strstr(m, "nobody has a reference to the part map"), "%s", m);
		IS(pmemset_delete(&set), 0);
	}

	group("errormsg: where nothing is mapped");
	{
		struct pmemset *set = new_set();
		char *p = map_file(set, "f"), *outside;

		outside = mmap(NULL, page_size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		MUST(outside != MAP_FAILED && munmap(outside, page_size()) == 0);
		for (int i = 0; i < (instrumented() ? 1 : 2); i++) { /* in the set's own address space, and out of it */
			IS(pmemset_persist(set, i ? outside : p + (1 << 20), 5), -ENOMEM);
			m = pmemset_errormsg();
			/* not as if memory were short */
			CHECKF(strstr(m, "nothing is mapped") && strstr(m, "which the system reports as: "), "%s", m);
			CHECKF(!strcmp(m + strlen(m) - strlen(strerror(ENOMEM)), strerror(ENOMEM)), "%s", m);
		}
		IS(pmemset_delete(&set), 0);
	}

	group("errormsg: each thread has its own");
	fail_path();
	m = pmemset_errormsg();
	for (int i = 0; i < 20; i++) {
		MUST(pthread_create(&t, NULL, other_thread, NULL) == 0);
		pthread_join(t, NULL);
	}
	CHECK(strcmp(m, "file path cannot be empty") == 0 && pmemset_errormsg() == m);

	group("perror");
	fail_path();
	captured(out, sizeof out, print_simple);
	CHECKF(strcmp(out, "what 3: file path cannot be empty\n") == 0, "%s", out);
	captured(out, sizeof out, print_more);
	CHECKF(strcmp(out, "text--7-z- 2.50-9%: file path cannot be empty\n") == 0, "%s", out);
	captured(out, sizeof out, print_plain);
	CHECKF(strcmp(out, "plain: file path cannot be empty\n") == 0, "%s", out);
	memset(big, 'b', sizeof big - 1);
	{
		size_t n = captured(out, sizeof out, print_big);

		CHECKF(n == 5002 + strlen(": file path cannot be empty\n"), "%zu bytes", n);
		CHECK(n > 30 && strcmp(out + n - 30, "b>: file path cannot be empty\n") == 0);
	}
	IS(pmemset_source_from_file(&src, "100%s%n%d/x"), PMEMSET_E_INVALID_SOURCE_PATH); /* a name that looks like a format */
	snprintf(copy, sizeof copy, "plain: %s\n", pmemset_errormsg());
	captured(out, sizeof out, print_plain);
	CHECKF(strcmp(out, copy) == 0, "%s", out);

	group("err_to_errno");
	IS(pmemset_err_to_errno(0), 0);
	for (int e = 1; e < 134; e++)
		IS(pmemset_err_to_errno(-e), e);
	IS(pmemset_err_to_errno(PMEMSET_E_NOSUPP), ENOTSUP);
	IS(pmemset_err_to_errno(PMEMSET_E_UNKNOWN), EINVAL);
	for (int c = PMEMSET_E_INVALID_PMEM2_SOURCE; c >= PMEMSET_E_CANNOT_FIT_PART_MAP; c--)
		IS(pmemset_err_to_errno(c), EINVAL);
	for (int c = -200024; c > -200100; c--)
		IS(pmemset_err_to_errno(c), EINVAL);
	IS(pmemset_err_to_errno(-300000), EINVAL);
	IS(pmemset_err_to_errno(-2147483647 - 1), EINVAL);
	return t_end();
}
