/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * errors.c -- PAGE granularity on ext4 on a disk of which single blocks can be made to fail: errors NAME DIR MAPPER DISK
 * SECTORS SEED. A drain that returns 0 means that what was flushed is on the disk, read past all caches.
 */
#include "disk.h"

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
	recovers(&v, BAD, 'b');

	test("what memory holds at the flush is what becomes durable");
	fail(1 << BAD);
	store(&v, BAD, 'c');
	EQ(pmemset_persist(v.set, v.base + BAD * page, page), -EIO);
	fail(0);
	store(&v, BAD, 'd');
	EQ(pmemset_drain(v.set), -EIO);
	EQ(flush(&v, BAD), 0); /* not stored to since */
	EQ(pmemset_drain(v.set), 0);
	EQ(on_disk(BAD), 'd');

	test("a page that is flushed again and lost again");
	fail(1 << BAD);
	for (int i = 0; i < 3; i++) {
		store(&v, BAD, 'e');
		EQ(pmemset_persist(v.set, v.base + BAD * page, 1), -EIO);
		EQ(pmemset_drain(v.set), -EIO);
	}
	EQ(on_disk(BAD), 'd');
	recovers(&v, BAD, 'e');
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
	/* a healthy page is written, although what is lost makes the drain fail */
	store(&v, 2, 'c');
	EQ(pmemset_persist(v.set, v.base + 2 * page, page), -EIO);
	EQ(on_disk(2), 'c');
	fail(1 << 11);
	for (int p = 1; p < PAGES; p += 2)
		EQ(flush(&v, p), 0);
	EQ(pmemset_drain(v.set), -EIO);
	fail(0);
	EQ(pmemset_drain(v.set), -EIO);
	/* all but two of them */
	for (int p = 5; p < PAGES; p += 2)
		EQ(flush(&v, p), 0);
	EQ(pmemset_drain(v.set), -EIO);
	for (int p = 5; p < PAGES; p += 2)
		EQ(on_disk(p), 'b');
	EQ(flush(&v, 1), 0);
	EQ(pmemset_drain(v.set), -EIO);
	char address[32];
	snprintf(address, sizeof(address), "%p", (void *)(v.base + 3 * page));
	CHECK(strstr(pmemset_errormsg(), address));
	EQ(pmemset_persist(v.set, v.base + 3 * page, 1), 0);
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
	fail(0);
	EQ(pmemset_drain(b.set), -EIO);
	EQ(pmemset_drain(b.set), -EIO);
	EQ(flush(&b, BAD), 0);
	EQ(flush(&b, 9), 0);
	EQ(pmemset_drain(b.set), 0);
	EQ(on_disk(BAD), 'b');
	EQ(on_disk(9), 'b');
	recovers(&a, BAD, 'c'); /* by its own user, who has flushed nothing again */
	EQ(pmemset_drain(b.set), 0);
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
	fail(1 << BAD);
	store(&v, BAD, 'b');
	EQ(flush(&v, BAD), 0);
	written_back();
	EQ(pmemset_drain(v.set), -EIO);
	recovers(&v, BAD, 'b');
	leave(&v);

	test("pages that were lost before they were flushed");
	file("before");
	v = look(NULL);
	fail(1 << BAD);
	store(&v, BAD, 'b');
	written_back();
	/* the drain of another page hears of it, and cannot know which it was about */
	store(&v, 1, 'c');
	EQ(pmemset_persist(v.set, v.base + page, page), -EIO);
	recovers(&v, 1, 'c');
	EQ(flush(&v, BAD), 0);
	EQ(pmemset_drain(v.set), 0);
	EQ(on_disk(BAD), 'b');
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
	EQ(pmemset_drain(w.set), -EIO);
	fail(0);
	EQ(flush(&w, BAD), 0);
	EQ(pmemset_drain(w.set), 0);
	EQ(on_disk(BAD), 'b');
	EQ(pmemset_delete(&w.set), 0);
	EQ(pmemset_delete(&v.set), -EIO);
	EQ(pmemset_source_delete(&v.src), 0);

	test("a part that is mapped when the file has failed loses a page to the kernel");
	file("late");
	v = look(NULL);
	w = look(NULL);
	fail(1 << BAD);
	store(&w, BAD, 'b');
	EQ(pmemset_persist(w.set, w.base + BAD * page, 1), -EIO);
	struct view late = look(v.src); /* of a source that has not heard of it */
	store(&late, BAD, 'c');
	EQ(flush(&late, BAD), 0);
	written_back();
	EQ(flush(&v, 1), 0);
	fail(0);
	EQ(pmemset_drain(late.set), -EIO);
	(void)pmemset_drain(v.set);
	recovers(&late, BAD, 'd');
	(void)pmemset_delete(&v.set);
	EQ(pmemset_delete(&w.set), -EIO);
	EQ(pmemset_source_delete(&w.src), 0);
	leave(&late);
}

static void removal(void)
{
	struct pmemset_part_map *map;

	test("a part that has lost a page refuses its removal once");
	file("removal");
	struct view v = look(NULL);
	fail(1 << BAD);
	store(&v, BAD, 'b');
	EQ(flush(&v, BAD), 0);
	EQ(pmemset_part_map_by_address(v.set, &map, v.base), 0);
	EQ(pmemset_remove_part_map(v.set, &map), -EIO);
	CHECK(map != NULL);
	if (map)
		EQ(v.base[BAD * page], 'b');
	pmemset_part_map_drop(&map);
	EQ(pmemset_drain(v.set), -EIO);
	EQ(pmemset_remove_range(v.set, v.base, 1), 0);
	EQ(pmemset_drain(v.set), 0);
	EQ(on_disk(BAD), 0);
	fail(0);
	leave(&v);

	test("and is removed with all on the disk after another flush");
	file("flushed");
	v = look(NULL);
	fail(1 << BAD);
	store(&v, BAD, 'b');
	EQ(flush(&v, BAD), 0);
	EQ(pmemset_remove_range(v.set, v.base, 1), -EIO);
	fail(0);
	EQ(flush(&v, BAD), 0); /* the removal has reported it */
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
	recovers(&v, BAD, 'b');
	fail(1 << BAD);
	CHECK(pmemset_memset(v.set, v.base + BAD * page, 'x', page, 0));
	fail(0);
	EQ(pmemset_drain(v.set), -EIO);
	/* a copy is a flush, too */
	CHECK(pmemset_memset(v.set, v.base + BAD * page, 'y', page, 0));
	EQ(on_disk(BAD), 'y');
	EQ(pmemset_drain(v.set), 0);

	test("a deep flush says so, too");
	fail(1 << BAD);
	store(&v, BAD, 'c');
	EQ(pmemset_deep_flush(v.set, v.base, PAGES * page), PMEMSET_E_DEEP_FLUSH_FAIL);
	fail(0);
	EQ(pmemset_drain(v.set), -EIO);
	EQ(pmemset_flush(v.set, v.base, PAGES * page), 0); /* whatever was synced with it is suspect */
	EQ(pmemset_deep_flush(v.set, v.base, PAGES * page), 0);
	EQ(on_disk(BAD), 'c');
	EQ(pmemset_drain(v.set), 0);
	leave(&v);
}

/* Two sets, stores, flushes and drains in any order on a disk that fails and recovers: what a drain calls durable is. */
static void anyhow(unsigned start, int turns, int written_back)
{
	int current[PAGES], flushed[2][PAGES], durable = 0, failures = 0;

	test(written_back ? "any order of stores, flushes, drains, failures and the kernel's own writeback" :
			    "any order of stores, flushes, drains and failures");
	file("anyhow");
	int fd = open(path, O_RDWR);
	memset(current, 0, sizeof(current));
	memset(flushed, 0, sizeof(flushed));
	struct view v[2] = { look(NULL) };
	v[1] = look(start % 2 ? v[0].src : NULL);
	srandom(start);
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
			/* it stays so until all is flushed again that may be lost */
			if (random() % 2)
				fail(0);
			EQ(pmemset_drain(v[who].set), -EIO);
			for (int p = random() % 3 ? 0 : PAGES; p < PAGES; p++)
				if (flushed[who][p]) {
					EQ(flush(&v[who], p), 0);
					flushed[who][p] = current[p];
				}
			continue;
		}
		for (int p = 0; p < PAGES; p++) {
			/* a later version may have been written, too */
			if (!flushed[who][p] || flushed[who][p] != current[p])
				continue;
			durable++;
			if (on_disk(p) != current[p]) {
				printf("  seed %u, turn %d, set %d: page %d is %d on the disk, %d was called durable\n", start, turn, who, p,
				       on_disk(p), current[p]);
				g_failed = 1;
			}
		}
	}
	fail(0);
	for (int who = 0; who < 2; who++) {
		(void)pmemset_drain(v[who].set);
		for (int p = 0; p < PAGES; p++)
			if (flushed[who][p]) {
				EQ(flush(&v[who], p), 0);
				flushed[who][p] = current[p];
			}
		EQ(pmemset_drain(v[who].set), 0);
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
	if (!arguments(argc, argv))
		return 2;
	reported();
	beside();
	two_sets(0);
	two_sets(1);
	by_the_kernel();
	removal();
	copies();
	/* of one source, and of two */
	anyhow(seed, 45, 0);
	anyhow(seed + 1, 45, 0);
	anyhow(seed + 2, 45, 1);
	anyhow(seed + 3, 45, 1);
	test(NULL);
	return g_bad;
}
