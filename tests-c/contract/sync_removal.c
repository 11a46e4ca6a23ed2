/* SPDX-License-Identifier: BSD-3-Clause */
/* sync_removal.c -- removal and deletion of parts of which something is lost: told once, and then they go */
#include "sync_view.h"

static int ranges_told, maps_told;          /* events of removals */
static void (*in_callback)(char *addr);

static int told(struct pmemset *s, struct pmemset_event_context *ctx, void *arg)
{
	count_events(s, ctx, arg);
#if PMEMSET_API_VERSION == 112
	ranges_told += ctx->type == PMEMSET_EVENT_REMOVE_RANGE;
	maps_told += ctx->type == PMEMSET_EVENT_PART_REMOVE;
	if (ctx->type == PMEMSET_EVENT_PART_REMOVE && in_callback)
		in_callback(ctx->data.part_remove.addr);
#endif
	return 0;
}

static struct pmemset *told_set(void)
{
	hook_set(0, 0);
	hook_reset();
	drains = flushes = others = ranges_told = maps_told = 0;
	in_callback = NULL;
	return new_set_ev(PMEM2_GRANULARITY_PAGE, told, NULL);
}

static void open_told(const char *path, size_t pages)
{
	written_file(path, pages);
	set = told_set();
	v = view_of(set, path);
}

/* which of the ways to remove a part map of its own */
static int way;

static int removes(struct pmemset *in, char *addr)
{
	struct pmemset_part_map *pm, *same;
	int rc;

	if (way == 1)
		return pmemset_remove_range(in, addr + page, 1);
	if (way == 2)
		return pmemset_remove_range(in, addr, (size_t)1 << 20);
	pm = same = at(in, addr);
	rc = pmemset_remove_part_map(in, &pm);
	if (rc) {
		CHECK(pm == same);
		pmemset_part_map_drop(&pm);
	} else {
		CHECK(pm == NULL);
	}
	return rc;
}

/* it has been refused: nothing has changed, nobody has been told */
static void still_there(size_t maps, size_t pages)
{
	IS(walk(set), maps);
	IS(size_at(set, v.base), pages * page);
	CHECK(readable(v.base) && drains == 0 && maps_told == 0);
}

static void gone(size_t maps)
{
	IS(walk(set), maps);
	CHECK(!readable(v.base));
	if (PMEMSET_API_VERSION == 112)
		CHECKF(maps_told == 1 && ranges_told == (way != 0), "%d part maps, %d ranges", maps_told, ranges_told);
	CHECK(drains == 0);
}

/* lost by the sync of the removal itself */
static void by_removal(void)
{
	for (way = 0; way < 3; way++) {
		open_told("removal", 8);
		dirty(set, &v, 2);
		hook_set(ENOSPC, -1);
		IS(removes(set, v.base), -ENOSPC);
		CHECKF(message_says(ENOSPC), "%s", pmemset_errormsg());
		CHECKF(message_has("%#llx", (uintptr_t)v.base + 2 * page), "%s", pmemset_errormsg());
		still_there(1, 8);
		IS(removes(set, v.base), 0); /* whatever the disk does now */
		gone(0);
		hook_set(0, 0);
		IS(pmemset_drain(set), 0);
		IS(pmemset_delete(&set), 0);
	}
}

/* lost by a drain, which has said so: the removal says it once more */
static void by_drain(void)
{
	for (way = 0; way < 3; way++) {
		open_told("drained", 8);
		lose(set, &v, 2, EDQUOT);
		IS(removes(set, v.base), -EDQUOT);
		still_there(1, 8);
		IS(pmemset_drain(set), -EDQUOT); /* a part that stays is as it was */
		IS(removes(set, v.base), 0);
		gone(0);
		IS(pmemset_drain(set), 0);
		IS(pmemset_delete(&set), 0);
	}
}

/* lost because of another set */
static void by_others(void)
{
	for (way = 0; way < 3; way++) {
		struct pmemset *two = new_set();
		struct view w;

		open_told("others", 8);
		w = view_of(two, "others");
		dirty(set, &v, 2);
		lose(two, &w, 5, EIO);
		IS(removes(set, v.base), -EIO);
		still_there(1, 8);
		IS(removes(set, v.base), 0);
		gone(0);
		IS(pmemset_drain(set), 0);
		IS(pmemset_delete(&set), 0);
		IS(pmemset_drain(two), -EIO);
		IS(pmemset_delete(&two), -EIO);
	}
}

/* flushed again after the refusal, and lost again */
static void again(void)
{
	way = 0;
	open_told("again", 8);
	dirty(set, &v, 2);
	fails_once(&v, EIO);
	IS(removes(set, v.base), -EIO);
	hook_set(0, 0);
	take_back(set, &v, 2); /* the refusal has reported it */
	drains = 0;
	lose(set, &v, 3, ENOSPC);
	IS(removes(set, v.base), -ENOSPC);
	still_there(1, 8);
	take_back(set, &v, 3);
	drains = 0;
	v.base[4 * page]++;
	IS(pmemset_flush(set, v.base + 4 * page, 1), 0);
	hook_reset();
	IS(removes(set, v.base), 0); /* nothing is lost any more */
	gone(0);
	CHECK(hook_durable(&v, v.base + 4 * page, 1));
	IS(pmemset_delete(&set), 0);
}

/* three parts in one part map: all of them or none */
static void several(void)
{
	struct pmemset_source *src;
	char *run;

	written_file("several", 8);
	set = told_set();
	src = source("several");
	IS(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_FULL), 0);
	must_map(set, src, 0, 2 * page);
	must_map(set, src, 2 * page, 2 * page);
	/* 1.11 says where the run begins, 1.12 as well */
	run = must_map(set, src, 4 * page, 2 * page);
	v = (struct view){ run, 0, 6 * page, inode_of("several") };
	for (size_t i = 0; i < 6; i++)
		dirty(set, &v, i);
	fails_once(&v, EIO);
	IS(pmemset_remove_range(set, run, 6 * page), -EIO);
	still_there(1, 6);
	/* one part of it can go alone, and its losses with it; it has been told of */
	way = 1;
	IS(pmemset_remove_range(set, run, 1), 0);
	IS(walk(set), 1);
	IS(size_at(set, run + 2 * page), 4 * page);
	IS(pmemset_drain(set), -EIO);
	CHECKF(message_has("%#llx", (uintptr_t)run + 2 * page), "%s", pmemset_errormsg());
	hook_set(0, 0);
	for (size_t i = 2; i < 6; i++)
		take_back(set, &v, i);
	IS(pmemset_drain(set), 0);
	/* of two parts one has lost something */
	lose(set, &v, 5, EIO);
	v.base = run + 2 * page;
	drains = 0;
	IS(pmemset_remove_range(set, v.base, 4 * page), -EIO);
	still_there(1, 4);
	IS(pmemset_remove_range(set, v.base, 4 * page), 0);
	CHECK(walk(set) == 0 && !readable(run + 5 * page));
	IS(pmemset_drain(set), 0);
	IS(pmemset_source_delete(&src), 0);
	IS(pmemset_delete(&set), 0);
}

/* what has been removed is forgotten, and hides nothing */
static void forgotten(void)
{
	struct view w, x;

	way = 0;
	written_file("a", 8);
	written_file("b", 8);
	written_file("c", 8);
	set = told_set();
	v = view_of(set, "a");
	w = view_of(set, "b");
	x = view_of(set, "c");
	for (size_t i = 0; i < 8; i++) {
		dirty(set, &v, i);
		dirty(set, &w, i);
		dirty(set, &x, i);
	}
	hook_set(EIO, -1);
	IS(pmemset_drain(set), -EIO);
	hook_set(0, 0);
	/* the others stay lost, whether they are above or below */
	IS(removes(set, w.base), -EIO);
	IS(removes(set, w.base), 0);
	IS(pmemset_drain(set), -EIO);
	for (size_t i = 0; i < 8; i++) {
		take_back(set, &v, i);
		IS(pmemset_drain(set), -EIO);
	}
	for (size_t i = 0; i < 8; i++) {
		IS(pmemset_drain(set), -EIO);
		take_back(set, &x, i);
	}
	IS(pmemset_drain(set), 0);
	/* a part in the same place begins with nothing */
	for (int i = 0; i < 4; i++) {
		struct view y;

		written_file("d", 8);
		y = view_of(set, "d");
		IS(pmemset_drain(set), 0);
		IS(pmemset_persist(set, y.base, y.len), 0);
		lose(set, &y, 1, EIO);
		IS(removes(set, y.base), -EIO);
		IS(removes(set, y.base), 0);
		IS(pmemset_drain(set), 0);
	}
	/* and so does a part of a file of which something was lost */
	v = view_of(set, "b");
	IS(pmemset_drain(set), 0);
	take_back(set, &v, 3);
	IS(pmemset_drain(set), 0);
	IS(pmemset_delete(&set), 0);
}

static void deletion(void)
{
	struct pmemset_part_map *pm;
	struct view w;
	int fds = count_fds(), maps;

	for (int known = 0; known < 2; known++) {
		open_told("deletion", 8);
		written_file("healthy", 8);
		w = view_of(set, "healthy");
		maps = count_maps();
		if (known)
			lose(set, &v, 1, EIO);
		else
			dirty(set, &v, 1);
		hook_set(EIO, -1);
		hook_lo = (uintptr_t)v.base;
		hook_hi = hook_lo + v.len;
		hook_ino = v.ino;
		hook_reset();
		dirty(set, &w, 6);
		pm = at(set, v.base);
		IS(pmemset_delete(&set), -EIO); /* always frees */
		CHECKF(message_says(EIO), "%s", pmemset_errormsg());
		CHECK(set == NULL && !readable(v.base));
		CHECK(drains == 0 && maps_told == 0);
		CHECK(hook_durable(&w, w.base + 6 * page, 1));
		pmemset_part_map_drop(&pm);
		hook_set(0, 0);
		CHECK(count_fds() == fds);
		CHECK(count_maps() <= maps);
	}
}

#if PMEMSET_API_VERSION == 112
static void flush_in_callback(char *addr)
{
	IS(pmemset_flush(set, addr + 3 * page, 1), 0);
	hook_set(EIO, -1);
}

/* flushed in the callback, and lost by the sync that follows: refused after all, and the part map is found again */
static void in_the_callback(void)
{
	for (way = 0; way < 2; way++) {
		open_told("callback", 8);
		in_callback = flush_in_callback;
		IS(removes(set, v.base), -EIO);
		in_callback = NULL;
		hook_set(0, 0);
		maps_told = ranges_told = 0;
		still_there(1, 8);
		IS(pmemset_drain(set), -EIO);
		IS(removes(set, v.base), 0);
		gone(0);
		IS(pmemset_delete(&set), 0);
	}
}
#endif

int main(void)
{
	t_begin();
	page = page_size();
	CHILD_GROUP(by_removal, "sync removal: lost by the removal");
	CHILD_GROUP(by_drain, "sync removal: lost before");
	CHILD_GROUP(by_others, "sync removal: lost by another set's sync");
	CHILD_GROUP(again, "sync removal: flushed and lost again");
	CHILD_GROUP(several, "sync removal: several parts");
	CHILD_GROUP(forgotten, "sync removal: what is gone is forgotten");
	CHILD_GROUP(deletion, "sync removal: deletion frees and tells");
#if PMEMSET_API_VERSION == 112
	CHILD_GROUP(in_the_callback, "sync removal: lost in the callback");
#endif
	return t_end();
}
