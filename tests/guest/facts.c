/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * facts.c -- what the interface of 1.12 makes of the kernel's facts about persistent memory.
 *     facts NAME sds MEDIUM ID USC     a shutdown state of the medium: this identity and count, or - - where there is none
 *     facts NAME bad FILE LIST         the second block of a file becomes bad in this list of its disk
 *     facts NAME clear FILE            clears what is bad in a file, with an observer, and maps it
 *     facts NAME clears DEV OFFSET LEN clears a range of a device
 *     facts NAME good MEDIUM           has no bad blocks, and can be read and written without mapping it
 */
#define PMEMSET_API_VERSION 112
#include "g.h"
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/statfs.h>

#define NEED(cond) MUST(!(cond))

static struct pmemset_sds stored;
static struct pmemset_badblock found;
static int nfound, nupdates, ncleared, clearing;

static int observe(struct pmemset *set, struct pmemset_event_context *ctx, void *arg)
{
	(void)set;
	(void)arg;
	if (ctx->type == PMEMSET_EVENT_SDS_UPDATE) {
		stored = *ctx->data.sds_update.sds;
		nupdates++;
	} else if (ctx->type == PMEMSET_EVENT_BADBLOCK) {
		found = *ctx->data.badblock.bb;
		nfound++;
		if (clearing)
			CHECK(pmemset_badblock_clear(ctx->data.badblock.bb, ctx->data.badblock.src) == 0);
	} else if (ctx->type == PMEMSET_EVENT_BADBLOCKS_CLEARED) {
		ncleared++;
	}
	return 0;
}

static struct pmemset *observed(void)
{
	struct pmemset_config *cfg = NULL;
	struct pmemset *set = NULL;

	NEED(pmemset_config_new(&cfg) == 0);
	NEED(pmemset_config_set_required_store_granularity(cfg, PMEM2_GRANULARITY_PAGE) == 0);
	pmemset_config_set_event_callback(cfg, observe, NULL);
	NEED(pmemset_new(&set, cfg) == 0);
	NEED(pmemset_config_delete(&cfg) == 0);
	return set;
}

static void sds(const char *medium, const char *id, const char *usc)
{
	const int none = strcmp(id, "-") == 0;
	struct pmemset_sds fresh = PMEMSET_SDS_INITIALIZE();
	enum pmemset_part_state state = PMEMSET_PART_STATE_CORRUPTED;
	struct pmemset_source *src = NULL;
	struct pmemset *set = observed();
	int rc;

	test(none ? "no shutdown state without a count of unsafe shutdowns" : "shutdown state");
	NEED(pmemset_source_from_file(&src, medium) == 0);
	CHECK(pmemset_source_set_sds(src, &fresh, &state) == 0);
	rc = pmemset_map(set, src, NULL, NULL);
	if (none) {
		CHECK(rc == PMEMSET_E_SDS_NOSUPP);
		CHECK(nupdates == 0);
	} else {
		CHECK(rc == 0);
		CHECK(state == PMEMSET_PART_STATE_OK && nupdates == 1);
		CHECK(strcmp(stored.id, id) == 0);
		CHECK(stored.usc == strtoull(usc, NULL, 10) && stored.refcount == 1);
		CHECK(pmemset_map(set, src, NULL, NULL) == 0);
		CHECK(state == PMEMSET_PART_STATE_OK_BUT_ALREADY_OPEN && stored.refcount == 2);
	}
	CHECK(pmemset_delete(&set) == 0);
	CHECK(none || stored.refcount == 0);
	CHECK(pmemset_source_delete(&src) == 0);
}

static size_t block_of(int fd)
{
	struct statfs fs;

	NEED(fstatfs(fd, &fs) == 0);
	return (size_t)fs.f_bsize;
}

static void bad(const char *file, const char *list)
{
	struct { struct fiemap map; struct fiemap_extent room[1]; } fm;
	struct pmemset_source *src = NULL;
	struct pmemset *set = observed();
	char buf[4096], line[64];
	int fd = open(file, O_RDWR | O_CREAT | O_TRUNC, 0644), l = open(list, O_WRONLY);
	size_t block;

	NEED(fd >= 0 && l >= 0);
	block = block_of(fd);
	memset(buf, 'd', sizeof buf);
	for (int i = 0; i < 64; i++)
		NEED(write(fd, buf, sizeof buf) == sizeof buf);
	NEED(fsync(fd) == 0);
	memset(&fm, 0, sizeof fm);
	fm.map.fm_start = block;
	fm.map.fm_length = 1;
	fm.map.fm_extent_count = 1;
	NEED(ioctl(fd, FS_IOC_FIEMAP, &fm) == 0 && fm.map.fm_mapped_extents == 1);
	snprintf(line, sizeof line, "%llu 1\n", (unsigned long long)(fm.map.fm_extents[0].fe_physical + block -
		fm.map.fm_extents[0].fe_logical + block - 512) / 512);
	NEED(write(l, line, strlen(line)) > 0);
	close(l);
	close(fd);
	fd = open(file, O_RDWR);
	NEED(pmemset_source_from_file(&src, file) == 0);

	test("a bad block of a file is found and refused");
	pmemset_source_set_badblock_detection(src, true);
	CHECK(pmemset_map(set, src, NULL, NULL) == PMEMSET_E_IO_FAIL);
	CHECK(nfound == 1 && found.offset == block && found.length == block);
	pmemset_source_set_badblock_detection(src, false);

	test("a bad block is an error of reading, and no signal");
	CHECK(pmemset_source_pread_mcsafe(src, buf, 512, 2 * block - 512) == PMEMSET_E_IO_FAIL);
	CHECK(pmemset_source_pread_mcsafe(src, buf, 512, 0) == 0 && buf[0] == 'd' && buf[511] == 'd');
	CHECK(pmemset_source_pread_mcsafe(src, buf, 512, 2 * block) == 0 && buf[0] == 'd');
	close(fd);
	CHECK(pmemset_delete(&set) == 0);
	CHECK(pmemset_source_delete(&src) == 0);
}

static void clear(const char *file)
{
	struct pmemset_source *src = NULL;
	struct pmemset_part_descriptor d = { NULL, 0 };
	struct pmemset *set = observed();
	char buf[4096], zero[4096] = { 0 };
	int rc;

	test("bad blocks of a file are cleared");
	NEED(pmemset_source_from_file(&src, file) == 0);
	pmemset_source_set_badblock_detection(src, true);
	clearing = 1;
	rc = pmemset_map(set, src, NULL, &d);
	if (rc)
		printf("     %s\n", pmemset_errormsg());
	CHECK(rc == 0 && nfound >= 1 && ncleared == 1);
	CHECK(pmemset_source_pread_mcsafe(src, buf, sizeof buf, found.offset) == 0 && memcmp(buf, zero, sizeof buf) == 0);
	if (rc == 0) {
		CHECK(memcmp((char *)d.addr + found.offset, zero, sizeof zero) == 0 && *(char *)d.addr == 'd');
		pmemset_memset(set, (char *)d.addr + found.offset, 'n', sizeof buf, 0);
		CHECK(pmemset_drain(set) == 0);
	}
	CHECK(pmemset_source_pread_mcsafe(src, buf, sizeof buf, found.offset) == 0 && (rc || buf[0] == 'n'));
	CHECK(pmemset_delete(&set) == 0);
	CHECK(pmemset_source_delete(&src) == 0);
}

static void clears(const char *medium, const char *offset, const char *len)
{
	struct pmemset_badblock bb = { strtoull(offset, NULL, 10), strtoull(len, NULL, 10) };
	struct pmemset_source *src = NULL;
	int rc;

	test("a range of a device is cleared by its bus");
	NEED(pmemset_source_from_file(&src, medium) == 0);
	rc = pmemset_badblock_clear(&bb, src);
	if (rc)
		printf("     %s\n", pmemset_errormsg());
	CHECK(rc == 0);
	CHECK(pmemset_source_delete(&src) == 0);
}

static void good(const char *medium)
{
	struct pmemset_source *src = NULL;
	struct pmemset_part_descriptor d = { NULL, 0 };
	struct pmemset *set = observed();
	size_t align = 0;
	char *want, *got;

	test("no bad blocks, and nothing in the way of mapping");
	NEED(pmemset_source_from_file(&src, medium) == 0);
	pmemset_source_set_badblock_detection(src, true);
	CHECK(pmemset_map(set, src, NULL, &d) == 0 && nfound == 0 && ncleared == 0);

	test("reading and writing without mapping");
	CHECK(pmemset_source_alignment(src, &align) == 0 && align >= 4096 && (align & (align - 1)) == 0);
	want = malloc(3 * 4096 + 77);
	got = calloc(1, 3 * 4096 + 77);
	NEED(want && got && d.addr);
	for (int i = 0; i < 3 * 4096 + 77; i++)
		want[i] = (char)(i * 7 + i / 256);
	CHECK(pmemset_source_pwrite_mcsafe(src, want, 3 * 4096 + 77, 4001) == 0);
	CHECK(memcmp((char *)d.addr + 4001, want, 3 * 4096 + 77) == 0);
	((char *)d.addr)[4002]++;
	want[1]++;
	CHECK(pmemset_source_pread_mcsafe(src, got, 3 * 4096 + 77, 4001) == 0 && memcmp(got, want, 3 * 4096 + 77) == 0);
	CHECK(pmemset_source_pread_mcsafe(src, got, 1, d.size) == PMEMSET_E_LENGTH_OUT_OF_RANGE);
	CHECK(pmemset_source_pread_mcsafe(src, got, 77, d.size - 77) == 0);
	CHECK(pmemset_delete(&set) == 0);
	CHECK(pmemset_source_delete(&src) == 0);
	free(want);
	free(got);
}

int main(int argc, char **argv)
{
	if (argc < 4)
		return 2;
	g_prefix = argv[1];
	if (strcmp(argv[2], "sds") == 0 && argc == 6)
		sds(argv[3], argv[4], argv[5]);
	else if (strcmp(argv[2], "bad") == 0 && argc == 5)
		bad(argv[3], argv[4]);
	else if (strcmp(argv[2], "clear") == 0)
		clear(argv[3]);
	else if (strcmp(argv[2], "clears") == 0 && argc == 6)
		clears(argv[3], argv[4], argv[5]);
	else if (strcmp(argv[2], "good") == 0)
		good(argv[3]);
	else
		return 2;
	test(NULL);
	return g_bad;
}
