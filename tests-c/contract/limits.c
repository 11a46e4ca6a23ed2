/* SPDX-License-Identifier: BSD-3-Clause */
/* limits.c -- what runs out: address space, file size, descriptors, address ranges, the disk. A clear error, the set as before */
#include "t.h"
#include <sched.h>
#include <sys/mount.h>

static size_t page;

static void message_is_there(void)
{
	CHECK(*pmemset_errormsg() != 0);
}

/* a set that still does its work */
static void works(struct pmemset *set, char *p)
{
	memcpy(p, "alive", 6);
	IS(pmemset_persist(set, p, 6), 0);
	IS(pmemset_deep_flush(set, p, 6), 0);
}

static void limit_as(void)
{
	struct pmemset *set;
	struct pmemset_source *src;
	struct rlimit rl;
	char *p[64], *first;
	int n, rc = 0, again;

	make_file("as", 32 << 20);
	src = source("as");
	rl.rlim_cur = rl.rlim_max = (rlim_t)status_kb("VmSize:") * 1024 + ((rlim_t)300 << 20);
	MUST(setrlimit(RLIMIT_AS, &rl) == 0);
	set = new_set();
	for (n = 0; n < 64; n++) {
		struct pmemset_part_descriptor d;

		rc = map_part(set, src, 0, 0, &d);
		if (rc)
			break;
		p[n] = d.addr;
	}
	IS(rc, -ENOMEM);
	message_is_there();
	CHECKF(n >= 7, "only %d parts of 32 MiB fit into 300 MiB", n); /* what a reservation takes must not be lost to parts */
	if (n < 2)
		return;
	CHECK(walk(set) == n);
	first = p[0];
	works(set, first);
	/* what one part gives back, another can have */
	for (int i = 0; i < 20; i++) {
		struct pmemset_part_descriptor d;

		IS(remove_at(set, p[1]), 0);
		CHECK(walk(set) == n - 1);
		again = map_part(set, src, 0, 0, &d);
		IS(again, 0);
		if (again)
			return;
		p[1] = d.addr;
		FAILS(map_part(set, src, 0, 0, NULL));
		CHECK(walk(set) == n);
	}
	/* room was left for the program while there was room */
	IS(pmemset_delete(&set), 0);
	{
		void *m = mmap(NULL, 200 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		CHECK(m != MAP_FAILED); /* everything came back */
	}
	IS(pmemset_source_delete(&src), 0);
}

/* a set with one small part must not take what the program has left */
static void limit_as_modest(void)
{
	struct pmemset *set;
	struct rlimit rl;
	void *m;

	make_file("as-small", (off_t)page);
	rl.rlim_cur = rl.rlim_max = (rlim_t)status_kb("VmSize:") * 1024 + ((rlim_t)1 << 30);
	MUST(setrlimit(RLIMIT_AS, &rl) == 0);
	set = new_set();
	works(set, map_file(set, "as-small"));
	m = mmap(NULL, 600 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(m != MAP_FAILED);
	IS(pmemset_delete(&set), 0);
}

static void limit_as_coalesce(void)
{
	struct pmemset *set;
	struct pmemset_source *src;
	struct pmemset_part *part = NULL;
	struct rlimit rl;
	struct pmemset_part_descriptor d;
	size_t total = 0;
	char *run = NULL;
	int rc;

	make_file("as-c", 16 << 20);
	src = source("as-c");
	rl.rlim_cur = rl.rlim_max = (rlim_t)status_kb("VmSize:") * 1024 + ((rlim_t)200 << 20);
	MUST(setrlimit(RLIMIT_AS, &rl) == 0);
	set = new_set();
	IS(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_FULL), 0);
	for (;;) {
		IS(pmemset_part_new(&part, set, src, 0, 0), 0);
		rc = pmemset_part_map(&part, NULL, &d);
		if (rc)
			break;
		run = d.addr;
		total += 16 << 20;
		CHECK(d.size == total);
		run[total - 1] = 1;
		if (total > ((size_t)1 << 30))
			break;
	}
	EITHER(rc, PMEMSET_E_CANNOT_COALESCE_PARTS, -ENOMEM);
	message_is_there();
	CHECK(part != NULL);
	CHECK(walk(set) == 1 && size_at(set, run) == total);
	works(set, run);
	IS(pmemset_part_delete(&part), 0);
	IS(pmemset_delete(&set), 0);
	IS(pmemset_source_delete(&src), 0);
}

/* large parts begin where large pages can map them, but need no more address space than they have bytes */
static void limit_as_large(void)
{
	static const size_t mib[] = { 1, 2, 3, 200, 1024, 3000, 5000 };
	struct pmemset_source *src = NULL;

	IS(pmemset_xsource_from_file(&src, "as-large", PMEMSET_SOURCE_FILE_CREATE_ALWAYS | PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED), 0);
	for (int coalescing = PMEMSET_COALESCING_NONE; coalescing <= PMEMSET_COALESCING_FULL; coalescing++)
		for (size_t i = 0; i < sizeof mib / sizeof *mib; i++) {
			size_t size = mib[i] << 20, more = 256 << 10;
			struct pmemset *set = new_set();
			struct pmemset_part_descriptor d;
			struct rlimit rl;

			IS(pmemset_set_contiguous_part_coalescing(set, (enum pmemset_coalescing)coalescing), 0);
			/* and the bits for its pages */
			more += size / page / 8 * 3;
			MUST(getrlimit(RLIMIT_AS, &rl) == 0);
			rl.rlim_cur = (rlim_t)status_kb("VmSize:") * 1024 + size + more;
			MUST(setrlimit(RLIMIT_AS, &rl) == 0);
			IS(map_part(set, src, 0, size, &d), 0);
			if (walk(set) == 1) {
				works(set, d.addr);
				works(set, (char *)d.addr + size - page);
				FAILS(map_part(set, src, 0, size, NULL));
				IS(remove_at(set, d.addr), 0);
				IS(map_part(set, src, page, size, NULL), 0);
			}
			rl.rlim_cur = rl.rlim_max;
			MUST(setrlimit(RLIMIT_AS, &rl) == 0);
			IS(pmemset_delete(&set), 0);
		}
	IS(pmemset_source_delete(&src), 0);
}

static void limit_fsize(void)
{
	struct pmemset *set = new_set();
	struct pmemset_source *src = NULL;
	struct rlimit rl = { 1 << 20, 1 << 20 };
	struct pmemset_part *part = NULL, *same;
	char *p;

	signal(SIGXFSZ, SIG_IGN); /* the program's own choice; else the kernel ends it */
	MUST(setrlimit(RLIMIT_FSIZE, &rl) == 0);
	IS(pmemset_xsource_from_file(&src, "fs", PMEMSET_SOURCE_FILE_CREATE_ALWAYS | PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED), 0);
	p = must_map(set, src, 0, 1 << 19);
	IS(pmemset_part_new(&part, set, src, 0, 2 << 20), 0);
	same = part;
	IS(pmemset_part_map(&part, NULL, NULL), PMEMSET_E_CANNOT_TRUNCATE_SOURCE_FILE);
	message_is_there();
	CHECKF(strstr(pmemset_errormsg(), strerror(EFBIG)) != NULL, "%s", pmemset_errormsg());
	CHECK(part == same);
	IS(pmemset_part_delete(&part), 0);
	CHECK(file_size("fs") == 1 << 19);
	works(set, p);
	must_map(set, src, 0, 1 << 20);
	CHECK(walk(set) == 2);
	IS(pmemset_source_delete(&src), 0);
	IS(pmemset_source_from_temporary(&src, "."), 0);
	IS(map_part(set, src, 0, 2 << 20, NULL), PMEMSET_E_CANNOT_TRUNCATE_SOURCE_FILE);
	IS(map_part(set, src, 0, 1 << 20, NULL), 0);
	IS(pmemset_source_delete(&src), 0);
	IS(pmemset_delete(&set), 0);
}

static void limit_nofile(void)
{
	struct pmemset *set = new_set();
	struct pmemset_source *src = source("f"), *no = (struct pmemset_source *)1;
	struct rlimit rl;
	char *p;

	rl.rlim_cur = rl.rlim_max = 0;
	for (int fd = 0; fd < 1000; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			rl.rlim_cur = rl.rlim_max = (rlim_t)fd + 1;
	/* fill the holes below */
	MUST(setrlimit(RLIMIT_NOFILE, &rl) == 0);
	while (dup(0) >= 0)
		;
	IS(pmemset_source_from_file(&no, "f"), -EMFILE);
	CHECK(no == NULL);
	CHECKF(strstr(pmemset_errormsg(), strerror(EMFILE)) != NULL, "%s", pmemset_errormsg());
	no = (struct pmemset_source *)1;
	IS(pmemset_xsource_from_file(&no, "new-nofile", PMEMSET_SOURCE_FILE_CREATE_ALWAYS), -EMFILE);
	CHECK(no == NULL);
	no = (struct pmemset_source *)1;
	IS(pmemset_source_from_temporary(&no, "."), PMEMSET_E_CANNOT_CREATE_TEMP_FILE);
	CHECK(no == NULL);
	/* mapping and all the rest need none */
	p = must_map(set, src, 0, 0);
	works(set, p);
	IS(pmemset_flush(set, p, 100), 0);
	IS(pmemset_drain(set), 0);
	IS(pmemset_source_delete(&src), 0);
	works(set, p);
	IS(remove_at(set, p), 0);
	IS(pmemset_delete(&set), 0);
}

static long max_map_count(void)
{
	char buf[32] = "";
	int fd = open("/proc/sys/vm/max_map_count", O_RDONLY | O_CLOEXEC);

	if (fd < 0 || read(fd, buf, sizeof buf - 1) <= 0)
		return -1;
	close(fd);
	return atol(buf);
}

/* pages that never merge: every second page of the file, highest first */
static void limit_maps(void)
{
	struct pmemset *set;
	struct pmemset_source *src;
	struct pmemset_part_descriptor d;
	struct pmemset_part_map *pm;
	char *run, *one = NULL;
	long max = max_map_count(), n;
	int rc = 0;

	if (max < 0 || max > 300000) {
		child_skip("max_map_count is unknown or large");
		return;
	}
	make_file("maps", (off_t)((size_t)(2 * max + 100) * page));
	src = source("maps");
	set = new_set();
	/* five neighbouring pages: one address range, if they can merge */
	IS(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_FULL), 0);
	for (size_t i = 0; i < 5; i++)
		run = must_map(set, src, i * page, page);
	for (size_t i = 0; i < 5 * page; i++)
		run[i] = (char)(i / page + 1);
	IS(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_NONE), 0);
	for (n = 0; n < max + 10; n++) {
		rc = map_part(set, src, (size_t)(2 * (max - n % max) + 10) * page, page, &d);
		if (rc)
			break;
		one = d.addr;
	}
	IS(rc, -ENOMEM);
	message_is_there();
	CHECKF(n > max - 500, "%ld parts with max_map_count %ld", n, max);
	CHECKF(count_maps() <= max + 3, "%d address ranges", count_maps()); /* the kernel counts a little differently */
	for (int i = 0; i < 3; i++)
		IS(map_part(set, src, 20 * page, page, NULL), -ENOMEM);
	/* splitting a range needs one more of them: refused, nothing changed; or done, and right */
	rc = pmemset_remove_range(set, run + 2 * page, page);
	if (rc) {
		IS(rc, -ENOMEM);
		message_is_there();
		CHECK(size_at(set, run) == 5 * page);
		for (size_t i = 0; i < 5 * page; i += 512)
			CHECK(run[i] == (char)(i / page + 1));
	} else {
		CHECK(size_at(set, run) == 2 * page && size_at(set, run + 3 * page) == 2 * page && size_at(set, run + 2 * page) == 0);
	}
	works(set, one);
	/* removal of a range of its own is always possible, and makes room */
	for (int i = 0; i < 20; i++) {
		rc = remove_at(set, one);
		IS(rc, 0);
		if (rc)
			break;
		IS(map_part(set, src, (size_t)(2 * i + 31) * page, page, &d), 0);
		one = d.addr;
	}
	{
		long count = 0;

		pmemset_first_part_map(set, &pm);
		while (pm) {
			struct pmemset_part_map *next = NULL;

			pmemset_next_part_map(set, pm, &next);
			pmemset_part_map_drop(&pm);
			pm = next;
			count++;
		}
		CHECKF(count == n + 1 || count == n + 2, "%ld part maps, %ld mapped", count, n + 1);
	}
	IS(pmemset_delete(&set), 0);
	CHECKF(count_maps() < 500, "%d address ranges after delete", count_maps());
	set = new_set();
	IS(map_part(set, src, 0, 0, NULL), 0);
	IS(pmemset_delete(&set), 0);
	IS(pmemset_source_delete(&src), 0);
}

static void tiny_tmpfs(void)
{
	struct pmemset *set;
	struct pmemset_source *src = NULL;
	char *p;
	int fd;

	MUST(mkdir("small", 0755) == 0);
	if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", "none", MS_REC | MS_PRIVATE, "") != 0 ||
	    mount("none", "small", "tmpfs", 0, "size=64k,nr_inodes=6") != 0) {
		child_skip("cannot mount");
		return;
	}
	set = new_set();
	IS(pmemset_xsource_from_file(&src, "small/a", PMEMSET_SOURCE_FILE_CREATE_ALWAYS | PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED), 0);
	p = must_map(set, src, 0, 2 * page); /* larger than all of it would be fine, too: sparse */
	IS(pmemset_source_delete(&src), 0);
	works(set, p);
	/* no inode left */
	for (int i = 0; i < 10; i++) {
		char name[32];

		snprintf(name, sizeof name, "small/f%d", i);
		fd = open(name, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
		if (fd >= 0)
			close(fd);
	}
	src = (struct pmemset_source *)1;
	IS(pmemset_xsource_from_file(&src, "small/b", PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED), -ENOSPC);
	CHECK(src == NULL);
	CHECKF(strstr(pmemset_errormsg(), strerror(ENOSPC)) != NULL, "%s", pmemset_errormsg());
	src = (struct pmemset_source *)1;
	IS(pmemset_source_from_temporary(&src, "small"), PMEMSET_E_CANNOT_CREATE_TEMP_FILE);
	CHECK(src == NULL);
	CHECKF(strstr(pmemset_errormsg(), strerror(ENOSPC)) != NULL, "%s", pmemset_errormsg());
	works(set, p);
	/* no block left: pages that have one go on as before */
	fd = open("small/f0", O_RDWR | O_CLOEXEC);
	if (fd >= 0) {
		char *block = calloc(1, 4096);

		while (write(fd, block, 4096) > 0)
			;
		free(block);
		close(fd);
	}
	works(set, p);
	IS(pmemset_delete(&set), 0);
	umount("small");
}

static void huge(void)
{
	struct pmemset *set = new_set();
	struct pmemset_source *src = NULL;
	char *p = map_file(set, "f");
	static const size_t lens[] = { (size_t)1 << 45, (size_t)1 << 46, (size_t)1 << 47, (size_t)1 << 48, (size_t)1 << 56, (size_t)1 << 62 };

	/* sparse files as large as the file system takes them: the address space ends first */
	for (size_t i = 0; i < sizeof lens / sizeof *lens; i++) {
		struct pmemset_part *part = NULL;

		IS(pmemset_xsource_from_file(&src, "huge", PMEMSET_SOURCE_FILE_CREATE_ALWAYS | PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED), 0);
		IS(pmemset_part_new(&part, set, src, 0, lens[i]), 0);
		if (pmemset_part_map(&part, NULL, NULL) == 0) {
			CHECK(lens[i] <= (size_t)1 << 46);
		} else {
			CHECK(part != NULL);
			message_is_there();
			IS(pmemset_part_delete(&part), 0);
		}
		IS(pmemset_source_delete(&src), 0);
		works(set, p);
	}
	unlink("huge");
	{
		char name[300];

		tmpfs_name(name, sizeof name, "huge");
		IS(pmemset_xsource_from_file(&src, name, PMEMSET_SOURCE_FILE_CREATE_ALWAYS | PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED), 0);
		EITHER(map_part(set, src, 0, (size_t)1 << 60, NULL), -ENOMEM, PMEMSET_E_CANNOT_TRUNCATE_SOURCE_FILE);
		unlink(name);
		IS(pmemset_source_delete(&src), 0);
	}
	CHECK(size_at(set, p) == 1 << 16);
	works(set, p);
	IS(pmemset_delete(&set), 0);
}

/* everything locked into memory, and no right to lock more */
static void locked(void)
{
	struct pmemset *set;
	struct rlimit rl = { 64 << 20, 64 << 20 }, hard;
	char *p;

	if (getrlimit(RLIMIT_MEMLOCK, &hard) == 0 && hard.rlim_max < rl.rlim_max)
		rl.rlim_cur = rl.rlim_max = hard.rlim_max;
	if (setrlimit(RLIMIT_MEMLOCK, &rl) != 0 || (geteuid() == 0 && become_nobody() != 0) || mlockall(MCL_CURRENT | MCL_FUTURE) != 0) {
		child_skip("cannot lock memory as a user");
		return;
	}
	set = new_set();
	p = map_file(set, "f666");
	works(set, p);
	for (int i = 0; i < 10; i++)
		works(set, map_file(set, "f666"));
	CHECK(walk(set) == 11);
	IS(pmemset_delete(&set), 0);
}

/* many sets in one process leave it room */
static void thousand_sets(void)
{
	static struct pmemset *sets[1000];
	void *m;

	for (int i = 0; i < 1000; i++) {
		sets[i] = new_set();
		works(sets[i], map_file(sets[i], "f"));
	}
	m = mmap(NULL, (size_t)1 << 44, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECKF(m != MAP_FAILED, "VmSize is %ld kB", status_kb("VmSize:"));
	if (m != MAP_FAILED)
		munmap(m, (size_t)1 << 44);
	for (int i = 0; i < 1000; i++)
		IS(pmemset_delete(&sets[i]), 0);
}

int main(void)
{
	t_begin();
	page = page_size();
	make_file("f", 1 << 16);
	make_file("f666", 1 << 16);
	MUST(chmod("f666", 0666) == 0);
	if (instrumented()) {
		group("limits");
		skip("not under valgrind or a sanitizer");
		return t_end();
	}
	CHILD_GROUP(limit_as, "limits: address space");
	CHILD_GROUP(limit_as_modest, "limits: address space, room for the program");
	CHILD_GROUP(limit_as_large, "limits: address space, no more than a large part has");
	CHILD_GROUP(limit_as_coalesce, "limits: address space, one contiguous run");
	CHILD_GROUP(limit_fsize, "limits: file size");
	CHILD_GROUP(limit_nofile, "limits: descriptors");
	CHILD_GROUP(limit_maps, "limits: max_map_count");
	CHILD_GROUP(tiny_tmpfs, "limits: a full tmpfs");
	CHILD_GROUP(huge, "limits: huge lengths");
	CHILD_GROUP(locked, "limits: locked memory");
	CHILD_GROUP(thousand_sets, "limits: a thousand sets");
	return t_end();
}
