/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What happens when there is very much of something: which limit is met first, and what the library says then.
 *
 * usage: scale -l LIBRARY DIR [CASE...]
 * Files are made in DIR; most are sparse. Each case runs in a process of its own. "overcommit" changes
 * vm.overcommit_memory for a moment and puts it back, for which it must be root, and runs only if it is named.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "bench.h"

#define GIB ((size_t)1 << 30)
#define TIB ((size_t)1 << 40)

static struct lib *l;
static char path[4096];

/* ---- what a process has --------------------------------------------------------------------------------------------- */

static char text[1 << 16];

/* Without malloc and stdio: there may be no address range left for them. */
static long ranges_between(size_t lo, size_t hi)
{
	int fd = open("/proc/self/maps", O_RDONLY);
	long lines = 0;
	size_t have = 0;
	for (ssize_t n; (n = read(fd, text + have, sizeof(text) - have)) > 0;) {
		char *line = text, *end;
		have += (size_t)n;
		while ((end = memchr(line, '\n', have - (size_t)(line - text)))) {
			char *dash;
			size_t from = strtoul(line, &dash, 16), to = strtoul(dash + 1, NULL, 16);
			lines += from < hi && to > lo;
			line = end + 1;
		}
		have -= (size_t)(line - text);
		memmove(text, line, have);
	}
	close(fd);
	return lines;
}
static long ranges(void)
{
	return ranges_between(0, SIZE_MAX);
}

/* A figure of /proc/self/status in bytes. */
static double status(const char *key)
{
	int fd = open("/proc/self/status", O_RDONLY);
	ssize_t n = read(fd, text, sizeof(text) - 1);
	char *at;
	close(fd);
	text[n < 0 ? 0 : n] = 0;
	at = strstr(text, key);
	return at ? atof(at + strlen(key) + 1) * 1024 : NAN;
}

static const char *human(double bytes)
{
	static char buffers[8][32];
	static int next;
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB" };
	char *b = buffers[next++ % 8];
	int u = 0;
	for (; bytes >= 1024 && u < 5; u++)
		bytes /= 1024;
	snprintf(b, sizeof(buffers[0]), bytes < 10 && u ? "%.1f %s" : "%.0f %s", bytes, units[u]);
	return b;
}

#define say(...) do { printf("    " __VA_ARGS__); putchar('\n'); fflush(stdout); } while (0)

static void say_error(const char *what, int rc)
{
	say("%s: %d: %s", what, rc, l->errormsg());
}

static struct pmemset_source *source(const char *name)
{
	struct pmemset_source *src;
	OK(l, source_from_file(&src, name));
	return src;
}

static struct pmemset *page_set(void)
{
	return new_set(l, PMEM2_GRANULARITY_PAGE);
}

/* Stores into a mapped page of a part and makes it durable. */
static void use(struct pmemset *set, char *p)
{
	p[0]++;
	OK(l, persist(set, p, 64));
}

static void remove_at(struct pmemset *set, void *at)
{
	struct pmemset_part_map *m;
	OK(l, part_map_by_address(set, &m, at));
	OK(l, remove_part_map(set, &m));
}

/* ---- cases ---------------------------------------------------------------------------------------------------------- */

/* Parts of one file of which none continues the one before: a range each. */
static void scattered(void)
{
	enum { N = 70000 };
	static void *at[N];
	struct pmemset_part_descriptor d;
	struct pmemset *set;
	struct pmemset_source *src;
	size_t n;
	int rc = 0;
	double t;
	long before = ranges();

	say("%ld ranges before", before);
	close(make_file(path, sizeof(path), "scale", (size_t)N * bench.page, 0));
	src = source(path);
	set = page_set();
	t = now();
	for (n = 0; n < N; n++) {
		rc = map_part(l, set, src, n * 7919 % N * bench.page, bench.page, &d);
		if (rc)
			break;
		at[n] = d.addr;
	}
	t = now() - t;
	say("%zu parts mapped, %.1f us each, %ld ranges", n, t / 1e3 / (double)n, ranges());
	if (rc == 0)
		return;
	say_error("the next", rc);
	use(set, at[0]);
	use(set, at[n - 1]);
	say("first and last part: a store and a persist work");
	for (size_t k = n / 2; k < n / 2 + 100; k++)
		remove_at(set, at[k]);
	say("100 parts in the middle removed, %ld ranges", ranges());
	for (size_t k = 0; k < 100; k++) {
		rc = map_part(l, set, src, (n / 2 + k) * 7919 % N * bench.page, bench.page, &d);
		if (rc || k == 99) {
			say("%zu of them mapped again, %ld ranges", k + !rc, ranges());
			break;
		}
	}
	if (rc)
		say_error("the next", rc);
	OK(l, delete(&set));
	say("set deleted, %ld ranges", ranges());
}

/* Parts that continue each other. */
static void neighbours(void)
{
	enum { N = 10000, MANY = 200000 };
	struct pmemset_part_descriptor d = { 0 };
	struct pmemset *set = page_set();
	struct pmemset_source *src;
	char *base;
	double t;

	close(make_file(path, sizeof(path), "scale", (size_t)MANY * bench.page, 0));
	src = source(path);
	OK(l, set_contiguous_part_coalescing(set, PMEMSET_COALESCING_FULL));
	for (size_t i = 0; i < N; i++)
		if (map_part(l, set, src, i * bench.page, bench.page, &d))
			give_up_lib(l, "map");
	base = d.addr;
	say("%d coalesced consecutive parts: one part map of %zu bytes, %ld ranges in it", N, d.size,
		ranges_between((size_t)base, (size_t)base + d.size));
	OK(l, remove_range(set, base + N / 2 * bench.page, bench.page));
	say("one in the middle removed: %ld ranges, the free page among them", ranges_between((size_t)base, (size_t)base + d.size));
	use(set, base);
	use(set, base + (N / 2 - 1) * bench.page);
	use(set, base + (N / 2 + 1) * bench.page);
	use(set, base + (N - 1) * bench.page);
	say("its neighbours, the first and the last part: a store and a persist work");
	OK(l, delete(&set));

	set = page_set();
	t = now();
	for (size_t i = 0; i < MANY; i++)
		if (map_part(l, set, src, i * bench.page, bench.page, &d)) {
			say_error("map", -1);
			return;
		}
	t = now() - t;
	say("%d parts in file order, each a part map of its own: %.1f us each, %ld ranges in the process", MANY,
		t / 1e3 / MANY, ranges());
	OK(l, delete(&set));
}

/* Distinct files; their sources kept, or deleted as soon as the part is mapped. */
static void files_with(int keep)
{
	enum { N = 70000 };
	struct pmemset_part_descriptor d;
	struct pmemset *set = page_set();
	char name[4200];
	struct rlimit r;
	size_t n;
	int rc = 0, spare;
	void *first = NULL;

	getrlimit(RLIMIT_NOFILE, &r);
	snprintf(path, sizeof(path), "%s/scale.%d", bench.dir, (int)getpid());
	if (mkdir(path, 0700))
		give_up(path);
	for (n = 0; n < N; n++) {
		int fd;
		snprintf(name, sizeof(name), "%s/%zu", path, n);
		fd = open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
		if (fd < 0 || ftruncate(fd, (off_t)bench.page))
			give_up(name);
		close(fd);
	}
	/* for the look at our ranges when no descriptor is left */
	spare = open("/dev/null", O_RDONLY);
	for (n = 0; n < N; n++) {
		struct pmemset_source *src;
		snprintf(name, sizeof(name), "%s/%zu", path, n);
		rc = l->source_from_file(&src, name);
		if (rc)
			break;
		rc = map_part(l, set, src, 0, bench.page, &d);
		if (!keep || rc)
			l->source_delete(&src);
		if (rc)
			break;
		if (first == NULL)
			first = d.addr;
	}
	close(spare);
	say("%s (RLIMIT_NOFILE %lu): %zu files mapped, %ld ranges", keep ? "sources kept" : "sources deleted once mapped",
		(unsigned long)r.rlim_cur, n, ranges());
	if (rc)
		say_error("the next", rc);
	use(set, first);
	for (size_t i = 0; i < N; i++) {
		snprintf(name, sizeof(name), "%s/%zu", path, i);
		unlink(name);
	}
	rmdir(path);
	path[0] = 0;
	OK(l, delete(&set));
}
static void files_kept(void) { files_with(1); }
static void files(void) { files_with(0); }

/* Sparse files of a size. */
static void sparse_of(size_t size)
{
	struct pmemset_part_descriptor d;
	struct pmemset_source *src;
	struct pmemset *set;
	char *base;
	double t, vm, anon, pte;
	size_t n;
	int rc, fd;

	snprintf(path, sizeof(path), "%s/scale.%d", bench.dir, (int)getpid());
	fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
	if (fd < 0)
		give_up(path);
	if (ftruncate(fd, (off_t)size)) {
		say("%s: the file system here makes no such file: %s", human((double)size), strerror(errno));
		size -= bench.page;
		if (ftruncate(fd, (off_t)size)) {
			close(fd);
			return;
		}
		say("a page less, then");
	}
	close(fd);
	src = source(path);
	vm = status("VmSize");
	anon = status("RssAnon");
	pte = status("VmPTE");
	set = page_set();
	t = now();
	rc = map_part(l, set, src, 0, size, &d);
	t = now() - t;
	if (rc) {
		say("%s", human((double)size));
		say_error("map", rc);
		return;
	}
	base = d.addr;
	say("%s: mapped in %.1f us; address space %s more, resident anonymous memory %s more", human((double)size), t / 1e3,
		human(status("VmSize") - vm), human(status("RssAnon") - anon));
	for (int round = 0; round < 2; round++) {
		t = now();
		for (int i = 0; i < 64; i++) {
			char *p = base + size / 64 * (size_t)i;
			*p = 1;
			OK(l, flush(set, p, 1));
		}
		base[size - 1] = 1;
		OK(l, flush(set, base + size - 1, 1));
		OK(l, drain(set));
		t = now() - t;
		say("65 stores and flushes from end to end and a drain%s: %.0f us", round ? ", again" : "", t / 1e3);
	}
	say("resident anonymous memory %s more, page tables %s more", human(status("RssAnon") - anon), human(status("VmPTE") - pte));
	for (n = 1; n < 100000; n++) {
		rc = map_part(l, set, src, 0, size, &d);
		if (rc)
			break;
	}
	say("the same part mapped %zu times into this set, %s in all, address space %s", n, human((double)n * (double)size),
		human(status("VmSize")));
	if (rc)
		say_error("the next", rc);
	use(set, base);
	OK(l, delete(&set));
}
static void sparse1(void) { sparse_of(TIB); }
static void sparse16(void) { sparse_of(16 * TIB); }

/* Sets with a part each. */
static void sets(void)
{
	enum { N = 1000, MANY = 70000 };
	static struct pmemset *set[MANY];
	struct pmemset_part_descriptor d;
	struct pmemset_source *src;
	struct pmemset_config *cfg;
	double t, vm, anon;
	long before;
	size_t n;
	int rc = 0;

	close(make_file(path, sizeof(path), "scale", bench.page, 0));
	src = source(path);
	OK(l, config_new(&cfg));
	OK(l, config_set_required_store_granularity(cfg, PMEM2_GRANULARITY_PAGE));
	vm = status("VmSize");
	anon = status("RssAnon");
	before = ranges();
	t = now();
	for (n = 0; n < MANY; n++) {
		if (n == N) {
			t = now() - t;
			say("%d sets with a part each: %.1f us a set, address space %s more (%s a set), %ld ranges more, "
				"resident anonymous memory %s a set", N, t / 1e3 / N, human(status("VmSize") - vm),
				human((status("VmSize") - vm) / N), ranges() - before, human((status("RssAnon") - anon) / N));
		}
		rc = l->new(&set[n], cfg);
		if (rc)
			break;
		rc = map_part(l, set[n], src, 0, bench.page, &d);
		if (rc)
			break;
		if (n == 0 || n == N - 1)
			use(set[n], d.addr);
	}
	say("%zu sets, %ld ranges, address space %s more", n, ranges(), human(status("VmSize") - vm));
	if (rc)
		say_error("the next", rc);
	for (size_t i = 0; i <= n && i < MANY; i++)
		if (set[i])
			OK(l, delete(&set[i]));
	say("all deleted: %ld ranges more than before", ranges() - before);
}

/* Parts until there is no room, under some limit. */
static void until_full(size_t part, size_t most)
{
	struct pmemset_part_descriptor d;
	struct pmemset_source *src;
	struct pmemset *set;
	void *first = NULL;
	size_t n = 0;
	int rc;

	src = source(path);
	set = page_set();
	while ((rc = map_part(l, set, src, n % 64 * part, part, &d)) == 0 && ++n < most)
		if (first == NULL)
			first = d.addr;
	say("%zu parts of %s, %s in all; address space in use %s, locked %s, resident %s", n, human((double)part),
		human((double)n * (double)part), human(status("VmSize")), human(status("VmLck")), human(status("VmRSS")));
	if (rc)
		say_error("the next", rc);
	if (n) {
		use(set, first);
		say("the first part: a store and a persist work");
	}
	OK(l, delete(&set));
	OK(l, source_delete(&src));
}

static void as_of(size_t limit)
{
	struct rlimit r = { limit, limit };
	close(make_file(path, sizeof(path), "scale", 64 << 20, 0));
	say("RLIMIT_AS %s, in use before %s:", human((double)limit), human(status("VmSize")));
	if (setrlimit(RLIMIT_AS, &r))
		give_up("setrlimit");
	until_full(1 << 20, 100000);
}
static void as(void) { as_of(256 << 20); }
static void as_small(void) { as_of(16 << 20); }

static void overcommit(void)
{
	close(make_file(path, sizeof(path), "scale", 64 << 20, 0));
	until_full(1 << 20, 2000);
	unlink(path);
	sparse_of(TIB);
}

static void locked(void)
{
	close(make_file(path, sizeof(path), "scale", 64 << 20, 0));
	if (mlockall(MCL_CURRENT | MCL_FUTURE))
		give_up("mlockall");
	say("mlockall(MCL_CURRENT | MCL_FUTURE) without a limit:");
	until_full(1 << 20, 1000);
}

static void locked_little(void)
{
	struct rlimit r = { 8 << 20, 8 << 20 };
	close(make_file(path, sizeof(path), "scale", 64 << 20, 0));
	if (chmod(path, 0666) || setrlimit(RLIMIT_MEMLOCK, &r))
		give_up("setrlimit");
	if (getuid() == 0 && setresuid(65534, 65534, 65534))
		give_up("setresuid");
	if (mlockall(MCL_FUTURE))
		give_up("mlockall");
	say("mlockall(MCL_FUTURE), RLIMIT_MEMLOCK 8 MiB, not root:");
	until_full(bench.page, 100000);
}

/* ---- which, and how ------------------------------------------------------------------------------------------------- */

static const struct { const char *name; void (*run)(void); } cases[] = {
	{ "scattered", scattered }, { "neighbours", neighbours }, { "files", files }, { "files-kept", files_kept },
	{ "sparse-1", sparse1 }, { "sparse-16", sparse16 }, { "sets", sets }, { "as", as }, { "as-small", as_small },
	{ "overcommit", overcommit }, { "locked", locked }, { "locked-little", locked_little },
};

static void remove_file(void)
{
	if (path[0])
		unlink(path);
}

static int run(size_t c)
{
	int rc;
	pid_t pid;
	printf("%s\n", cases[c].name);
	fflush(stdout);
	pid = fork();
	if (pid < 0)
		give_up("fork");
	if (pid == 0) {
		atexit(remove_file);
		l = open_lib(OURS);
		cases[c].run();
		exit(0);
	}
	if (waitpid(pid, &rc, 0) != pid)
		give_up("waitpid");
	if (rc)
		printf("    ended with status %#x\n", rc);
	/* what a process that has become somebody else could not remove */
	snprintf(path, sizeof(path), "%s/scale.%d", bench.dir, (int)pid);
	unlink(path);
	path[0] = 0;
	return rc != 0;
}

static int setting(const char *value, char *before)
{
	int fd = open("/proc/sys/vm/overcommit_memory", O_RDWR), ok;
	if (fd < 0)
		return 0;
	ok = (before == NULL || read(fd, before, 1) == 1) && pwrite(fd, value, 1, 0) == 1;
	close(fd);
	return ok;
}

static int run_overcommit(size_t c)
{
	sigset_t all, old;
	char before;
	int rc;
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &old);
	if (!setting("2", &before)) {
		sigprocmask(SIG_SETMASK, &old, NULL);
		printf("overcommit\n    cannot set vm.overcommit_memory: %s\n", strerror(errno));
		return 1;
	}
	rc = run(c);
	if (!setting(&before, NULL))
		give_up("vm.overcommit_memory is 2 and cannot be put back");
	sigprocmask(SIG_SETMASK, &old, NULL);
	return rc;
}

int main(int argc, char **argv)
{
	int first = bench_start(argc, argv), failed = 0;
	unsetenv("PMEM2_FORCE_GRANULARITY");
	for (size_t c = 0; c < sizeof(cases) / sizeof(*cases); c++) {
		int wanted = first == argc && cases[c].run != overcommit;
		for (int i = first; i < argc; i++)
			wanted |= strcmp(argv[i], cases[c].name) == 0;
		if (wanted)
			failed += cases[c].run == overcommit ? run_overcommit(c) : run(c);
	}
	return failed != 0;
}
