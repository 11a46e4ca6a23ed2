/* SPDX-License-Identifier: BSD-3-Clause */
/* p.h -- shorthands over libpmem2 for the tests beside it */
#ifndef P_H
#define P_H

#include <libpmem2.h>
#include "t.h"

T_MAY struct pmem2_source *p2_source(int fd)
{
	struct pmem2_source *src = NULL;

	MUST(pmem2_source_from_fd(&src, fd) == 0);
	return src;
}

T_MAY int open_file(const char *name, off_t size)
{
	int fd;

	make_file(name, size);
	fd = open(name, O_RDWR | O_CLOEXEC);
	MUST(fd >= 0);
	return fd;
}

T_MAY struct pmemset_source *from_pmem2(struct pmem2_source *p2)
{
	struct pmemset_source *src = NULL;

	MUST(pmemset_source_from_pmem2(&src, p2) == 0);
	return src;
}

T_MAY struct pmem2_vm_reservation *reserve(size_t size)
{
	struct pmem2_vm_reservation *rsv = NULL;

	MUST(pmem2_vm_reservation_new(&rsv, NULL, size) == 0);
	MUST(pmem2_vm_reservation_get_size(rsv) == size);
	return rsv;
}

T_MAY char *base_of(struct pmem2_vm_reservation *rsv)
{
	return pmem2_vm_reservation_get_address(rsv);
}

/* a set in a reservation */
T_MAY struct pmemset *set_in(struct pmem2_vm_reservation *rsv, int granularity, pmemset_event_callback *cb)
{
	struct pmemset_config *cfg = NULL;
	struct pmemset *set = NULL;

	MUST(pmemset_config_new(&cfg) == 0);
	MUST(pmemset_config_set_required_store_granularity(cfg, (enum pmem2_granularity)granularity) == 0);
	pmemset_config_set_reservation(cfg, rsv);
	if (cb)
		pmemset_config_set_event_callback(cfg, cb, NULL);
	MUST(pmemset_new(&set, cfg) == 0);
	MUST(pmemset_config_delete(&cfg) == 0);
	return set;
}

/* a mapping of the program's own */
T_MAY struct pmem2_map *own_map(struct pmem2_vm_reservation *rsv, size_t place, struct pmem2_source *src, size_t length)
{
	struct pmem2_config *cfg = NULL;
	struct pmem2_map *map = NULL;

	MUST(pmem2_config_new(&cfg) == 0);
	MUST(pmem2_config_set_required_store_granularity(cfg, PMEM2_GRANULARITY_PAGE) == 0);
	if (length)
		MUST(pmem2_config_set_length(cfg, length) == 0);
	MUST(pmem2_config_set_vm_reservation(cfg, rsv, place) == 0);
	MUST(pmem2_map_new(&map, cfg, src) == 0);
	MUST(pmem2_config_delete(&cfg) == 0);
	return map;
}

/* what libpmem2 knows at a place: the mapping's size if it begins there, 0 if there is none, 1 if it begins elsewhere */
T_MAY size_t known_at(struct pmem2_vm_reservation *rsv, const void *addr)
{
	struct pmem2_map *map = NULL;

	if (pmem2_vm_reservation_map_find(rsv, (size_t)((const char *)addr - base_of(rsv)), 1, &map) != 0)
		return 0;
	return pmem2_map_get_address(map) == addr ? pmem2_map_get_size(map) : 1;
}

T_MAY int known(struct pmem2_vm_reservation *rsv)
{
	struct pmem2_map *map = NULL, *next = NULL;
	int n = 0;

	for (int rc = pmem2_vm_reservation_map_find_first(rsv, &map); rc == 0;
			rc = pmem2_vm_reservation_map_find_next(rsv, map, &next), map = next)
		n++;
	return n;
}

T_MAY int delete_rsv(struct pmem2_vm_reservation **rsv)
{
	int rc = pmem2_vm_reservation_delete(rsv);

	CHECK((rc == 0) == (*rsv == NULL));
	return rc;
}

#endif
