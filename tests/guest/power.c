/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * power.c -- what drains said is durable, and whether it is.
 *
 *     power write WAY DIR REPORTS NAME SEED ROUNDS [MAPPER-DEVICE]
 *     power check DIR REPORTS NAME ROUND
 *
 * Files of every kind that a file system treats in a way of its own: written before, allocated but unwritten, with holes,
 * grown, and made on the way. Three threads store to pages of several, flush some, leave some, and drain. When a drain
 * returns, the pages that its thread had flushed go to REPORTS with their versions, and "round N" to the device's log. Every
 * 8-byte word says which version of which page it is, so a page that was stored to since is still told from one that was
 * lost.
 *
 * WAY: library  flush and drain
 *      lie      the same, but a page is reported in each round that was never flushed: of a file of which nothing ever is,
 *               because a file system may write more of a file than it was asked for
 *      written  pages are written and waited for, but no sync follows
 */
#include "g.h"
#include <linux/dm-ioctl.h>
#include <pthread.h>
#include <sys/ioctl.h>

enum { OVER, UNWRITTEN, HOLES, GROWN, CREATED, LEFT = 63 };
enum { PAGES = 256, GROWTH = 16, FILES = LEFT + 1, THREADS = 3 };

static const size_t page = 4096;
static const char *dir;
static struct file {
	struct { char *at; unsigned version; } pages[PAGES];
	unsigned n;
	int fd;
} files[FILES];

static const char *name_of(int f)
{
	static const char *names[] = { "over", "unwritten", "holes", "grown" };
	static char path[256];

	if (f < CREATED || f == LEFT)
		snprintf(path, sizeof(path), "%s/%s", dir, f == LEFT ? "left" : names[f]);
	else
		snprintf(path, sizeof(path), "%s/created-%d", dir, f);
	return path;
}

static uint64_t word(unsigned version, int f, unsigned p, unsigned i)
{
	return (uint64_t)version << 44 | (uint64_t)f << 32 | (uint64_t)p << 16 | i;
}

static void mark(const char *device, int round)
{
	struct {
		struct dm_ioctl io;
		struct dm_target_msg msg;
		char text[64];
	} m;
	int fd = open("/dev/mapper/control", O_RDWR);

	MUST(fd < 0);
	memset(&m, 0, sizeof(m));
	m.io.version[0] = 4;
	m.io.data_size = sizeof(m);
	m.io.data_start = offsetof(__typeof__(m), msg);
	snprintf(m.io.name, sizeof(m.io.name), "%s", device);
	snprintf((char *)&m + offsetof(__typeof__(m), msg.message), sizeof(m.text), "mark round\\ %d", round);
	MUST(ioctl(fd, DM_TARGET_MSG, &m));
	close(fd);
}

static void add(struct pmemset *set, int f, struct pmemset_source *src, unsigned first, unsigned n)
{
	struct pmemset_part_descriptor desc;

	MUST(map_source(set, src, first * page, n * page, &desc, NULL));
	for (unsigned i = 0; i < n; i++)
		files[f].pages[first + i].at = (char *)desc.addr + i * page;
	files[f].n = first + n;
	if (files[f].fd <= 0)
		files[f].fd = open(name_of(f), O_RDWR);
}

static void store(int f, unsigned p)
{
	uint64_t *words = (uint64_t *)(void *)files[f].pages[p].at;

	files[f].pages[p].version++;
	for (unsigned i = 0; i < page / 8; i++)
		__atomic_store_n(&words[i], word(files[f].pages[p].version, f, p, i), __ATOMIC_RELAXED);
}

/* what the threads share; all but flush and drain is done under the lock */
static struct {
	pthread_mutex_t lock;
	struct pmemset *set;
	struct pmemset_source *growing;
	FILE *report;
	const char *name, *device;
	unsigned seed;
	int rounds, nfiles, round, lie, written;
} all = { .lock = PTHREAD_MUTEX_INITIALIZER, .nfiles = CREATED };

static const unsigned grow = PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED | PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED;

static void make_room(int turn)
{
	struct pmemset_source *src;

	if (turn % 2 == 0 && files[GROWN].n < PAGES)
		add(all.set, GROWN, all.growing, files[GROWN].n, GROWTH);
	if (turn % 3 == 0 && all.nfiles < LEFT) {
		MUST(pmemset_xsource_from_file(&src, name_of(all.nfiles), grow));
		add(all.set, all.nfiles, src, 0, GROWTH);
		MUST(pmemset_source_delete(&src));
		all.nfiles++;
	}
}

static void flush(int f, unsigned p, unsigned how)
{
	char *at = files[f].pages[p].at;

	if (all.written)
		MUST(sync_file_range(files[f].fd, p * (off_t)page, (off_t)page,
				     SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER));
	else if (how % 2)
		MUST(pmemset_flush(all.set, at, page));
	else
		CHECK(pmemset_memmove(all.set, at, at, page, PMEMSET_F_MEM_NODRAIN));
}

/* A thread has the pages whose number is its own modulo THREADS. */
static void *work(void *arg)
{
	unsigned me = (unsigned)(uintptr_t)arg, seed = all.seed * THREADS + me;

	for (int turn = 0; turn < all.rounds; turn++) {
		struct { int f; unsigned p, version; } flushed[64];
		unsigned n = 0, want = (unsigned[]){ 1, 2, 8, 24, 48 }[(unsigned)rand_r(&seed) % 5];

		pthread_mutex_lock(&all.lock);
		if (me == 0 && turn)
			make_room(turn);
		for (unsigned i = 0; i < 3 * want; i++) {
			int f = rand_r(&seed) % all.nfiles;
			unsigned p;

			/* The newest file and the newest pages have their turn in every round. */
			if (i == 0)
				f = all.nfiles - 1;
			p = (unsigned)rand_r(&seed) % files[f].n;
			if (i == 3)
				f = GROWN, p = files[f].n - 1;
			p -= p % THREADS > me ? p % THREADS - me : 0;
			if (p % THREADS != me)
				continue;
			store(f, p);
			if (i % 3)
				continue;
			flushed[n].f = f;
			flushed[n].p = p;
			flushed[n++].version = files[f].pages[p].version;
		}
		pthread_mutex_unlock(&all.lock);
		for (unsigned i = 0; i < n; i++)
			flush(flushed[i].f, flushed[i].p, (unsigned)rand_r(&seed));
		if (!all.written)
			MUST(pmemset_drain(all.set));
		pthread_mutex_lock(&all.lock);
		for (unsigned i = 0; i < n; i++)
			fprintf(all.report, "%s %d %d %u %u\n", all.name, all.round, flushed[i].f, flushed[i].p,
				flushed[i].version);
		if (all.lie) {
			store(LEFT, me);
			fprintf(all.report, "%s %d %d %u %u\n", all.name, all.round, LEFT, me, files[LEFT].pages[me].version);
		}
		fflush(all.report);
		if (!all.round)
			has_reported(all.name);
		if (all.device)
			mark(all.device, all.round);
		all.round++;
		pthread_mutex_unlock(&all.lock);
	}
	return NULL;
}

static int run(void)
{
	struct pmemset_source *src;
	pthread_t threads[THREADS];

	all.set = new_set(PMEM2_GRANULARITY_PAGE);
	const int kinds[] = { OVER, UNWRITTEN, HOLES, LEFT };
	const int n = all.lie ? 4 : 3;

	for (int i = 0; i < n; i++) {
		static char zeros[PAGES * 4096];
		int f = kinds[i], fd = open(name_of(f), O_CREAT | O_RDWR, 0644);

		MUST(fd < 0);
		if (f == OVER || f == LEFT)
			MUST(pwrite(fd, zeros, sizeof(zeros), 0) != sizeof(zeros));
		else if (f == UNWRITTEN)
			MUST(posix_fallocate(fd, 0, PAGES * page));
		else
			MUST(ftruncate(fd, PAGES * page));
		close(fd);
	}
	sync();
	for (int i = 0; i < n; i++) {
		MUST(pmemset_source_from_file(&src, name_of(kinds[i])));
		add(all.set, kinds[i], src, 0, PAGES);
		MUST(pmemset_source_delete(&src));
	}
	MUST(pmemset_xsource_from_file(&all.growing, name_of(GROWN), grow));
	make_room(0);
	for (uintptr_t i = 0; i < THREADS; i++)
		MUST(pthread_create(&threads[i], NULL, work, (void *)i));
	for (int i = 0; i < THREADS; i++)
		MUST(pthread_join(threads[i], NULL));
	/* Nothing that the end of the process does counts. */
	_exit(g_failed);
}

static int check(const char *reports, const char *name, int upto)
{
	static struct { unsigned version; } durable[FILES][PAGES];
	FILE *report = fopen(reports, "r");
	int round, bad = 0;
	unsigned f, p, version, pages = 0;
	char line[256], who[64];

	if (!report)
		return 2;
	while (fgets(line, sizeof(line), report))
		if (sscanf(line, "%63s %d %u %u %u", who, &round, &f, &p, &version) == 5 && !strcmp(who, name) &&
		    round <= upto && f < FILES && p < PAGES && version > durable[f][p].version)
			durable[f][p].version = version;
	for (f = 0; f < FILES; f++) {
		int fd = -1;

		for (p = 0; p < PAGES; p++) {
			uint64_t words[512];

			if (!durable[f][p].version)
				continue;
			pages++;
			if (fd < 0 && (fd = open(name_of((int)f), O_RDONLY)) < 0) {
				printf("  round %d: %s: %s\n", upto, name_of((int)f), strerror(errno));
				bad = 1;
				break;
			}
			if (pread(fd, words, page, p * (off_t)page) != (ssize_t)page) {
				printf("  round %d: %s is too short for page %u\n", upto, name_of((int)f), p);
				bad = 1;
				continue;
			}
			for (unsigned i = 0; i < page / 8; i++) {
				uint64_t found = words[i] >> 44;

				if (words[i] != word((unsigned)found, (int)f, p, i) || found < durable[f][p].version) {
					printf("  round %d: %s, page %u, word %u: %#" PRIx64 ", version %u was durable\n", upto,
					       name_of((int)f), p, i, words[i], durable[f][p].version);
					bad = 1;
					break;
				}
			}
		}
		if (fd >= 0)
			close(fd);
	}
	printf("%u pages\n", pages);
	return bad || !pages;
}

int main(int argc, char **argv)
{
	if (argc == 6 && !strcmp(argv[1], "check")) {
		dir = argv[2];
		return check(argv[3], argv[4], atoi(argv[5]));
	}
	if (argc < 8 || strcmp(argv[1], "write"))
		return 2;
	all.lie = !strcmp(argv[2], "lie");
	all.written = !strcmp(argv[2], "written");
	dir = argv[3];
	all.report = fopen(argv[4], "w");
	MUST(!all.report);
	/* One line is one write, which a console keeps in one piece. */
	setvbuf(all.report, NULL, _IOLBF, 0);
	all.name = argv[5];
	all.seed = (unsigned)atoi(argv[6]);
	all.rounds = atoi(argv[7]);
	all.device = argc > 8 ? argv[8] : NULL;
	return run();
}
