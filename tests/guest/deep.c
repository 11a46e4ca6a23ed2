/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * deep.c -- deep flush of a file or device with granularity G, expecting a result, and whether it syncs: deep PATH G RESULT SYNCS [UID]
 */
#include "g.h"
#include <sys/syscall.h>

static int syncs;

int msync(void *addr, size_t len, int flags)
{
	syncs++;
	return (int)syscall(SYS_msync, addr, len, flags);
}

int main(int argc, char **argv)
{
	enum pmem2_granularity found;

	if (argc < 5)
		return 2;
	struct pmemset *set = new_set((enum pmem2_granularity)atoi(argv[2]));
	struct pmemset_part_descriptor desc;
	struct pmemset_part_map *map;
	int want = atoi(argv[3]);

	if (argc > 5)
		MUST(setuid((uid_t)atoi(argv[5])));
	EQ(map_path(set, argv[1], 0, 0, &desc), 0);
	EQ(pmemset_get_store_granularity(set, &found), 0);
	EQ(found, atoi(argv[2]));
	strcpy(desc.addr, "deep");
	syncs = 0;
	EQ(pmemset_deep_flush(set, desc.addr, 4), want);
	EQ(pmemset_deep_flush(set, (char *)desc.addr + desc.size - 1, SIZE_MAX / 2), want);
	EQ(syncs, 2 * atoi(argv[4]));
	/* outside the set, and nothing at all */
	EQ(pmemset_deep_flush(set, &set, sizeof(set)), 0);
	EQ(pmemset_deep_flush(set, NULL, 0), 0);
	/* no reference is left behind */
	EQ(pmemset_part_map_by_address(set, &map, desc.addr), 0);
	EQ(pmemset_remove_part_map(set, &map), 0);
	EQ(pmemset_delete(&set), 0);
	return g_failed;
}
