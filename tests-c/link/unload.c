/* SPDX-License-Identifier: BSD-3-Clause */
/* A thread that has used the library and outlives dlclose must end in peace. argv[1]: the library. */
#define _POSIX_C_SOURCE 200809L
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

static void *lib;
static pthread_barrier_t used, closed;

static void *
worker(void *arg)
{
	int (*source_from_file)(void **, const char *);
	const char *(*errormsg)(void);
	void *src = NULL;
	const char *msg;

	*(void **)&source_from_file = dlsym(lib, "pmemset_source_from_file");
	*(void **)&errormsg = dlsym(lib, "pmemset_errormsg");
	if (source_from_file(&src, NULL) == 0)
		arg = (void *)"a NULL path was accepted";
	msg = errormsg();
	pthread_barrier_wait(&used);
	pthread_barrier_wait(&closed);
	/* The message lives as long as the thread. */
	if (strcmp(msg, "file path cannot be empty") != 0)
		return (void *)"the message is wrong or gone";
	return arg;
}

int
main(int argc, char **argv)
{
	pthread_t thread;
	void *result;

	lib = dlopen(argc > 1 ? argv[1] : "libpmemset.so.1", RTLD_NOW | RTLD_LOCAL);
	if (lib == NULL) {
		fprintf(stderr, "%s\n", dlerror());
		return 1;
	}
	pthread_barrier_init(&used, NULL, 2);
	pthread_barrier_init(&closed, NULL, 2);
	pthread_create(&thread, NULL, worker, NULL);
	pthread_barrier_wait(&used);
	dlclose(lib);
	pthread_barrier_wait(&closed);
	pthread_join(thread, &result);
	if (result != NULL) {
		fprintf(stderr, "%s\n", (const char *)result);
		return 1;
	}
	return 0;
}
