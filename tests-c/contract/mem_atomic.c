/* SPDX-License-Identifier: BSD-3-Clause */
/* mem_atomic.c -- an aligned destination and length are written by stores of at least 8 bytes: a reader never sees half of one */
#include "t.h"
#include <pthread.h>

static const char *const force[] = { "BYTE", "CACHE_LINE", "PAGE" };
static volatile int stop;
static long torn, seen_change;
static volatile uint64_t *words;
static size_t nwords;

/* every word always consists of eight equal bytes */
static void *reader(void *arg)
{
	uint64_t last = 0;

	(void)arg;
	while (!stop)
		for (size_t i = 0; i < nwords; i++) {
			uint64_t w = words[i];

			if (w != (w & 0xff) * 0x0101010101010101ull)
				torn++;
			if (w != last)
				seen_change++;
			last = w;
		}
	return NULL;
}

int main(void)
{
	static const size_t lens[] = { 8, 16, 24, 40, 56, 64, 72, 120, 128, 200, 256, 264, 512, 1000, 1024, 4096, 32768, 65536 };
	static char names[3][64];
	static char in[65536 + 16];
	char path[300];

	t_begin();
	tmpfs_name(path, sizeof path, "atomic");
	for (int g = 0; g < 3; g++) {
		struct pmemset *set;
		pthread_t t;
		char *p;
		double end;
		unsigned n = 0;

		snprintf(names[g], sizeof names[g], "mem: 8-byte stores, %s", force[g]);
		group(names[g]);
		MUST(setenv("PMEM2_FORCE_GRANULARITY", force[g], 1) == 0);
		make_file(path, 1 << 18);
		set = new_set();
		p = map_file(set, path);
		stop = 0;
		torn = seen_change = 0;
		words = (volatile uint64_t *)p;
		nwords = 64;
		MUST(pthread_create(&t, NULL, reader, NULL) == 0);
		end = now() + 1.2;
		while (now() < end)
			for (unsigned flags = 0; flags < 64; flags++, n++) {
				size_t len = lens[n % (sizeof lens / sizeof *lens)], shift = 8 * (n % 5);

				/* the source need not be aligned */
				memset(in, (int)(n & 0xff), sizeof in);
				switch (n % 4) {
				case 0:
					pmemset_memcpy(set, p + shift, in + n % 8, len, flags);
					break;
				case 1:
					pmemset_memset(set, p + shift, (int)n, len, flags);
					break;
				case 2:
					pmemset_memmove(set, p + shift, in + n % 8, len, flags);
					break;
				default: /* overlapping, by whole words */
					pmemset_memmove(set, p + shift + 8, p + shift, len, flags);
				}
			}
		stop = 1;
		pthread_join(t, NULL);
		CHECKF(torn == 0, "%ld torn words", torn);
		CHECK(seen_change > 0); /* the reader was awake */
		IS(pmemset_drain(set), 0);
		IS(pmemset_delete(&set), 0);
		unlink(path);
		unsetenv("PMEM2_FORCE_GRANULARITY");
	}
	return t_end();
}
