/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * crash_kill.c -- a writer is killed at a random moment, many times; what it had reported as durable must be in the file.
 * (A kill loses what is in the process, not what is in the kernel: power loss is another test's business.)
 */
#include "t.h"

#define CELLS 16

static size_t page;

/* one transaction n: CELLS cells on pages of their own, and a counter after they are durable */
struct cell { uint64_t n, check; };

static void writer(const char *path, int way, int pipe_fd)
{
	struct pmemset *set = new_set();
	char *p;
	uint64_t n = 0;

	IS(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_FULL), 0);
	{
		struct pmemset_source *src = source(path);

		p = must_map(set, src, 0, 8 * page);
		must_map(set, src, 8 * page, 0); /* one run of two parts */
		MUST(pmemset_source_delete(&src) == 0);
	}
	for (int i = 0; i < CELLS; i++) {
		struct cell c;

		memcpy(&c, p + (size_t)i * page, sizeof c);
		if (c.n > n)
			n = c.n;
	}
	for (;;) {
		n++;
		for (size_t i = 0; i < CELLS; i++) {
			struct cell c = { n, n * 0x9e3779b97f4a7c15ull + i };
			char *to = p + i * page;

			switch (way) {
			case 0: /* store and persist, one by one */
				memcpy(to, &c, sizeof c);
				if (pmemset_persist(set, to, sizeof c))
					_exit(9);
				break;
			case 1: /* store, flush; drain later */
				memcpy(to, &c, sizeof c);
				if (pmemset_flush(set, to, sizeof c))
					_exit(9);
				break;
			case 2: /* NODRAIN copies, drain later */
				pmemset_memcpy(set, to, &c, sizeof c, PMEMSET_F_MEM_NODRAIN);
				break;
			default: /* NOFLUSH copies, flush of all, drain */
				pmemset_memmove(set, to, &c, sizeof c, PMEMSET_F_MEM_NOFLUSH | PMEMSET_F_MEM_NODRAIN);
			}
		}
		if (way == 3 && pmemset_flush(set, p, CELLS * page))
			_exit(9);
		if (way && pmemset_drain(set))
			_exit(9);
		if (write(pipe_fd, &n, sizeof n) != (ssize_t)sizeof n)
			_exit(8);
		if (n % 16 == 0) { /* map anew now and then */
			if (pmemset_remove_range(set, p + 8 * page, 1))
				_exit(7);
			{
				struct pmemset_source *src = source(path);

				must_map(set, src, 8 * page, 0);
				if (pmemset_source_delete(&src))
					_exit(7);
			}
		}
	}
}

static void rounds(const char *path, const char *force, int way, int n)
{
	uint64_t seed = 1000 + (uint64_t)way, highest = 0;
	int reported_rounds = 0;

	make_file(path, (off_t)(CELLS * page));
	if (force)
		MUST(setenv("PMEM2_FORCE_GRANULARITY", force, 1) == 0);
	for (int r = 0; r < n; r++) {
		int fds[2], status;
		uint64_t last = 0, v;
		pid_t pid;
		struct cell c;

		MUST(pipe(fds) == 0);
		fcntl(fds[1], F_SETPIPE_SZ, 1 << 20);
		fflush(stdout);
		pid = fork();
		MUST(pid >= 0);
		if (pid == 0) {
			close(fds[0]);
			t_fails = 0;
			writer(path, way, fds[1]);
			_exit(1);
		}
		close(fds[1]);
		if (r % 2 && read(fds[0], &v, sizeof v) == (ssize_t)sizeof v)
			last = v; /* half of them die at work for sure */
		usleep((useconds_t)(rnd(&seed) % 4000));
		kill(pid, SIGKILL);
		MUST(waitpid(pid, &status, 0) == pid);
		CHECKF(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "the writer ended by itself: %#x", status);
		while (read(fds[0], &v, sizeof v) == (ssize_t)sizeof v)
			last = v;
		close(fds[0]);
		if (last) {
			reported_rounds++;
			CHECKF(last > highest, "went back from %llu to %llu", (unsigned long long)highest, (unsigned long long)last);
			highest = last;
		}
		for (int i = 0; i < CELLS; i++) {
			read_file(path, (off_t)((size_t)i * page), &c, sizeof c);
			T_COUNT();
			if (c.n < highest || c.n > highest + (1u << 20))
				t_failed(__FILE__, __LINE__, "round %d, cell %d holds %llu, %llu was reported", r, i,
					(unsigned long long)c.n, (unsigned long long)highest);
			if (c.n == highest && c.n && c.check != c.n * 0x9e3779b97f4a7c15ull + (uint64_t)i)
				t_failed(__FILE__, __LINE__, "round %d, cell %d is torn", r, i);
		}
	}
	CHECKF(reported_rounds >= n / 3, "only %d of %d writers came to report anything", reported_rounds, n);
	unsetenv("PMEM2_FORCE_GRANULARITY");
}

int main(void)
{
	static const char *const ways[] = { "persist", "flush and drain", "NODRAIN and drain", "NOFLUSH, flush and drain" };
	static char names[16][80];
	char tmpfs[300];
	const char *times = getenv("CRASH_TIMES");
	int k = 0, more = times ? atoi(times) : 1;

	if (more < 1 || more > 1000)
		more = 1;
	t_begin();
	page = page_size();
	tmpfs_name(tmpfs, sizeof tmpfs, "crash");
	for (int way = 0; way < 4; way++) {
		snprintf(names[k], sizeof names[k], "kill: %s, PAGE", ways[way]);
		group(names[k++]);
		rounds("crash", NULL, way, 130 * more);
		snprintf(names[k], sizeof names[k], "kill: %s, CACHE_LINE on tmpfs", ways[way]);
		group(names[k++]);
		rounds(tmpfs, "CACHE_LINE", way, 80 * more);
		snprintf(names[k], sizeof names[k], "kill: %s, BYTE on tmpfs", ways[way]);
		group(names[k++]);
		rounds(tmpfs, "BYTE", way, 40 * more);
		unlink(tmpfs);
	}
	return t_end();
}
