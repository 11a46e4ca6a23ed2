/* SPDX-License-Identifier: BSD-3-Clause */
/* pmemset_perror: the text, one write for a line of usual length, errno kept, and a full stderr survived. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <libpmemset.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int out[2];
static char got[65536];

static void
fail(const char *what)
{
	printf("FAIL %s: %s\n", what, got);
	exit(1);
}

/* One packet is one write. */
static size_t
packet(void)
{
	ssize_t n = recv(out[0], got, sizeof(got) - 1, MSG_DONTWAIT);

	got[n < 0 ? 0 : n] = 0;
	return n < 0 ? 0 : (size_t)n;
}

static void
expect(const char *what, const char *text)
{
	if (errno != EXDEV)
		fail("errno is kept");
	packet();
	if (strcmp(got, text) != 0)
		fail(what);
	if (packet() != 0)
		fail("one write only");
	errno = EXDEV; /* the socket is empty, and said so */
}

int
main(void)
{
	struct pmemset_source *src = NULL;
	static char big[3000], all[65536];
	int full;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, out) != 0 || dup2(out[1], 2) != 2)
		return 2;
	pmemset_source_from_file(&src, NULL);

	errno = EXDEV;
	pmemset_perror("what %d", 3);
	expect("formats", "what 3: file path cannot be empty\n");
	pmemset_perror("%s", "100%");
	expect("takes arguments as they are", "100%: file path cannot be empty\n");
	pmemset_perror("%m");
	expect("knows errno", "Invalid cross-device link: file path cannot be empty\n");
	/* The compiler rightly warns of these two. */
	void (*unchecked)(const char *, ...) = pmemset_perror;
	unchecked(NULL);
	expect("no format", "file path cannot be empty\n");
	unchecked("");
	expect("empty format", ": file path cannot be empty\n");

	memset(big, 'x', sizeof(big) - 1);
	pmemset_perror("%s", big);
	if (errno != EXDEV)
		fail("errno is kept after a long prefix");
	while (packet() != 0)
		strcat(all, got);
	if (strlen(all) != 2999 + strlen(": file path cannot be empty\n") || memcmp(all, big, 2999) != 0 ||
	    strcmp(all + 2999, ": file path cannot be empty\n") != 0)
		fail("a long prefix");

	full = open("/dev/full", O_WRONLY);
	if (full < 0 || dup2(full, 2) != 2)
		return 2;
	errno = EXDEV;
	pmemset_perror("lost");
	close(2);
	pmemset_perror("lost");
	if (errno != EXDEV)
		fail("errno is kept when stderr is full or closed");
	return 0;
}
