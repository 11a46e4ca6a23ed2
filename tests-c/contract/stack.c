/* SPDX-License-Identifier: BSD-3-Clause */
/* stack.c -- what calls that fail, and what says why, need of a thread's stack: the smallest that there is has room to spare */
#include "t.h"
#include <pthread.h>

#define STACK (16 << 10)

static struct pmemset *set;
static struct pmemset_source *src;
static struct pmemset_config *cfg;
static char *p, *unmapped, longname[3000], big[5000];

static void nothing(void)
{
}

static void perror_short(void)
{
	pmemset_perror("what %d %s %5.2f", 3, "text", 2.5);
}

static void perror_long(void)
{
	pmemset_perror("%s %d", big, 7);
}

static void perror_none(void)
{
	void (*unchecked)(const char *, ...) = pmemset_perror;

	unchecked(NULL);
}

static void say(void)
{
	FAILS(pmemset_drain(NULL));
	CHECK(*pmemset_errormsg() != 0);
}

static void sources(void)
{
	struct pmemset_source *s = NULL;

	FAILS(pmemset_source_from_file(&s, longname));
	FAILS(pmemset_source_from_file(&s, "no-such-file"));
	FAILS(pmemset_source_from_file(&s, NULL));
	FAILS(pmemset_xsource_from_file(&s, longname, PMEMSET_SOURCE_FILE_CREATE_ALWAYS));
	FAILS(pmemset_xsource_from_file(&s, "/dev/null", 0));
	FAILS(pmemset_xsource_from_file(&s, "f", 99));
	FAILS(pmemset_source_from_temporary(&s, longname));
	FAILS(pmemset_source_from_temporary(&s, "no-such-directory"));
	FAILS(pmemset_source_from_pmem2(&s, NULL));
	FAILS(pmemset_source_delete(NULL));
	FAILS(pmemset_source_pread_mcsafe(src, big, 1, SIZE_MAX));
	FAILS(pmemset_source_pread_mcsafe(src, unmapped, 1, 0));
	FAILS(pmemset_source_pwrite_mcsafe(src, unmapped, 1, 0));
	FAILS(pmemset_source_alignment(src, NULL));
}

static void configs(void)
{
	struct pmemset *s = NULL;

	FAILS(pmemset_config_set_required_store_granularity(cfg, (enum pmem2_granularity)77));
	FAILS(pmemset_new(&s, cfg)); /* no granularity */
	FAILS(pmemset_new(&s, NULL));
	FAILS(pmemset_config_delete(NULL));
	FAILS(pmemset_delete(NULL));
	FAILS(pmemset_set_contiguous_part_coalescing(set, (enum pmemset_coalescing)77));
	FAILS(pmemset_get_store_granularity(set, NULL));
}

static void parts(void)
{
	struct pmemset_part_map *pm = NULL;
	struct pmemset_part *part = NULL;

	FAILS(pmemset_part_new(&part, set, NULL, 0, 0));
	MUST(pmemset_part_new(&part, set, src, 0, 1ul << 40) == 0);
	FAILS(pmemset_part_map(&part, NULL, NULL));
	MUST(pmemset_part_delete(&part) == 0);
	MUST(pmemset_part_new(&part, set, src, 1, 4096) == 0);
	FAILS(pmemset_part_map(&part, NULL, NULL));
	MUST(pmemset_part_delete(&part) == 0);
	FAILS(pmemset_map(set, NULL, NULL, NULL));
	FAILS(pmemset_part_map_by_address(set, &pm, unmapped));
	FAILS(pmemset_remove_part_map(set, &pm));
	MUST(pmemset_part_map_by_address(set, &pm, p) == 0);
	FAILS(pmemset_remove_range(set, p, 1));
	pmemset_part_map_drop(&pm);
}

static void durability(void)
{
	FAILS(pmemset_persist(set, unmapped, 10));
	FAILS(pmemset_flush(set, unmapped, 10));
	FAILS(pmemset_flush(set, (void *)-5, 10));
	FAILS(pmemset_drain(NULL));
	FAILS(pmemset_deep_flush(NULL, p, 1));
	pmemset_memcpy(NULL, p, p, 1, 0);
	CHECK(*pmemset_errormsg() != 0);
}

/* what succeeds, too */
static void whole_life(void)
{
	struct pmemset_source *s = NULL;
	struct pmemset_part *part = NULL;
	struct pmemset_part_descriptor d;
	struct pmemset *own = new_set();

	MUST(pmemset_source_from_file(&s, "f") == 0);
	MUST(pmemset_part_new(&part, own, s, 0, 0) == 0);
	MUST(pmemset_part_map(&part, NULL, &d) == 0);
	MUST(pmemset_source_delete(&s) == 0);
	pmemset_memset(own, d.addr, 'x', d.size, 0);
	MUST(pmemset_persist(own, d.addr, d.size) == 0);
	MUST(pmemset_deep_flush(own, d.addr, d.size) == 0);
	MUST(pmemset_remove_range(own, d.addr, 1) == 0);
	MUST(pmemset_delete(&own) == 0);
}

static void *starts(void *fn)
{
	void (*run)(void) = *(void (**)(void))fn;

	run();
	return NULL;
}

/* bytes of a stack that a thread has never used */
static long left_by(void (*run)(void))
{
	static unsigned char *stack;
	pthread_attr_t attr;
	pthread_t thread;
	long left = 0;

	if (!stack) {
		stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		MUST(stack != MAP_FAILED);
	}
	memset(stack, 0xa5, STACK);
	MUST(pthread_attr_init(&attr) == 0);
	if (pthread_attr_setstack(&attr, stack, STACK) != 0)
		return -1;
	fflush(stderr);
	if (pthread_create(&thread, &attr, starts, &run) != 0)
		return -1;
	MUST(pthread_join(thread, NULL) == 0);
	while (left < STACK && stack[left] == 0xa5)
		left++;
	return left;
}

static const struct {
	const char *name;
	void (*run)(void);
	long spare;
} all[] = {
	{ "perror", perror_short, 6 << 10 }, { "perror, a long text", perror_long, 6 << 10 },
	{ "perror, no text", perror_none, 6 << 10 }, { "errormsg", say, 6 << 10 },
	{ "sources", sources, 3 << 10 }, { "configs", configs, 3 << 10 }, { "parts", parts, 3 << 10 },
	{ "durability", durability, 3 << 10 }, { "a set's whole life", whole_life, 3 << 10 },
};

static void measured(void)
{
	int keep = dup(2), null = open("/dev/null", O_WRONLY | O_CLOEXEC);

	MUST(keep >= 0 && null >= 0 && dup2(null, 2) == 2);
	for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
		long idle, left;

		all[i].run(); /* what is bound at a first call is bound: how much that takes depends on the processor */
		idle = left_by(nothing);
		left = left_by(all[i].run);

		CHECKF(left >= all[i].spare, "%s: %ld bytes of %d left; an idle thread leaves %ld", all[i].name, left, STACK, idle);
	}
	MUST(dup2(keep, 2) == 2);
	close(keep);
	close(null);
}

static void quiet(void)
{
	set = new_set();
	src = source("f");
	p = must_map(set, src, 0, 0);
	MUST(pmemset_config_new(&cfg) == 0);
	measured();
}

static void with_log(void)
{
	MUST(setenv("PMEMSET_LOG_LEVEL", "4", 1) == 0 && setenv("PMEMSET_LOG_FILE", "log", 1) == 0);
	quiet();
	CHECK(file_size("log") > 1000);
}

int main(void)
{
	t_begin();
	make_file("f", 1 << 16);
	unmapped = (char *)page_size();
	memset(longname, 'n', sizeof longname - 1);
	memset(big, 'b', sizeof big - 1);

	if (instrumented() || left_by(nothing) < 0) {
		group("stack");
		skip("threads have no such small stacks here");
		return t_end();
	}
	CHILD_GROUP(quiet, "stack: calls, errors and messages");
	CHILD_GROUP(with_log, "stack: the same with a log");
	return t_end();
}
