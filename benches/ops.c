/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * persist, memcpy and memset at CACHE_LINE and BYTE granularity (forced) against the bare instructions and, if there is
 * one, against another library, all on the same file, each through a mapping of its own.
 *
 * usage: ops -l LIBRARY [-p PEER] [-r ROUNDS] DIR
 * DIR should be on tmpfs. Prints rows as bench.h says, in nanoseconds an operation.
 *
 * The bare machine has two ways of copying and filling: through the cache (the C library's memcpy and memset, then the
 * write-back of each line where the granularity needs it) and streamed past it. A row takes the faster one.
 */
#define _GNU_SOURCE
#include <stdint.h>

#include "bench.h"

#define FILE_SIZE ((size_t)64 << 20)
#define LARGEST ((size_t)16 << 20)
#define LINE 64

enum op { PERSIST, COPY, FILL, OPS };

static char *from;

#define INLINE static inline __attribute__((always_inline))

/* ---- the bare machine ----------------------------------------------------------------------------------------------- */

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>

#define STREAMS 1
enum write_back { CLFLUSH, CLFLUSHOPT, CLWB };
static enum write_back write_back;
static int wide;

static void detect(void)
{
	unsigned a, b, c, d;
	write_back = CLFLUSH;
	if (__get_cpuid_count(7, 0, &a, &b, &c, &d))
		write_back = b & 1u << 24 ? CLWB : b & 1u << 23 ? CLFLUSHOPT : CLFLUSH;
	wide = __builtin_cpu_supports("avx512f");
}

INLINE void bare_write_back(enum write_back kind, char *p, size_t n)
{
	char *end = p + n;
	for (char *line = (char *)((uintptr_t)p & ~(uintptr_t)(LINE - 1)); line < end; line += LINE) {
		if (kind == CLWB)
			__asm__ volatile("clwb %0" : "+m"(*line));
		else if (kind == CLFLUSHOPT)
			__asm__ volatile("clflushopt %0" : "+m"(*line));
		else
			__asm__ volatile("clflush %0" : "+m"(*line));
	}
}
INLINE void bare_fence(void)
{
	__asm__ volatile("sfence" : : : "memory");
}

__attribute__((target("avx512f"))) INLINE void stream_512(enum op op, char *to, const char *src, int c, size_t n)
{
	__m512i fill = _mm512_set1_epi32((int)(0x01010101u * (unsigned char)c));
	for (size_t i = 0; i < n; i += LINE)
		_mm512_stream_si512((void *)(to + i), op == COPY ? _mm512_loadu_si512(src + i) : fill);
}
INLINE void stream_128(enum op op, char *to, const char *src, int c, size_t n)
{
	__m128i fill = _mm_set1_epi8((char)c);
	for (size_t i = 0; i < n; i += 16)
		_mm_stream_si128((__m128i *)(void *)(to + i), op == COPY ? _mm_loadu_si128((const __m128i *)(const void *)(src + i)) : fill);
}
#elif defined(__aarch64__)
#define STREAMS 0
enum write_back { DC_CVAC };
static enum write_back write_back = DC_CVAC;
static void detect(void) { }
INLINE void bare_write_back(enum write_back kind, char *p, size_t n)
{
	uintptr_t type;
	(void)kind;
	__asm__("mrs %0, ctr_el0" : "=r"(type));
	size_t step = (size_t)4 << (type >> 16 & 15);
	for (uintptr_t line = (uintptr_t)p & ~(step - 1); line < (uintptr_t)p + n; line += step)
		__asm__ volatile("dc cvac, %0" : : "r"(line) : "memory");
}
INLINE void bare_fence(void)
{
	__asm__ volatile("dsb sy" : : : "memory");
}
#else
#error "the bare instructions of this processor are not known here"
#endif

/* One operation a turn, on one line after the other, over a range that is much larger than the line. */
#define EACH_PLACE(i, p, n, times) \
	for (size_t i = 0, at_ = 0; i < times; i++, at_ = at_ + step_ + n > FILE_SIZE ? 0 : at_ + step_) \
		for (char *p = mem + at_; p; p = NULL)
#define STEP(n) size_t step_ = n < LINE ? LINE : n

INLINE void bare_cached(enum op op, int flushes, enum write_back kind, char *mem, size_t n, size_t times)
{
	STEP(n);
	EACH_PLACE(i, p, n, times) {
		if (op == PERSIST)
			*(volatile char *)p = (char)i;
		else if (op == COPY)
			memcpy(p, from, n);
		else
			memset(p, (int)i, n);
		__asm__ volatile("" : : : "memory");
		if (flushes)
			bare_write_back(kind, p, n);
		bare_fence();
	}
}

/* A loop for each instruction, so that none has to ask which. */
static void cached(enum op op, int flushes, char *mem, size_t n, size_t times)
{
#define ONE(o, k) if (op == o && write_back == k) { \
		if (flushes) \
			bare_cached(o, 1, k, mem, n, times); \
		else \
			bare_cached(o, 0, k, mem, n, times); \
		return; \
	}
#define ALL(k) ONE(PERSIST, k) ONE(COPY, k) ONE(FILL, k)
#if defined(__x86_64__)
	ALL(CLWB) ALL(CLFLUSHOPT) ALL(CLFLUSH)
#else
	ALL(DC_CVAC)
#endif
}

#if STREAMS
#define STREAM_LOOP(name, attribute, stream) \
	attribute static void name(enum op op, char *mem, size_t n, size_t times) \
	{ \
		STEP(n); \
		if (op == COPY) { \
			EACH_PLACE(i, p, n, times) { \
				stream(COPY, p, from, 0, n); \
				bare_fence(); \
			} \
		} else { \
			EACH_PLACE(i, p, n, times) { \
				stream(FILL, p, from, (int)i, n); \
				bare_fence(); \
			} \
		} \
	}
STREAM_LOOP(streamed_512, __attribute__((target("avx512f"))), stream_512)
STREAM_LOOP(streamed_128, , stream_128)
#endif

static void streamed(enum op op, char *mem, size_t n, size_t times)
{
#if STREAMS
	(wide ? streamed_512 : streamed_128)(op, mem, n, times);
#else
	(void)op; (void)mem; (void)n; (void)times;
#endif
}

/* ---- a library ------------------------------------------------------------------------------------------------------ */

static void through(struct lib *l, struct pmemset *set, enum op op, char *mem, size_t n, size_t times)
{
	STEP(n);
	if (op == PERSIST) {
		EACH_PLACE(i, p, n, times) {
			*(volatile char *)p = (char)i;
			OK(l, persist(set, p, n));
		}
	} else if (op == COPY) {
		EACH_PLACE(i, p, n, times)
			l->memcpy(set, p, from, n, 0);
	} else {
		EACH_PLACE(i, p, n, times)
			l->memset(set, p, (int)i, n, 0);
	}
}

/* ---- the table ------------------------------------------------------------------------------------------------------ */

static struct lib *lib[WAYS];
static struct pmemset *set[WAYS];
static char *mem[WAYS];

static double once(enum way way, enum op op, int flushes, size_t n)
{
	size_t times = op == PERSIST && !flushes ? 8000 : n >= (1 << 20) ? FILE_SIZE / n : n >= 65536 ? 256 : n >= 4096 ? 2000 : 8000;
	double t = busy();
	if (way == BARE)
		cached(op, flushes, mem[BARE], n, times);
	else if (way == STREAM)
		streamed(op, mem[BARE], n, times);
	else
		through(lib[way], set[way], op, mem[way], n, times);
	return (busy() - t) / (double)times;
}

static struct bar bar_of(enum op op, int flushes, size_t n)
{
	if (flushes)
		return op == PERSIST ? (struct bar){ 1.05, 0, -1, 10 } : LIMIT_BAR(1.15);
	if (op == PERSIST)
		return PEER_BAR(1);
	if (op == COPY && n >= (1 << 20))
		return PEER_BAR(0.65);
	return NO_BAR;
}

static void table(const char *name, const char *force, enum pmem2_granularity g, int flushes)
{
	static const char *const names[OPS] = { "persist", "memcpy", "memset" };
	static const size_t sizes[] = { 8, 64, 256, 1024, 4096, 65536, 1 << 20, 16 << 20 };
	static struct samples s;
	char path[4096], label[64];
	int fd = make_file(path, sizeof(path), "ops", FILE_SIZE, 1);

	setenv("PMEM2_FORCE_GRANULARITY", force, 1);
	mem[BARE] = mmap(NULL, FILE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (mem[BARE] == MAP_FAILED)
		give_up("mmap");
	for (int w = OURS; w <= PEER; w++) {
		struct pmemset_source *src;
		struct pmemset_part_descriptor desc;
		if (lib[w] == NULL)
			continue;
		set[w] = new_set(lib[w], g);
		OK(lib[w], source_from_file(&src, path));
		if (map_part(lib[w], set[w], src, 0, FILE_SIZE, &desc))
			give_up_lib(lib[w], "map");
		OK(lib[w], source_delete(&src));
		mem[w] = desc.addr;
	}
	unlink(path);
	for (int w = 0; w < WAYS; w++)
		if (mem[w])
			memset(mem[w], 1, FILE_SIZE);
	for (int op = 0; op < OPS; op++)
		for (size_t k = 0; k < sizeof(sizes) / sizeof(*sizes); k++) {
			size_t n = sizes[k];
			clear_samples(&s);
			for (int r = 0; r < bench.rounds; r++)
				for (int i = 0; i < WAYS; i++) {
					int w = (i + r) % WAYS;
					if (w == STREAM ? !STREAMS || op == PERSIST || n % LINE : mem[w] == NULL)
						continue;
					/* once more before: what the way before this one left in the cache is no part of the sample */
					once(w, op, flushes, n);
					s.v[w][r] = once(w, op, flushes, n);
				}
			snprintf(label, sizeof(label), n < 1024 ? "%s %zu B" : n < 1 << 20 ? "%s %zu KiB" : "%s %zu MiB", names[op],
				n < 1024 ? n : n < 1 << 20 ? n >> 10 : n >> 20);
			row(name, label, "ns", &s, bench.rounds, bar_of(op, flushes, n));
		}
	for (int w = OURS; w <= PEER; w++)
		if (lib[w])
			OK(lib[w], delete(&set[w]));
	munmap(mem[BARE], FILE_SIZE);
	close(fd);
}

int main(int argc, char **argv)
{
	bench_start(argc, argv);
	detect();
	for (int w = OURS; w <= PEER; w++)
		if (bench.path[w])
			lib[w] = open_lib(w);
	from = aligned_alloc(4096, LARGEST);
	if (from == NULL)
		give_up("aligned_alloc");
	memset(from, 7, LARGEST);
	table("line", "CACHE_LINE", PMEM2_GRANULARITY_CACHE_LINE, 1);
	table("byte", "BYTE", PMEM2_GRANULARITY_BYTE, 0);
	return 0;
}
