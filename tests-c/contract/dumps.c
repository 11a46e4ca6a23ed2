/* SPDX-License-Identifier: BSD-3-Clause */
/* dumps.c -- core dumps, the kernel's and a debugger's, are about as large as the memory in use */
#include "t.h"
#include <sys/prctl.h>

static size_t page;

/* ---- what a debugger would write: private memory that no file is behind and that nobody asked to leave out ---- */

static size_t shown(void)
{
	FILE *f = fopen("/proc/self/smaps", "r");
	char line[600], access[8] = "", *flags;
	unsigned long lo = 0, hi = 0, a, b, inode = 0;
	size_t sum = 0;

	MUST(f);
	while (fgets(line, sizeof line, f)) {
		if (sscanf(line, "%lx-%lx %7s %*s %*s %lu", &a, &b, access, &inode) == 4) {
			lo = a;
			hi = b;
		} else if ((flags = strstr(line, "VmFlags:")) && inode == 0 && access[3] == 'p' && !strstr(flags, " dd")) {
			sum += hi - lo;
		}
	}
	fclose(f);
	return sum;
}

#define SHOWN(most) do { \
	size_t shown_ = shown(); \
	CHECKF(shown_ <= before + (most), "%zu bytes would be written, %zu before", shown_, before); \
} while (0)

static int has_flags(void)
{
	FILE *f = fopen("/proc/self/smaps", "r");
	char line[600];
	int found = 0;

	while (f && !found && fgets(line, sizeof line, f))
		found = strncmp(line, "VmFlags:", 8) == 0;
	if (f)
		fclose(f);
	return found;
}

/* whatever has been mapped and removed, at most a little of what is reserved shows, and it is few address ranges */
static void reserved(void)
{
	static const enum pmemset_coalescing ways[] = { PMEMSET_COALESCING_NONE, PMEMSET_COALESCING_FULL };
	size_t small = (size_t)3 << 20, before;
	struct pmemset_source *src;
	char *p[64];

	make_file("r", (off_t)64 << 20);
	src = source("r");
	for (int way = 0; way < 2; way++)
		for (int granularity = 0; granularity < 2; granularity++) {
			struct pmemset *set;
			uint64_t seed = 7;
			char *run;
			int maps;

			setenv("PMEM2_FORCE_GRANULARITY", granularity ? "PAGE" : "BYTE", 1);
			before = shown();
			set = new_set();
			MUST(pmemset_set_contiguous_part_coalescing(set, ways[way]) == 0);
			run = must_map(set, src, 0, page);
			maps = count_maps();
			SHOWN(small);
			/* one behind the other */
			for (int i = 1; i < 100; i++)
				must_map(set, src, (size_t)(i % 7) * page, page);
			IS(pmemset_flush(set, run, 100 * page), 0);
			IS(pmemset_drain(set), 0);
			SHOWN(small);
			/* every second one goes, then all: a range is the place of the last */
			for (int i = 0; i < 100; i += 2)
				IS(pmemset_remove_range(set, run + (size_t)i * page, 1), 0);
			SHOWN(small);
			IS(pmemset_remove_range(set, run, 100 * page), 0);
			SHOWN(small);
			CHECK(walk(set) == 0);
			CHECKF(count_maps() <= maps, "address ranges: %d, then %d", maps, count_maps());
			MUST(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_NONE) == 0);
			/* large ones */
			for (int i = 0; i < 8; i++)
				p[i] = must_map(set, src, 0, 0);
			for (int i = 0; i < 8; i++)
				IS(remove_at(set, p[(i * 3) % 8]), 0);
			SHOWN(small);
			/* in no order, of every size */
			memset(p, 0, sizeof p);
			for (int i = 0; i < 2000; i++) {
				size_t k = rnd(&seed) % 64;

				if (p[k])
					IS(pmemset_remove_range(set, p[k], 1), 0);
				p[k] = p[k] ? NULL : must_map(set, src, 0, (1 + rnd(&seed) % 400) * page);
			}
			SHOWN(small);
			for (int k = 0; k < 64; k++)
				if (p[k])
					IS(pmemset_remove_range(set, p[k], 1), 0);
			SHOWN(small);
			CHECKF(count_maps() <= maps, "address ranges: %d, then %d", maps, count_maps());
			IS(pmemset_delete(&set), 0);
		}
	unsetenv("PMEM2_FORCE_GRANULARITY");
	IS(pmemset_source_delete(&src), 0);
}

/* ---- true dumps ---- */

/* has a set with some parts, and stays or aborts */
static void dumped(int coalescing, int stay, int out)
{
	struct pmemset_source *src;
	struct pmemset *set = new_set();
	char *p;

	make_file("d", 1 << 16);
	src = source("d");
	MUST(pmemset_set_contiguous_part_coalescing(set, (enum pmemset_coalescing)coalescing) == 0);
	for (int i = 0; i < 200; i++) {
		struct pmemset_part_descriptor d;

		MUST(map_part(set, src, 0, 0, &d) == 0);
		p = d.addr;
		p[d.size - 1] = 1;
		MUST(pmemset_flush(set, p + d.size - 1, 1) == 0);
		if (i % 3 == 0 && coalescing == PMEMSET_COALESCING_NONE)
			MUST(pmemset_remove_range(set, p, 1) == 0);
	}
	MUST(pmemset_drain(set) == 0);
	MUST(write(out, "", 1) == 1);
	if (stay)
		for (;;)
			pause();
	abort();
}

static pid_t begin(int coalescing, int stay, const char *filter)
{
	int fds[2];
	char c;
	pid_t pid;

	MUST(pipe(fds) == 0);
	pid = fork();
	MUST(pid >= 0);
	if (pid == 0) {
		struct rlimit rl = { RLIM_INFINITY, RLIM_INFINITY };
		int fd = open("/proc/self/coredump_filter", O_WRONLY);

		if (setrlimit(RLIMIT_CORE, &rl) != 0 || fd < 0 || write(fd, filter, strlen(filter)) < 0)
			_exit(77);
		close(fd);
		prctl(PR_SET_DUMPABLE, 1);
		prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
		alarm(200);
		dumped(coalescing, stay, fds[1]);
	}
	close(fds[1]);
	c = read(fds[0], &c, 1) == 1;
	close(fds[0]);
	if (!c) {
		waitpid(pid, NULL, 0);
		return -1;
	}
	return pid;
}

static const char *filters[] = { "0x33", "0x7f" };

/* 200 parts of 64 KiB are dumped only where the filter says so; all else is some hundred KiB */
static size_t most(int filter)
{
	return ((size_t)4 << 20) + (filter ? (size_t)200 << 16 : 0);
}

static void by_the_kernel(void)
{
	char pattern[128] = "", name[32];
	int fd = open("/proc/sys/kernel/core_pattern", O_RDONLY | O_CLOEXEC), n = 0;

	MUST(fd < 0 || read(fd, pattern, sizeof pattern - 1) >= 0);
	close(fd);
	if (strcmp(pattern, "core\n") != 0) {
		child_skip("dumps are not files called core");
		return;
	}
	for (int coalescing = 0; coalescing <= PMEMSET_COALESCING_FULL; coalescing += PMEMSET_COALESCING_FULL)
		for (int filter = 0; filter < 2; filter++) {
			pid_t pid = begin(coalescing, 0, filters[filter]);
			int status = 0;
			struct stat st;

			if (pid < 0) {
				child_skip("no dumps here");
				return;
			}
			MUST(waitpid(pid, &status, 0) == pid);
			snprintf(name, sizeof name, "core.%d", (int)pid);
			if (stat("core", &st) == 0)
				snprintf(name, sizeof name, "core");
			CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
			if (!WCOREDUMP(status) || stat(name, &st) != 0)
				continue;
			CHECKF((size_t)st.st_size <= most(filter), "coalescing %d, filter %s: %lld bytes", coalescing,
				filters[filter], (long long)st.st_size);
			unlink(name);
			n++;
		}
	if (n == 0)
		child_skip("the kernel wrote none");
}

static void by_a_debugger(void)
{
	char command[200], name[32];

	if (system("gcore >/dev/null 2>&1; test $? -ne 127") != 0) {
		child_skip("there is no gcore");
		return;
	}
	for (int coalescing = 0; coalescing <= PMEMSET_COALESCING_FULL; coalescing += PMEMSET_COALESCING_FULL)
		for (int filter = 0; filter < 2; filter++) {
			pid_t pid = begin(coalescing, 1, filters[filter]);
			struct stat st;
			int rc;

			MUST(pid > 0);
			/* what must not be written does not fill the disk of the test */
			snprintf(command, sizeof command, "ulimit -f 200000; exec gcore -o g %d >gcore.out 2>&1", (int)pid);
			rc = system(command);
			kill(pid, SIGKILL);
			waitpid(pid, NULL, 0);
			snprintf(name, sizeof name, "g.%d", (int)pid);
			if (stat(name, &st) != 0) {
				child_skip("gcore may not look at other processes");
				return;
			}
			CHECKF(rc == 0 && (size_t)st.st_size <= most(filter), "coalescing %d, filter %s: status %d, %lld bytes",
				coalescing, filters[filter], rc, (long long)st.st_size);
			unlink(name);
		}
}

int main(void)
{
	t_begin();
	page = page_size();
	if (instrumented()) {
		group("dumps");
		skip("not under valgrind or a sanitizer");
		return t_end();
	}
	group("dumps: what is reserved");
	if (has_flags())
		reserved();
	else
		skip("the kernel does not show what is left out of dumps");
	CHILD_GROUP(by_the_kernel, "dumps: by the kernel");
	CHILD_GROUP(by_a_debugger, "dumps: by a debugger");
	return t_end();
}
