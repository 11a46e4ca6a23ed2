/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * t.h -- a small harness for the contract tests.
 *
 * A program is a list of groups; each prints one line when it ends. A failed
 * check prints where, what came and what was wanted, and the last message.
 */
#ifndef T_H
#define T_H

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libpmemset.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define T_MAY __attribute__((unused)) static

T_MAY int t_fails;          /* of the group now open */
T_MAY int t_checks;
T_MAY int t_all_fails;      /* of the program */
T_MAY const char *t_name;   /* the group now open */
T_MAY const char *t_why;    /* set when the group was skipped */

T_MAY void t_close(void)
{
	if (!t_name)
		return;
	if (t_fails)
		printf("FAIL %s (%d of %d checks)\n", t_name, t_fails, t_checks);
	else if (t_why)
		printf("skip %s: %s\n", t_name, t_why);
	else
		printf("ok   %s (%d checks)\n", t_name, t_checks);
	fflush(stdout);
	t_all_fails += t_fails;
	t_fails = t_checks = 0;
	t_name = t_why = NULL;
}

/* begin a group; the name must outlive it */
T_MAY void group(const char *name)
{
	t_close();
	t_name = name;
	fflush(stdout);
}

/* the open group cannot run here */
T_MAY void skip(const char *why)
{
	t_why = why;
}

T_MAY void t_begin(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	unsetenv("PMEM2_FORCE_GRANULARITY");
	unsetenv("PMEMSET_EAGER_FLUSH");
	umask(022);
	signal(SIGPIPE, SIG_IGN);
	alarm(280); /* a hang is a failure */
}

T_MAY int t_end(void)
{
	t_close();
	return t_all_fails ? 1 : 0;
}

T_MAY void t_failed(const char *file, int line, const char *format, ...)
{
	va_list ap;
	char text[600];
	int n = __atomic_add_fetch(&t_fails, file ? 1 : 0, __ATOMIC_RELAXED);

	if (n > 12) /* enough to know */
		return;
	va_start(ap, format);
	vsnprintf(text, sizeof text, format, ap);
	va_end(ap);
	if (file)
		printf("     %s:%d: %s\n", file, line, text);
	else /* more about the failure before */
		printf("       %s\n", text);
	fflush(stdout);
}

#define T_COUNT() ((void)__atomic_add_fetch(&t_checks, 1, __ATOMIC_RELAXED))

/* a condition */
#define CHECK(cond) do { \
	T_COUNT(); \
	if (!(cond)) \
		t_failed(__FILE__, __LINE__, "not so: %s", #cond); \
} while (0)

/* a condition, with values to print */
#define CHECKF(cond, ...) do { \
	T_COUNT(); \
	if (!(cond)) { \
		t_failed(__FILE__, __LINE__, "not so: %s; with:", #cond); \
		t_failed(NULL, 0, __VA_ARGS__); \
	} \
} while (0)

/* an integer result */
#define IS(expr, want) do { \
	long long t_got_ = (long long)(expr), t_want_ = (long long)(want); \
	T_COUNT(); \
	if (t_got_ != t_want_) \
		t_failed(__FILE__, __LINE__, "%s: got %lld, wanted %s = %lld (message: %s)", \
			#expr, t_got_, #want, t_want_, pmemset_errormsg()); \
} while (0)

/* one of two results: where the contract leaves a choice */
#define EITHER(expr, a, b) do { \
	long long t_got_ = (long long)(expr); \
	T_COUNT(); \
	if (t_got_ != (long long)(a) && t_got_ != (long long)(b)) \
		t_failed(__FILE__, __LINE__, "%s: got %lld, wanted %s or %s (message: %s)", \
			#expr, t_got_, #a, #b, pmemset_errormsg()); \
} while (0)

/* any error */
#define FAILS(expr) do { \
	long long t_got_ = (long long)(expr); \
	T_COUNT(); \
	if (t_got_ >= 0) \
		t_failed(__FILE__, __LINE__, "%s: got %lld, wanted an error", #expr, t_got_); \
} while (0)

/* what the test itself needs; without it nothing that follows makes sense */
#define MUST(cond) do { \
	if (!(cond)) { \
		printf("     %s:%d: cannot go on: %s (errno %d %s; message: %s)\n", __FILE__, __LINE__, \
			#cond, errno, strerror(errno), pmemset_errormsg()); \
		fflush(stdout); \
		_exit(1); \
	} \
} while (0)

T_MAY size_t page_size(void)
{
	return (size_t)sysconf(_SC_PAGESIZE);
}

T_MAY double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* the same numbers in every run */
T_MAY uint64_t rnd(uint64_t *state)
{
	uint64_t x = *state;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return *state = x;
}

T_MAY const char *tmpfs_dir(void)
{
	const char *d = getenv("TEST_TMPFS");

	return d && *d ? d : "/dev/shm";
}

/* a name in the tmpfs directory; the caller unlinks the file */
T_MAY void tmpfs_name(char *buf, size_t size, const char *name)
{
	snprintf(buf, size, "%s/pmemset-t-%ld-%s", tmpfs_dir(), (long)getpid(), name);
}

T_MAY void make_file(const char *name, off_t size)
{
	int fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	MUST(fd >= 0);
	MUST(ftruncate(fd, size) == 0);
	close(fd);
}

T_MAY off_t file_size(const char *name)
{
	struct stat st;

	return stat(name, &st) == 0 ? st.st_size : -1;
}

T_MAY void read_file(const char *name, off_t off, void *buf, size_t len)
{
	int fd = open(name, O_RDONLY | O_CLOEXEC);

	MUST(fd >= 0);
	MUST(pread(fd, buf, len, off) == (ssize_t)len);
	close(fd);
}

/* does the file hold these bytes? */
T_MAY int file_holds(const char *name, off_t off, const void *want, size_t len)
{
	char *buf = malloc(len);
	int same;

	MUST(buf);
	read_file(name, off, buf, len);
	same = memcmp(buf, want, len) == 0;
	free(buf);
	return same;
}

/* the kernel's opinion of one byte, without a signal and past memcheck: 1 readable, 0 not */
T_MAY int readable(const void *addr)
{
	char c;
	struct iovec local = { &c, 1 }, remote = { (void *)(uintptr_t)addr, 1 };
	ssize_t n = process_vm_readv(getpid(), &local, 1, &remote, 1, 0);
	int fds[2];

	if (n == 1 || errno == EFAULT)
		return n == 1;
	MUST(pipe(fds) == 0); /* where that call is forbidden */
	n = write(fds[1], addr, 1);
	close(fds[0]);
	close(fds[1]);
	return n == 1;
}

T_MAY int count_fds(void)
{
	int n = 0, max = 4096;
	struct rlimit rl;

	if (getrlimit(RLIMIT_NOFILE, &rl) == 0 && rl.rlim_cur < (rlim_t)max)
		max = (int)rl.rlim_cur;
	for (int fd = 0; fd < max; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			n++;
	return n;
}

/* lines of /proc/self/maps; reads with no allocation of its own */
T_MAY int count_maps(void)
{
	char buf[65536];
	int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC), n = 0;
	ssize_t got;

	MUST(fd >= 0);
	while ((got = read(fd, buf, sizeof buf)) > 0)
		for (ssize_t i = 0; i < got; i++)
			n += buf[i] == '\n';
	close(fd);
	return n;
}

/* a kB figure of /proc/self/status, say "VmSize:" */
T_MAY long status_kb(const char *key)
{
	char buf[8192];
	int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, sizeof buf - 1);
	char *p;

	if (fd >= 0)
		close(fd);
	if (n <= 0)
		return -1;
	buf[n] = 0;
	p = strstr(buf, key);
	return p ? strtol(p + strlen(key), NULL, 10) : -1;
}

/* valgrind and the sanitizers leave less address space and are slow */
T_MAY int instrumented(void)
{
	static int known = -1;
	char line[512];
	FILE *f;

	if (known >= 0)
		return known;
	known = getenv("T_VALGRIND") != NULL;
	f = fopen("/proc/self/maps", "r");
	while (f && fgets(line, sizeof line, f))
		if (strstr(line, "vgpreload") || strstr(line, "libasan") || strstr(line, "libtsan"))
			known = 1;
	if (f)
		fclose(f);
	return known;
}

/* ---- shorthands over the interface ---- */

T_MAY int t_unconcerned(struct pmemset *set, struct pmemset_event_context *ctx, void *arg)
{
	(void)set;
	(void)ctx;
	(void)arg;
	return 0;
}

T_MAY struct pmemset *new_set_ev(int granularity, pmemset_event_callback *cb, void *arg)
{
	struct pmemset_config *cfg = NULL;
	struct pmemset *set = NULL;

	MUST(pmemset_config_new(&cfg) == 0);
	MUST(pmemset_config_set_required_store_granularity(cfg, (enum pmem2_granularity)granularity) == 0);
#ifdef T_OBSERVED /* every set has an observer: removal takes another way then */
	if (!cb)
		cb = t_unconcerned;
#endif
	if (cb)
		pmemset_config_set_event_callback(cfg, cb, arg);
	MUST(pmemset_new(&set, cfg) == 0);
	MUST(pmemset_config_delete(&cfg) == 0);
	return set;
}

T_MAY struct pmemset *new_set(void)
{
	return new_set_ev(PMEM2_GRANULARITY_PAGE, NULL, NULL);
}

T_MAY struct pmemset_source *source(const char *path)
{
	struct pmemset_source *src = NULL;

	MUST(pmemset_source_from_file(&src, path) == 0);
	return src;
}

/* map a range of a source, as the release of the interface does that; the code of the call that failed */
#if PMEMSET_API_VERSION == 112
T_MAY int map_part(struct pmemset *set, struct pmemset_source *src, size_t off, size_t len,
	struct pmemset_part_descriptor *desc)
{
	struct pmemset_map_config *cfg = NULL;
	int rc;

	MUST(pmemset_map_config_new(&cfg) == 0 && cfg);
	rc = pmemset_map_config_set_offset(cfg, off);
	pmemset_map_config_set_length(cfg, len);
	if (rc == 0)
		rc = pmemset_map(set, src, cfg, desc);
	MUST(pmemset_map_config_delete(&cfg) == 0 && !cfg);
	return rc;
}
#else
T_MAY int map_part(struct pmemset *set, struct pmemset_source *src, size_t off, size_t len,
	struct pmemset_part_descriptor *desc)
{
	struct pmemset_part *part = NULL;
	int rc = pmemset_part_new(&part, set, src, off, len);

	if (rc)
		return rc;
	rc = pmemset_part_map(&part, NULL, desc);
	CHECK((rc == 0) == (part == NULL));
	if (rc) {
		int rc2 = pmemset_part_delete(&part);

		CHECK(rc2 == 0 && part == NULL);
	}
	return rc;
}

#endif

T_MAY char *must_map(struct pmemset *set, struct pmemset_source *src, size_t off, size_t len)
{
	struct pmemset_part_descriptor d = { NULL, 0 };

	MUST(map_part(set, src, off, len, &d) == 0);
	return d.addr;
}

/* a whole file, its source deleted at once */
T_MAY char *map_file(struct pmemset *set, const char *path)
{
	struct pmemset_source *src = source(path);
	char *p = must_map(set, src, 0, 0);

	MUST(pmemset_source_delete(&src) == 0);
	return p;
}

/* the part map at an address (with a reference), or NULL */
T_MAY struct pmemset_part_map *at(struct pmemset *set, void *addr)
{
	struct pmemset_part_map *pm = (struct pmemset_part_map *)1;
	int rc = pmemset_part_map_by_address(set, &pm, addr);

	if (rc) {
		IS(rc, PMEMSET_E_CANNOT_FIND_PART_MAP);
		CHECK(pm == NULL);
		return NULL;
	}
	CHECK(pm != NULL);
	return pm;
}

/* walk the set: count, and check the order, the descriptors and every look-up */
T_MAY int walk(struct pmemset *set)
{
	struct pmemset_part_map *pm = NULL, *next, *again;
	char *end = NULL;
	int n = 0;

	pmemset_first_part_map(set, &pm);
	while (pm) {
		struct pmemset_part_descriptor d = pmemset_descriptor_part_map(pm);

		CHECK(d.addr && d.size && d.size % page_size() == 0 && (uintptr_t)d.addr % page_size() == 0);
		CHECKF((char *)d.addr >= end, "part maps overlap or are out of order at %p", d.addr);
		end = (char *)d.addr + d.size;
		again = at(set, d.addr);
		CHECK(again == pm);
		pmemset_part_map_drop(&again);
		CHECK(again == NULL);
		again = at(set, end - 1);
		CHECK(again == pm);
		pmemset_part_map_drop(&again);
		next = (struct pmemset_part_map *)1;
		pmemset_next_part_map(set, pm, &next);
		pmemset_part_map_drop(&pm);
		pm = next;
		n++;
	}
	return n;
}

/* the size of the part map at an address, 0 if there is none */
T_MAY size_t size_at(struct pmemset *set, void *addr)
{
	struct pmemset_part_map *pm = at(set, addr);
	struct pmemset_part_descriptor d;

	if (!pm)
		return 0;
	d = pmemset_descriptor_part_map(pm);
	pmemset_part_map_drop(&pm);
	return d.size;
}

T_MAY int remove_at(struct pmemset *set, void *addr)
{
	struct pmemset_part_map *pm = at(set, addr);
	int rc;

	if (!pm)
		return PMEMSET_E_CANNOT_FIND_PART_MAP;
	rc = pmemset_remove_part_map(set, &pm);
	CHECK((rc == 0) == (pm == NULL));
	if (rc)
		pmemset_part_map_drop(&pm);
	return rc;
}

/* run fn in a child, so that limits, uids and crashes stay there; its checks count here. 77: skipped */
T_MAY int in_child(void (*fn)(void))
{
	int status = 0, counts[2] = { 0, 0 }, fds[2];
	pid_t pid;

	fflush(stdout);
	MUST(pipe(fds) == 0);
	pid = fork();
	MUST(pid >= 0);
	if (pid == 0) {
		close(fds[0]);
		t_fails = t_checks = 0;
		alarm(200);
		fn();
		counts[0] = t_fails;
		counts[1] = t_checks;
		fflush(stdout);
		if (write(fds[1], counts, sizeof counts) != (ssize_t)sizeof counts)
			_exit(3);
		_exit(t_why && !t_fails ? 77 : 0);
	}
	close(fds[1]);
	if (read(fds[0], counts, sizeof counts) != (ssize_t)sizeof counts)
		counts[0] = counts[1] = 0;
	close(fds[0]);
	MUST(waitpid(pid, &status, 0) == pid);
	t_fails += counts[0];
	t_checks += counts[1];
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		return 77;
	T_COUNT();
	if (status != 0)
		t_failed(__FILE__, __LINE__, "child of group %s: %s %d", t_name ? t_name : "?",
			WIFSIGNALED(status) ? "died of signal" : "exited with",
			WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	return status;
}

/* a group that runs in a child; it prints its own reason when it skips */
#define CHILD_GROUP(fn, name) do { \
	group(name); \
	if (in_child(fn) == 77) \
		skip("not possible here (see above)"); \
} while (0)

/* in a child: why it cannot run */
T_MAY void child_skip(const char *why)
{
	t_why = why;
	printf("     skipping: %s\n", why);
}

/* file-system checks that an ordinary user cannot pass by: become one for a moment */
T_MAY int become_nobody(void)
{
	if (geteuid() != 0)
		return 0; /* we are one already */
	return chmod(".", 0755) == 0 && setegid(65534) == 0 && seteuid(65534) == 0 ? 0 : -1;
}

#endif
