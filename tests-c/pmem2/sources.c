/* SPDX-License-Identifier: BSD-3-Clause */
/* sources.c -- sources of libpmem2 handed over, and what PART_ADD shows of sources */
#include "p.h"

static struct pmemset_event_part_add added;
static int nadded;

static int on_event(struct pmemset *set, struct pmemset_event_context *ctx, void *arg)
{
	(void)set;
	(void)arg;
	if (ctx->type == PMEMSET_EVENT_PART_ADD) {
		added = ctx->data.part_add;
		nadded++;
	}
	return 0;
}

static void plain(void)
{
	size_t page = page_size(), size = 64 * page;
	int fd = open_file("plain", (off_t)size), fds;
	struct pmem2_source *p2 = p2_source(fd), *odd, *empty, *anon = NULL;
	struct pmemset_source *src = from_pmem2(p2), *no = (struct pmemset_source *)1;
	struct pmemset_part_descriptor d;
	struct pmemset *set = new_set();
	char *p, *q;
	size_t got;
	int other;

	group("a source of libpmem2");
	fds = count_fds();
	p = must_map(set, src, 0, 0);
	IS(size_at(set, p), size);
	strcpy(p + 5 * page, "through libpmem2's source");
	IS(pmemset_persist(set, p + 5 * page, 26), 0);
	CHECK(file_holds("plain", (off_t)(5 * page), "through libpmem2's source", 26));
	q = must_map(set, src, 5 * page, page);
	CHECK(strcmp(q, "through libpmem2's source") == 0);
	IS(count_fds(), fds);
	IS(map_part(set, src, size - page, 2 * page, &d), PMEMSET_E_INVALID_PMEM2_MAP);
	IS(file_size("plain"), size); /* never grows */
	IS(map_part(set, src, 1, page, &d), PMEMSET_E_INVALID_PMEM2_MAP);
	IS(map_part(set, src, 0, page + 1, &d), PMEMSET_E_LENGTH_UNALIGNED);

	/* the owner keeps source and descriptor */
	IS(pmemset_source_delete(&src), 0);
	IS(pmem2_source_size(p2, &got), 0);
	IS(got, size);
	IS(count_fds(), fds);
	IS(pmem2_source_delete(&p2), 0);
	close(fd);
	q[100] = 'x'; /* mapped parts need neither */
	p[0] = 'y';
	IS(pmemset_flush(set, q + 100, 1), 0);
	IS(pmemset_flush(set, p, 1), 0);
	IS(pmemset_flush(set, p + 40 * page, 1), 0);
	IS(pmemset_drain(set), 0);
	CHECK(file_holds("plain", (off_t)(5 * page + 100), "x", 1) && file_holds("plain", 0, "y", 1));
	IS(pmemset_deep_flush(set, p, size), 0);
	IS(remove_at(set, q), 0);
	IS(pmemset_delete(&set), 0);

	group("sources that cannot be used");
	set = new_set();
	MUST(pmem2_source_from_anon(&anon, size) == 0);
	IS(pmemset_source_from_pmem2(&no, anon), PMEMSET_E_INVALID_PMEM2_SOURCE);
	CHECK(no == NULL && strstr(pmemset_errormsg(), "no file"));
	IS(pmemset_source_from_pmem2(&no, NULL), PMEMSET_E_INVALID_PMEM2_SOURCE);
	fd = open_file("gone", (off_t)size);
	p2 = p2_source(fd);
	src = from_pmem2(p2);
	close(fd);
	no = (struct pmemset_source *)1;
	IS(pmemset_source_from_pmem2(&no, p2), -EBADF);
	CHECK(no == NULL);
	IS(map_part(set, src, 0, page, &d), -EBADF);
	other = open_file("another", (off_t)size); /* gets the number */
	IS(other, fd);
	IS(map_part(set, src, 0, page, &d), PMEMSET_E_INVALID_PMEM2_SOURCE);
	CHECK(strstr(pmemset_errormsg(), "another file"));
	IS(walk(set), 0);
	IS(pmemset_source_delete(&src), 0);
	IS(pmem2_source_delete(&p2), 0);
	close(other);

	fd = open("gone", O_RDONLY | O_CLOEXEC);
	p2 = p2_source(fd);
	src = from_pmem2(p2);
	IS(map_part(set, src, 0, page, &d), -EACCES);
	pmemset_source_delete(&src);
	pmem2_source_delete(&p2);
	close(fd);

	fd = open_file("odd", 5000);
	odd = p2_source(fd);
	src = from_pmem2(odd);
	IS(map_part(set, src, 0, 0, &d), PMEMSET_E_LENGTH_UNALIGNED);
	pmemset_source_delete(&src);
	pmem2_source_delete(&odd);
	close(fd);
	fd = open_file("empty", 0);
	empty = p2_source(fd);
	src = from_pmem2(empty);
	IS(map_part(set, src, 0, 0, &d), PMEMSET_E_INVALID_PMEM2_MAP);
	pmemset_source_delete(&src);
	pmem2_source_delete(&empty);
	close(fd);
	pmem2_source_delete(&anon);

	group("a source deleted by its owner before mapping");
	fd = open_file("early", (off_t)size);
	p2 = p2_source(fd);
	src = from_pmem2(p2);
	pmem2_source_delete(&p2);
	unlink("early"); /* nobody promised that it has a name */
	p = must_map(set, src, 0, page);
	p[0] = 'z';
	IS(pmemset_persist(set, p, 1), 0);
	MUST(pread(fd, &page, 1, 0) == 1);
	CHECK((char)page == 'z');
	pmemset_source_delete(&src);
	close(fd);
	IS(pmemset_delete(&set), 0);
}

static void events(void)
{
	size_t page = page_size();
	int fd = open_file("seen", (off_t)(16 * page)), got = -1;
	struct pmem2_source *p2 = p2_source(fd), *again = p2_source(fd), *first;
	struct pmemset_source *src = from_pmem2(p2), *twice = from_pmem2(again), *file = source("seen"), *tmp = NULL;
	struct pmemset *set = new_set_ev(PMEM2_GRANULARITY_PAGE, on_event, NULL);
	struct stat a, b;
	size_t size;

	group("PART_ADD shows the source");
	must_map(set, src, 0, page);
	CHECK(nadded == 1 && added.src == p2 && added.len == page);
	must_map(set, twice, 0, page);
	CHECK(nadded == 2 && added.src == again);

	must_map(set, file, 0, page);
	first = added.src;
	CHECK(nadded == 3 && first && first != p2 && first != again);
	IS(pmem2_source_get_fd(first, &got), 0);
	MUST(fstat(got, &a) == 0 && fstat(fd, &b) == 0);
	CHECK(a.st_ino == b.st_ino && got != fd);
	IS(pmem2_source_size(first, &size), 0);
	IS(size, 16 * page);
	must_map(set, file, page, page);
	CHECK(nadded == 4 && added.src == first); /* the source's, for as long as it lives */
	IS(pmem2_source_size(first, &size), 0);
	IS(pmemset_delete(&set), 0);
	IS(pmem2_source_size(first, &size), 0); /* longer than the set */

	set = new_set_ev(PMEM2_GRANULARITY_PAGE, on_event, NULL);
	MUST(pmemset_source_from_temporary(&tmp, ".") == 0);
	must_map(set, tmp, 0, 2 * page);
	CHECK(nadded == 5 && added.src && added.src != first);
	IS(pmem2_source_size(added.src, &size), 0);
	IS(size, 2 * page);
	IS(pmemset_source_delete(&tmp), 0);
	IS(pmemset_source_delete(&file), 0);
	IS(pmemset_source_delete(&src), 0);
	IS(pmemset_source_delete(&twice), 0);
	IS(pmemset_delete(&set), 0);
	pmem2_source_delete(&p2);
	pmem2_source_delete(&again);
	close(fd);
}

static int failing;

/* the kernel reports a lost write once; one of two is told */
int msync(void *addr, size_t len, int flags)
{
	if (failing) {
		failing = 0;
		errno = EIO;
		return -1;
	}
	return (int)syscall(SYS_msync, addr, len, flags);
}

static void shared(void)
{
	size_t page = page_size();
	int fd = open_file("shared", (off_t)(16 * page));
	struct pmem2_source *p2 = p2_source(fd);
	struct pmemset_source *one = from_pmem2(p2), *two = from_pmem2(p2);
	struct pmemset *set = new_set(), *other = new_set();
	char *a = must_map(set, one, 0, page), *b = must_map(other, two, 8 * page, page);

	group("a failed sync concerns every source of one descriptor");
	MUST(lseek(fd, 77, SEEK_SET) == 77);
	must_map(set, one, page, page);
	IS(lseek(fd, 0, SEEK_CUR), 77); /* the program's */
	*a = *b = 1;
	IS(pmemset_flush(set, a, 1), 0);
	IS(pmemset_flush(other, b, 1), 0);
	failing = 1;
	IS(pmemset_drain(set), -EIO);
	IS(pmemset_drain(other), -EIO);
	IS(pmemset_source_delete(&one), 0);
	IS(pmemset_source_delete(&two), 0);
	pmemset_delete(&set);
	pmemset_delete(&other);
	one = from_pmem2(p2); /* all gone: begins anew */
	set = new_set();
	a = must_map(set, one, 0, page);
	*a = 2;
	IS(pmemset_persist(set, a, 1), 0);
	IS(pmemset_source_delete(&one), 0);
	IS(pmemset_delete(&set), 0);
	pmem2_source_delete(&p2);
	close(fd);
}

static void granularity(void)
{
	size_t page = page_size();
	int fd = open_file("gran", (off_t)(16 * page));
	struct pmem2_source *p2 = p2_source(fd);
	struct pmemset_source *src = from_pmem2(p2);
	struct pmemset *set = new_set_ev(PMEM2_GRANULARITY_BYTE, NULL, NULL);
	struct pmemset_part_descriptor d;
	enum pmem2_granularity g;

	group("granularity of libpmem2's sources");
	IS(map_part(set, src, 0, page, &d), PMEMSET_E_INVALID_PMEM2_MAP);
	setenv("PMEM2_FORCE_GRANULARITY", "byte", 1);
	IS(map_part(set, src, 0, page, &d), 0);
	IS(pmemset_get_store_granularity(set, &g), 0);
	IS(g, PMEM2_GRANULARITY_BYTE);
	unsetenv("PMEM2_FORCE_GRANULARITY");
	IS(pmemset_delete(&set), 0);
	pmemset_source_delete(&src);
	pmem2_source_delete(&p2);
	close(fd);
}

int main(void)
{
	t_begin();
	plain();
	events();
	shared();
	granularity();
	return t_end();
}
