/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * reserve [FILE [SIZE]]: a file that gets all of its room before it is mapped. Where the disk is too full for that, or a quota or
 * the limit on file sizes is in the way, this is an error here, and not a SIGBUS at some store later.
 */
#define _POSIX_C_SOURCE 200112L
#define _FILE_OFFSET_BITS 64
#include <errno.h>
#include <fcntl.h>
#include <libpmemset.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* 0, or an error number. What the file holds stays. */
static int
reserve(const char *path, size_t size)
{
    int error, fd = open(path, O_RDWR | O_CREAT, 0644);

    if (fd < 0)
        return errno;
    do
        error = posix_fallocate(fd, 0, (off_t)size);
    while (error == EINTR);
    if (close(fd) != 0 && error == 0)
        error = errno;
    return error;
}

int
main(int argc, char *argv[])
{
    const char *path = argc > 1 ? argv[1] : "reserved";
    size_t size = argc > 2 ? (size_t)strtoul(argv[2], NULL, 0) : 16 * 65536;
    struct pmemset_part_descriptor at;
    struct pmemset_config *cfg;
    struct pmemset_source *src;
    struct pmemset_part *part;
    struct pmemset *set;
    int error;

    signal(SIGXFSZ, SIG_IGN); /* past the limit on file sizes: EFBIG will do */
    error = reserve(path, size);
    if (error != 0) {
        fprintf(stderr, "there is no room for %s: %s\n", path, strerror(error));
        return 3;
    }

    if (pmemset_config_new(&cfg) != 0 ||
        pmemset_config_set_required_store_granularity(cfg, PMEM2_GRANULARITY_PAGE) != 0 ||
        pmemset_new(&set, cfg) != 0 || pmemset_config_delete(&cfg) != 0 ||
        pmemset_source_from_file(&src, path) != 0 ||
        pmemset_part_new(&part, set, src, 0, size) != 0 ||
        pmemset_part_map(&part, NULL, &at) != 0) {
        pmemset_perror("cannot map %s", path);
        return 1;
    }
    memset(at.addr, 'x', size); /* every page has its room */
    if (pmemset_persist(set, at.addr, size) != 0) {
        pmemset_perror("cannot persist %s", path);
        return 1;
    }
    printf("%lu bytes of %s are written\n", (unsigned long)size, path);
    return pmemset_delete(&set) != 0 || pmemset_source_delete(&src) != 0;
}
