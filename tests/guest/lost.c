/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * lost.c -- whom a lost page concerns: parents and children, other sources, later openings; and what it must not cost. On
 * ext4 on a disk of which single blocks can be made to fail.
 */
#define PMEMSET_API_VERSION 111
#include "disk.h"

/* flushed before a fork, drained in both processes: the kernel tells one of them */
static void fork_both(int child_first)
{
	test(child_first ? "a page flushed before a fork: the child is told" : "a page flushed before a fork: the parent is told");
	file(child_first ? "child" : "parent");
	struct view v = look(NULL);
	fail(1 << BAD);
	store(&v, BAD, 'b');
	EQ(flush(&v, BAD), 0);
	int turns[2];
	MUST(pipe(turns));
	fflush(stdout);
	pid_t child = fork();
	if (child == 0) {
		char c;

		g_failed = 0;
		close(turns[1]);
		if (!child_first)
			(void)!read(turns[0], &c, 1);
		EQ(pmemset_drain(v.set), -EIO);
		(void)!read(turns[0], &c, 1); /* the disk works again */
		EQ(pmemset_drain(v.set), -EIO);
		EQ(flush(&v, BAD), 0);
		EQ(pmemset_drain(v.set), 0);
		EQ(on_disk(BAD), 'b');
		fflush(stdout);
		_exit(g_failed);
	}
	close(turns[0]);
	if (child_first)
		usleep(500000);
	EQ(pmemset_drain(v.set), -EIO);
	if (!child_first)
		MUST(write(turns[1], "", 1) != 1);
	usleep(500000);
	fail(0);
	close(turns[1]);
	int status = -1;
	EQ(waitpid(child, &status, 0), child);
	EQ(status, 0);
	recovers(&v, BAD, 'c');
	leave(&v);
}

/* what the child has flushed since is lost, and the drain of a page of the parent's takes the report */
static void fork_later(void)
{
	test("a page flushed by the child is lost, the parent is told of it");
	file("later");
	struct view v = look(NULL);
	store(&v, 1, 'x');
	EQ(pmemset_persist(v.set, v.base + page, page), 0);
	int turns[2];
	MUST(pipe(turns));
	fflush(stdout);
	pid_t child = fork();
	if (child == 0) {
		char c;

		g_failed = 0;
		close(turns[1]);
		store(&v, BAD, 'b');
		EQ(flush(&v, BAD), 0);
		(void)!read(turns[0], &c, 1);
		EQ(pmemset_drain(v.set), -EIO);
		EQ(flush(&v, BAD), 0);
		EQ(pmemset_drain(v.set), 0);
		EQ(on_disk(BAD), 'b');
		fflush(stdout);
		_exit(g_failed);
	}
	close(turns[0]);
	usleep(500000);
	fail(1 << BAD);
	written_back();
	store(&v, 2, 'y');
	EQ(flush(&v, 2), 0);
	EQ(pmemset_drain(v.set), -EIO);
	fail(0);
	close(turns[1]);
	int status = -1;
	EQ(waitpid(child, &status, 0), child);
	EQ(status, 0);
	recovers(&v, 2, 'z');
	leave(&v);
}

/* clearing a bad block of another page syncs the same open file, and may be told */
static void clearing(void)
{
	test("a bad block is cleared while a page is lost");
	file("clear");
	struct view v = look(NULL);
	store(&v, BAD, 'b');
	EQ(flush(&v, BAD), 0);
	fail(1 << BAD);
	written_back();
	struct pmemset_badblock bad = { 12 * page, page };
	(void)pmemset_badblock_clear(&bad, v.src); /* whether there is anything to clear here or not */
	fail(0);
	EQ(pmemset_drain(v.set), -EIO);
	recovers(&v, BAD, 'b');
	leave(&v);
}

/* another source of the file, opened beside the first, or when all of the first is gone */
static void second_source(int all_gone)
{
	test(all_gone ? "a page is lost, all is closed and opened again, the page flushed once more" :
			"a page is lost, another source is opened, the page flushed through that");
	file(all_gone ? "again" : "second");
	struct view a = look(NULL);
	fail(1 << BAD);
	store(&a, BAD, 'b');
	EQ(pmemset_persist(a.set, a.base + BAD * page, page), -EIO);
	if (all_gone) {
		EQ(pmemset_delete(&a.set), -EIO);
		EQ(pmemset_source_delete(&a.src), 0);
	}
	fail(0);
	for (int i = 0; i < 2; i++) {
		struct view b = look(NULL);

		EQ(pmemset_drain(b.set), 0); /* it has flushed nothing */
		store(&b, 3, 'a' + i);
		EQ(pmemset_persist(b.set, b.base + 3 * page, page), 0);
		/* not stored to: the kernel counts it as clean, unless the flush makes it dirty */
		EQ(pmemset_persist(b.set, b.base + BAD * page, page), 0);
		EQ(on_disk(BAD), b.base[BAD * page]);
		EQ(on_disk(3), 'a' + i);
		EQ(b.base[BAD * page], 'b');
		leave(&b);
	}
	if (!all_gone) {
		recovers(&a, BAD, 'c');
		leave(&a);
	}
}

static long blocks(void)
{
	struct stat st;

	MUST(stat(path, &st));
	return (long)st.st_blocks / 2;
}

/* one failed write in a sparse file that is flushed as a whole: the disk has no room for its holes */
static void sparse(size_t size)
{
	static char some[65536];

	test("a sparse file stays sparse when a page is lost");
	file("sparse");
	MUST(truncate(path, (off_t)size));
	struct view v = look(NULL);
	memset(v.base, 'a', PAGES * page);
	/* loads leave pages in memory that are holes of the file */
	for (size_t at = PAGES * page; at < size; at += 7 * page)
		EQ(((volatile char *)v.base)[at], 0);
	EQ(pmemset_persist(v.set, v.base, size), 0);
	long before = blocks();
	for (int i = 0; i < 2; i++) {
		fail(1 << BAD);
		store(&v, BAD, 'b' + i);
		EQ(pmemset_persist(v.set, v.base, size), -EIO);
		fail(0);
		EQ(pmemset_drain(v.set), -EIO);
		EQ(pmemset_flush(v.set, v.base, size), 0);
		EQ(pmemset_drain(v.set), 0);
		EQ(on_disk(BAD), 'b' + i);
		CHECK(blocks() < before + 64);
	}
	char *other = path_in(dir, "beside");
	int fd = open(other, O_CREAT | O_RDWR, 0644);
	EQ(write(fd, some, sizeof(some)), sizeof(some));
	EQ(fsync(fd), 0);
	close(fd);
	leave(&v);
	unlink(other);
	free(other);
	unlink(path);
}

static void drop_caches(void)
{
	MUST(system("sync; echo 3 >/proc/sys/vm/drop_caches"));
}

/*
 * The first write of a block is lost. The file system may count the block as unwritten from then on and give back zeros,
 * whatever is written to it later; then the error has to stay until it does not.
 */
static void unwritten(int flushes)
{
	test(flushes == 1 ? "the first write of a block is lost" : "the first write of a block is lost over and over");
	new_file(flushes == 1 ? "unwritten" : "over", 0);
	struct view v = look(NULL);
	store(&v, 2, 'a');
	EQ(pmemset_persist(v.set, v.base + 2 * page, page), 0);
	EQ(in_file(2), 'a');
	fail(1 << BAD);
	for (int i = 0; i < flushes; i++) {
		store(&v, BAD, 'b');
		EQ(pmemset_persist(v.set, v.base + BAD * page, page), -EIO);
	}
	fail(0);
	EQ(pmemset_drain(v.set), -EIO);
	for (int i = 0; i < 3; i++) {
		store(&v, BAD, 'c' + i);
		int said = pmemset_persist(v.set, v.base + BAD * page, page);

		if (said)
			EQ(said, -EIO);
		else
			EQ(in_file(BAD), 'c' + i);
		/* another page does not make it better */
		store(&v, 2, 'd' + i);
		EQ(pmemset_persist(v.set, v.base + 2 * page, page), said);
		EQ(in_file(2), 'd' + i);
		EQ(pmemset_drain(v.set), said);
	}
	/* without the page in memory the file system begins anew */
	int rc = pmemset_drain(v.set);
	EQ(pmemset_delete(&v.set), rc);
	EQ(pmemset_source_delete(&v.src), 0);
	drop_caches();
	v = look(NULL);
	store(&v, BAD, 'x');
	EQ(pmemset_persist(v.set, v.base + BAD * page, page), 0);
	EQ(in_file(BAD), 'x');
	EQ(pmemset_drain(v.set), 0);
	leave(&v);
}

int main(int argc, char **argv)
{
	if (!arguments(argc, argv))
		return 2;
	fork_both(0);
	fork_both(1);
	fork_later();
	clearing();
	second_source(0);
	second_source(1);
	sparse(8 * MIB);
	sparse(64 * MIB);
	unwritten(1);
	unwritten(3);
	test(NULL);
	return g_bad;
}
