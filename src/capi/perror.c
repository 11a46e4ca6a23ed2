/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pmemset_perror(3). In C because stable Rust cannot define a C variadic, and on C stdio so that it
 * shares the program's stderr and cannot abort when that is full or closed.
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

const char *pmemset_errormsg(void);
#if defined(__GNUC__)
__attribute__((format(printf, 1, 2)))
#endif
void pmemset_perror(const char *format, ...);

/* A prefix that fits here goes out in one call, so that lines of several threads or processes do not mix. */
#define PREFIX_SIZE 1024

void
pmemset_perror(const char *format, ...)
{
	int saved = errno;
	char prefix[PREFIX_SIZE];
	int len = 0;
	va_list args;

	if (format == NULL) {
		fprintf(stderr, "%s\n", pmemset_errormsg());
		errno = saved;
		return;
	}

	va_start(args, format);
	len = vsnprintf(prefix, sizeof(prefix), format, args);
	va_end(args);

	if (len >= 0 && (size_t)len < sizeof(prefix)) {
		fprintf(stderr, "%s: %s\n", prefix, pmemset_errormsg());
	} else {
		/* The format may contain %m. */
		errno = saved;
		flockfile(stderr);
		va_start(args, format);
		vfprintf(stderr, format, args);
		va_end(args);
		fprintf(stderr, ": %s\n", pmemset_errormsg());
		funlockfile(stderr);
	}
	errno = saved;
}
