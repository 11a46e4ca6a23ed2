/* SPDX-License-Identifier: BSD-3-Clause */
/* mem_flags.c -- memcpy, memmove and memset: all flags, sizes, alignments and overlaps, at every granularity */
#include "t.h"

static const char *const force[] = { "BYTE", "CACHE_LINE", "PAGE" };
static size_t room; /* bytes mapped */

static const size_t sizes[] = { 0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64, 65, 72, 96, 100, 127, 128, 129,
	191, 192, 200, 255, 256, 257, 300, 511, 512, 513, 1000, 1024, 1025, 2048, 3000, 4095, 4096, 4097 };
static const size_t large[] = { 8192, 10000, 16384, 32768, 32769, 65536, 65543, 131072, 262145 };

/* what the whole of the mapping must look like: any byte out of place is found */
static char *model, *input;

static void verify(const char *p, size_t from, size_t to, const char *what, size_t len, size_t doff, size_t soff, unsigned flags)
{
	T_COUNT();
	if (memcmp(p + from, model + from, to - from) != 0) {
		size_t i = from;

		while (p[i] == model[i])
			i++;
		t_failed(__FILE__, __LINE__, "%s of %zu bytes to %zu from %zu, flags %#x: byte %zu is %d, not %d",
			what, len, doff, soff, flags, i, p[i], model[i]);
		memcpy(model, p, room); /* go on from here */
	}
}

static void one(struct pmemset *set, char *p, size_t len, size_t doff, size_t soff, unsigned flags, int c)
{
	size_t pad = 300, lo = doff > pad ? doff - pad : 0, hi = doff + len + pad < room ? doff + len + pad : room;
	size_t mlo, mhi;
	int byte = c | (c << 8); /* only the low byte counts */

	/* from the program's memory */
	CHECK(pmemset_memcpy(set, p + doff, input + soff, len, flags) == p + doff);
	memcpy(model + doff, input + soff, len);
	verify(p, lo, hi, "memcpy", len, doff, soff, flags);
	CHECK(pmemset_memset(set, p + doff, byte, len, flags) == p + doff);
	memset(model + doff, byte, len);
	verify(p, lo, hi, "memset", len, doff, 0, flags);
	/* memmove from the program's memory, then over itself */
	CHECK(pmemset_memmove(set, p + doff, input + soff, len, flags) == p + doff);
	memmove(model + doff, input + soff, len);
	verify(p, lo, hi, "memmove", len, doff, soff, flags);
	for (int k = -2; k <= 2; k++) {
		static const size_t shift[] = { 0, 1, 64 };
		size_t by = len > 200 && k == 2 ? len / 3 : shift[k < 0 ? -k : k], to = k < 0 ? doff - by : doff + by;

		CHECK(pmemset_memmove(set, p + to, p + doff, len, flags) == p + to);
		memmove(model + to, model + doff, len);
		mlo = lo > 600 ? lo - 600 : 0;
		mhi = hi + 600 + len < room ? hi + 600 + len : room;
		verify(p, mlo, mhi, "overlapping memmove", len, to, doff, flags);
	}
}

static void run(int granularity, const char *path, int thorough)
{
	static const size_t align[] = { 0, 1, 3, 4, 8, 15, 16, 31, 33, 63 };
	struct pmemset *set;
	char *p;
	uint64_t seed = 7;
	int n = 0;

	MUST(setenv("PMEM2_FORCE_GRANULARITY", force[granularity], 1) == 0);
	make_file(path, (off_t)room);
	set = new_set();
	p = map_file(set, path);
	memset(model, 0, room);
	for (size_t i = 0; i < room; i++)
		input[i] = (char)rnd(&seed);
	memcpy(p, input, room);
	memcpy(model, input, room);

	for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
		for (unsigned flags = 0; flags <= PMEMSET_F_MEM_VALID_FLAGS; flags++) {
			size_t step = thorough ? 1 : 5;

			for (size_t a = (flags + s) % step; a < sizeof align / sizeof *align; a += step)
				one(set, p, sizes[s], 8192 + align[a], align[(a * 7 + flags + s) % 10], flags, ++n);
		}
	for (size_t s = 0; s < sizeof large / sizeof *large; s++)
		for (unsigned flags = 0; flags <= PMEMSET_F_MEM_VALID_FLAGS; flags += thorough ? 1 : 7)
			one(set, p, large[s], 300032 + align[(s + flags) % 10], 64 + align[(flags * 3 + s) % 10], flags, ++n);
	verify(p, 0, room, "everything", 0, 0, 0, 0);
	/* length 0 with anything */
	CHECK(pmemset_memcpy(set, p, input, 0, 0) == p);
	CHECK(pmemset_memset(set, p + 5, 1, 0, 0) == p + 5);
	CHECK(pmemset_memmove(set, p, p, 0, PMEMSET_F_MEM_NODRAIN) == p);
	verify(p, 0, room, "everything", 0, 0, 0, 0);
	IS(pmemset_drain(set), 0);
	CHECK(file_holds(path, 0, model, room));
	IS(pmemset_delete(&set), 0);
	unsetenv("PMEM2_FORCE_GRANULARITY");
}

/* large enough for every streaming threshold */
static void huge(int granularity, const char *path)
{
	size_t size = 24 << 20;
	struct pmemset *set;
	char *p, *heap = malloc(size);
	uint64_t seed = 99;

	MUST(heap);
	MUST(setenv("PMEM2_FORCE_GRANULARITY", force[granularity], 1) == 0);
	make_file(path, (off_t)(size + (1 << 20)));
	set = new_set();
	p = map_file(set, path);
	for (size_t i = 0; i < size; i += 8) {
		uint64_t r = rnd(&seed);

		memcpy(heap + i, &r, 8);
	}
	CHECK(pmemset_memcpy(set, p + 13, heap, size - 27, 0) == p + 13);
	CHECK(memcmp(p + 13, heap, size - 27) == 0 && p[12] == 0 && p[size - 27 + 13] == 0);
	CHECK(pmemset_memmove(set, p + 13 + 4099, p + 13, size - 27, 0) == p + 13 + 4099);
	CHECK(memcmp(p + 13 + 4099, heap, size - 27) == 0);
	CHECK(pmemset_memmove(set, p + 1, p + 13 + 4099, size - 27, PMEMSET_F_MEM_NONTEMPORAL) == p + 1);
	CHECK(memcmp(p + 1, heap, size - 27) == 0 && p[0] == 0);
	CHECK(pmemset_memset(set, p + 3, 0xab, size, PMEMSET_F_MEM_TEMPORAL) == p + 3);
	memset(heap, 0xab, size);
	CHECK(memcmp(p + 3, heap, size) == 0 && p[0] == 0);
	IS(pmemset_drain(set), 0);
	free(heap);
	IS(pmemset_delete(&set), 0);
	unsetenv("PMEM2_FORCE_GRANULARITY");
}

int main(void)
{
	static char names[6][64];
	char path[300];

	t_begin();
	room = 1 << 20;
	model = malloc(room);
	input = malloc(room);
	MUST(model && input);
	tmpfs_name(path, sizeof path, "flags");
	for (int g = 0; g < 3; g++) {
		snprintf(names[g], sizeof names[g], "mem: flags, sizes, alignments, overlap, %s", force[g]);
		group(names[g]);
		run(g, path, 1);
		snprintf(names[3 + g], sizeof names[g], "mem: 24 MiB, %s", force[g]);
		group(names[3 + g]);
		huge(g, path);
		unlink(path);
	}
	group("mem: on the work directory's file system");
	run(PMEM2_GRANULARITY_PAGE, "f", 0);
	return t_end();
}
