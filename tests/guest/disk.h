/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * disk.h -- a file on a disk of which single blocks can be made to fail, mapped at PAGE granularity: programs that are called
 * with NAME DIR MAPPER DISK SECTORS SEED.
 */
#ifndef DISK_H
#define DISK_H

#include "g.h"
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>

enum { PAGES = 16, BAD = 5 };
static const size_t page = 4096;
static const char *dir, *mapper, *disk;
static unsigned long sectors;
static unsigned seed;
static char *path;
static uint64_t places[PAGES]; /* of the file's pages on the disk */

struct view {
	struct pmemset *set;
	struct pmemset_source *src;
	char *base;
};

MAY int arguments(int argc, char **argv)
{
	if (argc != 7)
		return 0;
	g_prefix = argv[1];
	dir = argv[2];
	mapper = argv[3];
	disk = argv[4];
	sectors = strtoul(argv[5], NULL, 10);
	seed = (unsigned)atoi(argv[6]);
	return 1;
}

/* finds the file's pages on the disk */
MAY void find_places(int fd)
{
	union { struct fiemap map; char room[sizeof(struct fiemap) + PAGES * sizeof(struct fiemap_extent)]; } u;

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
}

/* a file of so many pages: written, or with blocks that count as unwritten */
MAY void new_file(const char *name, int written)
{
	static char zeros[PAGES * 4096];
	int fd;

	free(path);
	path = path_in(dir, name);
	fd = open(path, O_CREAT | O_TRUNC | O_RDWR, 0644);
	MUST(fd < 0);
	if (written)
		MUST(pwrite(fd, zeros, sizeof(zeros), 0) != sizeof(zeros));
	else
		MUST(posix_fallocate(fd, 0, sizeof(zeros)));
	MUST(fsync(fd));
	sync();
	find_places(fd);
	close(fd);
}

MAY void file(const char *name)
{
	new_file(name, 1);
}

/* the blocks of the pages whose bit is set fail, all others work */
MAY void fail(unsigned pages)
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

/* the byte that fills a page, read past all caches; -1 if it is not filled by one */
MAY int read_page(const char *from, off_t at)
{
	static char buf[4096] __attribute__((aligned(4096)));
	int fd = open(from, O_RDONLY | O_DIRECT);

	MUST(fd < 0);
	MUST(pread(fd, buf, page, at) != (ssize_t)page);
	close(fd);
	for (size_t i = 1; i < page; i++)
		if (buf[i] != buf[0])
			return -1;
	return buf[0];
}

/* of the disk itself */
MAY int on_disk(int p)
{
	return read_page(disk, (off_t)places[p]);
}

/* as the file system gives it back, which reads zeros from blocks that count as unwritten */
MAY int in_file(int p)
{
	return read_page(path, (off_t)p * (off_t)page);
}

MAY struct view look(struct pmemset_source *src)
{
	struct view v = { new_set(PMEM2_GRANULARITY_PAGE), src, NULL };
	struct pmemset_part_descriptor desc;

	if (!src)
		MUST(pmemset_source_from_file(&v.src, path));
	MUST(map_source(v.set, v.src, 0, 0, &desc, NULL));
	v.base = desc.addr;
	return v;
}

MAY void leave(struct view *v)
{
	EQ(pmemset_delete(&v->set), 0);
	EQ(pmemset_source_delete(&v->src), 0);
}

MAY void store(struct view *v, int p, int c)
{
	memset(v->base + p * page, c, page);
}

MAY int flush(struct view *v, int p)
{
	return pmemset_flush(v->set, v->base + p * page, page);
}

/* a page is lost, as it may be at any time, and nobody hears of that */
MAY void written_back(void)
{
	int fd = open(path, O_RDWR);

	MUST(fd < 0);
	sync_file_range(fd, 0, PAGES * page, SYNC_FILE_RANGE_WRITE);
	usleep(300000);
	close(fd);
}

/*
 * The disk works again. That alone makes nothing durable that was lost: drains go on failing until the page is flushed
 * again, and then it is on the disk.
 */
MAY void recovers(struct view *v, int p, int c)
{
	fail(0);
	EQ(pmemset_drain(v->set), -EIO);
	EQ(pmemset_drain(v->set), -EIO);
	store(v, p, c);
	EQ(flush(v, p), 0);
	EQ(pmemset_drain(v->set), 0);
	EQ(on_disk(p), c);
}

#endif
