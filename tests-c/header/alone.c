/* SPDX-License-Identifier: BSD-3-Clause */
/* The header needs nothing before it. */
#include <libpmemset.h>

int pmemset_part_size_is_set(const struct pmemset_part_descriptor *desc);

int pmemset_part_size_is_set(const struct pmemset_part_descriptor *desc)
{
	return desc->size != 0;
}
