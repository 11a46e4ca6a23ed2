/* SPDX-License-Identifier: BSD-3-Clause */
/* sync_removal_112.c -- the same by the rules of 1.12, where removals are told to an observer first */
#define PMEMSET_API_VERSION 112
#include "sync_removal.c"
