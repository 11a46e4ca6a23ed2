/* SPDX-License-Identifier: BSD-3-Clause */
/* given_up.c -- at the limits of the process a set loses places: whoever has them then keeps them, and nothing stays behind */
#include "t.h"

static size_t page;
static long max_maps;

#define RESERVED (MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)

/* ---- every address range of the process in use ---- */

static char *pieces;
static void *last[64];

static size_t pieces_size(void)
{
	return (size_t)(max_maps + 100) * 2 * page;
}

/* splits what is there, and maps what can still be mapped then: the kernel counts differently in the two */
static void use_up_ranges(void)
{
	size_t n = 0;

	pieces = mmap(NULL, pieces_size(), PROT_READ, RESERVED, -1, 0);
	MUST(pieces != MAP_FAILED);
	while (mprotect(pieces + (2 * n + 1) * page, page, PROT_NONE) == 0)
		MUST(++n < (size_t)max_maps + 100);
	for (n = 0; n < 64; n++) {
		last[n] = mmap(NULL, page, n % 2 ? PROT_READ : PROT_WRITE, RESERVED, -1, 0);
		if (last[n] == MAP_FAILED)
			break;
	}
	MUST(n < 64 && errno == ENOMEM);
}

static void free_ranges(void)
{
	for (size_t n = 0; n < 64 && last[n] && last[n] != MAP_FAILED; n++)
		munmap(last[n], page);
	memset(last, 0, sizeof last);
	MUST(munmap(pieces, pieces_size()) == 0);
}

static int can_be_used_up(void)
{
	char buf[32] = "";
	int fd = open("/proc/sys/vm/max_map_count", O_RDONLY | O_CLOEXEC);

	max_maps = fd >= 0 && read(fd, buf, sizeof buf - 1) > 0 ? atol(buf) : 0;
	close(fd);
	return max_maps > 0 && max_maps <= 300000;
}

/* nobody has any of it */
static int vacant(char *at, size_t size)
{
	void *p = mmap(at, size, PROT_NONE, RESERVED | MAP_FIXED_NOREPLACE, -1, 0);

	if (p != MAP_FAILED)
		munmap(p, size);
	return p == at;
}

/* the range that has an address, as the kernel shows it */
static void range_of(const char *addr, char **lo, char **hi)
{
	char line[600];
	FILE *f = fopen("/proc/self/maps", "r");

	MUST(f);
	*lo = *hi = NULL;
	while (fgets(line, sizeof line, f)) {
		unsigned long a, b;

		if (sscanf(line, "%lx-%lx", &a, &b) == 2 && (uintptr_t)addr >= a && (uintptr_t)addr < b) {
			*lo = (char *)a;
			*hi = (char *)b;
		}
	}
	fclose(f);
	MUST(*lo);
}

/* what a set has reserved lies between reservations of the program's that look the same: the kernel has one range for all */
static void in_the_middle(int advised)
{
	struct pmemset_source *src;
	struct pmemset *set = new_set(), *other;
	char *p, *lo, *hi, *a, *b;

	make_file("middle", 16 << 20);
	src = source("middle");
	p = must_map(set, src, 0, 16 << 20);
	IS(remove_at(set, p), 0);
	range_of(p, &lo, &hi);
	a = mmap(lo - page, page, PROT_NONE, RESERVED | MAP_FIXED_NOREPLACE, -1, 0);
	b = mmap(hi, page, PROT_NONE, RESERVED | MAP_FIXED_NOREPLACE, -1, 0);
	MUST(a == lo - page && b == hi);
	if (advised)
		MUST(madvise(a, page, MADV_DONTDUMP) == 0 && madvise(b, page, MADV_DONTDUMP) == 0);
	use_up_ranges();
	IS(pmemset_delete(&set), 0);
	free_ranges();
	/* now there is room: another set of the process has it given back */
	other = new_set();
	map_file(other, "middle");
	IS(pmemset_delete(&other), 0);
	CHECKF(vacant(lo, (size_t)(hi - lo)), "%zu bytes are still reserved", (size_t)(hi - lo));
	munmap(a, page);
	munmap(b, page);
	IS(pmemset_source_delete(&src), 0);
}

static void given_back_later(void)
{
	in_the_middle(0);
	in_the_middle(1);
}

int main(void)
{
	t_begin();
	page = page_size();
	if (instrumented() || !can_be_used_up()) {
		group("given up");
		skip("under valgrind or a sanitizer, or vm.max_map_count is unknown or large");
		return t_end();
	}
	CHILD_GROUP(given_back_later, "given up: reservations in the middle of a range");
	return t_end();
}
