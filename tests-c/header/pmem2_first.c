/* SPDX-License-Identifier: BSD-3-Clause */
/* A libpmem2.h of the program's own, from outside the include path and included first, is the one that counts. */
#define LIBPMEM2_H 1
struct pmem2_source;
struct pmem2_vm_reservation;
enum pmem2_granularity { PMEM2_GRANULARITY_BYTE, PMEM2_GRANULARITY_CACHE_LINE, PMEM2_GRANULARITY_PAGE };

#include "contract.h"
