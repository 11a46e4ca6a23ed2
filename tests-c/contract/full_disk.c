/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * full_disk.c -- a real disk that loses writes: ext4 on a loop device whose backing file is sparse on a full tmpfs.
 * A drain that returns 0 means that the bytes are on the disk (read past the page cache); anything else is an error.
 */
#include "t.h"
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>

#define HEALTHY 16      /* pages whose blocks the backing file has */
#define PAGES 64        /* of the file; the others have none */

static size_t page;
static const char *why;
static char loop_path[64];
static int loop_fd = -1;

static int run(const char *command)
{
	int rc = system(command);

	return WIFEXITED(rc) ? WEXITSTATUS(rc) : -1;
}

/* needs mkfs.ext4, loop devices, the right to mount */
static int set_up(void)
{
	int ctl, img, n;

	why = "cannot mount here";
	MUST(mkdir("back", 0755) == 0 && mkdir("disk", 0755) == 0);
	if (geteuid() != 0 || unshare(CLONE_NEWNS) != 0 || mount("none", "/", "none", MS_REC | MS_PRIVATE, "") != 0 ||
	    mount("none", "back", "tmpfs", 0, "size=40m") != 0)
		return -1;
	make_file("back/img", 256 << 20);
	why = "no mkfs.ext4";
	if (run("mkfs.ext4 -q -F -b 4096 -J size=4 -N 64 -E lazy_itable_init=0,lazy_journal_init=0,nodiscard back/img >mkfs.log 2>&1") != 0)
		return -1;
	why = "no loop device";
	ctl = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	if (ctl < 0)
		return -1;
	img = open("back/img", O_RDWR | O_CLOEXEC);
	MUST(img >= 0);
	for (int tries = 0; tries < 20 && loop_fd < 0; tries++) {
		struct loop_info64 info = { .lo_flags = LO_FLAGS_AUTOCLEAR };

		n = ioctl(ctl, LOOP_CTL_GET_FREE);
		if (n < 0)
			break;
		snprintf(loop_path, sizeof loop_path, "/dev/loop%d", n);
		loop_fd = open(loop_path, O_RDWR | O_CLOEXEC);
		if (loop_fd < 0)
			break;
		if (ioctl(loop_fd, LOOP_SET_FD, img) != 0) { /* somebody else was faster */
			close(loop_fd);
			loop_fd = -1;
			continue;
		}
		ioctl(loop_fd, LOOP_SET_STATUS64, &info); /* goes with its last user */
	}
	close(ctl);
	close(img);
	if (loop_fd < 0)
		return -1;
	why = "cannot mount the loop device";
	if (mount(loop_path, "disk", "ext4", 0, "errors=continue") != 0)
		return -1;
	close(loop_fd);
	return 0;
}

/*
 * Two ways to lose a write. WRITTEN: the file's blocks hold data, but nothing is below them any more; when there is room
 * again, writing once more is enough. FRESH: the block is new to the file; after a failed write ext4 keeps the block marked
 * as unwritten, and writing the page once more "succeeds" while reads from the disk still give zeros. A library that
 * cannot tell must not say 0 there.
 */
enum kind { WRITTEN, FRESH };

/* a file whose first pages are backed and whose others are not */
static void make_victim(const char *name, enum kind kind)
{
	int fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	char *buf = calloc(1, page);
	int n = kind == WRITTEN ? PAGES : HEALTHY;

	MUST(fd >= 0 && buf);
	MUST(fallocate(fd, 0, 0, (off_t)(PAGES * page)) == 0);
	memset(buf, 'h', page);
	for (int i = 0; i < n; i++)
		MUST(pwrite(fd, buf, page, (off_t)((size_t)i * page)) == (ssize_t)page);
	MUST(fsync(fd) == 0);
	if (kind == WRITTEN) { /* take away what is below */
		struct { struct fiemap map; struct fiemap_extent extents[64]; } f;
		int img = open("back/img", O_RDWR | O_CLOEXEC);
		size_t punched = 0;

		memset(&f, 0, sizeof f);
		f.map.fm_length = PAGES * page;
		f.map.fm_extent_count = 64;
		MUST(img >= 0 && ioctl(fd, FS_IOC_FIEMAP, &f) == 0);
		for (unsigned i = 0; i < f.map.fm_mapped_extents; i++)
			for (uint64_t o = 0; o < f.extents[i].fe_length; o += page)
				if ((f.extents[i].fe_logical + o) / page >= HEALTHY) {
					MUST(fallocate(img, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
						(off_t)(f.extents[i].fe_physical + o), (off_t)page) == 0);
					punched++;
				}
		MUST(punched == PAGES - HEALTHY);
		close(img);
	}
	close(fd);
	free(buf);
}

/* let nothing more fit below */
static void fill(void)
{
	int fd = open("back/filler", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	char *buf = calloc(1, 65536);
	size_t n = 65536;

	MUST(fd >= 0 && buf);
	while (n >= 512) {
		ssize_t w = write(fd, buf, n);

		if (w <= 0)
			n /= 2;
	}
	close(fd);
	free(buf);
}

static void unfill(void)
{
	MUST(unlink("back/filler") == 0);
}

/* the disk's opinion, not the cache's: 1 it has them, 0 not (or cannot be read) */
static int on_disk(const char *name, size_t pg, char want)
{
	static char *buf;
	int fd = open(name, O_RDONLY | O_DIRECT | O_CLOEXEC), same = 0;

	if (!buf)
		MUST(posix_memalign((void **)&buf, 65536, 65536) == 0);
	MUST(fd >= 0);
	memset(buf, 0, page);
	if (pread(fd, buf, page, (off_t)(pg * page)) == (ssize_t)page)
		same = buf[0] == want && buf[page - 1] == want;
	close(fd);
	return same;
}

static void put(char *p, size_t pg, char c)
{
	memset(p + pg * page, c, page);
}

static void lost(enum kind kind)
{
	struct pmemset *set, *two;
	char *p, *q;
	int rc;

	if (set_up() != 0) {
		child_skip(why);
		return;
	}
	make_victim("disk/a", kind);
	make_victim("disk/b", kind);
	set = new_set();
	p = map_file(set, "disk/a");

	/* all is well */
	put(p, 1, 'A');
	IS(pmemset_persist(set, p + page, page), 0);
	CHECK(on_disk("disk/a", 1, 'A'));

	fill();
	/* a lost page is an error, and goes on being one */
	put(p, 40, 'B');
	rc = pmemset_persist(set, p + 40 * page, page);
	EITHER(rc, -EIO, -ENOSPC);
	CHECKF(strstr(pmemset_errormsg(), rc ? strerror(-rc) : "?") != NULL, "%s", pmemset_errormsg());
	CHECK(!on_disk("disk/a", 40, 'B'));
	for (int i = 0; i < 5; i++) {
		rc = pmemset_drain(set);
		CHECKF(rc < 0, "drain %d claims that the lost page is durable", i);
		rc = pmemset_persist(set, p + 40 * page, 1);
		CHECKF(rc < 0, "persist %d claims that the lost page is durable", i);
	}
	/* healthy pages beside it: whatever is said must be true */
	for (size_t i = 2; i < 8; i++) {
		put(p, i, 'C');
		rc = pmemset_persist(set, p + i * page, page);
		if (rc == 0)
			CHECKF(on_disk("disk/a", i, 'C') && on_disk("disk/a", 40, 'B'), "page %zu", i);
		else
			EITHER(rc, -EIO, -ENOSPC);
	}
	/* a lost and a healthy one in one drain */
	put(p, 9, 'D');
	put(p, 45, 'D');
	IS(pmemset_flush(set, p + 9 * page, page), 0);
	IS(pmemset_flush(set, p + 45 * page, page), 0);
	rc = pmemset_drain(set);
	CHECKF(rc < 0, "drain of a lost page returned %d", rc);

	/* removal that would lose it is refused */
	rc = remove_at(set, p);
	CHECKF(rc < 0, "removal returned %d", rc);
	CHECK(size_at(set, p) == PAGES * page && p[40 * page] == 'B' && p[45 * page] == 'D');

	/* two sets on one file */
	two = new_set();
	q = map_file(two, "disk/b");
	{
		struct pmemset *three = new_set();
		char *r = map_file(three, "disk/b");

		put(q, 50, 'E');
		put(r, 51, 'E');
		IS(pmemset_flush(two, q + 50 * page, page), 0);
		IS(pmemset_flush(three, r + 51 * page, page), 0);
		rc = pmemset_drain(two);
		CHECKF(rc < 0, "first set: %d", rc);
		rc = pmemset_drain(three);
		CHECKF(rc < 0, "second set: %d", rc);
		rc = pmemset_persist(two, r + 51 * page, page); /* by the other's address */
		CHECKF(rc < 0, "the other set's page: %d", rc);
		rc = pmemset_drain(three);
		CHECKF(rc < 0, "second set, again: %d", rc);
		/* deletion frees and tells */
		rc = pmemset_delete(&three);
		CHECKF(rc < 0 && three == NULL, "deletion: %d", rc);
		CHECK(!readable(r));
	}

	/* room again: no drain makes up for what was lost; stored and flushed again it may be there, and 0 means that it is */
	unfill();
	rc = pmemset_drain(set);
	CHECKF(rc < 0, "drain claims what nobody has flushed again: %d", rc);
	for (int i = 0; i < 10; i++) {
		put(p, 40, 'B');
		put(p, 45, 'D');
		put(p, 9, 'D');
		for (size_t k = 2; k < 8; k++)
			put(p, k, 'C');
		IS(pmemset_flush(set, p + 2 * page, 8 * page), 0);
		IS(pmemset_flush(set, p + 40 * page, page), 0);
		IS(pmemset_flush(set, p + 45 * page, page), 0);
		rc = pmemset_drain(set);
		if (rc == 0)
			break;
	}
	if (kind == WRITTEN)
		IS(rc, 0);
	if (rc == 0) {
		CHECK(on_disk("disk/a", 40, 'B'));
		CHECK(on_disk("disk/a", 45, 'D'));
		CHECK(on_disk("disk/a", 9, 'D'));
		for (size_t i = 2; i < 8; i++)
			CHECK(on_disk("disk/a", i, 'C'));
		put(p, 60, 'F');
		IS(pmemset_persist(set, p + 60 * page, page), 0);
		CHECK(on_disk("disk/a", 60, 'F'));
		IS(remove_at(set, p), 0);
		IS(pmemset_delete(&set), 0);
	} else { /* it is never forgotten */
		EITHER(rc, -EIO, -ENOSPC);
		rc = pmemset_delete(&set);
		CHECKF(rc < 0 && set == NULL, "deletion: %d", rc);
	}
	for (int i = 0; i < 10; i++) {
		put(q, 50, 'E');
		IS(pmemset_flush(two, q + 50 * page, page), 0);
		rc = pmemset_drain(two);
		if (rc == 0)
			break;
	}
	if (kind == WRITTEN)
		IS(rc, 0);
	if (rc == 0) {
		CHECK(on_disk("disk/b", 50, 'E'));
		IS(pmemset_delete(&two), 0);
	} else {
		(void)pmemset_delete(&two);
		CHECK(two == NULL);
	}
	umount("disk");
	umount("back");
}

static void lost_written(void)
{
	lost(WRITTEN);
}

static void lost_fresh(void)
{
	lost(FRESH);
}

/* many pages, some lost, in random drains: no 0 that is not true */
static void random_losses(enum kind kind)
{
	struct pmemset *set;
	char *p, state[PAGES];
	uint64_t seed = 21;
	int zero = 0, errors = 0, filled = 0;

	if (set_up() != 0) {
		child_skip(why);
		return;
	}
	make_victim("disk/r", kind);
	set = new_set();
	p = map_file(set, "disk/r");
	memset(state, 0, sizeof state);
	for (int round = 0; round < 80; round++) {
		int n = 1 + (int)(rnd(&seed) % 6), rc;

		if (round % 10 == 3 && !filled) {
			fill();
			filled = 1;
		} else if (round % 10 == 8 && filled) {
			unfill();
			filled = 0;
		}
		for (int i = 0; i < n; i++) {
			/* no neighbours: the loop device takes what it could write of several pages for all of them */
			size_t pg = rnd(&seed) % (PAGES / 2) * 2;

			state[pg] = (char)('a' + round % 26);
			put(p, pg, state[pg]);
			IS(pmemset_flush(set, p + pg * page, page), 0);
		}
		rc = pmemset_drain(set);
		if (rc == 0) {
			zero++;
			for (size_t i = 0; i < PAGES; i++)
				if (state[i])
					CHECKF(on_disk("disk/r", i, state[i]), "round %d, page %zu", round, i);
		} else {
			errors++;
			/* the program has them all, and says so */
			for (size_t i = 0; i < PAGES; i++) {
				if (!state[i])
					continue;
				put(p, i, state[i]);
				IS(pmemset_flush(set, p + i * page, page), 0);
			}
			/* losing its own journal makes ext4 read-only */
			if (rc != -EROFS)
				EITHER(rc, -EIO, -ENOSPC);
		}
	}
	/* a lost fresh block may fail every drain from then on */
	CHECKF(zero > (kind == WRITTEN ? 20 : 0) && errors > 0, "%d drains went well, %d failed", zero, errors);
	if (filled)
		unfill();
	(void)pmemset_drain(set);
	(void)pmemset_delete(&set);
	CHECK(set == NULL);
	umount("disk");
	umount("back");
}

static void random_written(void)
{
	random_losses(WRITTEN);
}

static void random_fresh(void)
{
	random_losses(FRESH);
}

static void one_group(void (*fn)(void), const char *name)
{
	CHILD_GROUP(fn, name);
	rmdir("back");
	rmdir("disk");
}

int main(void)
{
	t_begin();
	page = page_size();
	one_group(lost_written, "full disk: what is lost is told until it is written");
	one_group(random_written, "full disk: no drain claims what is not there");
	one_group(lost_fresh, "full disk: lost on blocks new to the file");
	one_group(random_fresh, "full disk: no drain claims what is not there, blocks new to the file");
	return t_end();
}
