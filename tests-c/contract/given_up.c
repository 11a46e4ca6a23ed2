/* SPDX-License-Identifier: BSD-3-Clause */
/* given_up.c -- at the limits of the process a set loses places: whoever has them then keeps them, and nothing stays behind */
#include "t.h"

static size_t page;
static size_t len;
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

/* memory of the program's own, at a place that a set had */
static char *own(char *at)
{
	char *p = mmap(at, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	MUST(p == at);
	memset(p, 'm', len);
	return p;
}

static int untouched(const char *p)
{
	for (size_t i = 0; i < len; i += 64)
		if (!readable(p + i) || p[i] != 'm')
			return 0;
	return 1;
}

static int apart(const char *p, const struct pmemset_part_descriptor *d)
{
	const char *q = d->addr;

	return q + d->size <= p || p + len <= q;
}

/* A, B, C, D side by side. Only C and D continue each other in the file: one address range of the kernel's, of which C is the start. */
static void four(struct pmemset *set, struct pmemset_source *src, char *p[4])
{
	static const size_t off[4] = { 6, 4, 0, 1 };

	for (int i = 0; i < 4; i++) {
		p[i] = must_map(set, src, off[i] * len, len);
		memset(p[i], 'A' + i, len);
		MUST(i == 0 || p[i] == p[i - 1] + len);
	}
}

static struct pmemset_source *file_of(const char *name)
{
	make_file(name, (off_t)(8 * len));
	return source(name);
}

/* the place is the program's when the set takes back what is around it, maps, grows, flushes and goes */
static void others_keep_theirs(void)
{
	struct pmemset_source *src = file_of("keep");
	struct pmemset *set = new_set();
	struct pmemset_part_descriptor d;
	char *p[4], *mine;
	long before = status_kb("VmSize:"), after;

	four(set, src, p);
	use_up_ranges();
	IS(pmemset_remove_range(set, p[2], 1), 0);
	free_ranges();
	CHECK(!readable(p[2]) && readable(p[1]) && readable(p[3]));
	mine = own(p[2]);
	CHECKF(mine != NULL, "the place is reserved: %s", strerror(errno));
	if (!mine)
		return;
	/* it is memory that the set does not know */
	CHECK(size_at(set, mine) == 0);
	IS(pmemset_persist(set, mine, len), 0);
	/* nothing is placed there, nor grows over it */
	MUST(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_OPPORTUNISTIC) == 0);
	IS(pmemset_remove_range(set, p[3], 1), 0);
	for (int i = 0; i < 40; i++) {
		MUST(map_part(set, src, 0, (size_t)(1 + i % 8) * len, &d) == 0);
		CHECK(apart(mine, &d));
	}
	MUST(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_NONE) == 0);
	CHECK(untouched(mine));
	/* a range from before it to behind it */
	IS(pmemset_remove_range(set, p[1], (size_t)((char *)d.addr + d.size - p[1])), 0);
	CHECK(untouched(mine));
	IS(pmemset_remove_range(set, p[0], 1 << 30), 0);
	CHECK(untouched(mine) && walk(set) == 0);
	for (int i = 0; i < 40; i++) {
		MUST(map_part(set, src, 0, (size_t)(1 + i % 8) * len, &d) == 0);
		CHECK(apart(mine, &d));
		memset(d.addr, i, d.size);
	}
	CHECK(untouched(mine));
	IS(pmemset_delete(&set), 0);
	CHECK(untouched(mine));
	CHECK(vacant(mine - len, len) && vacant(mine + len, len));
	munmap(mine, len);
	after = status_kb("VmSize:");
	CHECKF(after < before + 20000, "VmSize %ld kB, then %ld kB", before, after);
	IS(pmemset_source_delete(&src), 0);
}

/* the free places among the parts that a range loses stay the set's, whatever becomes of the parts' own */
static void free_places_among_parts(void)
{
	struct pmemset_source *src = file_of("among");
	struct pmemset *set = new_set();
	struct pmemset_part_descriptor d;
	char *p[4], *mine = NULL;
	long before = status_kb("VmSize:");

	four(set, src, p);
	IS(pmemset_remove_range(set, p[1], 1), 0);
	use_up_ranges();
	IS(pmemset_remove_range(set, p[0], 3 * len), 0);
	free_ranges();
	CHECK(own(p[1]) == NULL); /* nobody else's */
	for (int i = 0; i < 3; i += 2)
		if (!mine)
			mine = own(p[i]);
	for (int i = 0; i < 20; i++) {
		MUST(map_part(set, src, 0, (size_t)(1 + i % 4) * len, &d) == 0);
		CHECK(!mine || apart(mine, &d));
		memset(d.addr, i, d.size);
	}
	CHECK(!mine || untouched(mine));
	IS(pmemset_delete(&set), 0);
	CHECK(!mine || untouched(mine));
	if (mine)
		munmap(mine, len);
	CHECK(vacant(p[0], 4 * len));
	CHECK(status_kb("VmSize:") < before + 20000);
	IS(pmemset_source_delete(&src), 0);
}

/* what nobody has taken is used again */
static void had_again(void)
{
	struct pmemset_source *src = file_of("again");
	struct pmemset *set = new_set();
	struct pmemset_part_descriptor d;
	char *p[4];

	four(set, src, p);
	use_up_ranges();
	IS(pmemset_remove_range(set, p[2], 1), 0);
	free_ranges();
	IS(pmemset_remove_range(set, p[3], 1), 0);
	/* the part map that is left before the place is the latest now */
	IS(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_FULL), 0);
	IS(map_part(set, src, 0, 2 * len, &d), 0);
	CHECK(d.addr == p[1] && d.size == 3 * len && readable(p[3]));
	IS(pmemset_delete(&set), 0);
	CHECK(vacant(p[0], 4 * len));
	IS(pmemset_source_delete(&src), 0);
}

/* cycles at the limit: neither places nor address space are used up by them */
static void cycles(void)
{
	struct pmemset_source *src = file_of("cycles");
	struct pmemset *set = new_set();
	struct pmemset_part_descriptor d;
	char *p[4], *low = NULL, *high = NULL;
	long before = status_kb("VmSize:"), vm;

	four(set, src, p);
	vm = status_kb("VmSize:");
	for (int i = 0; i < 6; i++) {
		use_up_ranges();
		for (int k = 0; k < 100; k++) {
			int rc = pmemset_remove_range(set, p[2], 1);

			EITHER(rc, 0, -ENOMEM);
			rc = map_part(set, src, 0, len, &d);
			EITHER(rc, 0, -ENOMEM);
			if (rc)
				break;
			p[2] = d.addr;
			low = !low || p[2] < low ? p[2] : low;
			high = p[2] > high ? p[2] : high;
		}
		free_ranges();
		must_map(set, src, 0, len);
	}
	CHECKF(status_kb("VmSize:") < vm + 20000, "VmSize %ld kB, then %ld kB", vm, status_kb("VmSize:"));
	CHECKF((size_t)(high - low) < 2000 * len, "places from %p to %p", (void *)low, (void *)high);
	IS(pmemset_delete(&set), 0);
	CHECK(status_kb("VmSize:") < before + 20000);
	IS(pmemset_source_delete(&src), 0);
}

/* a mapping that fails where the set cannot look what became of the place: it is not lost for good */
static void no_looking(void)
{
	struct pmemset_source *src;
	struct pmemset *set;
	struct rlimit rl, none = { 0, 0 };
	long before;
	char *first;
	int rc;

	make_file("look", (off_t)1 << 30);
	src = source("look");
	before = status_kb("VmSize:");
	set = new_set();
	first = must_map(set, src, 0, len);
	use_up_ranges();
	MUST(getrlimit(RLIMIT_NOFILE, &rl) == 0);
	none.rlim_max = rl.rlim_max;
	MUST(setrlimit(RLIMIT_NOFILE, &none) == 0);
	rc = map_part(set, src, 0, 1 << 29, NULL);
	MUST(setrlimit(RLIMIT_NOFILE, &rl) == 0);
	IS(rc, -ENOMEM);
	free_ranges();
	memset(first, 1, len);
	IS(pmemset_delete(&set), 0);
	CHECKF(status_kb("VmSize:") < before + 200000, "VmSize %ld kB, then %ld kB", before, status_kb("VmSize:"));
	IS(pmemset_source_delete(&src), 0);
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

/* parts in two reservations, and no range for splitting the first: the set stays as it was, and the error is that of a limit */
static void several_reservations(void)
{
	struct pmemset_source *src, *large = NULL;
	struct pmemset *set = new_set();
	char *p[4], *far, *lo, *hi;
	int rc;

	MUST(pmemset_xsource_from_file(&large, "several-large",
		PMEMSET_SOURCE_FILE_CREATE_ALWAYS | PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED) == 0);
	src = file_of("several");
	four(set, src, p);
	far = must_map(set, large, 0, (size_t)200 << 30);
	lo = far < p[3] ? far + ((size_t)200 << 30) - 1 : p[3];
	hi = far < p[3] ? p[2] : far;
	use_up_ranges();
	rc = pmemset_remove_range(set, lo, (size_t)(hi - lo) + 1);
	free_ranges();
	IS(rc, -ENOMEM);
	CHECK(walk(set) == 5 && size_at(set, far) == (size_t)200 << 30);
	for (int i = 0; i < 4; i++)
		CHECK(size_at(set, p[i]) == len && p[i][0] == 'A' + i && p[i][len - 1] == 'A' + i);
	IS(pmemset_remove_range(set, lo, (size_t)(hi - lo) + 1), 0);
	CHECK(size_at(set, far) == 0 && !readable(far));
	IS(pmemset_delete(&set), 0);
	IS(pmemset_source_delete(&src), 0);
	IS(pmemset_source_delete(&large), 0);
}

int main(void)
{
	t_begin();
	page = page_size();
	len = 16 * page;
	if (instrumented() || !can_be_used_up()) {
		group("given up");
		skip("under valgrind or a sanitizer, or vm.max_map_count is unknown or large");
		return t_end();
	}
	CHILD_GROUP(others_keep_theirs, "given up: others keep what they have there");
	CHILD_GROUP(free_places_among_parts, "given up: free places among parts");
	CHILD_GROUP(had_again, "given up: had again");
	CHILD_GROUP(cycles, "given up: cycles at the limit");
	CHILD_GROUP(no_looking, "given up: a mapping that fails with no descriptor left");
	CHILD_GROUP(given_back_later, "given up: reservations in the middle of a range");
	CHILD_GROUP(several_reservations, "given up: several reservations");
	return t_end();
}
