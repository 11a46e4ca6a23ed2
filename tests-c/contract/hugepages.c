/* SPDX-License-Identifier: BSD-3-Clause */
/* hugepages.c -- files of huge pages: whole huge pages are mapped and nothing less, and nobody's neighbour is overwritten (root) */
#include "t.h"
#include <dlfcn.h>
#include <sys/file.h>
#include <sys/mount.h>

#define MARK "pages-2m" /* in the name of every file of huge pages here */
#define FILE_PATH "mnt/" MARK
#define PAGES 4

static size_t page, huge;
static const char *path; /* of the file that a group is about */
static struct pmemset_source *(*make)(void);

#if PMEMSET_API_VERSION == 112
#define GROWS PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED
#else
#define GROWS (PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED | PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED)
#endif

/* how much of files of huge pages is mapped in this process */
static size_t mapped(void)
{
	char line[512];
	size_t from, to, sum = 0;
	FILE *f = fopen("/proc/self/maps", "r");

	MUST(f);
	while (fgets(line, sizeof line, f))
		if (strstr(line, MARK) && sscanf(line, "%zx-%zx", &from, &to) == 2)
			sum += to - from;
	fclose(f);
	return sum;
}

static struct pmemset_source *by_path(void)
{
	return source(path);
}

/* maps by the other call, which takes what it maps from a config */
static int map_directly(struct pmemset *set, struct pmemset_source *src, size_t off, size_t len)
{
	struct pmemset_map_config *cfg = NULL;
	int rc;

	MUST(pmemset_map_config_new(&cfg) == 0);
	MUST(pmemset_map_config_set_offset(cfg, off) == 0);
	pmemset_map_config_set_length(cfg, len);
	rc = pmemset_map(set, src, cfg, NULL);
	MUST(pmemset_map_config_delete(&cfg) == 0);
	return rc;
}

static void whole_pages(void)
{
	struct pmemset_source *src = make();
	struct pmemset *set = new_set();
	struct pmemset_part_descriptor d;
	size_t align = 0, before = mapped();
	char *p;

	IS(pmemset_source_alignment(src, &align), 0);
	CHECKF(align == huge, "%zu", align);
	IS(map_part(set, src, 0, 0, &d), 0);
	CHECK(d.size == PAGES * huge && (uintptr_t)d.addr % huge == 0);
	CHECKF(mapped() - before == PAGES * huge, "%zu", mapped());
	p = d.addr;
	memset(p, 'w', d.size);
	IS(pmemset_persist(set, p, d.size), 0);
	IS(pmemset_flush(set, p + huge, 1), 0);
	IS(pmemset_flush(set, p + 3 * huge + page, 1), 0);
	IS(pmemset_drain(set), 0);
	CHECK(pmemset_memcpy(set, p + 2 * huge - 2, "over", 4, 0) == p + 2 * huge - 2);
	IS(pmemset_deep_flush(set, p, d.size), 0);
	IS(map_part(set, src, 2 * huge, huge, &d), 0);
	CHECK(memcmp(d.addr, "er", 2) == 0 && ((char *)d.addr)[huge - 1] == 'w');
	CHECKF(mapped() - before == (PAGES + 1) * huge, "%zu", mapped());
	IS(remove_at(set, d.addr), 0);
	CHECKF(mapped() - before == PAGES * huge, "%zu", mapped());
	IS(map_directly(set, src, huge, huge), 0);
	CHECK(walk(set) == 2);
	IS(pmemset_source_delete(&src), 0);
	IS(pmemset_persist(set, p, PAGES * huge), 0);
	IS(pmemset_delete(&set), 0);
	CHECKF(mapped() == before, "%zu", mapped());
}

/* what is no number of huge pages is refused, and leaves nothing behind */
static void less(void)
{
	size_t lengths[] = { 1, page, huge / 2, huge - page, huge + page, 2 * huge - page };
	size_t offsets[] = { 1, page, huge / 2, huge - page, huge + page };
	struct pmemset_source *src = make();
	struct pmemset *set = new_set();
	size_t before = mapped();

	for (int mapped_before = 0; mapped_before < 2; mapped_before++) {
		for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
			IS(map_part(set, src, 0, lengths[i], NULL), PMEMSET_E_LENGTH_UNALIGNED);
			IS(map_directly(set, src, 0, lengths[i]), PMEMSET_E_LENGTH_UNALIGNED);
		}
		for (size_t i = 0; i < sizeof offsets / sizeof *offsets; i++) {
			IS(map_part(set, src, offsets[i], huge, NULL), PMEMSET_E_INVALID_PMEM2_MAP);
			IS(map_directly(set, src, offsets[i], huge), PMEMSET_E_INVALID_PMEM2_MAP);
		}
		CHECK(walk(set) == mapped_before);
		CHECKF(mapped() - before == mapped_before * huge, "%zu", mapped() - before);
		if (!mapped_before)
			must_map(set, src, 0, huge);
	}
	IS(pmemset_source_delete(&src), 0);
	IS(pmemset_delete(&set), 0);
	CHECKF(mapped() == before, "%zu", mapped());
}

#define PARTS 24

/* Parts of both kinds come and go, each full of a byte of its own, which only it may change. */
static void neighbours(void)
{
	static const enum pmemset_coalescing ways[] = {
		PMEMSET_COALESCING_NONE, PMEMSET_COALESCING_OPPORTUNISTIC, PMEMSET_COALESCING_FULL
	};
	struct { char *p; size_t len; int fill; int of_huge; } part[PARTS] = { { NULL, 0, 0, 0 } };
	struct pmemset_source *src = make(), *small = NULL;
	struct pmemset *set = new_set();
	size_t before = mapped(), held = 0;
	uint64_t state = 88172645463325252u;

	MUST(pmemset_source_from_temporary(&small, tmpfs_dir()) == 0);
	for (int round = 1; round <= 1500; round++) {
		/* the first so many are each a huge page of their own of the file */
		int i = (int)(rnd(&state) % PARTS), of_huge = i < PAGES, rc;
		struct pmemset_part_descriptor d;
		size_t len = of_huge ? huge : (1 + rnd(&state) % 600) * page;

		if (part[i].p) {
			IS(pmemset_remove_range(set, part[i].p, 1), 0);
			held -= part[i].of_huge ? part[i].len : 0;
			part[i].p = NULL;
		} else {
			size_t at = of_huge ? (size_t)i * huge : (size_t)i * 600 * page;
			enum pmemset_coalescing way = ways[rnd(&state) % 3];

			IS(pmemset_set_contiguous_part_coalescing(set, way), 0);
			if (of_huge) { /* too little of it is tried first, where a place of that size may be free */
				rc = map_part(set, src, at, page, NULL);
				IS(rc, PMEMSET_E_LENGTH_UNALIGNED);
			}
			rc = map_part(set, of_huge ? src : small, at, len, &d);
			if (rc) {
				IS(rc, PMEMSET_E_CANNOT_COALESCE_PARTS);
				CHECK(way == PMEMSET_COALESCING_FULL);
				continue;
			}
			/* a run is told from its beginning */
			part[i].p = (char *)d.addr + d.size - len;
			part[i].len = len;
			part[i].fill = round % 251;
			part[i].of_huge = of_huge;
			held += of_huge ? len : 0;
			for (size_t k = 0; k < len; k += page)
				part[i].p[k] = part[i].p[k + page - 1] = (char)part[i].fill;
		}
		CHECKF(mapped() - before == held, "%zu are mapped, %zu should be", mapped() - before, held);
		if (t_fails)
			return;
		for (int k = 0; k < PARTS; k++)
			for (size_t n = 0; part[k].p && n < part[k].len; n += page)
				if (part[k].p[n] != (char)part[k].fill || part[k].p[n + page - 1] != (char)part[k].fill) {
					CHECKF(0, "round %d: part %d is overwritten at %zu of %zu", round, k, n, part[k].len);
					return;
				}
	}
	CHECK(walk(set) > 1);
	IS(pmemset_delete(&set), 0);
	IS(pmemset_source_delete(&src), 0);
	IS(pmemset_source_delete(&small), 0);
	CHECKF(mapped() == before, "%zu", mapped());
}

static void growing(void)
{
	struct pmemset_source *src = NULL;
	struct pmemset *set = new_set();
	char *p;

	IS(pmemset_xsource_from_file(&src, "mnt/grows-" MARK, GROWS), 0);
	IS(map_part(set, src, 0, page, NULL), PMEMSET_E_LENGTH_UNALIGNED);
	CHECK(file_size("mnt/grows-" MARK) == 0);
	p = must_map(set, src, huge, huge);
	CHECK(file_size("mnt/grows-" MARK) == (off_t)(2 * huge));
	p[0] = p[huge - 1] = 'g';
	IS(pmemset_persist(set, p, huge), 0);
	IS(pmemset_source_delete(&src), 0);
	IS(pmemset_delete(&set), 0);
	MUST(unlink("mnt/grows-" MARK) == 0);
	CHECK(mapped() == 0);
}

static int memory_file(void)
{
	int fd = memfd_create(MARK, MFD_CLOEXEC | MFD_HUGETLB);

	if (fd >= 0)
		MUST(ftruncate(fd, (off_t)(PAGES * huge)) == 0);
	return fd;
}

static void in_memory(void)
{
	char name[64];
	int fd = memory_file();

	if (fd < 0) {
		child_skip("the kernel has no memory files of huge pages");
		return;
	}
	snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
	path = name;
	make = by_path;
	whole_pages();
	less();
	neighbours();
	snprintf(name, sizeof name, "/dev/fd/%d", fd);
	whole_pages();
	close(fd);
}

static void *pmem2_object;
static int (*pmem2_from_fd)(void **, int);
static int (*pmem2_delete)(void **);

static struct pmemset_source *by_pmem2(void)
{
	struct pmemset_source *src = NULL;

	MUST(pmemset_source_from_pmem2(&src, pmem2_object) == 0);
	return src;
}

static void through_pmem2(void)
{
	void *lib = dlopen("libpmem2.so.1", RTLD_NOW | RTLD_GLOBAL);
	int fd = memory_file(), on_disk;

	if (!lib || fd < 0) {
		child_skip("there is no libpmem2, or the kernel has no memory files of huge pages");
		return;
	}
	*(void **)&pmem2_from_fd = dlsym(lib, "pmem2_source_from_fd");
	*(void **)&pmem2_delete = dlsym(lib, "pmem2_source_delete");
	MUST(pmem2_from_fd && pmem2_delete);
	make = by_pmem2;
	on_disk = open(FILE_PATH, O_RDWR | O_CLOEXEC);
	MUST(on_disk >= 0);
	for (int k = 0; k < 2; k++) {
		MUST(pmem2_from_fd(&pmem2_object, k ? on_disk : fd) == 0);
		whole_pages();
		less();
		MUST(pmem2_delete(&pmem2_object) == 0);
	}
	close(fd);
	close(on_disk);
}

static long number_in(int fd)
{
	char text[32] = "";

	return pread(fd, text, sizeof text - 1, 0) > 0 ? atol(text) : -1;
}

static int put_number(int fd, long n)
{
	char text[32];
	int len = snprintf(text, sizeof text, "%ld", n);

	return pwrite(fd, text, (size_t)len, 0) == len ? 0 : -1;
}

static int pool = -1; /* the kernel's file with the number of huge pages */
static long pool_before;

/* a mount of the process's own with enough huge pages for it; why there is none */
static const char *begin(void)
{
	FILE *f = fopen("/proc/meminfo", "r");
	char line[200];
	size_t kb = 0;

	while (f && fgets(line, sizeof line, f))
		sscanf(line, "Hugepagesize: %zu kB", &kb);
	if (f)
		fclose(f);
	huge = kb << 10;
	if (!huge || huge > (size_t)32 << 20)
		return "there are no huge pages, or only of another size";
	if (geteuid() != 0 || (pool = open("/proc/sys/vm/nr_hugepages", O_RDWR | O_CLOEXEC)) < 0)
		return "not root";
	flock(pool, LOCK_EX); /* others that run this test at the same time */
	pool_before = number_in(pool);
	if (pool_before < 0 || put_number(pool, pool_before + 4 * PAGES) != 0 || number_in(pool) < pool_before + 4 * PAGES)
		return "the kernel has no room for huge pages";
	if (mkdir("mnt", 0755) != 0 || mount("none", "mnt", "hugetlbfs", 0, NULL) != 0)
		return "no hugetlbfs can be mounted";
	make_file(FILE_PATH, (off_t)(PAGES * huge));
	path = FILE_PATH;
	make = by_path;
	return NULL;
}

int main(void)
{
	const char *why;

	t_begin();
	page = page_size();
	why = begin();
	if (why) {
		group("hugepages");
		skip(why);
	} else {
		CHILD_GROUP(whole_pages, "hugepages: whole ones are mapped");
		CHILD_GROUP(less, "hugepages: other lengths and offsets are refused");
		CHILD_GROUP(neighbours, "hugepages: neighbours are left alone");
		CHILD_GROUP(growing, "hugepages: a file of them grows by whole ones");
		CHILD_GROUP(in_memory, "hugepages: files in memory, by the names of descriptors");
		CHILD_GROUP(through_pmem2, "hugepages: sources of libpmem2");
		group("hugepages: nothing is left of them");
		CHECK(unlink(FILE_PATH) == 0);
		CHECK(umount("mnt") == 0);
	}
	if (pool >= 0 && pool_before >= 0)
		put_number(pool, pool_before);
	return t_end();
}
