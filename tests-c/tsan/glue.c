/* SPDX-License-Identifier: BSD-3-Clause */
/* What rustc's instrumentation calls and gcc's ThreadSanitizer runtime does not have: the copies go to those it intercepts. */
#include <string.h>

void *__tsan_memcpy(void *to, const void *from, size_t n);
void *__tsan_memmove(void *to, const void *from, size_t n);
void *__tsan_memset(void *to, int c, size_t n);

void *__tsan_memcpy(void *to, const void *from, size_t n)
{
	return memcpy(to, from, n);
}

void *__tsan_memmove(void *to, const void *from, size_t n)
{
	return memmove(to, from, n);
}

void *__tsan_memset(void *to, int c, size_t n)
{
	return memset(to, c, n);
}
