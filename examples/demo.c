/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * demo.c: three or more files as one run of durable memory.
 *
 *     demo FILE FILE FILE...
 *
 * The files are edited, and grown to whole pages: pass copies.
 */
#define _POSIX_C_SOURCE 200809L

#include <fcntl.h>
#include <libpmemset.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define EDIT 64 /* bytes written over each boundary, half of them on either side */

struct file {
	const char *path;
	dev_t dev;
	ino_t ino;
	size_t size;   /* as found */
	size_t length; /* whole pages: what is mapped */
	char *expect;  /* what must be on disk in the end */
	char *addr;    /* where the part lies */
	int removed;
};

static size_t page;

/* A library call that failed: say which, and why. */
static void
must(int result, const char *what)
{
	if (result == 0)
		return;
	pmemset_perror("demo: %s", what);
	exit(1);
}

/* Anything else that went wrong. */
static void
fail(const char *path, const char *why)
{
	fprintf(stderr, "demo: %s: %s\n", path, why);
	exit(1);
}

static void
fail_errno(const char *path)
{
	perror(path);
	exit(1);
}

/* Read exactly `size` bytes, which must be the whole file, with plain read(2). */
static void
read_whole(const char *path, char *to, size_t size)
{
	size_t done = 0;
	int fd = open(path, O_RDONLY);

	if (fd < 0)
		fail_errno(path);
	/* Drop what is cached and clean, so that read asks the device where it can. */
	(void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	for (;;) {
		char extra;
		ssize_t n = done < size ? read(fd, to + done, size - done)
					: read(fd, &extra, 1);
		if (n < 0)
			fail_errno(path);
		if (n == 0)
			break;
		if (done == size)
			fail(path, "is longer than it should be");
		done += (size_t)n;
	}
	if (done < size)
		fail(path, "is shorter than it should be");
	close(fd);
}

/* Note what a file holds before the library touches it. */
static void
inspect(struct file *files, size_t i, const char *path)
{
	struct file *f = &files[i];
	struct stat st;

	if (stat(path, &st) != 0)
		fail_errno(path);
	if (!S_ISREG(st.st_mode))
		fail(path, "is not a regular file");
	for (size_t k = 0; k < i; k++)
		if (files[k].dev == st.st_dev && files[k].ino == st.st_ino)
			fail(path, "was given twice");

	f->path = path;
	f->dev = st.st_dev;
	f->ino = st.st_ino;
	f->size = (size_t)st.st_size;
	/* The length of a part is a multiple of the page; the size of a file rarely is. */
	f->length = (f->size / page + (f->size % page != 0)) * page;
	if (f->length == 0)
		f->length = page;
	f->expect = calloc(1, f->length);
	if (f->expect == NULL)
		fail(path, "does not fit in memory");
	read_whole(path, f->expect, f->size);
}

/* A new set with every file mapped, each right after the one before. */
static struct pmemset *
map_all(struct file *files, size_t n)
{
	struct pmemset_config *cfg;
	struct pmemset *set;

	must(pmemset_config_new(&cfg), "pmemset_config_new");
	/* PAGE: take any medium, from a plain disk to persistent memory. */
	must(pmemset_config_set_required_store_granularity(cfg, PMEM2_GRANULARITY_PAGE),
	     "pmemset_config_set_required_store_granularity");
	must(pmemset_new(&set, cfg), "pmemset_new");
	must(pmemset_config_delete(&cfg), "pmemset_config_delete");
	must(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_FULL),
	     "pmemset_set_contiguous_part_coalescing");

	for (size_t i = 0; i < n; i++) {
		struct pmemset_source *src;
		struct pmemset_part *part;
		struct pmemset_part_descriptor run;

		/* Growth is asked for: a part may not reach past the end of its file. */
		must(pmemset_xsource_from_file(&src, files[i].path,
					       PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED),
		     files[i].path);
		must(pmemset_part_new(&part, set, src, 0, files[i].length), files[i].path);
		must(pmemset_part_map(&part, NULL, &run), files[i].path);
		must(pmemset_source_delete(&src), files[i].path);

		/* The descriptor is that of the whole run; the new part is its end. */
		files[i].addr = (char *)run.addr + run.size - files[i].length;
		files[i].removed = 0;
		if (i > 0 && files[i].addr != files[i - 1].addr + files[i - 1].length)
			fail(files[i].path, "was not mapped right after the file before it");
	}
	return set;
}

/* Walk the part maps of the set; below each, the files that lie in it. */
static void
print_table(struct pmemset *set, const struct file *files, size_t n)
{
	static const char *const names[] = {"byte", "cache line", "page"};
	enum pmem2_granularity granularity;
	struct pmemset_part_map *map, *next;

	must(pmemset_get_store_granularity(set, &granularity), "pmemset_get_store_granularity");
	printf("\n  %-18s %12s  %-11s  %s\n", "address", "size", "granularity", "file");
	pmemset_first_part_map(set, &map);
	for (size_t number = 1; map != NULL; number++, map = next) {
		struct pmemset_part_descriptor d = pmemset_descriptor_part_map(map);
		char *start = d.addr;

		printf("  %-18p %12zu  %-11s  part map %zu:\n", d.addr, d.size,
		       names[granularity], number);
		for (size_t i = 0; i < n; i++)
			if (!files[i].removed && files[i].addr >= start &&
			    files[i].addr < start + d.size)
				printf("    %-16p %12zu  %-11s    %s\n", (void *)files[i].addr,
				       files[i].length, "", files[i].path);

		/* Both calls take a reference; a part map that is held cannot be removed. */
		pmemset_next_part_map(set, map, &next);
		pmemset_part_map_drop(&map);
	}
	printf("\n");
}

/* One write over each boundary between two files. */
static void
edit(struct pmemset *set, struct file *files, size_t n)
{
	for (size_t i = 0; i + 1 < n; i++) {
		char text[2 * EDIT], bytes[EDIT + 1];

		snprintf(text, sizeof(text), "[demo: one write over the end of file %zu, into file %zu]",
			 i + 1, i + 2);
		snprintf(bytes, sizeof(bytes), "%-*.*s\n", EDIT - 1, EDIT - 1, text);

		/* NODRAIN: one drain for all of them follows. */
		pmemset_memcpy(set, files[i + 1].addr - EDIT / 2, bytes, EDIT,
			       PMEMSET_F_MEM_NODRAIN);
		memcpy(files[i].expect + files[i].length - EDIT / 2, bytes, EDIT / 2);
		memcpy(files[i + 1].expect, bytes + EDIT / 2, EDIT / 2);
	}
	must(pmemset_drain(set), "pmemset_drain");
}

/* What read(2) finds in the files must be what was written, to the byte. */
static void
verify_on_disk(const struct file *files, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		char *found = malloc(files[i].length);

		if (found == NULL)
			fail(files[i].path, "does not fit in memory");
		read_whole(files[i].path, found, files[i].length);
		if (memcmp(found, files[i].expect, files[i].length) != 0)
			fail(files[i].path, "does not hold what was persisted");
		free(found);
	}
}

int
main(int argc, char *argv[])
{
	size_t n = argc > 1 ? (size_t)argc - 1 : 0;
	size_t total = 0;
	struct file *files, *middle;
	struct pmemset *set;
	struct pmemset_part_map *map;
	const char *text;
	int shown;

	if (n < 3) {
		fprintf(stderr,
			"usage: demo FILE FILE FILE...\n"
			"The files are edited, and grown to whole pages: pass copies.\n");
		return 2;
	}
	page = (size_t)sysconf(_SC_PAGESIZE);
	files = calloc(n, sizeof(*files));
	if (files == NULL)
		fail("files", "too many");
	for (size_t i = 0; i < n; i++) {
		inspect(files, i, argv[i + 1]);
		total += files[i].length;
	}
	middle = &files[n / 2];

	set = map_all(files, n);
	printf("Mapped %zu files as one contiguous run of %zu bytes (pages of %zu):\n", n, total,
	       page);
	print_table(set, files, n);

	edit(set, files, n);
	printf("Edited: one write of %d bytes over each of the %zu file boundaries.\n", EDIT, n - 1);
	printf("Persisted: one drain for all of them.\n");

	/* One byte of the range is enough: whole parts are removed, never pages. */
	must(pmemset_remove_range(set, middle->addr, 1), "pmemset_remove_range");
	if (pmemset_part_map_by_address(set, &map, middle->addr) != PMEMSET_E_CANNOT_FIND_PART_MAP)
		fail(middle->path, "is still in the set after its removal");
	middle->removed = 1;
	printf("Removed the middle file, %s; the others stay where they are:\n", middle->path);
	print_table(set, files, n);

	must(pmemset_delete(&set), "pmemset_delete");
	printf("Deleted the set.\n");
	verify_on_disk(files, n);
	printf("Verified with read(2): all %zu files hold exactly what was written.\n", n);

	set = map_all(files, n);
	for (size_t i = 0; i < n; i++)
		if (memcmp(files[i].addr, files[i].expect, files[i].length) != 0)
			fail(files[i].path, "looks different when mapped again");
	printf("Verified with a second set: mapped again, %zu bytes at %p, all the same.\n", total,
	       (void *)files[0].addr);
	text = files[1].addr - EDIT / 2;
	for (shown = EDIT; shown > 0 && (text[shown - 1] == ' ' || text[shown - 1] == '\n'); shown--)
		;
	printf("Across the first boundary now stands: %.*s\n", shown, text);
	must(pmemset_delete(&set), "pmemset_delete");

	for (size_t i = 0; i < n; i++)
		free(files[i].expect);
	free(files);
	return 0;
}
