/* SPDX-License-Identifier: BSD-3-Clause */
/* sync_first.c -- the first drain on a file that the library has created or made longer; and growth by several threads */
#include "sync_view.h"

static void first_drain(int granularity, unsigned flags, int persists)
{
	struct pmemset_part_descriptor d;
	struct pmemset *one = new_set_ev(granularity, NULL, NULL);
	struct pmemset_source *new = NULL;

	unlink("new");
	hook_reset();
	if (!(flags & PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED))
		make_file("new", 0);
	MUST(pmemset_xsource_from_file(&new, "new", flags) == 0);
	IS(map_part(one, new, 0, 16 * page, &d), 0);
	IS(persists ? pmemset_persist(one, d.addr, 0) : pmemset_drain(one), 0);
	CHECKF(hook_count(HOOK_MSYNC) > 0, "no sync for the size");
	if (flags & PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED)
		CHECKF(hook_count(HOOK_FSYNC) + hook_count(HOOK_SYNCFS) > 0, "no sync for the directory");
	hook_reset();
	IS(pmemset_drain(one), 0);
	CHECK(nhooks == 0); /* once is enough */
	IS(pmemset_source_delete(&new), 0);
	IS(pmemset_delete(&one), 0);
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

/* the entry of a new file cannot be made durable: that is no loss of a page, and is tried again */
static void entry_fails(void)
{
	struct pmemset_part_descriptor d;
	struct pmemset_source *new = NULL;
	unsigned flags = PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED;

#if PMEMSET_API_VERSION == 111
	flags |= PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED;
#endif
	for (int removes = 0; removes < 2; removes++) {
		unlink("new");
		hook_set(EIO, -1);
		hook_kinds = HOOK_BIT(HOOK_FSYNC);
		hook_ino = inode_of(".");
		set = new_set_ev(PMEM2_GRANULARITY_PAGE, count_events, NULL);
		MUST(pmemset_xsource_from_file(&new, "new", flags) == 0);
		IS(map_part(set, new, 0, 16 * page, &d), 0);
		v = (struct view){ d.addr, 0, 16 * page, inode_of("new") };
		drains = 0;
		dirty(set, &v, 3);
		hook_reset();
		for (int i = 0; i < 3; i++) {
			IS(pmemset_drain(set), -EIO);
			CHECKF(message_says(EIO), "%s", pmemset_errormsg());
		}
		CHECK(hook_durable(&v, v.base + 3 * page, 1) && drains == 0);
		if (removes) /* with the part goes what would have to be told of it */
			EITHER(pmemset_remove_range(set, d.addr, 1), 0, -EIO);
		hook_set(0, 0);
		hook_reset();
		IS(pmemset_drain(set), 0); /* nothing had to be flushed again */
		if (!removes)
			CHECKF(hook_count(HOOK_FSYNC) + hook_count(HOOK_SYNCFS) > 0, "the directory was not synced again");
		IS(pmemset_source_delete(&new), 0);
		IS(pmemset_delete(&set), 0);
	}
}

static pthread_barrier_t barrier;
static struct pmemset_source *growing;

static void *grow(void *arg)
{
	size_t i = (size_t)arg;

	for (int k = 0; k < 500; k++) {
		struct pmemset_part_descriptor d;

		pthread_barrier_wait(&barrier); /* a new file is there */
		MUST(map_part(set, growing, i * 16 * page, 16 * page, &d) == 0);
		((volatile char *)d.addr)[16 * page - 1] = 1; /* SIGBUS where another has cut it off */
		pthread_barrier_wait(&barrier);
		pthread_barrier_wait(&barrier);
	}
	return NULL;
}

static void growth(void)
{
	pthread_t t[4];

	set = new_set();
	pthread_barrier_init(&barrier, NULL, 5);
	for (size_t i = 0; i < 4; i++)
		MUST(pthread_create(&t[i], NULL, grow, (void *)i) == 0);
	for (int k = 0; k < 500; k++) {
		make_file("growing", 0);
		MUST(pmemset_xsource_from_file(&growing, "growing", PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED) == 0);
		pthread_barrier_wait(&barrier);
		pthread_barrier_wait(&barrier);
		MUST(file_size("growing") == (off_t)(64 * page));
		MUST(pmemset_remove_range(set, (void *)page, SIZE_MAX - page) == 0);
		MUST(pmemset_source_delete(&growing) == 0);
		pthread_barrier_wait(&barrier);
	}
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	IS(pmemset_delete(&set), 0);
}

int main(void)
{
	t_begin();
	page = page_size();
	CHILD_GROUP(settled, "first drain: entry and size of new and grown files");
	CHILD_GROUP(entry_fails, "first drain: an entry that cannot be made durable");
	CHILD_GROUP(growth, "growth by several threads at once");
	return t_end();
}
