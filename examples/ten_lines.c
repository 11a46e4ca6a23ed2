#include <libpmemset.h>
#include <string.h>

struct pmemset_config *cfg; struct pmemset *set; struct pmemset_source *src;
struct pmemset_part *part; struct pmemset_part_descriptor at;

int main(void)
{
    unsigned flags = PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED | PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED;
    if (pmemset_config_new(&cfg)
        || pmemset_config_set_required_store_granularity(cfg, PMEM2_GRANULARITY_PAGE)
        || pmemset_new(&set, cfg)
        || pmemset_xsource_from_file(&src, "greeting", flags)
        || pmemset_part_new(&part, set, src, 0, 65536) || pmemset_part_map(&part, NULL, &at)
        || pmemset_persist(set, strcpy(at.addr, "hello, durable world\n"), 22))
        return pmemset_perror("greeting"), 1;
    return pmemset_delete(&set) || pmemset_source_delete(&src) || pmemset_config_delete(&cfg);
}
