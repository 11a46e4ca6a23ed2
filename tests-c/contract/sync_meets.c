/* SPDX-License-Identifier: BSD-3-Clause */
/* sync_meets.c -- syncs of one file by several sets and threads, some of which fail, at the worst moments */
#include "t.h"
#include <pthread.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#define FIEMAP 0xC020660Bu

static size_t page;
static struct pmemset *a, *b;
static struct pmemset_source *src;
static char *pa, *pb;             /* what a and b have mapped of the file, 16 pages each */
static volatile int fail_a, fail_b; /* so many syncs of these fail */
static volatile int slow_a;       /* microseconds */
static volatile int syncs_a, populates, fsyncs;
static void (*volatile within_fiemap)(void);

static int in(const char *base, const void *p)
{
	return base && (const char *)p >= base && (const char *)p < base + 16 * page;
}

static int takes_one(volatile int *n)
{
	int left = *n;

	while (left > 0)
		if (__atomic_compare_exchange_n(n, &left, left - 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
			return 1;
	return 0;
}

int msync(void *p, size_t len, int flags)
{
	if (in(pa, p)) {
		__atomic_add_fetch(&syncs_a, 1, __ATOMIC_SEQ_CST);
		if (slow_a)
			usleep((useconds_t)slow_a);
	}
	if ((in(pa, p) && takes_one(&fail_a)) || (in(pb, p) && takes_one(&fail_b))) {
		errno = EIO;
		return -1;
	}
	return (int)syscall(SYS_msync, p, len, flags);
}

int fsync(int fd)
{
	__atomic_add_fetch(&fsyncs, 1, __ATOMIC_SEQ_CST);
	return (int)syscall(SYS_fsync, fd);
}

int madvise(void *p, size_t len, int advice)
{
	if (advice == 23) /* MADV_POPULATE_WRITE */
		__atomic_add_fetch(&populates, 1, __ATOMIC_SEQ_CST);
	return (int)syscall(SYS_madvise, p, len, advice);
}

int ioctl(int fd, unsigned long request, ...)
{
	void (*during)(void) = within_fiemap;
	va_list ap;
	void *arg;

	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);
	if ((unsigned)request == FIEMAP && during) {
		within_fiemap = NULL;
		during();
	}
	return (int)syscall(SYS_ioctl, fd, request, arg);
}

static void two_sets(const char *name)
{
	static const char written[1] = { 1 };
	int fd;

	make_file(name, 0);
	fd = open(name, O_WRONLY);
	for (size_t i = 0; i < 32 * page; i += 512) /* every block is allocated and written */
		MUST(pwrite(fd, written, 1, (off_t)i) == 1);
	MUST(ftruncate(fd, (off_t)(32 * page)) == 0 && fsync(fd) == 0);
	close(fd);
	src = source(name);
	a = new_set();
	b = new_set();
	pa = must_map(a, src, 0, 16 * page);
	pb = must_map(b, src, 16 * page, 16 * page);
	syncs_a = populates = fsyncs = 0;
}

static void done(void)
{
	pa = pb = NULL;
	IS(pmemset_source_delete(&src), 0);
	IS(pmemset_delete(&a), 0);
	IS(pmemset_delete(&b), 0);
}

static volatile int stop;

static void *keep_failing(void *arg)
{
	(void)arg;
	while (!stop) {
		fail_b = 1;
		(void)pmemset_persist(b, pb, 1);
	}
	fail_b = 0;
	return NULL;
}

static void deletion(void)
{
	pthread_t t;
	double end;

	two_sets("deletion");
	MUST(pthread_create(&t, NULL, keep_failing, NULL) == 0);
	for (end = now() + 1.5; now() < end;) {
		struct pmemset *set = new_set();

		for (size_t i = 0; i < 8; i++)
			must_map(set, src, i * page, page);
		IS(pmemset_delete(&set), 0);
	}
	stop = 1;
	pthread_join(t, NULL);
	done();
}

static void deletion_syncs(void)
{
	int rc;

	two_sets("owed");
	memset(pa, 2, 8 * page);
	IS(pmemset_flush(a, pa, 8 * page), 0);
	fail_b = 1;
	IS(pmemset_persist(b, pb, 1), -EIO);
	syncs_a = 0;
	rc = pmemset_delete(&a); /* the report is owed to it, and what was flushed is synced all the same */
	IS(rc, -EIO);
	CHECKF(syncs_a > 0 && populates > 0, "%d syncs, %d populates", syncs_a, populates);
	pa = NULL;
	done();
}

static int results[2];

static void *flush_and_drain(void *arg)
{
	size_t i = (size_t)arg;

	pa[i * page] = 3;
	IS(pmemset_flush(a, pa + i * page, 1), 0);
	results[i] = pmemset_drain(a);
	return NULL;
}

/* one drain in its sync, another waiting for it, when a third, of another set, is told of a loss */
static void waiting(void)
{
	pthread_t t[2];

	two_sets("waiting");
	slow_a = 300000;
	for (size_t i = 0; i < 2; i++) {
		MUST(pthread_create(&t[i], NULL, flush_and_drain, (void *)i) == 0);
		usleep(60000);
	}
	fail_b = 1;
	IS(pmemset_persist(b, pb, 1), -EIO);
	for (int i = 0; i < 2; i++) {
		pthread_join(t[i], NULL);
		IS(results[i], -EIO);
	}
	slow_a = 0;
	populates = 0;
	IS(pmemset_drain(a), 0); /* again, and nothing is taken for clean */
	CHECK(populates > 0);
	done();
}

static void lose_again(void)
{
	pa[5 * page] = 99;
	IS(pmemset_flush(a, pa + 5 * page, 1), 0);
	fail_b = 1;
	IS(pmemset_persist(b, pb, 1), -EIO);
}

/* a page is lost once more while a retry of it looks whether it is on the disk */
static void lost_twice(void)
{
	int rc;

	two_sets("twice");
	pa[5 * page] = 1;
	fail_a = 1;
	IS(pmemset_persist(a, pa + 5 * page, 1), -EIO);
	within_fiemap = lose_again;
	rc = pmemset_drain(a);
	EITHER(rc, 0, -EIO);
	if (within_fiemap) {
		within_fiemap = NULL;
		skip("the file system was not asked about the page");
	} else {
		populates = 0;
		rc = pmemset_drain(a);
		if (rc)
			rc = pmemset_drain(a);
		IS(rc, 0);
		CHECKF(populates > 0, "a lost page is said to be durable, and was not made dirty again");
	}
	done();
}

static void *slow_sync(void *arg)
{
	(void)arg;
	pa[0] = 1;
	IS(pmemset_persist(a, pa, 1), 0);
	return NULL;
}

static void forked(void)
{
	pthread_t t;
	pid_t child;
	int status = -1;

	two_sets("forked");
	slow_a = 300000;
	MUST(pthread_create(&t, NULL, slow_sync, NULL) == 0);
	usleep(60000);
	child = fork(); /* a thread is inside a call on a, none is in b */
	MUST(child >= 0);
	if (child == 0) {
		alarm(20);
		pb[0] = 7;
		_exit(pmemset_persist(b, pb, 1) != 0 || pmemset_persist(b, pb, 1) != 0);
	}
	MUST(waitpid(child, &status, 0) == child);
	IS(status, 0);
	pthread_join(t, NULL);
	slow_a = 0;
	done();
}

static void cancelled(void)
{
	pthread_t t;
	void *how = NULL;

	two_sets("cancelled");
	slow_a = 200000;
	MUST(pthread_create(&t, NULL, slow_sync, NULL) == 0);
	usleep(60000);
	pthread_cancel(t);
	pthread_join(t, &how);
	slow_a = 0;
	alarm(20);
	IS(pmemset_persist(a, pa, 1), 0); /* nobody waits for a thread that is gone */
	alarm(0);
	done();
}

static void first_drain(int granularity, unsigned flags, int persists)
{
	struct pmemset_part_descriptor d;
	struct pmemset *set = new_set_ev(granularity, NULL, NULL);
	struct pmemset_source *new = NULL;

	unlink("new");
	if (!(flags & PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED))
		make_file("new", 0);
	MUST(pmemset_xsource_from_file(&new, "new", flags) == 0);
	IS(map_part(set, new, 0, 16 * page, &d), 0);
	pa = d.addr;
	syncs_a = fsyncs = 0;
	IS(persists ? pmemset_persist(set, d.addr, 0) : pmemset_drain(set), 0);
	CHECKF(syncs_a > 0, "no sync for the size");
	if (flags & PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED)
		CHECKF(fsyncs > 0, "no sync for the directory");
	syncs_a = fsyncs = 0;
	IS(pmemset_drain(set), 0);
	CHECK(syncs_a == 0 && fsyncs == 0); /* once is enough */
	pa = NULL;
	IS(pmemset_source_delete(&new), 0);
	IS(pmemset_delete(&set), 0);
}

static void settled(void)
{
	static const char *const force[] = { "BYTE", "CACHE_LINE", "PAGE" };
	const unsigned grow = PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED;

	for (int g = 0; g < 3; g++) {
		MUST(setenv("PMEM2_FORCE_GRANULARITY", force[g], 1) == 0);
		for (int persists = 0; persists < 2; persists++) {
			first_drain(g, grow, persists);
			first_drain(g, grow | PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED, persists);
		}
	}
	unsetenv("PMEM2_FORCE_GRANULARITY");
}

static pthread_barrier_t barrier;
static struct pmemset_source *growing;

static void *grow(void *arg)
{
	size_t i = (size_t)arg;

	for (int k = 0; k < 500; k++) {
		struct pmemset_part_descriptor d;

		pthread_barrier_wait(&barrier); /* a new file is there */
		MUST(map_part(a, growing, i * 16 * page, 16 * page, &d) == 0);
		((volatile char *)d.addr)[16 * page - 1] = 1; /* SIGBUS where another has cut it off */
		pthread_barrier_wait(&barrier);
		pthread_barrier_wait(&barrier);
	}
	return NULL;
}

static void growth(void)
{
	pthread_t t[4];

	a = new_set();
	pthread_barrier_init(&barrier, NULL, 5);
	for (size_t i = 0; i < 4; i++)
		MUST(pthread_create(&t[i], NULL, grow, (void *)i) == 0);
	for (int k = 0; k < 500; k++) {
		make_file("growing", 0);
		MUST(pmemset_xsource_from_file(&growing, "growing", PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED) == 0);
		pthread_barrier_wait(&barrier);
		pthread_barrier_wait(&barrier);
		MUST(file_size("growing") == (off_t)(64 * page));
		MUST(pmemset_remove_range(a, (void *)page, SIZE_MAX - page) == 0);
		MUST(pmemset_source_delete(&growing) == 0);
		pthread_barrier_wait(&barrier);
	}
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	IS(pmemset_delete(&a), 0);
}

int main(void)
{
	t_begin();
	page = page_size();
	CHILD_GROUP(deletion, "syncs meet: a set is deleted while another's fails");
	CHILD_GROUP(deletion_syncs, "syncs meet: a set is deleted that is owed a report");
	CHILD_GROUP(waiting, "syncs meet: a loss while drains wait");
	CHILD_GROUP(lost_twice, "syncs meet: a loss while a retry is checked");
	CHILD_GROUP(forked, "syncs meet: a fork beside another set's sync");
	CHILD_GROUP(cancelled, "syncs meet: a thread that is cancelled in a drain");
	CHILD_GROUP(settled, "first drain: entry and size of new and grown files");
	CHILD_GROUP(growth, "growth by several threads at once");
	return t_end();
}
