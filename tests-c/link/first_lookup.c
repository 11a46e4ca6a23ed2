/* SPDX-License-Identifier: BSD-3-Clause */
/* A look-up allocates nothing, not even a thread's first one in a library that was opened at run time. argv[1]: the library. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
#include <libpmemset.h>

static struct pmemset *set;
static void *addr;
static int (*by_address)(struct pmemset *, struct pmemset_part_map **, void *);
static void (*drop)(struct pmemset_part_map **);
static long grown = -1;

static void *
look_up(void *arg)
{
	struct pmemset_part_map *map = NULL;
	size_t before = mallinfo2().uordblks;

	if (by_address(set, &map, addr) == 0) {
		drop(&map);
		grown = (long)(mallinfo2().uordblks - before);
	}
	return arg;
}

int
main(int argc, char **argv)
{
	struct pmemset_config *cfg = NULL;
	struct pmemset_source *src = NULL;
	struct pmemset_part *part = NULL;
	struct pmemset_part_descriptor desc = { NULL, 0 };
	const char *path = argc > 2 ? argv[2] : "first_lookup.file";
	pthread_t thread;
	void *lib;
	int fd;

	mallopt(M_ARENA_MAX, 1);
	lib = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
	if (lib == NULL) {
		fprintf(stderr, "%s\n", dlerror());
		return 1;
	}
	fd = open(path, O_RDWR | O_CREAT, 0600);
	if (fd < 0 || ftruncate(fd, 65536) != 0)
		return 1;
#define THE(name) ((__typeof__(&name))dlsym(lib, #name))
	by_address = THE(pmemset_part_map_by_address);
	drop = THE(pmemset_part_map_drop);
	if (THE(pmemset_config_new)(&cfg) != 0 ||
	    THE(pmemset_config_set_required_store_granularity)(cfg, PMEM2_GRANULARITY_PAGE) != 0 ||
	    THE(pmemset_new)(&set, cfg) != 0 || THE(pmemset_source_from_file)(&src, path) != 0 ||
	    THE(pmemset_part_new)(&part, set, src, 0, 65536) != 0 || THE(pmemset_part_map)(&part, NULL, &desc) != 0)
		return 1;
	unlink(path);
	addr = desc.addr;
	pthread_create(&thread, NULL, look_up, NULL);
	pthread_join(thread, NULL);
	if (grown != 0)
		fprintf(stderr, "a thread's first look-up: the heap has grown by %ld bytes\n", grown);
	return grown != 0;
}
