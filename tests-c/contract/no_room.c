/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * no_room.c -- what an access to a mapping meets when there is nothing behind it: SIGBUS where a hole cannot be filled, where the
 * file has been made shorter, and where its file system has been shut down; and none where the room was there before. Whatever
 * has happened, calls return, and what they say is true.
 */
#include "t.h"
#include <linux/loop.h>
#include <sched.h>
#include <setjmp.h>
#include <sys/ioctl.h>
#include <sys/mount.h>

#define SHUT_DOWN _IOR('X', 125, uint32_t)
#define WITHOUT_LOG 2

static size_t page;
static sigjmp_buf out;

static void on_bus(int sig)
{
	(void)sig;
	siglongjmp(out, 1);
}

/* 1: the store went well */
static int can_store(char *p, char c)
{
	if (sigsetjmp(out, 1))
		return 0;
	*(volatile char *)p = c;
	return 1;
}

static int can_load(const char *p)
{
	if (sigsetjmp(out, 1))
		return 0;
	(void)*(const volatile char *)p;
	return 1;
}

/* a place of our own in the mount table, which goes with the process */
static int own_mounts(void)
{
	signal(SIGBUS, on_bus);
	mkdir("disk", 0755);
	return geteuid() == 0 && unshare(CLONE_NEWNS) == 0 && mount("none", "/", "none", MS_REC | MS_PRIVATE, "") == 0 ? 0 : -1;
}

static int small_tmpfs(void)
{
	if (own_mounts() == 0 && mount("none", "disk", "tmpfs", 0, "size=1m") == 0)
		return 0;
	child_skip("cannot mount here");
	return -1;
}

static void fill(void)
{
	int fd = open("disk/filler", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	static char buf[4096];

	MUST(fd >= 0);
	while (write(fd, buf, sizeof buf) > 0)
		;
	MUST(errno == ENOSPC);
	close(fd);
}

static void hole(void)
{
	struct pmemset *set;
	char *p;

	if (small_tmpfs() != 0)
		return;
	make_file("disk/a", 65536 * 4);
	set = new_set();
	p = map_file(set, "disk/a");
	CHECK(can_store(p, 'a'));
	fill();
	CHECK(!can_store(p + 65536, 'b'));
	IS(pmemset_persist(set, p, 1), 0);
	IS(pmemset_drain(set), 0);
	MUST(unlink("disk/filler") == 0);
	CHECK(can_store(p + 65536, 'b'));
	IS(pmemset_persist(set, p + 65536, 1), 0);
	IS(pmemset_delete(&set), 0);
	CHECK(file_holds("disk/a", 65536, "b", 1));
}

static void room_first(void)
{
	struct pmemset *set;
	char *p;
	int fd, faults = 0;

	if (small_tmpfs() != 0)
		return;
	/* all of it */
	fd = open("disk/a", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	MUST(fd >= 0);
	IS(posix_fallocate(fd, 0, 65536 * 4), 0);
	close(fd);
	fill();
	set = new_set();
	p = map_file(set, "disk/a");
	for (size_t i = 0; i < 65536 * 4; i += page)
		faults += !can_store(p + i, 'c');
	CHECKF(faults == 0, "%d stores raised SIGBUS", faults);
	IS(pmemset_persist(set, p, 65536 * 4), 0);
	IS(pmemset_delete(&set), 0);
	/* or none */
	fd = open("disk/b", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	MUST(fd >= 0);
	IS(posix_fallocate(fd, 0, 2 << 20), ENOSPC);
	close(fd);
}

static void shorter(void)
{
	struct pmemset *set = new_set();
	char *p;

	signal(SIGBUS, on_bus);
	make_file("cut", (off_t)(8 * page));
	p = map_file(set, "cut");
	for (size_t i = 0; i < 8; i++)
		CHECK(can_store(p + i * page, 'd'));
	IS(pmemset_flush(set, p, 8 * page), 0);
	MUST(truncate("cut", (off_t)(4 * page)) == 0);
	CHECK(can_store(p + 3 * page, 'e'));
	CHECK(!can_store(p + 4 * page, 'e') && !can_load(p + 7 * page));
	IS(pmemset_persist(set, p, 4 * page), 0);
	(void)pmemset_drain(set);
	MUST(truncate("cut", (off_t)(8 * page)) == 0);
	CHECK(can_load(p + 7 * page) && p[7 * page] == 0);
	CHECK(can_store(p + 7 * page, 'f'));
	IS(pmemset_persist(set, p + 7 * page, 1), 0);
	IS(pmemset_delete(&set), 0);
	CHECK(file_holds("cut", (off_t)(7 * page), "f", 1));
}

/* a file system of its own, on a loop device; needs the right to mount, and a program that makes one */
static const char *disk(const char *type, off_t size)
{
	char name[64], make[100];
	int ctl, img, loop = -1;

	if (own_mounts() != 0)
		return "cannot mount here";
	make_file("img", size);
	snprintf(make, sizeof make, "mkfs.%s -q img >mkfs.log 2>&1", type);
	if (system(make) != 0)
		return "no program that makes the file system";
	ctl = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	img = open("img", O_RDWR | O_CLOEXEC);
	for (int tries = 0; ctl >= 0 && tries < 20 && loop < 0; tries++) {
		struct loop_info64 info = { .lo_flags = LO_FLAGS_AUTOCLEAR };

		snprintf(name, sizeof name, "/dev/loop%d", ioctl(ctl, LOOP_CTL_GET_FREE));
		loop = open(name, O_RDWR | O_CLOEXEC);
		if (loop < 0)
			break;
		if (ioctl(loop, LOOP_SET_FD, img) != 0) { /* somebody else was faster */
			close(loop);
			loop = -1;
			continue;
		}
		ioctl(loop, LOOP_SET_STATUS64, &info);
	}
	close(img);
	if (loop < 0)
		return "no loop device";
	if (mount(name, "disk", type, 0, "") != 0)
		return "cannot mount the loop device";
	close(loop);
	return NULL;
}

/* faults: what is not in memory cannot be had any more */
static void shut_down(const char *type, off_t size, int faults)
{
	const char *why = disk(type, size);
	uint32_t how = WITHOUT_LOG;
	struct pmemset *set;
	char *p, buf[8];
	int fd, rc;

	if (why) {
		child_skip(why);
		return;
	}
	fd = open("disk/a", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	MUST(fd >= 0 && posix_fallocate(fd, 0, 64 * 65536) == 0);
	set = new_set();
	p = map_file(set, "disk/a");
	CHECK(can_store(p, 'g'));
	IS(pmemset_persist(set, p, 1), 0);
	CHECK(can_store(p, 'h'));
	IS(pmemset_flush(set, p, 1), 0);
	if (ioctl(fd, SHUT_DOWN, &how) != 0) {
		child_skip("it cannot be shut down");
		return;
	}
	rc = can_store(p + 32 * 65536, 'i');
	CHECK(!faults || rc == 0);
	CHECK(pread(fd, buf, 1, 60 * 65536) == -1);
	rc = pmemset_drain(set);
	CHECKF(rc < 0, "drain: %d", rc);
	rc = can_store(p, 'j') ? pmemset_persist(set, p, 1) : -EIO;
	CHECKF(rc < 0, "persist: %d", rc);
	rc = pmemset_delete(&set);
	CHECKF(rc < 0 && set == NULL, "delete: %d", rc);
	CHECK(!readable(p));
	close(fd);
	umount("disk");
}

static void shut_down_ext4(void)
{
	shut_down("ext4", 32 << 20, 0);
}

static void shut_down_xfs(void)
{
	shut_down("xfs", 400 << 20, 1);
}

int main(void)
{
	t_begin();
	page = page_size();
	CHILD_GROUP(hole, "no room: a hole on a full file system");
	CHILD_GROUP(room_first, "no room: posix_fallocate first");
	CHILD_GROUP(shorter, "no room: a file that is made shorter");
	CHILD_GROUP(shut_down_ext4, "no room: ext4 that was shut down");
	unlink("img");
	CHILD_GROUP(shut_down_xfs, "no room: xfs that was shut down");
	return t_end();
}
