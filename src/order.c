/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a program's race detector is told. In C, since stable Rust has no weak symbols: ThreadSanitizer's two functions are
 * there when the program was built with it, and null otherwise. Valgrind's tools are asked by a sequence of
 * instructions that changes nothing on a real processor; the numbers of the requests are part of their interface.
 */
#include <stdint.h>

#define HIDDEN __attribute__((visibility("hidden")))

HIDDEN int pmemset_order_watched(void);
HIDDEN void pmemset_order_gives(void *at);
HIDDEN void pmemset_order_takes(void *at);
HIDDEN void pmemset_order_forgets(void *at);

extern void __tsan_acquire(void *at) __attribute__((weak));
extern void __tsan_release(void *at) __attribute__((weak));

enum {
	RUNNING_ON_VALGRIND = 0x1001,
	/* helgrind and DRD: what one thread did before a SEND comes before what others do after a RECEIVE of the same tag */
	ORDER_SEND = 0x48470121,
	ORDER_RECEIVE = 0x48470122,
	ORDER_FORGET = 0x48470123,
};

/* The answer is 0 where no valgrind listens. */
static uintptr_t ask(uintptr_t what, uintptr_t first)
{
	volatile uintptr_t question[6] = { what, first, 0, 0, 0, 0 };
	uintptr_t answer = 0;

#if defined(__x86_64__)
	__asm__ volatile("rolq $3, %%rdi; rolq $13, %%rdi; rolq $61, %%rdi; rolq $51, %%rdi; xchgq %%rbx, %%rbx"
		: "+d"(answer) : "a"(question) : "cc", "memory");
#elif defined(__aarch64__)
	register uintptr_t x3 __asm__("x3") = answer;
	register volatile uintptr_t *x4 __asm__("x4") = question;

	__asm__ volatile("ror x12, x12, #3; ror x12, x12, #13; ror x12, x12, #51; ror x12, x12, #61; orr x10, x10, x10"
		: "+r"(x3) : "r"(x4) : "cc", "memory");
	answer = x3;
#else
	(void)question;
#endif
	return answer;
}

int pmemset_order_watched(void)
{
	return (__tsan_acquire && __tsan_release) || ask(RUNNING_ON_VALGRIND, 0);
}

void pmemset_order_gives(void *at)
{
	if (__tsan_release)
		__tsan_release(at);
	else
		ask(ORDER_SEND, (uintptr_t)at);
}

void pmemset_order_takes(void *at)
{
	if (__tsan_acquire)
		__tsan_acquire(at);
	else
		ask(ORDER_RECEIVE, (uintptr_t)at);
}

/* ThreadSanitizer forgets when the memory is freed. */
void pmemset_order_forgets(void *at)
{
	if (!__tsan_acquire)
		ask(ORDER_FORGET, (uintptr_t)at);
}
