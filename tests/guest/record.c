/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * record.c -- numbered records on a device DAX, each reported once it is persistent
 *
 *     record write DEVICE REPORTS NAME OFFSET
 *     record check DEVICE REPORTS NAME OFFSET
 */
#include "g.h"

enum { WORDS = 8, RECORDS = 32768 };

static void fill(uint64_t *words, uint64_t n)
{
	for (uint64_t i = 0; i < WORDS; i++)
		words[i] = (n << 8 | i) * UINT64_C(0x9e3779b97f4a7c15);
}

int main(int argc, char **argv)
{
	struct pmemset *set = new_set(PMEM2_GRANULARITY_CACHE_LINE);
	struct pmemset_part_descriptor desc;
	uint64_t words[WORDS];

	if (argc != 6)
		return 2;
	MUST(map_path(set, argv[2], strtoull(argv[5], NULL, 0), RECORDS * sizeof(words), &desc));
	if (!strcmp(argv[1], "write")) {
		FILE *report = fopen(argv[3], "w");

		MUST(!report);
		setvbuf(report, NULL, _IOLBF, 0);
		for (uint64_t n = 0; n < RECORDS; n++) {
			uint64_t *to = (uint64_t *)desc.addr + n * 7919 % RECORDS * WORDS;

			fill(words, n);
			if (n % 3 == 0) {
				CHECK(pmemset_memcpy(set, to, words, sizeof(words), 0));
			} else if (n % 3 == 1) {
				memcpy(to, words, sizeof(words));
				MUST(pmemset_persist(set, to, sizeof(words)));
			} else {
				CHECK(pmemset_memcpy(set, to, words, sizeof(words), PMEMSET_F_MEM_NODRAIN));
				MUST(pmemset_drain(set));
			}
			fprintf(report, "%s %" PRIu64 ".\n", argv[4], n);
			if (!n)
				has_reported(argv[4]);
		}
		pause();
	}
	FILE *report = fopen(argv[3], "r");
	char line[256], who[64], stop;
	uint64_t n, seen = 0;

	MUST(!report);
	while (fgets(line, sizeof(line), report)) {
		if (sscanf(line, "%63s %" SCNu64 "%c", who, &n, &stop) != 3 || stop != '.' || strcmp(who, argv[4]))
			continue;
		seen++;
		fill(words, n);
		if (memcmp((uint64_t *)desc.addr + n * 7919 % RECORDS * WORDS, words, sizeof(words))) {
			printf("  record %" PRIu64 " is not there\n", n);
			g_failed = 1;
		}
	}
	printf("%" PRIu64 " records\n", seen);
	return g_failed || !seen;
}
