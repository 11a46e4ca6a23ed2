/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fuse.c -- a FUSE file system over a full disk: fuse NAME DIR BELOW FILLER. What it could not write the kernel drops, as soon as
 * somebody opens the file: memory shows the old bytes then, and a sync of them succeeds.
 */
#include "g.h"

static const size_t page = 4096;
static const char *filler;

/* takes what the disk has left, until there is nothing: what was deleted before comes back some time later */
static void fill(void)
{
	static char some[65536];
	int fd = open(filler, O_CREAT | O_RDWR, 0644);
	ssize_t got, all = 1;

	MUST(fd < 0);
	for (int round = 0; round < 3 || all; round++) {
		all = 0;
		while ((got = write(fd, some, sizeof(some))) > 0)
			all += got;
		while ((got = write(fd, some, 512)) > 0)
			all += got;
		sync();
		usleep(100000);
	}
	close(fd);
}

static void lost(const char *dir, const char *below, int reads)
{
	struct pmemset *set = new_set(PMEM2_GRANULARITY_PAGE);
	struct pmemset_part_descriptor desc;
	char *path = path_in(dir, reads ? "read" : "left"), *there = path_in(below, reads ? "read" : "left"), *base;
	char byte = 0;
	int fd = open(path, O_CREAT | O_RDWR, 0644);

	test(reads ? "FUSE: a page is lost on a full disk, and the file is read" : "FUSE: a page is lost on a full disk");
	MUST(fd < 0);
	MUST(ftruncate(fd, (off_t)(64 * page)));
	close(fd);
	MUST(map_path(set, path, 0, 0, &desc));
	base = desc.addr;
	base[0] = 'a';
	EQ(pmemset_persist(set, base, 1), 0);
	fill();
	memset(base + 32 * page, 'b', page);
	EQ(pmemset_flush(set, base + 32 * page, page), 0);
	EQ(pmemset_drain(set), -ENOSPC);
	unlink(filler);
	sync();
	for (int i = 0; i < 3; i++) {
		if (reads) {
			fd = open(path, O_RDONLY);
			(void)!pread(fd, &byte, 1, (off_t)(32 * page));
			close(fd);
		}
		EQ(pmemset_drain(set), -ENOSPC);
	}
	/* stored and flushed again, as whoever gets an error has to */
	memset(base + 32 * page, 'c', page);
	EQ(pmemset_flush(set, base + 32 * page, page), 0);
	EQ(pmemset_drain(set), 0);
	fd = open(there, O_RDONLY);
	MUST(fd < 0);
	EQ(pread(fd, &byte, 1, (off_t)(32 * page)), 1);
	EQ(byte, 'c');
	close(fd);
	EQ(pmemset_delete(&set), 0);
	unlink(path);
}

int main(int argc, char **argv)
{
	if (argc != 5)
		return 2;
	g_prefix = argv[1];
	filler = argv[4];
	lost(argv[2], argv[3], 0);
	lost(argv[2], argv[3], 1);
	test(NULL);
	return g_bad;
}
