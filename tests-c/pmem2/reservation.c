/* SPDX-License-Identifier: BSD-3-Clause */
/* reservation.c -- sets in reservations of libpmem2 */
#include "p.h"
#include <pthread.h>

static size_t page;

static void placing(void)
{
	struct pmem2_vm_reservation *rsv = reserve(16 * page);
	char *base = base_of(rsv), *a, *b, *c;
	struct pmemset *set = set_in(rsv, PMEM2_GRANULARITY_PAGE, NULL);
	struct pmemset_source *src;
	struct pmemset_part_descriptor d = { NULL, 0 };
	struct pmem2_map *map = NULL;

	group("first fit from the start of the reservation");
	make_file("f", (off_t)(64 * page));
	src = source("f");
	IS(known(rsv), 0);
	a = must_map(set, src, 0, 4 * page);
	b = must_map(set, src, 8 * page, page);
	c = must_map(set, src, 4 * page, 4 * page);
	CHECK(a == base && b == base + 4 * page && c == base + 5 * page);
	IS(walk(set), 3);
	IS(known(rsv), 3);
	IS(known_at(rsv, a), 4 * page);
	IS(known_at(rsv, b), page);
	IS(known_at(rsv, c), 4 * page);
	IS(known_at(rsv, c + 4 * page), 0);
	IS(pmem2_vm_reservation_map_find(rsv, 0, 16 * page, &map), 0);
	CHECK(pmem2_map_get_address(map) == base);
	CHECK(pmem2_map_get_store_granularity(map) == PMEM2_GRANULARITY_PAGE);
	strcpy(c, "in the reservation");
	IS(pmemset_persist(set, c, 19), 0);
	CHECK(file_holds("f", (off_t)(4 * page), "in the reservation", 19));

	IS(map_part(set, src, 0, 8 * page, &d), PMEMSET_E_CANNOT_FIT_PART_MAP);
	IS(map_part(set, src, 0, 64 * page, &d), PMEMSET_E_CANNOT_FIT_PART_MAP);
	IS(walk(set), 3);
	IS(remove_at(set, b), 0);
	IS(known(rsv), 2);
	CHECK(!readable(b) && readable(a) && readable(c));
	CHECK(must_map(set, src, 0, 2 * page) == base + 9 * page);
	CHECK(must_map(set, src, 0, page) == b); /* the first that is large enough */
	IS(remove_at(set, a), 0);
	CHECK(must_map(set, src, 0, 3 * page) == base);
	CHECK(must_map(set, src, 0, page) == base + 3 * page);
	CHECK(must_map(set, src, 0, 5 * page) == base + 11 * page);
	IS(map_part(set, src, 0, page, &d), PMEMSET_E_CANNOT_FIT_PART_MAP);
	IS(pmemset_persist(set, base, 16 * page), 0);
	CHECK(base_of(rsv) == base);
	IS(pmem2_vm_reservation_get_size(rsv), 16 * page);

	IS(delete_rsv(&rsv), PMEM2_E_VM_RESERVATION_NOT_EMPTY);
	IS(pmemset_remove_range(set, base, 16 * page), 0);
	IS(known(rsv), 0);
	CHECK(must_map(set, src, 0, 16 * page) == base);
	IS(delete_rsv(&rsv), PMEM2_E_VM_RESERVATION_NOT_EMPTY);
	IS(pmemset_delete(&set), 0);
	IS(known(rsv), 0);
	CHECK(!readable(base));
	IS(delete_rsv(&rsv), 0);
	pmemset_source_delete(&src);

	group("a reservation that is too small");
	rsv = reserve(page);
	set = set_in(rsv, PMEM2_GRANULARITY_PAGE, NULL);
	src = source("f");
	IS(map_part(set, src, 0, 2 * page, &d), PMEMSET_E_CANNOT_FIT_PART_MAP);
	CHECK(must_map(set, src, 0, page) == base_of(rsv));
	IS(map_part(set, src, 0, page, &d), PMEMSET_E_CANNOT_FIT_PART_MAP);
	IS(pmemset_delete(&set), 0);
	IS(delete_rsv(&rsv), 0);
	set = NULL;
	rsv = reserve(4 * page);
	set = set_in(rsv, PMEM2_GRANULARITY_PAGE, NULL);
	IS(pmemset_delete(&set), 0); /* nothing was ever mapped */
	IS(delete_rsv(&rsv), 0);
	pmemset_source_delete(&src);
}

static void others(void)
{
	struct pmem2_vm_reservation *rsv = reserve(32 * page);
	char *base = base_of(rsv);
	int fd = open_file("own", (off_t)(8 * page)), odd = open_file("odd", (off_t)page + 10);
	struct pmem2_source *p2 = p2_source(fd), *p2odd = p2_source(odd);
	struct pmem2_map *front = own_map(rsv, 0, p2, 2 * page), *middle = own_map(rsv, 4 * page, p2odd, 0);
	struct pmemset *one = set_in(rsv, PMEM2_GRANULARITY_PAGE, NULL), *two = set_in(rsv, PMEM2_GRANULARITY_PAGE, NULL);
	struct pmemset_source *src;
	struct pmemset_part_descriptor d = { NULL, 0 };

	group("beside mappings of the program and of another set");
	make_file("f", (off_t)(64 * page));
	src = source("f");
	strcpy(base, "the program's");
	strcpy(base + 4 * page, "odd");
	CHECK(must_map(one, src, 0, 3 * page) == base + 6 * page); /* a mapping ends within page 5 */
	CHECK(must_map(two, src, 0, page) == base + 2 * page);
	CHECK(must_map(one, src, 0, page) == base + 3 * page);
	CHECK(must_map(two, src, 0, 4 * page) == base + 9 * page);
	IS(known(rsv), 6);
	IS(walk(one), 2);
	IS(walk(two), 2);
	CHECK(at(one, base + 2 * page) == NULL && at(two, base + 3 * page) == NULL && at(one, base) == NULL);

	/* at PAGE granularity by address: whatever is mapped there */
	IS(pmemset_persist(one, base, 14), 0);
	CHECK(file_holds("own", 0, "the program's", 14));
	IS(pmemset_persist(one, base + 9 * page, 1), 0);
	IS(pmemset_persist(one, base + 20 * page, 1), -ENOMEM);

	group("coalescing in a reservation");
	IS(pmemset_set_contiguous_part_coalescing(one, PMEMSET_COALESCING_FULL), 0);
	/* one's latest is page 3, and the program has page 4 */
	IS(map_part(one, src, 0, page, &d), PMEMSET_E_CANNOT_COALESCE_PARTS);
	IS(pmemset_set_contiguous_part_coalescing(one, PMEMSET_COALESCING_OPPORTUNISTIC), 0);
	CHECK(must_map(one, src, 0, page) == base + 13 * page); /* any free place */
	IS(map_part(one, src, 0, page, &d), 0);
	CHECK(d.addr == base + 13 * page && d.size == 2 * page);
	IS(known_at(rsv, base + 13 * page), page);
	IS(known_at(rsv, base + 14 * page), page);
	IS(pmemset_set_contiguous_part_coalescing(one, PMEMSET_COALESCING_FULL), 0);
	IS(map_part(one, src, 0, 8 * page, &d), 0);
	CHECK(d.addr == base + 13 * page && d.size == 10 * page);
	CHECK(must_map(two, src, 0, page) == base + 23 * page);
	IS(map_part(one, src, 0, page, &d), PMEMSET_E_CANNOT_COALESCE_PARTS);
	IS(remove_at(two, base + 23 * page), 0);
	IS(map_part(one, src, 0, 9 * page, &d), 0);
	CHECK(d.addr == base + 13 * page && d.size == 19 * page);
	IS(map_part(one, src, 0, page, &d), PMEMSET_E_CANNOT_COALESCE_PARTS); /* the reservation's end */
	IS(pmemset_remove_range(one, base + 23 * page, 1), 0);
	IS(size_at(one, base + 13 * page), 10 * page);
	IS(map_part(one, src, 0, 10 * page, &d), PMEMSET_E_CANNOT_COALESCE_PARTS); /* past the end */
	IS(pmemset_set_contiguous_part_coalescing(one, PMEMSET_COALESCING_OPPORTUNISTIC), 0);
	IS(map_part(one, src, 0, 10 * page, &d), PMEMSET_E_CANNOT_FIT_PART_MAP);

	group("removal in a reservation");
	/* parts of one and, between them, what it must not touch */
	IS(pmemset_remove_range(one, base, 32 * page), 0);
	IS(walk(one), 0);
	IS(walk(two), 2);
	IS(known(rsv), 4);
	CHECK(strcmp(base, "the program's") == 0 && strcmp(base + 4 * page, "odd") == 0);
	CHECK(readable(base + 2 * page) && readable(base + 9 * page) && !readable(base + 3 * page));
	IS(pmem2_map_delete(&front), 0);
	CHECK(must_map(one, src, 0, 2 * page) == base); /* the program gave it up */
	front = own_map(rsv, 3 * page, p2, page);
	CHECK(must_map(one, src, 0, page) == base + 6 * page);

	group("a run that is split in a reservation");
	IS(pmemset_set_contiguous_part_coalescing(one, PMEMSET_COALESCING_FULL), 0);
	IS(pmemset_remove_range(one, base, 32 * page), 0);
	IS(pmemset_remove_range(two, base, 32 * page), 0);
	CHECK(must_map(two, src, 0, 3 * page) == base); /* out of the way */
	for (size_t i = 0; i < 5; i++)
		IS(map_part(one, src, i * page, page, &d), 0);
	CHECK(d.size == 5 * page && d.addr == base + 6 * page);
	memset(d.addr, 'r', d.size);
	{
		char *run = d.addr;
		struct pmemset_part_map *pm = at(one, run);

		IS(pmemset_flush(one, run, 5 * page), 0);
		IS(pmemset_remove_range(one, run + page + 5, page), PMEMSET_E_PART_MAP_POSSIBLE_USE_AFTER_DROP);
		IS(size_at(one, run), 5 * page);
		IS(known(rsv), 8);
		pmemset_part_map_drop(&pm);
		IS(pmemset_remove_range(one, run + page + 5, page), 0);
		IS(size_at(one, run), page);
		IS(size_at(one, run + 3 * page), 2 * page);
		IS(known(rsv), 6);
		CHECK(run[page - 1] == 'r' && run[3 * page] == 'r' && !readable(run + page) && !readable(run + 2 * page));
		CHECK(file_holds("f", (off_t)page, run, page)); /* synced before it went */
		IS(known_at(rsv, run + 3 * page), page);
	}
	IS(pmemset_delete(&two), 0);
	IS(pmemset_delete(&one), 0);
	IS(known(rsv), 2);
	IS(delete_rsv(&rsv), PMEM2_E_VM_RESERVATION_NOT_EMPTY);
	IS(pmem2_map_delete(&front), 0);
	IS(pmem2_map_delete(&middle), 0);
	IS(delete_rsv(&rsv), 0);
	pmemset_source_delete(&src);
	pmem2_source_delete(&p2);
	pmem2_source_delete(&p2odd);
	close(fd);
	close(odd);
}

static struct pmem2_source *seen;

static int on_event(struct pmemset *set, struct pmemset_event_context *ctx, void *arg)
{
	(void)arg;
	if (ctx->type == PMEMSET_EVENT_PART_ADD) {
		struct pmemset_part_map *pm = at(set, ctx->data.part_add.addr); /* no lock is held */

		CHECK(pm != NULL);
		pmemset_part_map_drop(&pm);
		seen = ctx->data.part_add.src;
	}
	return 0;
}

static void sources(void)
{
	struct pmem2_vm_reservation *rsv = reserve(8 << 20);
	struct pmemset *set = set_in(rsv, PMEM2_GRANULARITY_PAGE, on_event);
	int fd = open_file("own", (off_t)(8 * page)), fds, other;
	struct pmem2_source *p2 = p2_source(fd);
	struct pmemset_source *src = from_pmem2(p2), *tmp = NULL, *file, *grows = NULL;
	struct pmemset_part_descriptor d = { NULL, 0 };
	char *a, *b, *c;
	size_t size;

	group("every kind of source in a reservation");
	fds = count_fds();
	a = must_map(set, src, page, 2 * page);
	CHECK(a == base_of(rsv) && seen == p2);
	IS(count_fds(), fds);
	MUST(pmemset_source_from_temporary(&tmp, ".") == 0);
	b = must_map(set, tmp, 0, 3 * page);
	CHECK(b == a + 2 * page && seen && seen != p2);
	IS(pmem2_source_size(seen, &size), 0);
	IS(size, 3 * page);
	IS(pmemset_source_delete(&tmp), 0);
	unlink("new");
	MUST(pmemset_xsource_from_file(&grows, "new", PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED
		| PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED) == 0);
	c = must_map(set, grows, page, 4 * page);
	IS(file_size("new"), 5 * page);
	IS(pmemset_source_delete(&grows), 0);
	make_file("big", 4 << 20);
	file = source("big");
	CHECK(must_map(set, file, 0, 4 << 20) == c + 4 * page); /* first fit, not where large pages would be */
	IS(pmemset_source_delete(&file), 0);
	strcpy(a, "a");
	strcpy(b, "b");
	strcpy(c, "c");
	IS(pmemset_persist(set, a, 16 * page), 0);
	CHECK(file_holds("own", (off_t)page, "a", 2) && file_holds("new", (off_t)page, "c", 2));
	IS(map_part(set, src, 7 * page, 2 * page, &d), PMEMSET_E_INVALID_PMEM2_MAP);
	IS(file_size("own"), 8 * page);

	group("owners that close early, in a reservation");
	pmem2_source_delete(&p2);
	CHECK(must_map(set, src, 0, page) != NULL); /* the file is still open */
	close(fd);
	IS(map_part(set, src, 0, page, &d), -EBADF);
	other = open_file("another", (off_t)(8 * page));
	IS(other, fd);
	IS(map_part(set, src, 0, page, &d), PMEMSET_E_INVALID_PMEM2_SOURCE);
	close(other);
	strcpy(a, "A");
	IS(pmemset_persist(set, a, 2), 0);
	CHECK(file_holds("own", (off_t)page, "A", 2));
	IS(pmemset_source_delete(&src), 0);
	IS(pmemset_delete(&set), 0);
	IS(delete_rsv(&rsv), 0);
}

static void granularity(void)
{
	struct pmem2_vm_reservation *rsv = reserve(64 * page);
	struct pmemset *set = set_in(rsv, PMEM2_GRANULARITY_CACHE_LINE, NULL);
	struct pmemset_source *src;
	struct pmemset_part_descriptor d = { NULL, 0 };
	struct pmem2_map *map = NULL;
	enum pmem2_granularity g;
	char *p;

	group("granularity in a reservation");
	make_file("f", (off_t)(64 * page));
	src = source("f");
	IS(map_part(set, src, 0, page, &d), PMEMSET_E_INVALID_PMEM2_MAP);
	IS(known(rsv), 0);
	setenv("PMEM2_FORCE_GRANULARITY", "CACHE_LINE", 1);
	p = must_map(set, src, 0, page);
	IS(pmem2_vm_reservation_map_find_first(rsv, &map), 0);
	IS(pmem2_map_get_store_granularity(map), PMEM2_GRANULARITY_CACHE_LINE);
	IS(pmemset_get_store_granularity(set, &g), 0);
	IS(g, PMEM2_GRANULARITY_CACHE_LINE);
	CHECK(pmemset_memset(set, p, 'q', page, 0) == p);
	IS(pmemset_persist(set, p, page), 0);
	IS(pmemset_deep_flush(set, p, page), 0);
	setenv("PMEM2_FORCE_GRANULARITY", "byte", 1);
	IS(map_part(set, src, 0, page, &d), PMEMSET_E_GRANULARITY_MISMATCH);
	unsetenv("PMEM2_FORCE_GRANULARITY");
	IS(map_part(set, src, 0, page, &d), PMEMSET_E_INVALID_PMEM2_MAP);
	IS(known(rsv), 1);
	IS(walk(set), 1);
	IS(pmemset_delete(&set), 0);
	IS(delete_rsv(&rsv), 0);
	pmemset_source_delete(&src);
}

/* sizes that change: what is outside now is not used, what is new is not either */
static void resized(void)
{
	struct pmem2_vm_reservation *rsv = reserve(8 * page);
	char *base = base_of(rsv);
	struct pmemset *set = set_in(rsv, PMEM2_GRANULARITY_PAGE, NULL);
	struct pmemset_source *src;
	struct pmemset_part_descriptor d = { NULL, 0 };

	group("a reservation that the program makes smaller");
	make_file("f", (off_t)(64 * page));
	src = source("f");
	CHECK(must_map(set, src, 0, 2 * page) == base);
	IS(pmem2_vm_reservation_shrink(rsv, 5 * page, 3 * page), 0);
	IS(map_part(set, src, 0, 4 * page, &d), PMEMSET_E_CANNOT_FIT_PART_MAP);
	CHECK(must_map(set, src, 0, 3 * page) == base + 2 * page);
	IS(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_FULL), 0);
	IS(map_part(set, src, 0, page, &d), PMEMSET_E_CANNOT_COALESCE_PARTS);
	IS(pmemset_delete(&set), 0);
	IS(delete_rsv(&rsv), 0);
	pmemset_source_delete(&src);
}

static void no_growth(void)
{
	struct pmem2_vm_reservation *rsv = reserve(64 * page);
	struct pmemset *set = set_in(rsv, PMEM2_GRANULARITY_PAGE, NULL);
	struct pmemset_source *src;
	int maps = 0, n = instrumented() ? 50 : 3000;

	group("nothing grows");
	make_file("f", (off_t)(64 * page));
	src = source("f");
	for (int i = 0; i < n; i++) {
		char *a = must_map(set, src, 0, 3 * page), *b = must_map(set, src, 8 * page, page);

		if (i == 2)
			maps = count_maps();
		IS(pmemset_remove_range(set, a, i % 2 ? 4 * page : 1), 0);
		if (i % 2 == 0)
			IS(remove_at(set, b), 0);
	}
	must_map(set, src, 0, 3 * page);
	must_map(set, src, 8 * page, page);
	/* valgrind makes a range of its own now and then */
	CHECK(count_maps() <= maps + (instrumented() ? n / 4 : 0));
	IS(pmemset_delete(&set), 0);
	IS(known(rsv), 0);
	IS(delete_rsv(&rsv), 0);
	pmemset_source_delete(&src);
}

static void many(void)
{
	int n = instrumented() ? 100 : 900; /* libpmem2 1.12 can do about 1000 in a process */
	struct pmem2_vm_reservation *rsv = reserve((size_t)(n + 1) * page);
	struct pmemset *set = set_in(rsv, PMEM2_GRANULARITY_PAGE, NULL);
	struct pmemset_source *src;
	struct pmemset_part_descriptor d = { NULL, 0 };

	group("many parts in a reservation");
	make_file("f", (off_t)((size_t)n * page));
	src = source("f");
	for (int i = 0; i < n; i++)
		if (must_map(set, src, (size_t)i * page, page) != base_of(rsv) + (size_t)i * page)
			t_failed(__FILE__, __LINE__, "part %d is elsewhere", i);
	IS(known(rsv), n);
	IS(pmemset_remove_range(set, base_of(rsv) + page, (size_t)(n - 2) * page), 0);
	IS(known(rsv), 2);
	CHECK(must_map(set, src, 0, (size_t)(n - 2) * page) == base_of(rsv) + page);
	CHECK(must_map(set, src, 0, page) == base_of(rsv) + (size_t)n * page);
	IS(map_part(set, src, 0, page, &d), PMEMSET_E_CANNOT_FIT_PART_MAP);
	IS(pmemset_delete(&set), 0);
	IS(delete_rsv(&rsv), 0);
	pmemset_source_delete(&src);
}

static void too_many(void)
{
	int n = 1200, made = 0, rc = 0;
	struct pmem2_vm_reservation *rsv = reserve((size_t)n * page);
	struct pmemset *set = set_in(rsv, PMEM2_GRANULARITY_PAGE, NULL);
	struct pmemset_source *src;
	struct pmemset_part_descriptor d = { NULL, 0 };
	pthread_key_t mine, more;

	MUST(pthread_key_create(&mine, NULL) == 0 && pthread_setspecific(mine, &mine) == 0);
	make_file("f", (off_t)((size_t)n * page));
	src = source("f");
	while (made < n && (rc = map_part(set, src, (size_t)made * page, page, &d)) == 0)
		made++;
	/* 1.12 takes a pthread key for each mapping and goes wrong without one: then it must not be asked */
	if (made < n) {
		IS(rc, -EAGAIN);
		CHECK(made > 900 && strstr(pmemset_errormsg(), "pthread key"));
		IS(known(rsv), made);
		CHECK(remove_at(set, base_of(rsv)) == 0 && map_part(set, src, 0, page, &d) == 0);
	}
	IS(pmemset_persist(set, base_of(rsv), (size_t)made * page), 0);
	IS(pmemset_delete(&set), 0);
	IS(known(rsv), 0);
	IS(delete_rsv(&rsv), 0);
	CHECK(pthread_getspecific(mine) == &mine);
	IS(pthread_key_create(&more, NULL), 0);
	CHECK(more != mine && pthread_getspecific(mine) == &mine);
	pmemset_source_delete(&src);
}

int main(void)
{
	t_begin();
	page = page_size();
	placing();
	others();
	sources();
	granularity();
	resized();
	no_growth();
	many();
	CHILD_GROUP(too_many, "more mappings than libpmem2 can do");
	return t_end();
}
