/* SPDX-License-Identifier: BSD-3-Clause */
/* map.c -- pmemset_map and its family: growth, modes, alignment, reading and writing without signals */
#include "t.h"

static size_t page;

static struct pmemset_source *open_as(const char *path, uint64_t flags)
{
	struct pmemset_source *src = NULL;

	MUST(pmemset_xsource_from_file(&src, path, flags) == 0 && src);
	return src;
}

static int map_at(struct pmemset *set, struct pmemset_source *src, size_t off, size_t len)
{
	struct pmemset_part_descriptor d = { NULL, 12345 };
	int rc = map_part(set, src, off, len, &d);

	CHECK(rc == 0 ? d.addr != NULL : d.size == 12345 && d.addr == NULL);
	return rc;
}

static mode_t mode_of(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 ? st.st_mode & 07777 : 0xffff;
}

static int says(const char *text)
{
	return strstr(pmemset_errormsg(), text) != NULL;
}

static int create(const char *path, uint64_t flags)
{
	struct pmemset_source *src = (struct pmemset_source *)1;
	int rc = pmemset_xsource_from_file(&src, path, flags);

	CHECK((rc == 0) == (src != NULL));
	if (src)
		IS(pmemset_source_delete(&src), 0);
	return rc;
}

static void modes(void)
{
	const uint64_t needed = PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED;

	IS(create("m0", needed), 0);
	IS(mode_of("m0"), 0644);
	IS(create("m1", needed | PMEMSET_SOURCE_FILE_CREATE_MODE(PMEMSET_SOURCE_FILE_RWU_MODE)), 0);
	IS(mode_of("m1"), 0600);
	IS(create("m2", PMEMSET_SOURCE_FILE_CREATE_ALWAYS_MODE(0777)), 0);
	IS(mode_of("m2"), 0755); /* umask 022 */
	IS(create("m3", needed | PMEMSET_SOURCE_FILE_VALID_MODES), 0);
	IS(mode_of("m3"), 0755);
	IS(create("m4", PMEMSET_SOURCE_FILE_CREATE_ALWAYS_MODE(PMEMSET_SOURCE_FILE_RUSR_MODE)), 0); /* not even writable */
	IS(mode_of("m4"), 0400);
	IS(create("m1", needed | PMEMSET_SOURCE_FILE_CREATE_MODE(0666)), 0); /* exists: as it is */
	IS(mode_of("m1"), 0600);
	umask(077);
	IS(create("m5", needed | PMEMSET_SOURCE_FILE_CREATE_MODE(0666)), 0);
	IS(mode_of("m5"), 0600);
	IS(create("m6", needed), 0);
	IS(mode_of("m6"), 0600);
	umask(0);
	IS(create("m7", needed | PMEMSET_SOURCE_FILE_CREATE_MODE(0777)), 0);
	IS(mode_of("m7"), 0777);
	umask(022);
	/* beyond the permissions */
	IS(create("m8", needed | PMEMSET_SOURCE_FILE_CREATE_MODE(01000)), PMEMSET_E_INVALID_SOURCE_FILE_CREATE_FLAGS);
	IS(create("m8", needed | PMEMSET_SOURCE_FILE_CREATE_MODE(04755)), PMEMSET_E_INVALID_SOURCE_FILE_CREATE_FLAGS);
	IS(create("m8", PMEMSET_SOURCE_FILE_CREATE_ALWAYS | (uint64_t)1 << 63), PMEMSET_E_INVALID_SOURCE_FILE_CREATE_FLAGS);
	IS(access("m8", F_OK), -1);
	/* a caller for 1.11 that creates nothing may leave anything there */
	IS(create("m1", (uint64_t)0xdeadbeef << 32), 0);
	IS(create("m1", (uint64_t)0xdeadbeef << 32 | PMEMSET_SOURCE_FILE_DO_NOT_GROW), 0);
	IS(create("nothing", (uint64_t)0xdeadbeef << 32), PMEMSET_E_INVALID_SOURCE_PATH);
	IS(create("m1", 8), PMEMSET_E_INVALID_SOURCE_FILE_CREATE_FLAGS);
	IS(create("m1", (uint64_t)0600 << 32 | 8), PMEMSET_E_INVALID_SOURCE_FILE_CREATE_FLAGS);
}

static void modes_as_nobody(void)
{
	const uint64_t needed = PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED;

	MUST(mkdir("d", 0777) == 0 && chmod("d", 0777) == 0 && chdir("d") == 0);
	make_file("../roots", (off_t)page);
	if (geteuid() != 0 || setegid(65534) != 0 || seteuid(65534) != 0) {
		child_skip("needs root to become somebody else");
		return;
	}
	modes();
	IS(create("../roots", needed), -EACCES);
	IS(create("../new", needed | PMEMSET_SOURCE_FILE_CREATE_MODE(0666)), -EACCES);
	IS(create("m4", needed), -EACCES); /* 0400, and not root any more */
}

static volatile sig_atomic_t caught;

static void on_bus(int sig)
{
	(void)sig;
	caught++;
	_exit(9);
}

int main(void)
{
	struct pmemset_map_config *cfg = (struct pmemset_map_config *)1;
	struct pmemset_config *config = NULL;
	struct pmemset_part_descriptor d = { NULL, 0 };
	struct pmemset_source *src, *fixed;
	struct sigaction act, now_act;
	struct pmemset *set;
	struct rlimit limit, old;
	size_t align = 7;
	char buf[8192], *p;
	int maps, fds;

	t_begin();
	page = page_size();
	set = new_set();

	group("map: arguments");
	IS(pmemset_map_config_new(NULL), -EINVAL);
	IS(pmemset_map_config_new(&cfg), 0);
	CHECK(cfg && cfg != (struct pmemset_map_config *)1);
	IS(pmemset_map_config_set_offset(NULL, 0), -EINVAL);
	pmemset_map_config_set_length(NULL, 0);
	IS(pmemset_map_config_set_offset(cfg, (size_t)INT64_MAX), 0);
	IS(pmemset_map_config_set_offset(cfg, (size_t)INT64_MAX + 1), PMEMSET_E_OFFSET_OUT_OF_RANGE);
	IS(pmemset_map_config_set_offset(cfg, SIZE_MAX), PMEMSET_E_OFFSET_OUT_OF_RANGE);
	IS(pmemset_map_config_set_offset(cfg, 0), 0);
	make_file("f", (off_t)(8 * page));
	src = source("f");
	IS(pmemset_map(set, NULL, cfg, &d), PMEMSET_E_INVALID_SOURCE_TYPE);
	IS(pmemset_map(NULL, src, cfg, &d), -EINVAL);
	IS(pmemset_map_config_delete(NULL), -EINVAL);
	IS(pmemset_map_config_delete(&cfg), 0);
	CHECK(cfg == NULL);
	IS(pmemset_map_config_delete(&cfg), 0);
	IS(pmemset_source_alignment(NULL, &align), -EINVAL);
	IS(pmemset_source_alignment(src, NULL), -EINVAL);
	CHECK(align == 7);
	IS(pmemset_source_set_sds(NULL, NULL, NULL), -EINVAL);
	IS(pmemset_source_set_sds(src, NULL, NULL), 0); /* there is none to take away */
	pmemset_source_set_badblock_detection(NULL, true);
	IS(pmemset_badblock_clear(NULL, src), -EINVAL);
	IS(pmemset_config_set_acceptable_states(NULL, 0), -EINVAL);

	group("map: whole sources, ranges, any number of times");
	IS(pmemset_map(set, src, NULL, NULL), 0);
	IS(pmemset_map(set, src, NULL, &d), 0);
	CHECK(d.size == 8 * page);
	IS(walk(set), 2);
	strcpy(d.addr, "seen through both");
	IS(pmemset_persist(set, d.addr, 20), 0);
	p = must_map(set, src, 0, page);
	CHECK(strcmp(p, "seen through both") == 0);
	CHECK(file_holds("f", 0, "seen through both", 17));
	p = must_map(set, src, 3 * page, 0); /* up to the end, and not a byte more */
	CHECK(size_at(set, p) == 5 * page);
	IS(file_size("f"), (off_t)(8 * page));
	IS(map_at(set, src, 1, page), PMEMSET_E_INVALID_PMEM2_MAP);
	IS(map_at(set, src, 0, page + 1), PMEMSET_E_LENGTH_UNALIGNED);
	IS(map_at(set, src, 8 * page, 0), PMEMSET_E_INVALID_PMEM2_MAP);
	IS(map_at(set, src, 20 * page, 0), PMEMSET_E_INVALID_PMEM2_MAP);
	IS(file_size("f"), (off_t)(8 * page));
	IS(walk(set), 4);

	group("map: grows by default, by just what is asked for");
	IS(map_at(set, src, 6 * page, 4 * page), 0);
	IS(file_size("f"), (off_t)(10 * page));
	IS(map_at(set, src, 0, page), 0);
	IS(file_size("f"), (off_t)(10 * page));
	make_file("empty", 0);
	fixed = source("empty");
	IS(map_at(set, fixed, 0, 0), PMEMSET_E_MAP_LENGTH_UNSET);
	IS(map_at(set, fixed, page, 0), PMEMSET_E_MAP_LENGTH_UNSET);
	IS(file_size("empty"), 0);
	IS(map_at(set, fixed, 0, 2 * page), 0);
	IS(file_size("empty"), (off_t)(2 * page));
	IS(map_at(set, fixed, 0, (size_t)INT64_MAX / page * page), PMEMSET_E_CANNOT_GROW_SOURCE_FILE);
	IS(map_at(set, fixed, 0, SIZE_MAX / page * page), PMEMSET_E_CANNOT_GROW_SOURCE_FILE);
	IS(pmemset_source_delete(&fixed), 0);
	IS(pmemset_source_from_temporary(&fixed, "."), 0);
	IS(map_at(set, fixed, 0, 0), PMEMSET_E_MAP_LENGTH_UNSET);
	IS(map_at(set, fixed, page, page), 0);
	IS(pmemset_source_delete(&fixed), 0);

	group("map: DO_NOT_GROW");
	make_file("fixed", (off_t)(2 * page));
	fixed = open_as("fixed", PMEMSET_SOURCE_FILE_DO_NOT_GROW);
	IS(map_at(set, fixed, 0, 0), 0);
	IS(map_at(set, fixed, page, page), 0);
	IS(map_at(set, fixed, page, 2 * page), PMEMSET_E_SOURCE_FILE_IS_TOO_SMALL);
	CHECK(says("must not grow"));
	IS(map_at(set, fixed, 5 * page, page), PMEMSET_E_SOURCE_FILE_IS_TOO_SMALL);
	IS(map_at(set, fixed, 5 * page, 0), PMEMSET_E_SOURCE_FILE_IS_TOO_SMALL);
	IS(map_at(set, fixed, 0, SIZE_MAX / page * page), PMEMSET_E_SOURCE_FILE_IS_TOO_SMALL);
	IS(file_size("fixed"), (off_t)(2 * page));
	IS(pmemset_source_delete(&fixed), 0);
	fixed = open_as("fixed2", PMEMSET_SOURCE_FILE_DO_NOT_GROW | PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED);
	IS(map_at(set, fixed, 0, 0), PMEMSET_E_MAP_LENGTH_UNSET);
	IS(map_at(set, fixed, 0, page), PMEMSET_E_SOURCE_FILE_IS_TOO_SMALL);
	IS(pmemset_source_delete(&fixed), 0);

	group("map: a source may go first, its part maps stay");
	fixed = open_as("gone", PMEMSET_SOURCE_FILE_CREATE_ALWAYS);
	p = must_map(set, fixed, 0, page);
	IS(pmemset_source_delete(&fixed), 0);
	pmemset_memset(set, p, 'x', page, 0);
	CHECK(file_holds("gone", 100, "xxx", 3));
	IS(remove_at(set, p), 0);

	group("alignment");
	IS(pmemset_source_alignment(src, &align), 0);
	IS(align, page);

	group("acceptable states, with a message");
	IS(pmemset_config_new(&config), 0);
	for (uint64_t states = 0; states < 32; states++)
		IS(pmemset_config_set_acceptable_states(config, states), 0);
	IS(pmemset_config_set_acceptable_states(config, 32), PMEMSET_E_INVALID_PART_STATES);
	CHECK(says("0x20"));
	IS(pmemset_config_set_acceptable_states(config, PMEMSET_PART_STATE_OK | (uint64_t)1 << 63), PMEMSET_E_INVALID_PART_STATES);
	CHECK(says("0x8000000000000002"));
	IS(pmemset_config_delete(&config), 0);

	group("shutdown state and bad blocks where there is no persistent memory");
	{
		struct pmemset_sds sds = PMEMSET_SDS_INITIALIZE();
		enum pmemset_part_state state = PMEMSET_PART_STATE_CORRUPTED;
		struct pmemset_badblock bb = { 0, page };

		fixed = source("fixed");
		pmemset_source_set_badblock_detection(fixed, true);
		IS(map_at(set, fixed, 0, 0), 0);
		IS(pmemset_source_set_sds(fixed, &sds, &state), 0);
		IS(pmemset_source_set_sds(fixed, &sds, NULL), PMEMSET_E_SDS_ALREADY_SET);
		maps = walk(set);
		IS(map_at(set, fixed, 0, 0), PMEMSET_E_SDS_NOSUPP);
		IS(walk(set), maps);
		CHECK(state == PMEMSET_PART_STATE_CORRUPTED);
		/* a program takes that for an answer, and maps without */
		IS(pmemset_source_set_sds(fixed, NULL, &state), 0);
		IS(map_at(set, fixed, 0, 0), 0);
		CHECK(state == PMEMSET_PART_STATE_CORRUPTED);
		IS(walk(set), maps + 1);
		IS(pmemset_source_set_sds(fixed, NULL, NULL), 0);
		IS(pmemset_source_set_sds(fixed, &sds, NULL), 0);
		IS(pmemset_source_set_sds(fixed, &sds, NULL), PMEMSET_E_SDS_ALREADY_SET);
		IS(map_at(set, fixed, 0, 0), PMEMSET_E_SDS_NOSUPP);
		bb.offset = (size_t)INT64_MAX + 1;
		IS(pmemset_badblock_clear(&bb, fixed), PMEMSET_E_OFFSET_OUT_OF_RANGE);
		bb.offset = 0;
		bb.length = SIZE_MAX;
		IS(pmemset_badblock_clear(&bb, fixed), PMEMSET_E_LENGTH_OUT_OF_RANGE);
		bb.length = 3 * page;
		IS(pmemset_badblock_clear(&bb, fixed), PMEMSET_E_LENGTH_OUT_OF_RANGE);
		memset(buf, 'q', sizeof buf);
		IS(pmemset_source_pwrite_mcsafe(fixed, buf, 100, page - 50), 0);
		bb.length = page; /* as good as the file system lets us: the range reads as zeros, the rest stays */
		if (pmemset_badblock_clear(&bb, fixed) == 0) {
			memset(buf, 0, 100);
			CHECK(file_holds("fixed", (off_t)page - 50, buf, 50));
			memset(buf, 'q', 50);
			CHECK(file_holds("fixed", (off_t)page, buf, 50));
			IS(file_size("fixed"), (off_t)(2 * page));
		} else {
			IS(pmemset_badblock_clear(&bb, fixed), PMEMSET_E_BADBLOCK_NOSUPP);
		}
		IS(pmemset_source_delete(&fixed), 0);
	}

	group("reading and writing without signals");
	memset(&act, 0, sizeof act);
	act.sa_handler = on_bus;
	MUST(sigaction(SIGBUS, &act, NULL) == 0 && sigaction(SIGSEGV, &act, NULL) == 0);
	make_file("mc", (off_t)(4 * page));
	fixed = source("mc");
	p = must_map(set, fixed, 0, 0);
	fds = count_fds();
	memset(buf, 'a', sizeof buf);
	IS(pmemset_source_pwrite_mcsafe(fixed, buf, 3000, page - 1000), 0);
	CHECK(p[page - 1001] == 0 && p[page - 1000] == 'a' && p[page + 1999] == 'a' && p[page + 2000] == 0);
	p[page] = 'b';
	memset(buf, 0, sizeof buf);
	IS(pmemset_source_pread_mcsafe(fixed, buf, 3000, page - 1000), 0);
	CHECK(buf[0] == 'a' && buf[999] == 'a' && buf[1000] == 'b' && buf[1001] == 'a' && buf[2999] == 'a' && buf[3000] == 0);
	IS(pmemset_source_pread_mcsafe(fixed, buf, 1, 4 * page - 1), 0);
	IS(pmemset_source_pread_mcsafe(fixed, buf, 0, 4 * page), 0);
	IS(pmemset_source_pread_mcsafe(fixed, NULL, 0, 0), 0);
	IS(pmemset_source_pread_mcsafe(fixed, NULL, 1, 0), -EINVAL);
	IS(pmemset_source_pread_mcsafe(NULL, buf, 1, 0), -EINVAL);
	IS(pmemset_source_pread_mcsafe(fixed, buf, 2, 4 * page - 1), PMEMSET_E_LENGTH_OUT_OF_RANGE);
	IS(pmemset_source_pread_mcsafe(fixed, buf, 1, SIZE_MAX), PMEMSET_E_LENGTH_OUT_OF_RANGE);
	IS(pmemset_source_pread_mcsafe(fixed, buf, SIZE_MAX, 1), PMEMSET_E_LENGTH_OUT_OF_RANGE);
	IS(pmemset_source_pwrite_mcsafe(fixed, buf, 2, 4 * page - 1), PMEMSET_E_LENGTH_OUT_OF_RANGE);
	IS(file_size("mc"), (off_t)(4 * page));
	/* memory that nobody can read, or that a file has lost: an error, no signal */
	p = must_map(set, fixed, 3 * page, page);
	MUST(truncate("mc", (off_t)(2 * page)) == 0);
	IS(pmemset_source_pwrite_mcsafe(fixed, p, 100, 0), PMEMSET_E_IO_FAIL);
	IS(pmemset_source_pread_mcsafe(fixed, p, 100, 0), PMEMSET_E_IO_FAIL);
	IS(pmemset_source_pread_mcsafe(fixed, buf, 100, 3 * page), PMEMSET_E_LENGTH_OUT_OF_RANGE);
	/* a file size limit raises nothing either */
	MUST(getrlimit(RLIMIT_FSIZE, &old) == 0);
	limit = old;
	limit.rlim_cur = page;
	MUST(setrlimit(RLIMIT_FSIZE, &limit) == 0);
	MUST(sigaction(SIGXFSZ, &act, NULL) == 0);
	IS(pmemset_source_pwrite_mcsafe(fixed, buf, 100, page), PMEMSET_E_IO_FAIL);
	CHECK(says(": File too large"));
	IS(pmemset_source_pwrite_mcsafe(fixed, buf, 100, 0), 0);
	MUST(setrlimit(RLIMIT_FSIZE, &old) == 0);
	IS(caught, 0);
	MUST(sigaction(SIGBUS, NULL, &now_act) == 0);
	CHECK(now_act.sa_handler == on_bus);
	MUST(sigaction(SIGSEGV, NULL, &now_act) == 0);
	CHECK(now_act.sa_handler == on_bus);
	IS(count_fds(), fds);
	signal(SIGBUS, SIG_DFL);
	signal(SIGSEGV, SIG_DFL);
	signal(SIGXFSZ, SIG_DFL);
	IS(pmemset_source_delete(&fixed), 0);

	group("modes of files that are created");
	modes();
	CHILD_GROUP(modes_as_nobody, "modes, as an unprivileged user");

	group("the end");
	IS(pmemset_source_delete(&src), 0);
	IS(pmemset_delete(&set), 0);
	return t_end();
}
