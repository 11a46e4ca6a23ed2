/* SPDX-License-Identifier: BSD-3-Clause */
/* direct.c -- pmemset_map() of 1.12 with objects of libpmem2: growth, events, removal in a reservation */
#define PMEMSET_API_VERSION 112
#include <libpmem2.h>
#include "t.h"

static struct pmemset_event_context seen[20];
static int nseen;

static int record(struct pmemset *set, struct pmemset_event_context *ctx, void *arg)
{
	(void)arg;
	if (nseen < 20)
		seen[nseen++] = *ctx;
	if (ctx->type == PMEMSET_EVENT_PART_REMOVE) {
		struct pmemset_part_map *pm;
		char *addr = ctx->data.part_remove.addr;

		IS(pmemset_part_map_by_address(set, &pm, addr), PMEMSET_E_CANNOT_FIND_PART_MAP);
		strcpy(addr, "last words");
		IS(pmemset_persist(set, addr, 11), 0);
	}
	return 0;
}

int main(void)
{
	size_t page = page_size(), align = 0;
	struct pmemset_part_descriptor d, e;
	struct pmemset_source *one = NULL, *two = NULL;
	struct pmem2_source *p2 = NULL;
	struct pmem2_vm_reservation *rsv = NULL;
	struct pmem2_map *m = NULL;
	struct pmemset_config *cfg = NULL;
	struct pmemset_sds sds = PMEMSET_SDS_INITIALIZE();
	struct pmemset *set, *in = NULL;
	char buf[20];
	int fd;

	t_begin();
	make_file("f", (off_t)page);
	fd = open("f", O_RDWR);
	MUST(fd >= 0 && pmem2_source_from_fd(&p2, fd) == 0);
	MUST(pmemset_source_from_pmem2(&one, p2) == 0 && pmemset_source_from_pmem2(&two, p2) == 0);
	set = new_set_ev(PMEM2_GRANULARITY_PAGE, record, NULL);

	group("a libpmem2 source grows when it is mapped directly");
	IS(map_part(set, one, 0, 3 * page, &d), 0);
	IS(file_size("f"), (off_t)(3 * page));
	CHECK(nseen == 1 && seen[0].data.part_add.src == p2);
	IS(map_part(set, two, 0, 4 * page, &e), 0);
	IS(file_size("f"), (off_t)(4 * page));
	IS(pmemset_source_alignment(two, &align), 0);
	IS(align, page);
	strcpy(d.addr, "both");
	IS(pmemset_source_pread_mcsafe(two, buf, 5, 0), 0);
	CHECK(strcmp(buf, "both") == 0);
	IS(pmemset_source_pwrite_mcsafe(one, buf, 5, page), 0);
	CHECK(strcmp((char *)e.addr + page, "both") == 0);

	group("two sources of one descriptor are two sources");
	IS(pmemset_source_set_sds(one, &sds, NULL), 0);
	IS(pmemset_source_set_sds(one, &sds, NULL), PMEMSET_E_SDS_ALREADY_SET);
	IS(pmemset_map(set, one, NULL, NULL), PMEMSET_E_SDS_NOSUPP);
	IS(pmemset_map(set, two, NULL, NULL), 0);
	nseen = 0;
	IS(remove_at(set, d.addr), 0);
	CHECK(nseen >= 1 && seen[0].type == PMEMSET_EVENT_PART_REMOVE && seen[0].data.part_remove.src == one);
	IS(pmemset_source_delete(&one), 0);
	nseen = 0;
	IS(remove_at(set, e.addr), 0);
	CHECK(nseen >= 1 && seen[0].data.part_remove.src == two);
	CHECK(file_holds("f", 0, "last words", 11));
	IS(pmemset_delete(&set), 0);

	group("in a reservation");
	MUST(pmem2_vm_reservation_new(&rsv, NULL, 64 * page) == 0);
	MUST(pmemset_config_new(&cfg) == 0);
	MUST(pmemset_config_set_required_store_granularity(cfg, PMEM2_GRANULARITY_PAGE) == 0);
	pmemset_config_set_event_callback(cfg, record, NULL);
	pmemset_config_set_reservation(cfg, rsv);
	MUST(pmemset_new(&in, cfg) == 0);
	IS(pmemset_set_contiguous_part_coalescing(in, PMEMSET_COALESCING_FULL), 0);
	for (int i = 0; i < 4; i++)
		IS(map_part(in, two, 0, 2 * page, &d), 0);
	IS(pmemset_set_contiguous_part_coalescing(in, PMEMSET_COALESCING_NONE), 0);
	IS(map_part(in, two, 0, page, &e), 0);
	CHECK(d.addr == pmem2_vm_reservation_get_address(rsv) && (char *)e.addr == (char *)d.addr + 8 * page);
	nseen = 0; /* of the run the last two parts, and the neighbour as a whole */
	IS(pmemset_remove_range(in, (char *)d.addr + 4 * page, 4 * page + 1), 0);
	IS(seen[0].type, PMEMSET_EVENT_REMOVE_RANGE);
	CHECK(seen[1].type == PMEMSET_EVENT_PART_REMOVE && seen[1].data.part_remove.addr == e.addr);
	CHECK(size_at(in, d.addr) == 4 * page && size_at(in, e.addr) == 0);
	CHECK(pmem2_vm_reservation_map_find(rsv, 4 * page, 60 * page, &m) != 0);
	IS(pmem2_vm_reservation_map_find(rsv, 0, page, &m), 0);
	IS(map_part(in, two, 0, 4 * page, &e), 0); /* the place is free again */
	CHECK((char *)e.addr == (char *)d.addr + 4 * page);
	IS(remove_at(in, d.addr), 0);
	IS(remove_at(in, e.addr), 0);
	IS(pmemset_delete(&in), 0);
	IS(pmem2_vm_reservation_delete(&rsv), 0);
	IS(pmemset_config_delete(&cfg), 0);
	IS(pmemset_source_delete(&two), 0);

	group("a descriptor that the program has closed, or that is another file's by now");
	MUST(pmemset_source_from_pmem2(&one, p2) == 0);
	pmem2_source_delete(&p2);
	close(fd);
	IS(pmemset_source_pread_mcsafe(one, buf, 5, 0), PMEMSET_E_IO_FAIL);
	IS(pmemset_source_pwrite_mcsafe(one, buf, 5, 0), PMEMSET_E_IO_FAIL);
	make_file("g", (off_t)page);
	MUST(open("g", O_RDWR) == fd);
	IS(pmemset_source_pwrite_mcsafe(one, buf, 5, 0), PMEMSET_E_IO_FAIL);
	CHECK(file_holds("g", 0, "\0\0\0\0\0", 5));
	IS(pmemset_source_delete(&one), 0);
	close(fd);
	return t_end();
}
