/* SPDX-License-Identifier: BSD-3-Clause */
/* sync_view.h -- files that are mapped in sets of PAGE granularity, and what is lost of them; over sync_hooks.h */
#ifndef SYNC_VIEW_H
#define SYNC_VIEW_H

#include "sync_hooks.h"
#include <pthread.h>

static size_t page;
static struct pmemset *set;             /* what open_view has made, and its only part */
static struct view v;
static int drains, flushes, others;     /* events of that set */

T_MAY int count_events(struct pmemset *s, struct pmemset_event_context *ctx, void *arg)
{
	(void)s;
	(void)arg;
	drains += ctx->type == PMEMSET_EVENT_DRAIN;
	flushes += ctx->type == PMEMSET_EVENT_FLUSH;
	others += ctx->type != PMEMSET_EVENT_DRAIN && ctx->type != PMEMSET_EVENT_FLUSH;
	return 0;
}

/* maps a whole file */
T_MAY struct view view_of(struct pmemset *in, const char *path)
{
	return (struct view){ map_file(in, path), 0, (size_t)file_size(path), inode_of(path) };
}

/* a file whose blocks are all written: a new one has none, and then a lost write may never have been */
T_MAY void written_file(const char *path, size_t pages)
{
	char *bytes = malloc(page);
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	MUST(bytes && fd >= 0);
	memset(bytes, 1, page);
	for (size_t i = 0; i < pages; i++)
		MUST(pwrite(fd, bytes, page, (off_t)(i * page)) == (ssize_t)page);
	MUST(syscall(SYS_fsync, fd) == 0);
	close(fd);
	free(bytes);
}

/* a set with a file of so many pages, all written */
T_MAY void open_view(const char *path, size_t pages)
{
	written_file(path, pages);
	set = new_set_ev(PMEM2_GRANULARITY_PAGE, count_events, NULL);
	v = view_of(set, path);
	hook_set(0, 0);
	hook_reset();
	drains = flushes = others = 0;
}

/* the message is about this errno */
T_MAY int message_says(int e)
{
	const char *m = pmemset_errormsg();
	size_t a = strlen(m), b = strlen(strerror(e));

	return a > b + 2 && strcmp(m + a - b, strerror(e)) == 0 && strncmp(m + a - b - 2, ": ", 2) == 0;
}

/* the message has this number in it, as a word of its own */
T_MAY int message_has(const char *format, unsigned long long number)
{
	char text[40];
	const char *m = pmemset_errormsg(), *p;
	size_t n = (size_t)snprintf(text, sizeof text, format, number);

	for (p = m; (p = strstr(p, text)); p++)
		if ((p == m || !strchr("0123456789abcdef", p[-1])) && (!p[n] || !strchr("0123456789abcdef", p[n])))
			return 1;
	return 0;
}

/* stores to a page and flushes it */
T_MAY void dirty(struct pmemset *in, const struct view *w, size_t i)
{
	w->base[i * page]++;
	IS(pmemset_flush(in, w->base + i * page, 1), 0);
}

/* the next sync of the view fails: some page of it is lost, and nobody but that sync hears of it */
T_MAY void fails_once(const struct view *w, int e)
{
	hook_set(e, 1);
	hook_lo = (uintptr_t)w->base;
	hook_hi = hook_lo + w->len;
	hook_ino = w->ino;
}

/* a page is lost, and a drain has reported that */
T_MAY void lose(struct pmemset *in, const struct view *w, size_t i, int e)
{
	dirty(in, w, i);
	fails_once(w, e);
	IS(pmemset_drain(in), -e);
	hook_set(0, 0);
}

static const struct view *volatile slow; /* a sync of this takes so many microseconds */
static volatile int slow_us;

T_MAY int in_view(const struct view *w, const struct hook *h)
{
	return w && h->kind == HOOK_MSYNC && h->addr >= (uintptr_t)w->base && h->addr < (uintptr_t)w->base + w->len;
}

static volatile int entered;            /* slow syncs that have begun */

T_MAY void takes_time(const struct hook *h)
{
	if (in_view(slow, h)) {
		__atomic_add_fetch(&entered, 1, __ATOMIC_SEQ_CST);
		usleep((useconds_t)slow_us);
	}
}

T_MAY void slow_down(const struct view *w, int us)
{
	entered = 0;
	slow_us = us;
	slow = w;
	hook_before = takes_time;
}

T_MAY void has_entered(int n)
{
	while (entered < n)
		usleep(1000);
}

/* the next sync of a view fails, whatever else runs at the same time */
T_MAY void lost_by(struct pmemset *s, const struct view *w, size_t i, int e)
{
	hook_set(e, 1);
	hook_kinds = HOOK_BIT(HOOK_MSYNC);
	hook_lo = (uintptr_t)w->base;
	hook_hi = hook_lo + w->len;
	w->base[i * page]++;
	IS(pmemset_persist(s, w->base + i * page, 1), -e);
	hook_set(0, 0);
}

T_MAY int can_populate(void)
{
	static int known = -1;

	if (known < 0) {
		void *p = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		known = p != MAP_FAILED && syscall(SYS_madvise, p, page, 23) == 0;
	}
	return known;
}

/*
 * Flushes a page that was lost, with nothing failing any more. What the kernel counts as clean has to be made dirty by
 * the flush, and written by the drain.
 */
T_MAY void take_back(struct pmemset *in, const struct view *w, size_t i)
{
	char *p = w->base + i * page;

	hook_reset();
	IS(pmemset_flush(in, p, 1), 0);
	if (can_populate())
		CHECKF(hook_redirtied(p, 1), "page %zu was not made dirty again", i);
	(void)pmemset_drain(in); /* its result may be about others */
	CHECKF(hook_durable(w, p, 1), "page %zu was not synced", i);
}

#endif
