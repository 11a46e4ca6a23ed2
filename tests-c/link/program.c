/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What an existing program does, through all 34 functions, on two files in the current directory. It is linked in
 * every way that there is: shared, static, against a stub of the same version, as C and as C++.
 */
#include <errno.h>
#include <fcntl.h>
#include <libpmemset.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SIZE ((size_t)131072)

#define MUST(what) \
	do { \
		if (!(what)) { \
			fprintf(stderr, "program.c:%d: %s: %s\n", __LINE__, #what, pmemset_errormsg()); \
			exit(1); \
		} \
	} while (0)

static unsigned events[9];

static int
observe(struct pmemset *set, struct pmemset_event_context *ctx, void *arg)
{
	MUST(set != NULL && arg == events && (unsigned)ctx->type < 9);
	events[ctx->type]++;
	return 0;
}

static void
on_disk(const char *path, size_t offset, const char *text)
{
	char buf[64];
	int fd = open(path, O_RDONLY);
	MUST(fd >= 0);
	MUST(pread(fd, buf, strlen(text), (off_t)offset) == (ssize_t)strlen(text));
	MUST(memcmp(buf, text, strlen(text)) == 0);
	close(fd);
}

int
main(void)
{
	struct pmemset_config *cfg = NULL;
	struct pmemset *set = NULL;
	struct pmemset_source *one = NULL, *two = NULL, *temp = NULL, *none = NULL;
	struct pmemset_part *part = NULL;
	struct pmemset_part_map *first = NULL, *next = NULL, *found = NULL;
	struct pmemset_part_descriptor desc, run;
	struct pmemset_extras extra;
	enum pmemset_part_state state = PMEMSET_PART_STATE_CORRUPTED;
	enum pmem2_granularity g = PMEM2_GRANULARITY_BYTE;
	char *base;
	int fd;

	unlink("one");
	unlink("two");
	fd = open("one", O_RDWR | O_CREAT | O_TRUNC, 0644);
	MUST(fd >= 0 && ftruncate(fd, (off_t)SIZE) == 0);
	close(fd);

	MUST(pmemset_config_new(&cfg) == 0);
	MUST(pmemset_new(&set, cfg) == PMEMSET_E_GRANULARITY_NOT_SET);
	MUST(pmemset_config_set_required_store_granularity(cfg, PMEM2_GRANULARITY_PAGE) == 0);
	pmemset_config_set_reservation(cfg, NULL);
	pmemset_config_set_event_callback(cfg, observe, events);
	MUST(pmemset_new(&set, cfg) == 0);
	MUST(pmemset_config_delete(&cfg) == 0 && cfg == NULL);
	MUST(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_FULL) == 0);

	MUST(pmemset_source_from_file(&none, "missing") == PMEMSET_E_INVALID_SOURCE_PATH && none == NULL);
	MUST(pmemset_err_to_errno(PMEMSET_E_INVALID_SOURCE_PATH) == EINVAL);
	MUST(pmemset_source_from_pmem2(&none, NULL) == PMEMSET_E_INVALID_PMEM2_SOURCE);
	MUST(pmemset_source_from_file(&one, "one") == 0);
	MUST(pmemset_xsource_from_file(&two, "two",
		PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED | PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED) == 0);
	MUST(pmemset_source_from_temporary(&temp, ".") == 0);

	extra.sds_in = NULL;
	extra.sds_out = NULL;
	extra.state = &state;
	MUST(pmemset_part_new(&part, set, one, 0, SIZE) == 0);
	MUST(pmemset_part_map(&part, &extra, &desc) == 0 && part == NULL);
	MUST(desc.size == SIZE && state != PMEMSET_PART_STATE_CORRUPTED);
	base = (char *)desc.addr;
	MUST(pmemset_part_new(&part, set, two, 0, SIZE) == 0);
	MUST(pmemset_part_map(&part, NULL, &run) == 0);
	MUST(run.addr == base && run.size == 2 * SIZE);
	MUST(pmemset_part_new(&part, set, temp, 0, SIZE) == 0);
	MUST(pmemset_part_delete(&part) == 0 && part == NULL);
	MUST(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_NONE) == 0);
	MUST(pmemset_part_new(&part, set, temp, 0, SIZE) == 0);
	MUST(pmemset_part_map(&part, NULL, &desc) == 0 && desc.size == SIZE);
	MUST(pmemset_get_store_granularity(set, &g) == 0 && g == PMEM2_GRANULARITY_PAGE);

	pmemset_first_part_map(set, &first);
	MUST(first != NULL);
	pmemset_next_part_map(set, first, &next);
	MUST(next != NULL && next != first);
	MUST(pmemset_part_map_by_address(set, &found, base + SIZE + 1) == 0);
	run = pmemset_descriptor_part_map(found);
	MUST(run.addr == base && run.size == 2 * SIZE);
	MUST(found == first || found == next);
	pmemset_part_map_drop(&first);
	pmemset_part_map_drop(&next);
	MUST(first == NULL && next == NULL);

	/* Over the boundary of the two files. */
	MUST(pmemset_memcpy(set, base + SIZE - 6, (void *)"hello, world", 12, 0) == base + SIZE - 6);
	MUST(pmemset_memmove(set, base + 1, base + SIZE - 6, 5, PMEMSET_F_MEM_NODRAIN) == base + 1);
	MUST(pmemset_memset(set, base, '>', 1, PMEMSET_F_MEM_NOFLUSH) == base);
	MUST(pmemset_flush(set, base, 6) == 0);
	MUST(pmemset_drain(set) == 0);
	memcpy(base + 4096, "persisted", 9);
	MUST(pmemset_persist(set, base + 4096, 9) == 0);
	MUST(pmemset_deep_flush(set, base, 2 * SIZE) == 0);

	MUST(pmemset_remove_part_map(set, &found) == 0 && found == NULL);
	MUST(pmemset_part_map_by_address(set, &found, base) == PMEMSET_E_CANNOT_FIND_PART_MAP && found == NULL);
	pmemset_perror("looked for %s at %d", "it", 1);
	MUST(pmemset_remove_range(set, desc.addr, 1) == 0);
	pmemset_first_part_map(set, &first);
	MUST(first == NULL);

	MUST(pmemset_source_delete(&one) == 0 && pmemset_source_delete(&two) == 0 && pmemset_source_delete(&temp) == 0);
	MUST(pmemset_delete(&set) == 0 && set == NULL);

	on_disk("one", 0, ">hello");
	on_disk("one", 4096, "persisted");
	on_disk("one", SIZE - 6, "hello,");
	on_disk("two", 0, " world");
	MUST(events[PMEMSET_EVENT_COPY] == 1 && events[PMEMSET_EVENT_MOVE] == 1 && events[PMEMSET_EVENT_SET] == 1);
	MUST(events[PMEMSET_EVENT_PART_ADD] == 3 && events[PMEMSET_EVENT_FLUSH] == 2);
	MUST(events[PMEMSET_EVENT_PERSIST] == 0);
	printf("34 functions, two files, what was written is there\n");
	return 0;
}
