/* SPDX-License-Identifier: BSD-3-Clause */
/* local.c LIBRARY -- a libpmem2 that comes late and for this program alone; linked with none. */
#include "t.h"
#include <dlfcn.h>

struct pmem2_source *shown;
static int nshown;

static int on_event(struct pmemset *set, struct pmemset_event_context *ctx, void *arg)
{
	(void)set;
	(void)arg;
	if (ctx->type == PMEMSET_EVENT_PART_ADD) {
		shown = ctx->data.part_add.src;
		nshown++;
	}
	return 0;
}

int main(int argc, char **argv)
{
	size_t page = page_size();
	struct pmemset_source *src, *no = (struct pmemset_source *)1, *p2src = NULL;
	struct pmemset_config *cfg = NULL;
	struct pmemset *set, *none = (struct pmemset *)1, *in = NULL;
	struct pmem2_source *p2 = NULL;
	struct pmem2_vm_reservation *rsv = NULL;
	int (*from_fd)(struct pmem2_source **, int), (*rsv_new)(struct pmem2_vm_reservation **, void *, size_t),
		(*rsv_delete)(struct pmem2_vm_reservation **);
	void *(*rsv_address)(struct pmem2_vm_reservation *);
	long object[100] = { 0 };
	void *lib;
	char *p;
	int fd;

	t_begin();
	MUST(argc == 2);
	make_file("f", (off_t)(8 * page));
	set = new_set_ev(PMEM2_GRANULARITY_PAGE, on_event, NULL);
	src = source("f");

	group("no libpmem2 in the process");
	for (int i = 0; i < 2; i++) {
		IS(pmemset_source_from_pmem2(&no, (struct pmem2_source *)object), PMEMSET_E_NOSUPP);
		CHECK(no == NULL && strstr(pmemset_errormsg(), "libpmem2.so.1"));
		IS(pmemset_err_to_errno(PMEMSET_E_NOSUPP), ENOTSUP);
		must_map(set, src, 0, page);
		CHECK(nshown == i + 1 && shown == NULL);
	}
	MUST(pmemset_config_new(&cfg) == 0);
	MUST(pmemset_config_set_required_store_granularity(cfg, PMEM2_GRANULARITY_PAGE) == 0);
	pmemset_config_set_reservation(cfg, (struct pmem2_vm_reservation *)object);
	IS(pmemset_new(&none, cfg), PMEMSET_E_NOSUPP);
	CHECK(none == NULL && strstr(pmemset_errormsg(), "libpmem2.so.1"));

	group("loaded with RTLD_LOCAL");
	lib = dlopen(argv[1], RTLD_LAZY | RTLD_LOCAL);
	if (!lib)
		printf("     %s\n", dlerror());
	MUST(lib && !dlsym(RTLD_DEFAULT, "pmem2_map_new"));
	from_fd = (int (*)(struct pmem2_source **, int))dlsym(lib, "pmem2_source_from_fd");
	rsv_new = (int (*)(struct pmem2_vm_reservation **, void *, size_t))dlsym(lib, "pmem2_vm_reservation_new");
	rsv_delete = (int (*)(struct pmem2_vm_reservation **))dlsym(lib, "pmem2_vm_reservation_delete");
	rsv_address = (void *(*)(struct pmem2_vm_reservation *))dlsym(lib, "pmem2_vm_reservation_get_address");
	MUST(from_fd && rsv_new && rsv_delete && rsv_address);
	fd = open("f", O_RDWR | O_CLOEXEC);
	MUST(fd >= 0 && from_fd(&p2, fd) == 0 && rsv_new(&rsv, NULL, 16 * page) == 0);
	IS(pmemset_source_from_pmem2(&p2src, p2), 0);
	must_map(set, p2src, 0, page);
	CHECK(shown == p2);
	must_map(set, src, 0, page);
	CHECK(shown != NULL && shown != p2);
	pmemset_config_set_reservation(cfg, rsv);
	IS(pmemset_new(&in, cfg), 0);
	p = must_map(in, p2src, page, page);
	CHECK(p == rsv_address(rsv));
	MUST(must_map(in, src, 0, page) == p + page);
	strcpy(p, "alone");
	IS(pmemset_persist(in, p, 6), 0);
	CHECK(file_holds("f", (off_t)page, "alone", 6));
	dlclose(lib); /* what is in use stays */
	IS(rsv_delete(&rsv), -100033);
	IS(pmemset_delete(&in), 0);
	IS(rsv_delete(&rsv), 0);
	IS(pmemset_delete(&set), 0);
	pmemset_source_delete(&src);
	pmemset_source_delete(&p2src);
	pmemset_config_delete(&cfg);
	return t_end();
}
