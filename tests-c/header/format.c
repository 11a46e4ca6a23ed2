/* SPDX-License-Identifier: BSD-3-Clause */
/* Must be refused: the compiler checks the arguments of pmemset_perror. */
#include <libpmemset.h>

void wrong(void);

void wrong(void)
{
	pmemset_perror("%s", 3);
}
