/* SPDX-License-Identifier: BSD-3-Clause */
/* facts.c -- shutdown state and bad blocks, with facts about persistent memory of our own in the place of sysfs */
#include "t.h"
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <pthread.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#define N 64
#define PLACE "/sys/devices/x/ndbus0/region5/pfn5.0/block/pmem5"
#define ND "/sys/bus/nd/devices/"

static size_t page;

static void put(const char *path, const char *format, ...)
{
	char dir[300], text[3000];
	va_list ap;
	int fd, n;

	snprintf(dir, sizeof dir, "%s", path);
	for (char *p = dir + 1; (p = strchr(p, '/')); p++) {
		*p = 0;
		mkdir(dir, 0755);
		*p = '/';
	}
	va_start(ap, format);
	n = vsnprintf(text, sizeof text, format, ap);
	va_end(ap);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	MUST(fd >= 0 && write(fd, text, (size_t)n) == n);
	close(fd);
}

static void dimm(int n, const char *id, const char *usc)
{
	char path[200];

	snprintf(path, sizeof path, ND "nmem%d/nfit/id", n);
	put(path, "%s\n", id);
	snprintf(path, sizeof path, ND "nmem%d/nfit/dirty_shutdown", n);
	put(path, "%s\n", usc);
}

/* a /sys of our own, in which the file system of the file is on persistent memory */
static int own_sys(const char *file)
{
	struct stat st;
	char link[200];

	if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("facts", "/sys", "tmpfs", 0, NULL))
		return -1;
	MUST(stat(file, &st) == 0);
	put(PLACE "/size", "0\n");
	put("/sys/dev/block/none", "");
	snprintf(link, sizeof link, "/sys/dev/block/%u:%u", major(st.st_dev), minor(st.st_dev));
	MUST(symlink("../../devices/x/ndbus0/region5/pfn5.0/block/pmem5", link) == 0);
	put(ND "region5/mappings", "2\n");
	put(ND "region5/mapping0", "nmem3,0,268435456,0\n");
	put(ND "region5/mapping1", "nmem1,0,268435456,1\n");
	dimm(1, "8680-57-1717-11", "4");
	dimm(3, "8680-57-1717-33", "30");
	return 0;
}

static struct pmemset_event_context seen[N];
static struct pmemset_sds stored; /* as a program would store it */
static int nseen;
static void (*on_badblock)(struct pmemset_badblock *bb, struct pmemset_source *src);

static int record(struct pmemset *set, struct pmemset_event_context *ctx, void *arg)
{
	struct pmemset_part_map *pm = NULL;

	(void)arg;
	if (nseen < N)
		seen[nseen++] = *ctx;
	if (ctx->type == PMEMSET_EVENT_SDS_UPDATE) {
		stored = *ctx->data.sds_update.sds;
		ctx->data.sds_update.sds->refcount = 77; /* the library's is its own */
		pmemset_first_part_map(set, &pm); /* no lock is held */
		pmemset_part_map_drop(&pm);
	}
	if (ctx->type == PMEMSET_EVENT_BADBLOCK && on_badblock)
		on_badblock(ctx->data.badblock.bb, ctx->data.badblock.src);
	return 0;
}

static int count(enum pmemset_event type)
{
	int n = 0;

	for (int i = 0; i < nseen; i++)
		n += seen[i].type == type;
	return n;
}

static struct pmemset *set_accepting(uint64_t states)
{
	struct pmemset_config *cfg = NULL;
	struct pmemset *set = NULL;

	MUST(pmemset_config_new(&cfg) == 0);
	MUST(pmemset_config_set_required_store_granularity(cfg, PMEM2_GRANULARITY_PAGE) == 0);
	pmemset_config_set_event_callback(cfg, record, NULL);
	if (states)
		MUST(pmemset_config_set_acceptable_states(cfg, states) == 0);
	MUST(pmemset_new(&set, cfg) == 0);
	MUST(pmemset_config_delete(&cfg) == 0);
	nseen = 0;
	return set;
}

static enum pmemset_part_state state;

static struct pmemset_source *with_sds(const char *file)
{
	struct pmemset_source *src = source(file);
	struct pmemset_sds given = stored;

	state = (enum pmemset_part_state)99;
	MUST(pmemset_source_set_sds(src, &given, &state) == 0);
	memset(&given, 1, sizeof given); /* it has been copied */
	return src;
}

/* what a mapping of the stored state comes to, and leaves */
static void outcome(uint64_t acceptable, int want, enum pmemset_part_state want_state, int refcount)
{
	struct pmemset *set = set_accepting(acceptable);
	struct pmemset_source *src = with_sds("f");
	struct pmemset_sds before = stored;

	IS(pmemset_map(set, src, NULL, NULL), want);
	IS(state, want_state);
	if (want) {
		IS(walk(set), 0);
		CHECK(nseen == 0 && memcmp(&before, &stored, sizeof stored) == 0);
	} else {
		CHECK(nseen == 2 && seen[0].type == PMEMSET_EVENT_SDS_UPDATE && seen[1].type == PMEMSET_EVENT_PART_ADD);
		IS(stored.refcount, refcount);
		CHECK(seen[0].data.sds_update.src == src);
	}
	IS(pmemset_delete(&set), 0);
	IS(pmemset_source_delete(&src), 0);
	if (want == 0)
		IS(stored.refcount, refcount - 1);
}

static void shutdown_state(void)
{
	const struct pmemset_sds fresh = PMEMSET_SDS_INITIALIZE();
	struct pmemset_part_descriptor d, e;
	struct pmemset_source *src, *two;
	struct pmemset *set;
	char long_id[400];
	const int undesirable = PMEMSET_E_UNDESIRABLE_PART_STATE;

	make_file("f", (off_t)(8 * page));
	if (own_sys("f")) {
		child_skip("needs a mount namespace with a /sys of its own");
		return;
	}
	stored = fresh;
	set = set_accepting(0);
	src = with_sds("f");
	IS(pmemset_map(set, src, NULL, &d), 0);
	IS(state, PMEMSET_PART_STATE_OK);
	CHECK(strcmp(stored.id, "8680-57-1717-338680-57-1717-11") == 0 && stored.usc == 34);
	IS(stored.refcount, 1);
	IS(map_part(set, src, page, page, &e), 0);
	IS(state, PMEMSET_PART_STATE_OK_BUT_ALREADY_OPEN);
	IS(stored.refcount, 2);
	/* a mapping that fails for another reason changes nothing */
	IS(map_part(set, src, 0, page + 1, NULL), PMEMSET_E_LENGTH_UNALIGNED);
	IS(stored.refcount, 2);
	IS(remove_at(set, d.addr), 0);
	IS(stored.refcount, 1);
	IS(pmemset_remove_range(set, e.addr, 1), 0);
	IS(stored.refcount, 0);
	IS(count(PMEMSET_EVENT_SDS_UPDATE), 4);
	IS(map_part(set, src, 0, page, NULL), 0);
	IS(state, PMEMSET_PART_STATE_OK);
	IS(stored.refcount, 1);
	/* deletion lowers the count, and says so */
	nseen = 0;
	IS(pmemset_delete(&set), 0);
	CHECK(nseen == 1 && count(PMEMSET_EVENT_SDS_UPDATE) == 1);
	IS(stored.refcount, 0);
	IS(pmemset_source_delete(&src), 0);

	/* every state, acceptable and not */
	outcome(0, 0, PMEMSET_PART_STATE_OK, 1);
	outcome(PMEMSET_PART_STATE_CORRUPTED, undesirable, PMEMSET_PART_STATE_OK, 0);
	CHECK(strstr(pmemset_errormsg(), "OK") != NULL);
	stored.refcount = 1; /* as after a crash */
	outcome(0, undesirable, PMEMSET_PART_STATE_OK_BUT_INTERRUPTED, 0);
	CHECK(strstr(pmemset_errormsg(), "OK_BUT_INTERRUPTED") != NULL);
	outcome(PMEMSET_PART_STATE_OK_BUT_INTERRUPTED, 0, PMEMSET_PART_STATE_OK_BUT_INTERRUPTED, 2);
	IS(stored.refcount, 1);
	dimm(1, "8680-57-1717-11", "5"); /* one DIMM lost power at the wrong time */
	outcome(0, undesirable, PMEMSET_PART_STATE_CORRUPTED, 0);
	outcome(PMEMSET_PART_STATE_CORRUPTED, 0, PMEMSET_PART_STATE_CORRUPTED, 2);
	stored.refcount = 0;
	outcome(0, 0, PMEMSET_PART_STATE_OK, 1); /* nothing was in use */
	CHECK(stored.usc == 35);
	dimm(3, "8680-57-1717-44", "30"); /* another device */
	stored.refcount = 1;
	outcome(0, undesirable, PMEMSET_PART_STATE_INDETERMINATE, 0);
	outcome(PMEMSET_PART_STATE_INDETERMINATE, 0, PMEMSET_PART_STATE_INDETERMINATE, 2);
	stored.refcount = 0;
	outcome(0, 0, PMEMSET_PART_STATE_OK, 1);
	CHECK(strcmp(stored.id, "8680-57-1717-448680-57-1717-11") == 0 && stored.usc == 35);
	stored.refcount = INT32_MIN; /* nonsense is no use */
	outcome(0, 0, PMEMSET_PART_STATE_OK, 1);

	/* a source that goes before its part maps; a run of parts that goes part by part */
	set = set_accepting(0);
	src = with_sds("f");
	two = source("f");
	IS(pmemset_source_set_sds(two, &stored, NULL), 0);
	IS(pmemset_set_contiguous_part_coalescing(set, PMEMSET_COALESCING_FULL), 0);
	IS(map_part(set, src, 0, page, &d), 0);
	IS(map_part(set, two, 0, page, NULL), 0); /* with a count of its own */
	IS(stored.refcount, 1);
	IS(map_part(set, src, 0, page, &d), 0);
	IS(stored.refcount, 2);
	IS(pmemset_source_delete(&src), 0);
	nseen = 0;
	IS(pmemset_remove_range(set, d.addr, 1), 0);
	CHECK(nseen == 2 && seen[0].type == PMEMSET_EVENT_REMOVE_RANGE && seen[1].type == PMEMSET_EVENT_SDS_UPDATE);
	CHECK(seen[1].data.sds_update.src == NULL);
	IS(stored.refcount, 1);
	nseen = 0;
	IS(pmemset_remove_range(set, d.addr, 3 * page), 0);
	IS(count(PMEMSET_EVENT_SDS_UPDATE), 2);
	CHECK(seen[2].data.sds_update.src == two && seen[3].data.sds_update.src == NULL);
	IS(stored.refcount, 0);
	IS(pmemset_source_delete(&two), 0);

	/* facts that are missing or absurd */
	src = with_sds("f");
	nseen = 0;
	dimm(3, "8680-57-1717-44", "-1");
	IS(pmemset_map(set, src, NULL, NULL), PMEMSET_E_SDS_NOSUPP);
	dimm(3, "8680-57-1717-44", "18446744073709551615");
	IS(pmemset_map(set, src, NULL, NULL), PMEMSET_E_SDS_NOSUPP);
	dimm(3, "", "1");
	IS(pmemset_map(set, src, NULL, NULL), PMEMSET_E_SDS_NOSUPP);
	memset(long_id, 'x', sizeof long_id);
	long_id[sizeof long_id - 1] = 0;
	dimm(3, long_id, "1");
	dimm(1, long_id, "1");
	IS(pmemset_map(set, src, NULL, NULL), PMEMSET_E_SDS_DEVICE_ID_LEN_TOO_BIG);
	MUST(unlink(ND "region5/mapping1") == 0);
	IS(pmemset_map(set, src, NULL, NULL), PMEMSET_E_SDS_NOSUPP);
	CHECK(nseen == 0 && state == (enum pmemset_part_state)99 && walk(set) == 0);
	IS(pmemset_source_delete(&src), 0);
	IS(pmemset_delete(&set), 0);
}

/* ---- bad blocks ---- */

static struct pmemset *shared;
static struct pmemset_source *contended;

static void *map_and_remove(void *refused)
{
	struct pmemset_part_descriptor d;

	for (int i = 0; i < 4000; i++) {
		if (pmemset_map(shared, contended, NULL, &d))
			++*(int *)refused;
		else
			MUST(pmemset_remove_range(shared, d.addr, 1) == 0);
	}
	return NULL;
}

/* one's mappings are never taken for those of a program that was interrupted */
static void threads_on_one_source(void)
{
	pthread_t threads[3];
	int refused[3] = { 0 };

	make_file("f", (off_t)page);
	if (own_sys("f")) {
		child_skip("needs a mount namespace with a /sys of its own");
		return;
	}
	memset(&stored, 0, sizeof stored);
	shared = new_set();
	contended = with_sds("f");
	for (int i = 0; i < 3; i++)
		MUST(pthread_create(&threads[i], NULL, map_and_remove, &refused[i]) == 0);
	for (int i = 0; i < 3; i++) {
		pthread_join(threads[i], NULL);
		IS(refused[i], 0);
	}
	IS(pmemset_source_delete(&contended), 0);
	IS(pmemset_delete(&shared), 0);
}

static uint64_t where; /* the byte of the device that the file's page 2 is at */
static struct pmemset_badblock first;
static int badblocks_seen, driver_clears;

static int physical(const char *path, uint64_t offset, uint64_t *at)
{
	struct { struct fiemap map; struct fiemap_extent room[1]; } fm;
	int fd = open(path, O_RDWR);

	MUST(fd >= 0);
	memset(&fm, 0, sizeof fm);
	fm.map.fm_start = offset;
	fm.map.fm_length = 1;
	fm.map.fm_flags = FIEMAP_FLAG_SYNC;
	fm.map.fm_extent_count = 1;
	if (ioctl(fd, FS_IOC_FIEMAP, &fm) || fm.map.fm_mapped_extents != 1 ||
	    fm.map.fm_extents[0].fe_flags & (FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DELALLOC | FIEMAP_EXTENT_NOT_ALIGNED)) {
		close(fd);
		return -1;
	}
	*at = fm.map.fm_extents[0].fe_physical + (offset - fm.map.fm_extents[0].fe_logical);
	close(fd);
	return 0;
}

/* clears; and does to the list what the driver does when a bad block is written */
static void clear(struct pmemset_badblock *bb, struct pmemset_source *src)
{
	if (!badblocks_seen++)
		first = *bb;
	IS(pmemset_badblock_clear(bb, src), 0);
	if (driver_clears)
		put(PLACE "/badblocks", "\n");
}

static void look(struct pmemset_badblock *bb, struct pmemset_source *src)
{
	CHECK(src != NULL);
	if (!badblocks_seen++)
		first = *bb;
}

static void bad_blocks(void)
{
	struct pmemset_source *src;
	struct pmemset *set, *quiet;
	struct statfs fs;
	size_t block, size = 8 * page;
	char *data = malloc(size), *now = malloc(size);
	uint64_t start;
	int fd = open("f", O_RDWR | O_CREAT | O_TRUNC, 0644);

	MUST(data && now && fd >= 0 && fstatfs(fd, &fs) == 0);
	block = (size_t)fs.f_bsize;
	memset(data, 'd', size);
	MUST(write(fd, data, size) == (ssize_t)size && fsync(fd) == 0);
	close(fd);
	if (physical("f", 2 * page, &where)) {
		child_skip("the file system does not say where a file is stored");
		return;
	}
	if (own_sys("f")) {
		child_skip("needs a mount namespace with a /sys of its own");
		return;
	}
	set = set_accepting(0);
	quiet = new_set();
	src = source("f");
	IS(pmemset_map(set, src, NULL, NULL), 0); /* detection is off */
	IS(pmemset_remove_range(set, NULL + page, SIZE_MAX / 2), 0);
	pmemset_source_set_badblock_detection(src, true);

	/* what is missing or absurd */
	IS(pmemset_map(set, src, NULL, NULL), PMEMSET_E_BADBLOCK_NOSUPP); /* no list at all */
	put(ND "region5/badblocks", "\n");
	IS(pmemset_map(set, src, NULL, NULL), 0); /* the region's, and it is empty */
	put(ND "region5/badblocks", "%llu 1\n", (unsigned long long)(where / 512) + 2048);
	IS(pmemset_map(set, src, NULL, NULL), PMEMSET_E_CANNOT_READ_BOUNDS);
	put(ND "region5/resource", "0x100000000\n");
	put(ND "pfn5.0/resource", "0x100100000\n");
	IS(pmemset_map(set, src, NULL, NULL), PMEMSET_E_CANNOT_READ_BOUNDS);
	put(ND "pfn5.0/size", "18446744073709551615\n");
	IS(pmemset_map(set, src, NULL, NULL), PMEMSET_E_CANNOT_READ_BOUNDS);
	put(ND "pfn5.0/size", "%llu\n", (unsigned long long)(where + page));
	nseen = badblocks_seen = 0;
	on_badblock = look;
	IS(pmemset_map(set, src, NULL, NULL), PMEMSET_E_IO_FAIL);
	IS(badblocks_seen, 1);
	CHECK(first.offset == 2 * page && first.length == block && seen[0].data.badblock.src == src);
	put(ND "pfn5.0/size", "%llu\n", (unsigned long long)where);
	IS(pmemset_map(set, src, NULL, NULL), 0); /* behind the namespace's end */
	for (int i = 0; i < 4; i++) {
		static const char *const garbage[] = { "x\n", "1\n", "1 2 3\n", "-1 5\n" };

		put(PLACE "/badblocks", "%s", garbage[i]);
		IS(pmemset_map(set, src, NULL, NULL), PMEMSET_E_BADBLOCK_NOSUPP);
	}
	put(PLACE "/badblocks", "18446744073709551615 18446744073709551615\n0 0\n");
	IS(pmemset_map(set, src, NULL, NULL), 0);
	IS(pmemset_remove_range(set, NULL + page, SIZE_MAX / 2), 0);

	/* the disk's list: one sector, in the middle of a block */
	put(PLACE "/badblocks", "%llu 1\n", (unsigned long long)(where + block) / 512 - 1);
	nseen = badblocks_seen = 0;
	IS(pmemset_map(set, src, NULL, NULL), PMEMSET_E_IO_FAIL);
	CHECK(strstr(pmemset_errormsg(), "bad block") != NULL);
	IS(badblocks_seen, 1);
	CHECK(nseen == 1 && first.offset == 2 * page && first.length == block);
	IS(walk(set), 0);
	IS(pmemset_map(quiet, src, NULL, NULL), PMEMSET_E_IO_FAIL);
	IS(walk(quiet), 0);
	pmemset_source_set_badblock_detection(src, false);
	IS(pmemset_map(quiet, src, NULL, NULL), 0);
	pmemset_source_set_badblock_detection(src, true);

	/* a partition counts from its start */
	start = 8;
	put("/sys/devices/x/ndbus0/region5/pfn5.0/block/badblocks", "%llu 1\n", (unsigned long long)(where / 512 + start));
	put(PLACE "/partition", "1\n");
	put(PLACE "/start", "%llu\n", (unsigned long long)start);
	badblocks_seen = 0;
	IS(pmemset_map(set, src, NULL, NULL), PMEMSET_E_IO_FAIL);
	CHECK(badblocks_seen == 1 && first.offset == 2 * page && first.length == block);
	MUST(unlink(PLACE "/partition") == 0);

	/* a device that does not get rid of it */
	on_badblock = clear;
	nseen = badblocks_seen = driver_clears = 0;
	put(PLACE "/badblocks", "0 %llu\n", (unsigned long long)(where * 16 + (1 << 30)) / 512); /* all of it */
	IS(pmemset_map(set, src, NULL, NULL), PMEMSET_E_IO_FAIL);
	CHECK(badblocks_seen == 1 && first.offset == 0 && first.length == size);
	IS(count(PMEMSET_EVENT_BADBLOCKS_CLEARED), 0);
	/* one that does */
	fd = open("f", O_RDWR);
	MUST(write(fd, data, size) == (ssize_t)size && fsync(fd) == 0);
	close(fd);
	MUST(physical("f", 2 * page, &where) == 0);
	put(PLACE "/badblocks", "%llu 3\n", (unsigned long long)(where / 512));
	nseen = badblocks_seen = 0;
	driver_clears = 1;
	IS(pmemset_map(set, src, NULL, NULL), 0);
	CHECK(nseen == 3 && seen[0].type == PMEMSET_EVENT_BADBLOCK && seen[1].type == PMEMSET_EVENT_BADBLOCKS_CLEARED &&
		seen[2].type == PMEMSET_EVENT_PART_ADD && seen[1].data.badblocks_cleared.src == src);
	memset(data + 2 * page, 0, block > 3 * 512 ? block : (3 * 512 + block - 1) / block * block);
	read_file("f", 0, now, size);
	CHECK(memcmp(now, data, size) == 0); /* that block is zero, the rest as it was */
	IS(file_size("f"), (off_t)size);

	/* before a region that is not there, after the shutdown state */
	MUST(rename(ND "region5", ND "region6") == 0);
	IS(pmemset_map(set, src, NULL, NULL), PMEMSET_E_DAX_REGION_NOT_FOUND);
	MUST(rename(ND "region6", ND "region5") == 0);
	put(PLACE "/badblocks", "%llu 3\n", (unsigned long long)(where / 512));
	memset(&stored, 0, sizeof stored);
	stored.refcount = 1;
	IS(pmemset_source_set_sds(src, &stored, NULL), 0);
	nseen = 0;
	IS(pmemset_map(set, src, NULL, NULL), PMEMSET_E_UNDESIRABLE_PART_STATE);
	CHECK(nseen == 0);
	IS(pmemset_source_delete(&src), 0);
	IS(pmemset_delete(&set), 0);
	IS(pmemset_delete(&quiet), 0);
	free(data);
	free(now);
}

int main(void)
{
	t_begin();
	page = page_size();
	CHILD_GROUP(shutdown_state, "shutdown state, every one");
	CHILD_GROUP(threads_on_one_source, "shutdown state, threads");
	CHILD_GROUP(bad_blocks, "bad blocks of a file");
	return t_end();
}
