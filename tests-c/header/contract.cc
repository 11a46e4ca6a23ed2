/* SPDX-License-Identifier: BSD-3-Clause */
#include "contract.h"

int main(void)
{
	return 0;
}
