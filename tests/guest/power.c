/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * power.c -- what drains said is durable, and whether it is.
 *
 *     power write [-1aq] WAY DIR REPORTS NAME SEED ROUNDS [MAPPER-DEVICE]
 *     power check [-u] DIR REPORTS NAME ROUND
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
 *
 * or, without the library, calls of the kernel, to find out which of them a file system needs. First those for each range:
 *      written  sync_file_range, which writes and waits, and nothing more
 *      each     msync
 *      start    sync_file_range that only starts writing, for all; then msync of each
 * then those for each file, after the ranges:
 *      commit   written, then msync of one page of those
 *      fsync    each, then fsync              wfsync  written, then fsync
 *      touch    written, then both times are set to now, then msync of one page
 *      mtouch   each, then the same           tfsync  written, then both times are set to now, then fsync
 *      sync     each, then syncfs             sync2   each, then syncfs twice
 * and with "+dir" behind the name fsync of the directory after the first sync of a new file.
 *
 * Options: -q  quick: one thread, few pages in a round
 *          -1  three threads, but one of them syncs at a time
 *          -a  aged: the same, and before a thread syncs, the kernel is made to write what is dirty by itself, which it does
 *              without a flush of the device
 *          -u  what cannot be read for an error does not count
 */
#include "g.h"
#include <linux/dm-ioctl.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <time.h>

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
	int rounds, nfiles, round, lie, quick, serial, aged, in_tick;
	const struct way *way;
	int with_dir;
	pthread_mutex_t one;
} all = { .lock = PTHREAD_MUTEX_INITIALIZER, .one = PTHREAD_MUTEX_INITIALIZER, .nfiles = CREATED };

/* what is done to each range, and then to each file */
enum { START = 1, WRITTEN = 2, MSYNC = 4, TOUCH = 8, MSYNC_ONE = 16, FSYNC = 32, SYNCFS = 64, TWICE = 128 };
static const struct way {
	const char *name;
	unsigned calls;
} ways[] = {
	{ "written", WRITTEN },
	{ "each", MSYNC },
	{ "start", START | MSYNC },
	{ "commit", WRITTEN | MSYNC_ONE },
	{ "fsync", MSYNC | FSYNC },
	{ "wfsync", WRITTEN | FSYNC },
	{ "touch", WRITTEN | TOUCH | MSYNC_ONE },
	{ "mtouch", MSYNC | TOUCH | MSYNC_ONE },
	{ "tfsync", WRITTEN | TOUCH | FSYNC },
	{ "sync", MSYNC | SYNCFS },
	{ "sync2", MSYNC | SYNCFS | TWICE },
};

static const unsigned grow = PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED | PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED;

/* more pages of a file without the library, every other time with blocks for them */
static void add_mapped(int f, unsigned first, unsigned n)
{
	static int times;
	char *at;

	if (files[f].fd <= 0)
		files[f].fd = open(name_of(f), O_RDWR | O_CREAT, 0644);
	MUST(files[f].fd < 0);
	if (f >= GROWN && times++ % 2)
		MUST(posix_fallocate(files[f].fd, first * page, n * page));
	else if (f >= GROWN)
		MUST(ftruncate(files[f].fd, (first + n) * (off_t)page));
	at = mmap(NULL, n * page, PROT_READ | PROT_WRITE, MAP_SHARED, files[f].fd, first * (off_t)page);
	MUST(at == MAP_FAILED);
	for (unsigned i = 0; i < n; i++)
		files[f].pages[first + i].at = at + i * page;
	files[f].n = first + n;
}

static void make_room(int turn)
{
	struct pmemset_source *src;

	if (all.way) {
		if (turn % 2 == 0 && files[GROWN].n < PAGES)
			add_mapped(GROWN, files[GROWN].n, GROWTH);
		if (turn % 3 == 0 && all.nfiles < LEFT) {
			add_mapped(all.nfiles, 0, GROWTH);
			all.nfiles++;
		}
		return;
	}
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

	if (all.way)
		return;
	if (how % 2)
		MUST(pmemset_flush(all.set, at, page));
	else
		CHECK(pmemset_memmove(all.set, at, at, page, PMEMSET_F_MEM_NODRAIN));
}

struct flushed {
	int f;
	unsigned p, version;
};

static void sync_dir(int f)
{
	static char done[FILES];
	int fd;

	if (__atomic_load_n(&done[f], __ATOMIC_ACQUIRE))
		return;
	fd = open(dir, O_RDONLY | O_DIRECTORY);
	MUST(fd < 0);
	MUST(fsync(fd));
	close(fd);
	__atomic_store_n(&done[f], 1, __ATOMIC_RELEASE);
}

/* What the way asks for. Times that are set are a change to the inode even if they are what they were. */
static void sync_file(int f, char *one)
{
	const struct timespec now[2] = { { .tv_nsec = UTIME_NOW }, { .tv_nsec = UTIME_NOW } };
	const unsigned calls = all.way->calls;
	int fd = files[f].fd;

	if (calls & TOUCH)
		MUST(futimens(fd, now));
	if (calls & MSYNC_ONE)
		MUST(msync(one, page, MS_SYNC));
	if (calls & FSYNC)
		MUST(fsync(fd));
	for (int i = 0; i < (calls & SYNCFS ? calls & TWICE ? 2 : 1 : 0); i++)
		MUST(syncfs(fd));
	if (all.with_dir && f >= GROWN)
		sync_dir(f);
}

static void sync_ranges(const struct flushed *flushed, unsigned n)
{
	const unsigned calls = all.way->calls;
	char *one[FILES] = { NULL };

	for (unsigned i = 0; i < n && calls & (START | WRITTEN); i++)
		MUST(sync_file_range(files[flushed[i].f].fd, flushed[i].p * (off_t)page, (off_t)page,
				     SYNC_FILE_RANGE_WRITE |
				     (calls & WRITTEN ? SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WAIT_AFTER : 0)));
	for (unsigned i = 0; i < n; i++) {
		one[flushed[i].f] = files[flushed[i].f].pages[flushed[i].p].at;
		if (calls & MSYNC)
			MUST(msync(one[flushed[i].f], page, MS_SYNC));
	}
	for (int f = 0; f < FILES; f++)
		if (one[f])
			sync_file(f, one[f]);
}

/* The time that the kernel gives to what changes now; it goes on with the tick. */
static uint64_t tick(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME_COARSE, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void set(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY);

	MUST(fd < 0);
	MUST(write(fd, value, strlen(value)) != (ssize_t)strlen(value));
	close(fd);
}

/* The kernel's own writing, each 10 ms for some time; it is over before the sync. */
static void age(void)
{
	set("/proc/sys/vm/dirty_expire_centisecs", "1");
	set("/proc/sys/vm/dirty_writeback_centisecs", "1");
	usleep(60000);
	set("/proc/sys/vm/dirty_writeback_centisecs", "0");
	usleep(40000);
}

/* A thread has the pages whose number is its own modulo THREADS. */
static void *work(void *arg)
{
	unsigned me = (unsigned)(uintptr_t)arg, seed = all.seed * THREADS + me;
	uint64_t before = 0;

	for (int turn = 0; turn < all.rounds; turn++) {
		struct flushed flushed[64];
		unsigned n = 0, want = (unsigned[]){ 1, 2, 8, 24, 48 }[(unsigned)rand_r(&seed) % 5];

		if (all.quick)
			want = want > 8 ? 4 : 1;

		pthread_mutex_lock(&all.lock);
		if (me == 0 && turn && (!all.quick || turn % 4 == 0))
			make_room(turn);
		for (unsigned i = 0; i < 3 * want; i++) {
			int f = rand_r(&seed) % all.nfiles;
			unsigned p;

			/* The newest file and the newest pages have their turn in every round, or every other quick one. */
			if (i == 0)
				f = all.quick && turn % 2 ? OVER : all.nfiles - 1;
			p = (unsigned)rand_r(&seed) % files[f].n;
			if (i == 3)
				f = GROWN, p = files[f].n - 1;
			p -= p % THREADS > me ? p % THREADS - me : 0;
			/* One at least. */
			if (i == 0 && p % THREADS != me)
				p += me - p % THREADS, p -= p < files[f].n ? 0 : THREADS;
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
		if (all.serial)
			pthread_mutex_lock(&all.one);
		if (all.aged)
			age();
		if (all.way)
			sync_ranges(flushed, n);
		else
			MUST(pmemset_drain(all.set));
		if (all.serial)
			pthread_mutex_unlock(&all.one);
		pthread_mutex_lock(&all.lock);
		all.in_tick += tick() == before;
		before = tick();
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
	for (int i = 0; i < n && all.way; i++)
		add_mapped(kinds[i], 0, PAGES);
	for (int i = 0; i < n && !all.way; i++) {
		MUST(pmemset_source_from_file(&src, name_of(kinds[i])));
		add(all.set, kinds[i], src, 0, PAGES);
		MUST(pmemset_source_delete(&src));
	}
	if (!all.way)
		MUST(pmemset_xsource_from_file(&all.growing, name_of(GROWN), grow));
	make_room(0);
	const int nthreads = all.quick ? 1 : THREADS;

	for (intptr_t i = 0; i < nthreads; i++)
		MUST(pthread_create(&threads[i], NULL, work, (void *)i));
	for (int i = 0; i < nthreads; i++)
		MUST(pthread_join(threads[i], NULL));
	printf("%d of %d syncs ended in the tick of the one before\n", all.in_tick, all.round);
	fflush(stdout);
	/* Nothing that the end of the process does counts. */
	_exit(g_failed);
}

static int check(const char *reports, const char *name, int upto, int unreadable)
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
				bad |= errno == ENOENT || !unreadable;
				printf("  round %d: %s: %s\n", upto, name_of((int)f), strerror(errno));
				break;
			}
			ssize_t got = pread(fd, words, page, p * (off_t)page);

			if (got != (ssize_t)page) {
				printf("  round %d: %s, page %u: %s\n", upto, name_of((int)f), p,
				       got < 0 ? strerror(errno) : "the file is too short");
				bad |= !(got < 0 && unreadable);
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
	if (argc >= 6 && !strcmp(argv[1], "check")) {
		int unreadable = !strcmp(argv[2], "-u");

		argv += unreadable;
		dir = argv[2];
		return check(argv[3], argv[4], atoi(argv[5]), unreadable);
	}
	if (argc < 8 || strcmp(argv[1], "write"))
		return 2;
	if (argv[2][0] == '-') {
		all.quick = !!strchr(argv[2], 'q');
		all.serial = !!strchr(argv[2], '1');
		all.aged = !!strchr(argv[2], 'a');
		all.serial |= all.aged;
		argv++;
		argc--;
	}
	if (argc < 8)
		return 2;
	all.lie = !strcmp(argv[2], "lie");
	all.with_dir = !!strstr(argv[2], "+dir");
	for (unsigned i = 0; i < sizeof(ways) / sizeof(ways[0]); i++)
		if (strcspn(argv[2], "+") == strlen(ways[i].name) && !strncmp(argv[2], ways[i].name, strlen(ways[i].name)))
			all.way = &ways[i];
	if (!all.way && !all.lie && strcmp(argv[2], "library"))
		return 2;
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
