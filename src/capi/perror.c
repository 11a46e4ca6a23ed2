/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pmemset_perror(3). In C because stable Rust cannot define a C variadic, and on C stdio so that it
 * shares the program's stderr and cannot abort when that is full or closed.
 *
 * fprintf() to a stream without a buffer, as stderr is, takes one of 8 KiB from the stack in glibc, which is half of the
 * smallest stack of a thread. So the line is made in memory, and goes out in one call: lines of several threads or processes
 * do not mix.
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *pmemset_errormsg(void);
#if defined(__GNUC__)
__attribute__((format(printf, 1, 2)))
#endif
void pmemset_perror(const char *format, ...);

/* What fits here needs no memory. */
#define LINE_SIZE 1024

void
pmemset_perror(const char *format, ...)
{
	int saved = errno;
	const char *message = pmemset_errormsg();
	/* ": ", the message, a newline, and the zero byte that vsnprintf() puts in the place of the first. */
	size_t rest = 2 + strlen(message) + 1;
	char small[LINE_SIZE], *line = small;
	size_t size = sizeof(small), len = 0;
	va_list args;

	if (format != NULL) {
		int prefix;

		va_start(args, format);
		prefix = vsnprintf(small, sizeof(small) - rest, format, args);
		va_end(args);
		len = prefix < 0 ? 0 : (size_t)prefix;
		if (len + rest >= sizeof(small)) {
			size = len + rest + 1;
			line = malloc(size);
			if (line != NULL) {
				/* The format may contain %m. */
				errno = saved;
				va_start(args, format);
				prefix = vsnprintf(line, len + 1, format, args);
				va_end(args);
				/* Somebody may have made an argument shorter. */
				len = prefix < 0 ? 0 : (size_t)prefix < len ? (size_t)prefix : len;
			} else {
				/* As much of it as there is room for. */
				line = small;
				len = strlen(small);
			}
		}
		memcpy(line + len, ": ", 2);
		len += 2;
	}
	memcpy(line + len, message, rest - 3);
	len += rest - 3;
	line[len++] = '\n';
	(void)fwrite(line, 1, len, stderr);
	if (line != small)
		free(line);
	errno = saved;
}
