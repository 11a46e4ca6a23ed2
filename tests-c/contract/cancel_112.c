/* SPDX-License-Identifier: BSD-3-Clause */
/* cancel_112.c -- the same with the functions of 1.12 */
#define PMEMSET_API_VERSION 112
#include "cancel.c"
