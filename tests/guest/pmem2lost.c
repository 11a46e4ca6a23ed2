/* SPDX-License-Identifier: BSD-3-Clause */
/* pmem2lost.c -- a lost page, and two sources of libpmem2 over descriptors of one open file */
#include <libpmem2.h>
#include "disk.h"

/* source over libpmem2's over a descriptor */
static struct pmemset_source *wrap(struct pmem2_source **theirs, int fd)
{
	struct pmemset_source *src;

	MUST(fd < 0);
	MUST(pmem2_source_from_fd(theirs, fd));
	MUST(pmemset_source_from_pmem2(&src, *theirs));
	return src;
}

/* how 0: dup; 1: two openings of the file; 2: the descriptors are closed once all is mapped */
static void two_sources(int how)
{
	static const char *const names[] = {
		"two libpmem2 sources of one open file", "two libpmem2 sources of one file",
		"two libpmem2 sources whose descriptors are closed",
	};
	struct pmem2_source *theirs[2];
	int fds[2];

	test(names[how]);
	file(how == 0 ? "dup" : how == 1 ? "two" : "closed");
	fds[0] = open(path, O_RDWR);
	fds[1] = how == 1 ? open(path, O_RDWR) : dup(fds[0]);
	struct view a = look(wrap(&theirs[0], fds[0])), b = look(wrap(&theirs[1], fds[1]));
	if (how == 2)
		for (int i = 0; i < 2; i++)
			close(fds[i]);
	fail(1 << BAD);
	store(&b, BAD, 'b');
	EQ(flush(&b, BAD), 0);
	store(&a, 3, 'x');
	EQ(flush(&a, 3), 0);
	written_back();
	EQ(pmemset_drain(a.set), -EIO); /* which the kernel may have told what concerns b */
	fail(0);
	EQ(pmemset_drain(b.set), -EIO);
	EQ(pmemset_drain(b.set), -EIO);
	EQ(pmemset_drain(a.set), -EIO);
	EQ(flush(&b, BAD), 0);
	EQ(pmemset_drain(b.set), 0);
	EQ(on_disk(BAD), 'b');
	recovers(&a, 3, 'y');
	leave(&a);
	leave(&b);
	for (int i = 0; i < 2; i++) {
		MUST(pmem2_source_delete(&theirs[i]));
		if (how < 2)
			close(fds[i]);
	}
}

int main(int argc, char **argv)
{
	if (!arguments(argc, argv))
		return 2;
	for (int how = 0; how < 3; how++)
		two_sources(how);
	test(NULL);
	return g_bad;
}
