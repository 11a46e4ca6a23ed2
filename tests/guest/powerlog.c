/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * powerlog.c -- disks as a power loss would leave them, from the log of the kernel's dm-log-writes target.
 *
 *     powerlog points LOG N SEED          places to stop at, one a line: BEGIN END ROUND
 *     powerlog replay LOG DEVICE FROM TO [SEED]
 *     powerlog forget                     btrfs forgets the devices it has seen
 *
 * The target logs a write when the flush after it has completed (or at once, if it was a forced one), and a mark when it
 * is told. So what is before a mark in the log is what the disk was bound to keep when the mark was made; and of what comes
 * after it, up to the next flush or forced write, it may have kept any part.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define MAGIC UINT64_C(0x6a736677736872)
enum { FLUSH = 1, FUA = 2, DISCARD = 4, MARK = 8 };

struct super {
	uint64_t magic, version, entries;
	uint32_t sector_size;
};

struct entry {
	uint64_t sector, sectors, flags, data_len;
};

static int logfd;
static struct super super;
static struct entry *entries;
static uint64_t *places; /* of the data of each */
static char **marks;

static void die(const char *what)
{
	fprintf(stderr, "powerlog: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void get(void *buf, size_t len, uint64_t at)
{
	if (pread(logfd, buf, len, (off_t)at) != (ssize_t)len)
		die("read of the log");
}

static void load(const char *path)
{
	logfd = open(path, O_RDONLY);
	if (logfd < 0)
		die(path);
	get(&super, sizeof(super), 0);
	super.entries = le64toh(super.entries);
	super.sector_size = le32toh(super.sector_size);
	if (le64toh(super.magic) != MAGIC || le64toh(super.version) != 1 || super.sector_size < 512) {
		errno = EINVAL;
		die("not a log");
	}
	entries = calloc(super.entries, sizeof(*entries));
	places = calloc(super.entries, sizeof(*places));
	marks = calloc(super.entries, sizeof(*marks));
	uint64_t at = super.sector_size;
	for (uint64_t i = 0; i < super.entries; i++) {
		struct entry *e = &entries[i];

		get(e, sizeof(*e), at);
		e->sector = le64toh(e->sector) * super.sector_size;
		e->sectors = le64toh(e->sectors) * super.sector_size;
		e->flags = le64toh(e->flags);
		e->data_len = le64toh(e->data_len);
		if (e->flags & MARK) {
			marks[i] = calloc(1, e->data_len + 1);
			get(marks[i], e->data_len, at + sizeof(*e));
		}
		places[i] = at + super.sector_size;
		at = places[i] + (e->flags & DISCARD ? 0 : e->sectors);
	}
}

static void replay(const char *device, uint64_t from, uint64_t to, const char *some)
{
	static char buf[1 << 20];
	int fd = open(device, O_WRONLY);

	if (fd < 0)
		die(device);
	if (some)
		srandom((unsigned)atoi(some));
	for (uint64_t i = from; i < to && i < super.entries; i++) {
		struct entry *e = &entries[i];

		/* What a discard leaves is anything: here, what was there. */
		if ((e->flags & (DISCARD | MARK)) || (some && random() % 2))
			continue;
		for (uint64_t done = 0; done < e->sectors;) {
			size_t len = e->sectors - done < sizeof(buf) ? e->sectors - done : sizeof(buf);

			get(buf, len, places[i] + done);
			if (pwrite(fd, buf, len, (off_t)(e->sector + done)) != (ssize_t)len)
				die("write to the device");
			done += len;
		}
	}
	/* Not later, behind a file system that is mounted from it. */
	if (fsync(fd) || close(fd))
		die("sync of the device");
}

/* Every mark; after every mark, what a disk may have kept of the writes that follow; places anywhere. */
static void points(unsigned n, unsigned seed)
{
	int round = -1;
	uint64_t between, first = 0, last = 0;

	for (uint64_t i = 0; i < super.entries; i++)
		if (marks[i] && !strncmp(marks[i], "round ", 6)) {
			last = i;
			if (!first)
				first = i;
		}
	if (!last) {
		errno = ENODATA;
		die("no marks");
	}
	srandom(seed);
	between = last - first;
	for (uint64_t i = first; i <= last; i++) {
		if (marks[i]) {
			if (sscanf(marks[i], "round %d", &round) != 1)
				continue;
			uint64_t end = i + 1;

			while (end < super.entries && !(entries[end].flags & (FLUSH | FUA | MARK)))
				end++;
			printf("%" PRIu64 " %" PRIu64 " %d\n", i + 1, i + 1, round);
			if (end > i + 1)
				printf("%" PRIu64 " %" PRIu64 " %d\n", i + 1, end, round);
		} else if ((uint64_t)random() % between < n) {
			printf("%" PRIu64 " %" PRIu64 " %d\n", i + 1, i + 1, round);
		}
	}
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "forget")) {
		/* struct btrfs_ioctl_vol_args and BTRFS_IOC_FORGET_DEV, whose header not every host has */
		static struct { int64_t fd; char name[4088]; } all;
		int fd = open("/dev/btrfs-control", O_RDWR);

		if (fd < 0 || ioctl(fd, _IOW(0x94, 5, all), &all))
			die("btrfs-control");
	} else if (argc == 5 && !strcmp(argv[1], "points")) {
		load(argv[2]);
		points((unsigned)atoi(argv[3]), (unsigned)atoi(argv[4]));
	} else if (argc >= 6 && !strcmp(argv[1], "replay")) {
		load(argv[2]);
		replay(argv[3], strtoull(argv[4], NULL, 10), strtoull(argv[5], NULL, 10), argc > 6 ? argv[6] : NULL);
	} else {
		return 2;
	}
	return 0;
}
