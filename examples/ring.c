/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A ring of messages in a file without a name. Its bytes are mapped twice, side by side, so that a message that
 * lies over the end of the ring is one piece of memory all the same: no copy is made in two halves.
 */
#include <libpmemset.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define SIZE ((size_t)65536) /* whole pages on every machine */

struct ring {
    struct pmemset *set;
    char *bytes;         /* 2 * SIZE of them; i and SIZE + i are the same byte */
    size_t first, used;  /* where the oldest message begins, and how much there is */
};

/* The second part continues the first one's run, and is the same range. */
static int
map_twice(struct pmemset *set, struct pmemset_source *src, struct pmemset_part_descriptor *run)
{
    int i, ret = pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_FULL);

    for (i = 0; i < 2 && ret == 0; i++) {
        struct pmemset_part *part;

        ret = pmemset_part_new(&part, set, src, 0, SIZE);
        if (ret != 0)
            break;
        ret = pmemset_part_map(&part, NULL, run);
        if (ret != 0)
            pmemset_part_delete(&part);
    }
    return ret;
}

/* Appends a message, and makes it durable with its length, wherever it ends. */
static int
put(struct ring *r, const char *text)
{
    uint32_t length = (uint32_t)strlen(text) + 1;
    char *end = r->bytes + (r->first + r->used) % SIZE;

    if (sizeof length + length > SIZE - r->used)
        return 1; /* no room */
    memcpy(end, &length, sizeof length);
    memcpy(end + sizeof length, text, length);
    r->used += sizeof length + length;
    return pmemset_persist(r->set, end, sizeof length + length);
}

/* The oldest message, in one piece; NULL when there is none. */
static const char *
get(struct ring *r)
{
    const char *oldest = r->bytes + r->first;
    uint32_t length;

    if (r->used == 0)
        return NULL;
    memcpy(&length, oldest, sizeof length);
    r->first = (r->first + sizeof length + length) % SIZE;
    r->used -= sizeof length + length;
    return oldest + sizeof length;
}

int
main(void)
{
    struct ring ring = { NULL, NULL, 0, 0 };
    struct pmemset_part_descriptor run;
    struct pmemset_config *cfg;
    struct pmemset_source *src;
    char text[200];
    const char *got;
    int i, j, turns = 0;

    if (pmemset_config_new(&cfg) != 0 ||
        pmemset_config_set_required_store_granularity(cfg, PMEM2_GRANULARITY_PAGE) != 0 ||
        pmemset_new(&ring.set, cfg) != 0 || pmemset_config_delete(&cfg) != 0) {
        pmemset_perror("cannot make a set");
        return 1;
    }
    if (pmemset_source_from_temporary(&src, ".") != 0 || map_twice(ring.set, src, &run) != 0) {
        pmemset_perror("cannot map the ring");
        return 1;
    }
    pmemset_source_delete(&src); /* the file lives as long as it is mapped */
    ring.bytes = run.addr;

    for (i = 0; i < 2000; i++) {
        size_t before = ring.first;

        for (j = 0; j < 3; j++) {
            sprintf(text, "message %d.%d %0*d", i, j, 1 + i % 150, 0); /* of many lengths */
            if (put(&ring, text) != 0) {
                pmemset_perror("cannot append");
                return 1;
            }
        }
        for (j = 0; j < 3 && (got = get(&ring)) != NULL; j++) {
            int m, n;

            if (sscanf(got, "message %d.%d", &m, &n) != 2 || m != i || n != j) {
                fprintf(stderr, "got \"%s\" for message %d.%d\n", got, i, j);
                return 1;
            }
        }
        turns += ring.first < before;
    }
    printf("6000 messages, %d times around\n", turns);
    return pmemset_delete(&ring.set) == 0 && turns > 5 ? 0 : 1;
}
