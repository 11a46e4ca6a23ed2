/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * errors.c -- PAGE granularity on ext4 on a disk of which single blocks can be made to fail: errors NAME DIR MAPPER DISK
 * SECTORS SEED. A drain that returns 0 means that what was flushed is on the disk, read past all caches.
 */
#include "g.h"
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>

enum { PAGES = 16, BAD = 5 };
static const size_t page = 4096;
static const char *dir, *mapper, *disk;
static unsigned long sectors;
static char *path;
static uint64_t places[PAGES]; /* of the file's pages on the disk */

struct view {
	struct pmemset *set;
	struct pmemset_source *src;
	char *base;
};

static void file(const char *name)
{
	union { struct fiemap map; char room[sizeof(struct fiemap) + PAGES * sizeof(struct fiemap_extent)]; } u;
	static char zeros[PAGES * 4096];
	int fd;

	free(path);
	path = path_in(dir, name);
	fd = open(path, O_CREAT | O_TRUNC | O_RDWR, 0644);
	MUST(fd < 0);
	MUST(pwrite(fd, zeros, sizeof(zeros), 0) != sizeof(zeros));
	MUST(fsync(fd));
	sync();
	memset(&u, 0, sizeof(u));
	u.map.fm_length = PAGES * page;
	u.map.fm_extent_count = PAGES;
	MUST(ioctl(fd, FS_IOC_FIEMAP, &u.map));
	memset(places, 0, sizeof(places));
	for (unsigned i = 0; i < u.map.fm_mapped_extents; i++) {
		struct fiemap_extent *e = &u.map.fm_extents[i];

		for (uint64_t at = 0; at < e->fe_length; at += page)
			if ((e->fe_logical + at) / page < PAGES)
				places[(e->fe_logical + at) / page] = e->fe_physical + at;
	}
	for (int p = 0; p < PAGES; p++)
		MUST(!places[p]);
	close(fd);
}

/* the blocks of the pages whose bit is set fail, all others work */
static void fail(unsigned pages)
{
	char command[256];
	FILE *table = fopen("/tmp/table", "w");
	unsigned long at = 0;

	MUST(!table);
	for (;;) {
		unsigned long next = sectors;

		for (int p = 0; p < PAGES; p++)
			if ((pages >> p & 1) && places[p] / 512 >= at && places[p] / 512 < next)
				next = places[p] / 512;
		if (next > at)
			fprintf(table, "%lu %lu linear %s %lu\n", at, next - at, disk, at);
		if (next == sectors)
			break;
		fprintf(table, "%lu %lu error\n", next, (unsigned long)page / 512);
		at = next + page / 512;
	}
	fclose(table);
	snprintf(command, sizeof(command),
		 "dmsetup load %s /tmp/table && dmsetup resume --noflush --nolockfs --noudevsync %s", mapper, mapper);
	MUST(system(command));
}

static int on_disk(int p)
{
	static char buf[4096] __attribute__((aligned(4096)));
	int fd = open(disk, O_RDONLY | O_DIRECT);

	MUST(fd < 0);
	MUST(pread(fd, buf, page, (off_t)places[p]) != (ssize_t)page);
	close(fd);
	for (size_t i = 1; i < page; i++)
		if (buf[i] != buf[0])
			return -1;
	return buf[0];
}

static struct view look(struct pmemset_source *src)
{
	struct view v = { new_set(PMEM2_GRANULARITY_PAGE), src, NULL };
	struct pmemset_part_descriptor desc;

	if (!src)
		MUST(pmemset_source_from_file(&v.src, path));
	MUST(map_source(v.set, v.src, 0, 0, &desc, NULL));
	v.base = desc.addr;
	return v;
}

static void leave(struct view *v)
{
	EQ(pmemset_delete(&v->set), 0);
	EQ(pmemset_source_delete(&v->src), 0);
}

static void store(struct view *v, int p, int c)
{
	memset(v->base + p * page, c, page);
}

static int flush(struct view *v, int p)
{
	return pmemset_flush(v->set, v->base + p * page, page);
}

static void reported(void)
{
	test("a lost page is reported until it is on the disk");
	file("reported");
	struct view v = look(NULL);
	for (int p = 0; p < PAGES; p++)
		store(&v, p, 'a');
	EQ(pmemset_persist(v.set, v.base, PAGES * page), 0);
	EQ(on_disk(BAD), 'a');
	fail(1 << BAD);
	store(&v, BAD, 'b');
	EQ(pmemset_persist(v.set, v.base + BAD * page, 1), -EIO);
	CHECK(strstr(pmemset_errormsg(), strerror(EIO)));
	char address[32];
	snprintf(address, sizeof(address), "%p", (void *)(v.base + BAD * page));
	CHECK(strstr(pmemset_errormsg(), address));
	EQ(pmemset_drain(v.set), -EIO);
	EQ(pmemset_drain(v.set), -EIO);
	EQ(on_disk(BAD), 'a');
	fail(0);
	EQ(pmemset_drain(v.set), 0);
	EQ(on_disk(BAD), 'b');
	leave(&v);
}

static void beside(void)
{
	test("healthy pages beside lost ones");
	file("beside");
	struct view v = look(NULL);
	fail(1 << BAD | 1 << 11);
	for (int p = 1; p < PAGES; p += 2) {
		store(&v, p, 'b');
		EQ(flush(&v, p), 0);
	}
	EQ(pmemset_drain(v.set), -EIO);
	/* what is recorded beside it is not done either, as far as anybody can tell */
	store(&v, 2, 'c');
	EQ(pmemset_persist(v.set, v.base + 2 * page, page), -EIO);
	fail(1 << 11);
	EQ(pmemset_drain(v.set), -EIO);
	fail(0);
	EQ(pmemset_drain(v.set), 0);
	for (int p = 1; p < PAGES; p += 2)
		EQ(on_disk(p), 'b');
	EQ(on_disk(2), 'c');
	leave(&v);
}

/* one_source: both sets have parts of one source; else each has opened the file itself */
static void two_sets(int one_source)
{
	test(one_source ? "two sets on one source" : "two sets on one file");
	file(one_source ? "source" : "file");
	struct view a = look(NULL), b = look(one_source ? a.src : NULL);
	fail(1 << BAD);
	store(&a, BAD, 'b');
	EQ(flush(&a, BAD), 0);
	EQ(flush(&b, BAD), 0);
	store(&b, 9, 'b');
	EQ(flush(&b, 9), 0);
	EQ(pmemset_drain(a.set), -EIO);
	EQ(pmemset_drain(b.set), -EIO);
	EQ(pmemset_drain(b.set), -EIO);
	fail(0);
	int rc = pmemset_drain(b.set);
	if (rc)
		rc = pmemset_drain(b.set);
	EQ(rc, 0);
	EQ(on_disk(BAD), 'b');
	EQ(on_disk(9), 'b');
	rc = pmemset_drain(a.set);
	if (rc)
		rc = pmemset_drain(a.set);
	EQ(rc, 0);
	EQ(pmemset_delete(&a.set), 0);
	EQ(pmemset_delete(&b.set), 0);
	EQ(pmemset_source_delete(&a.src), 0);
	if (!one_source)
		EQ(pmemset_source_delete(&b.src), 0);
}

static void by_the_kernel(void)
{
	test("pages that the kernel itself lost");
	file("kernel");
	struct view v = look(NULL);
	int fd = open(path, O_RDWR);
	fail(1 << BAD);
	store(&v, BAD, 'b');
	EQ(flush(&v, BAD), 0);
	/* written back, as it may be at any time; nobody hears of the failure */
	sync_file_range(fd, 0, PAGES * page, SYNC_FILE_RANGE_WRITE);
	usleep(200000);
	EQ(pmemset_drain(v.set), -EIO);
	fail(0);
	EQ(pmemset_drain(v.set), 0);
	EQ(on_disk(BAD), 'b');
	close(fd);
	leave(&v);

	test("pages that were lost before they were flushed");
	file("before");
	v = look(NULL);
	fd = open(path, O_RDWR);
	fail(1 << BAD);
	store(&v, BAD, 'b');
	sync_file_range(fd, 0, PAGES * page, SYNC_FILE_RANGE_WRITE);
	usleep(200000);
	/* the drain of another page hears of it */
	store(&v, 1, 'c');
	EQ(pmemset_persist(v.set, v.base + page, page), -EIO);
	fail(0);
	EQ(pmemset_drain(v.set), 0);
	EQ(on_disk(1), 'c');
	EQ(flush(&v, BAD), 0);
	if (pmemset_drain(v.set) == 0)
		EQ(on_disk(BAD), 'b');
	close(fd);
	leave(&v);

	test("pages that were lost before they were flushed, of another set on the source");
	file("other");
	v = look(NULL);
	struct view w = look(v.src);
	fail(1 << BAD);
	store(&w, BAD, 'b');
	EQ(flush(&v, BAD), 0);
	EQ(pmemset_drain(v.set), -EIO);
	EQ(flush(&w, BAD), 0);
	fail(0);
	if (pmemset_drain(w.set) == 0)
		EQ(on_disk(BAD), 'b');
	EQ(pmemset_delete(&w.set), 0);
	EQ(pmemset_delete(&v.set), 0);
	EQ(pmemset_source_delete(&v.src), 0);
}

static void removal(void)
{
	struct pmemset_part_map *map;

	test("a part whose sync fails is not removed");
	file("removal");
	struct view v = look(NULL);
	fail(1 << BAD);
	store(&v, BAD, 'b');
	EQ(flush(&v, BAD), 0);
	EQ(pmemset_part_map_by_address(v.set, &map, v.base), 0);
	EQ(pmemset_remove_part_map(v.set, &map), -EIO);
	CHECK(map != NULL);
	EQ(v.base[BAD * page], 'b');
	pmemset_part_map_drop(&map);
	EQ(pmemset_remove_range(v.set, v.base, 1), -EIO);
	EQ(v.base[BAD * page], 'b');
	fail(0);
	EQ(pmemset_remove_range(v.set, v.base, 1), 0);
	EQ(on_disk(BAD), 'b');
	leave(&v);

	test("a set that loses a page is deleted and says so");
	file("deleted");
	v = look(NULL);
	fail(1 << BAD);
	store(&v, BAD, 'b');
	EQ(flush(&v, BAD), 0);
	EQ(pmemset_delete(&v.set), -EIO);
	CHECK(v.set == NULL);
	EQ(pmemset_source_delete(&v.src), 0);
	fail(0);
}

static void copies(void)
{
	test("the next drain says what a copy could not");
	file("copies");
	struct view v = look(NULL);
	fail(1 << BAD);
	CHECK(pmemset_memset(v.set, v.base + BAD * page, 'b', page, 0));
	fail(0);
	EQ(pmemset_drain(v.set), -EIO);
	EQ(pmemset_drain(v.set), 0);
	EQ(on_disk(BAD), 'b');
	test("a deep flush says so, too");
	fail(1 << BAD);
	store(&v, BAD, 'c');
	EQ(pmemset_deep_flush(v.set, v.base, PAGES * page), PMEMSET_E_DEEP_FLUSH_FAIL);
	fail(0);
	EQ(pmemset_deep_flush(v.set, v.base, PAGES * page), 0);
	EQ(on_disk(BAD), 'c');
	leave(&v);
}

/* Two sets, stores, flushes and drains in any order on a disk that fails and recovers: what a drain calls durable is. */
static void anyhow(unsigned seed, int turns, int written_back)
{
	int current[PAGES], flushed[2][PAGES], durable = 0, failures = 0;

	test(written_back ? "any order of stores, flushes, drains, failures and the kernel's own writeback" :
			    "any order of stores, flushes, drains and failures");
	file("anyhow");
	int fd = open(path, O_RDWR);
	memset(current, 0, sizeof(current));
	memset(flushed, 0, sizeof(flushed));
	struct view v[2] = { look(NULL) };
	v[1] = look(seed % 2 ? v[0].src : NULL);
	srandom(seed);
	for (int turn = 0; turn < turns && !g_failed; turn++) {
		if (random() % 2)
			fail(random() % 2 ? 0 : (unsigned)random() & (unsigned)random() & (unsigned)random() & 0xffff);
		for (int i = random() % 12; i >= 0; i--) {
			int who = random() % 2, p = random() % PAGES;

			if (random() % 3)
				store(&v[who], p, current[p] = 1 + (current[p] + 1) % 100);
			if (random() % 2) {
				EQ(flush(&v[who], p), 0);
				flushed[who][p] = current[p];
			}
		}
		if (written_back && random() % 2)
			sync_file_range(fd, 0, PAGES * page, SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
		int who = random() % 2, rc = pmemset_drain(v[who].set);
		if (rc) {
			EQ(rc, -EIO);
			failures++;
			continue;
		}
		for (int p = 0; p < PAGES; p++) {
			/* a later version may have been written, too */
			if (!flushed[who][p] || flushed[who][p] != current[p])
				continue;
			durable++;
			if (on_disk(p) != current[p]) {
				printf("  seed %u, turn %d, set %d: page %d is %d on the disk, %d was called durable\n", seed, turn, who, p,
				       on_disk(p), current[p]);
				g_failed = 1;
			}
		}
	}
	fail(0);
	for (int who = 0; who < 2; who++) {
		int rc = 0;

		for (int tries = 0; tries < 3 && (tries == 0 || rc); tries++)
			rc = pmemset_drain(v[who].set);
		EQ(rc, 0);
		for (int p = 0; p < PAGES; p++)
			if (flushed[who][p] && flushed[who][p] == current[p])
				EQ(on_disk(p), current[p]);
	}
	if (!durable || !failures) {
		printf("  %d pages durable, %d failures: nothing was tested\n", durable, failures);
		g_failed = 1;
	}
	EQ(pmemset_delete(&v[0].set), 0);
	EQ(pmemset_delete(&v[1].set), 0);
	close(fd);
}

int main(int argc, char **argv)
{
	if (argc != 7)
		return 2;
	g_prefix = argv[1];
	dir = argv[2];
	mapper = argv[3];
	disk = argv[4];
	sectors = strtoul(argv[5], NULL, 10);
	reported();
	beside();
	two_sets(0);
	two_sets(1);
	by_the_kernel();
	removal();
	copies();
	unsigned seed = (unsigned)atoi(argv[6]);
	/* of one source, and of two */
	anyhow(seed, 45, 0);
	anyhow(seed + 1, 45, 0);
	anyhow(seed + 2, 45, 1);
	anyhow(seed + 3, 45, 1);
	test(NULL);
	return g_bad;
}
