/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A number for each thread, counted from 1. In C, since Rust cannot ask for this model of thread-local storage: the usual one is
 * allocated when a thread first comes by in a library that was opened at run time, and where there is no memory for it
 * the process ends.
 */

unsigned long pmemset_thread_number(void) __attribute__((visibility("hidden")));

static __thread unsigned long number __attribute__((tls_model("initial-exec")));
static unsigned long last;

unsigned long pmemset_thread_number(void)
{
	if (number == 0)
		number = __atomic_add_fetch(&last, 1, __ATOMIC_RELAXED);
	return number;
}
