/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Copies of the library in namespaces of their own (dlmopen): argv[2] of them work and know nothing of each other, and where one
 * more is too many the loader says so and those that there are go on. argv[1]: the library.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST 16

static void *lib[MOST];

static const char *message(void *copy)
{
	const char *(*errormsg)(void);

	*(void **)&errormsg = dlsym(copy, "pmemset_errormsg");
	return errormsg();
}

static int fail_in(void *copy, const char *path)
{
	int (*source_from_file)(void **, const char *);
	void *src = NULL;

	*(void **)&source_from_file = dlsym(copy, "pmemset_source_from_file");
	return source_from_file(&src, path);
}

int main(int argc, char **argv)
{
	int copies = 0, wanted = argc > 2 ? atoi(argv[2]) : 3;
	char path[20];

	while (copies < MOST && (lib[copies] = dlmopen(LM_ID_NEWLM, argv[1], RTLD_NOW)) != NULL)
		copies++;
	if (copies < MOST) {
		const char *why = dlerror();

		printf("copy %d: %s\n", copies + 1, why);
		if (strstr(why, "static TLS") == NULL && strstr(why, "namespace") == NULL)
			return 1;
	}
	if (copies < wanted) {
		printf("%d copies, and not %d\n", copies, wanted);
		return 1;
	}
	for (int i = 0; i < copies; i++) {
		snprintf(path, sizeof path, "no-file-%d", i);
		if (fail_in(lib[i], path) >= 0)
			return 2;
	}
	for (int i = 0; i < copies; i++) {
		snprintf(path, sizeof path, "no-file-%d ", i);
		if (strstr(message(lib[i]), path) == NULL) {
			printf("copy %d says: %s\n", i, message(lib[i]));
			return 3;
		}
	}
	return 0;
}
