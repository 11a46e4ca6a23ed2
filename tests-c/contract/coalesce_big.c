/* SPDX-License-Identifier: BSD-3-Clause */
/* coalesce_big.c -- FULL coalescing only ends where the process has no room: 10 000 parts, 640 GiB */
#include "t.h"
#include <sys/resource.h>

static void parts(size_t n, size_t size, int same_range, const char *path)
{
	struct pmemset *set = new_set();
	struct pmemset_source *src;
	struct pmemset_part_descriptor d = { NULL, 0 };
	char *run = NULL;
	size_t i;

	make_file(path, (off_t)(same_range ? size : n * size));
	src = source(path);
	IS(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_FULL), 0);
	for (i = 0; i < n; i++) {
		int rc = map_part(set, src, same_range ? 0 : i * size, size, &d);

		if (rc) {
			IS(rc, 0);
			break;
		}
		if (!run)
			run = d.addr;
		if (d.addr != run || d.size != (i + 1) * size) {
			CHECKF(0, "part %zu: run at %p of %zu", i, d.addr, d.size);
			break;
		}
	}
	CHECKF(i == n, "stopped at part %zu of %zu", i, n);
	CHECK(walk(set) == 1);
	if (!same_range && i == n) {
		int maps = count_maps();

		CHECKF(maps < 200, "%zu parts that continue each other are %d address ranges", n, maps);
		for (size_t k = 0; k < n; k += n / 100 + 1)
			memcpy(run + k * size + size - sizeof k, &k, sizeof k);
		IS(pmemset_persist(set, run, n * size), 0);
		for (size_t k = 0; k < n; k += n / 100 + 1)
			CHECK(file_holds(path, (off_t)(k * size + size - sizeof k), &k, sizeof k));
		IS(pmemset_remove_range(set, run + n / 2 * size, 1), 0); /* one in the middle */
		CHECK(size_at(set, run) == n / 2 * size);
		CHECK(size_at(set, run + (n / 2 + 1) * size) == (n - n / 2 - 1) * size);
		CHECK(walk(set) == 2);
	}
	IS(pmemset_source_delete(&src), 0);
	IS(pmemset_delete(&set), 0);
	unlink(path);
}

static void sparse(const char *dir)
{
	struct pmemset *set = new_set();
	struct pmemset_part_descriptor d = { NULL, 0 };
	size_t each = (size_t)64 << 30;
	char name[300], *run = NULL;

	IS(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_FULL), 0);
	for (size_t i = 0; i < 10; i++) {
		struct pmemset_source *src;
		int rc;

		snprintf(name, sizeof name, "%s/sparse%zu", dir, i);
		make_file(name, (off_t)each);
		src = source(name);
		rc = map_part(set, src, 0, 0, &d);
		IS(rc, 0);
		if (rc == 0) {
			if (!run)
				run = d.addr;
			CHECK(d.addr == run && d.size == (i + 1) * each);
		}
		IS(pmemset_source_delete(&src), 0);
	}
	CHECK(walk(set) == 1);
	if (run && size_at(set, run) == 10 * each) {
		for (size_t i = 1; i < 10; i++) { /* over every border */
			memcpy(run + i * each - 4, "borderline", 10);
			IS(pmemset_persist(set, run + i * each - 4, 10), 0);
			snprintf(name, sizeof name, "%s/sparse%zu", dir, i - 1);
			CHECK(file_holds(name, (off_t)(each - 4), "bord", 4));
			snprintf(name, sizeof name, "%s/sparse%zu", dir, i);
			CHECK(file_holds(name, 0, "erline", 6));
		}
		IS(pmemset_remove_range(set, run + 5 * each, 1), 0);
		CHECK(walk(set) == 2 && size_at(set, run) == 5 * each && size_at(set, run + 6 * each) == 4 * each);
	}
	IS(pmemset_delete(&set), 0);
	for (int i = 0; i < 10; i++) {
		snprintf(name, sizeof name, "%s/sparse%d", dir, i);
		unlink(name);
	}
}

/* one small part first, mapped as any other: the run must not be bound to a small place */
static void small_then_large(int parts, size_t each)
{
	struct pmemset *set = new_set();
	struct pmemset_source *src;
	struct pmemset_part_descriptor d = { NULL, 0 };
	size_t page = page_size(), total = page;
	char *run;

	make_file("small", (off_t)page);
	run = map_file(set, "small");
	make_file("large", (off_t)each);
	src = source("large");
	IS(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_FULL), 0);
	for (int i = 0; i < parts; i++) {
		IS(map_part(set, src, 0, 0, &d), 0);
		total += each;
		CHECK(d.addr == run && d.size == total);
	}
	memcpy(run + total - 8, "the end", 8);
	IS(pmemset_persist(set, run + total - 8, 8), 0);
	CHECK(file_holds("large", (off_t)(each - 8), "the end", 8));
	memcpy(run + total / 2, "within", 6);
	IS(pmemset_flush(set, run + total / 2, 6), 0);
	IS(pmemset_remove_range(set, run + total - each, each), 0);
	IS(size_at(set, run), total - each);
	IS(pmemset_source_delete(&src), 0);
	IS(pmemset_delete(&set), 0);
}

static void little_space(void)
{
	struct rlimit rl = { 1 << 30, RLIM_INFINITY };

	MUST(setrlimit(RLIMIT_AS, &rl) == 0);
	parts(10000, 65536, 1, "big");
}

int main(void)
{
	static struct pmemset *others[1000];
	char tmpfs[300];
	size_t page = page_size();

	t_begin();
	if (instrumented()) {
		group("big");
		skip("less address space under valgrind or a sanitizer");
		return t_end();
	}
	tmpfs_name(tmpfs, sizeof tmpfs, "big");
	group("big: 10 000 parts of 64 KiB");
	parts(10000, 65536, 0, "big");
	parts(10000, 65536, 0, tmpfs);
	group("big: 10 000 parts of one page");
	parts(10000, page, 0, "big");
	group("big: 10 000 times the same 64 KiB");
	parts(10000, 65536, 1, "big");
	group("big: 1 000 parts of 2 MiB");
	parts(1000, 2 << 20, 0, "big");
	group("big: 640 GiB of sparse file in ten parts");
	sparse(".");
	group("big: a small part, then 30 GiB");
	small_then_large(30, (size_t)1 << 30);
	group("big: a small part, then 640 GiB");
	small_then_large(10, (size_t)64 << 30);
	CHILD_GROUP(little_space, "big: 10 000 parts of 64 KiB within 1 GiB of address space");
	group("big: 10 000 parts of 64 KiB beside many sets");
	for (int i = 0; i < 1000; i++) {
		others[i] = new_set();
		IS(pmemset_set_contiguous_part_coalescing(others[i], i % 2 ? PMEMSET_COALESCING_FULL : PMEMSET_COALESCING_NONE), 0);
		map_file(others[i], "small");
	}
	parts(10000, 65536, 1, "big");
	for (int i = 0; i < 1000; i++)
		IS(pmemset_delete(&others[i]), 0);
	return t_end();
}
