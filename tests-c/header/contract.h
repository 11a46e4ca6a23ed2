/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The interfaces of the releases 1.11 and 1.12, written down once more by hand. Every name is used before it is declared
 * here, so that the header must have it; a declaration that differs from the header's does not compile.
 */
#ifndef CONTRACT_H
#define CONTRACT_H

#include <libpmemset.h>
#include <libpmemset.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GLUE2(a, b) a##b
#define GLUE(a, b) GLUE2(a, b)
#define CHECK(what) typedef char GLUE(check_, __LINE__)[(what) ? 1 : -1] __attribute__((unused))

/* 1. Functions. */

typedef void (*any_function)(void);
static const any_function functions[] __attribute__((unused)) = {
	(any_function)pmemset_config_new,
	(any_function)pmemset_config_delete,
	(any_function)pmemset_config_set_required_store_granularity,
	(any_function)pmemset_config_set_reservation,
	(any_function)pmemset_config_set_event_callback,
	(any_function)pmemset_new,
	(any_function)pmemset_delete,
	(any_function)pmemset_set_contiguous_part_coalescing,
	(any_function)pmemset_get_store_granularity,
	(any_function)pmemset_source_from_file,
	(any_function)pmemset_xsource_from_file,
	(any_function)pmemset_source_from_temporary,
	(any_function)pmemset_source_from_pmem2,
	(any_function)pmemset_source_delete,
#if PMEMSET_API_VERSION == 112
	(any_function)pmemset_config_set_acceptable_states,
	(any_function)pmemset_source_set_sds,
#else
	(any_function)pmemset_part_new,
	(any_function)pmemset_part_delete,
	(any_function)pmemset_part_map,
#endif
	(any_function)pmemset_map,
	(any_function)pmemset_map_config_new,
	(any_function)pmemset_map_config_delete,
	(any_function)pmemset_map_config_set_offset,
	(any_function)pmemset_map_config_set_length,
	(any_function)pmemset_source_set_badblock_detection,
	(any_function)pmemset_source_pread_mcsafe,
	(any_function)pmemset_source_pwrite_mcsafe,
	(any_function)pmemset_source_alignment,
	(any_function)pmemset_badblock_clear,
	(any_function)pmemset_first_part_map,
	(any_function)pmemset_next_part_map,
	(any_function)pmemset_part_map_by_address,
	(any_function)pmemset_descriptor_part_map,
	(any_function)pmemset_part_map_drop,
	(any_function)pmemset_remove_part_map,
	(any_function)pmemset_remove_range,
	(any_function)pmemset_persist,
	(any_function)pmemset_flush,
	(any_function)pmemset_drain,
	(any_function)pmemset_deep_flush,
	(any_function)pmemset_memmove,
	(any_function)pmemset_memcpy,
	(any_function)pmemset_memset,
	(any_function)pmemset_err_to_errno,
	(any_function)pmemset_errormsg,
	(any_function)pmemset_perror,
};
CHECK(sizeof(functions) / sizeof(functions[0]) == (PMEMSET_API_VERSION == 112 ? 34 - 3 + 12 : 34 + 10));

pmemset_event_callback a_callback;
int a_callback(struct pmemset *set, struct pmemset_event_context *ctx, void *arg);

int pmemset_config_new(struct pmemset_config **cfg);
int pmemset_config_delete(struct pmemset_config **cfg);
int pmemset_config_set_required_store_granularity(struct pmemset_config *cfg, enum pmem2_granularity g);
void pmemset_config_set_reservation(struct pmemset_config *cfg, struct pmem2_vm_reservation *rsv);
void pmemset_config_set_event_callback(struct pmemset_config *config, pmemset_event_callback *callback, void *arg);
int pmemset_new(struct pmemset **set, struct pmemset_config *cfg);
int pmemset_delete(struct pmemset **set);
int pmemset_set_contiguous_part_coalescing(struct pmemset *set, enum pmemset_coalescing value);
int pmemset_get_store_granularity(struct pmemset *set, enum pmem2_granularity *g);
int pmemset_source_from_file(struct pmemset_source **src, const char *file);
#if PMEMSET_API_VERSION == 112
int pmemset_xsource_from_file(struct pmemset_source **src, const char *file, uint64_t flags);
int pmemset_config_set_acceptable_states(struct pmemset_config *cfg, uint64_t states);
int pmemset_source_set_sds(struct pmemset_source *src, struct pmemset_sds *sds, enum pmemset_part_state *state_ptr);
#else
int pmemset_xsource_from_file(struct pmemset_source **src, const char *file, unsigned flags);
#endif
int pmemset_map(struct pmemset *set, struct pmemset_source *src, struct pmemset_map_config *map_cfg,
	struct pmemset_part_descriptor *desc);
int pmemset_map_config_new(struct pmemset_map_config **map_cfg);
int pmemset_map_config_delete(struct pmemset_map_config **map_cfg);
int pmemset_map_config_set_offset(struct pmemset_map_config *map_cfg, size_t offset);
void pmemset_map_config_set_length(struct pmemset_map_config *map_cfg, size_t length);
void pmemset_source_set_badblock_detection(struct pmemset_source *src, bool value);
int pmemset_source_pread_mcsafe(struct pmemset_source *src, void *buf, size_t size, size_t offset);
int pmemset_source_pwrite_mcsafe(struct pmemset_source *src, void *buf, size_t size, size_t offset);
int pmemset_source_alignment(struct pmemset_source *src, size_t *alignment);
int pmemset_badblock_clear(struct pmemset_badblock *bb, struct pmemset_source *src);
int pmemset_source_from_temporary(struct pmemset_source **src, const char *dir);
int pmemset_source_from_pmem2(struct pmemset_source **src, struct pmem2_source *pmem2_src);
int pmemset_source_delete(struct pmemset_source **src);
#if PMEMSET_API_VERSION == 111
int pmemset_part_new(struct pmemset_part **part, struct pmemset *set, struct pmemset_source *src, size_t offset,
	size_t length);
int pmemset_part_delete(struct pmemset_part **part);
int pmemset_part_map(struct pmemset_part **part_ptr, struct pmemset_extras *extra,
	struct pmemset_part_descriptor *desc);
#endif
void pmemset_first_part_map(struct pmemset *set, struct pmemset_part_map **pmap);
void pmemset_next_part_map(struct pmemset *set, struct pmemset_part_map *cur, struct pmemset_part_map **next);
int pmemset_part_map_by_address(struct pmemset *set, struct pmemset_part_map **pmap, void *addr);
struct pmemset_part_descriptor pmemset_descriptor_part_map(struct pmemset_part_map *pmap);
void pmemset_part_map_drop(struct pmemset_part_map **pmap);
int pmemset_remove_part_map(struct pmemset *set, struct pmemset_part_map **part);
int pmemset_remove_range(struct pmemset *set, void *addr, size_t len);
int pmemset_persist(struct pmemset *set, void *ptr, size_t size);
int pmemset_flush(struct pmemset *set, void *ptr, size_t size);
int pmemset_drain(struct pmemset *set);
int pmemset_deep_flush(struct pmemset *set, void *ptr, size_t size);
void *pmemset_memmove(struct pmemset *set, void *pmemdest, void *src, size_t len, unsigned flags);
void *pmemset_memcpy(struct pmemset *set, void *pmemdest, void *src, size_t len, unsigned flags);
void *pmemset_memset(struct pmemset *set, void *pmemdest, int c, size_t len, unsigned flags);
int pmemset_err_to_errno(int);
const char *pmemset_errormsg(void);
void pmemset_perror(const char *format, ...);

/* 2. Constants: all of them must do in #if, as macros do, but for the enumerators. */

#define IS(name, value) CHECK((name) == (value))

IS(PMEMSET_E_UNKNOWN, -200000);
IS(PMEMSET_E_NOSUPP, -200001);
IS(PMEMSET_E_INVALID_PMEM2_SOURCE, -200002);
IS(PMEMSET_E_INVALID_SOURCE_PATH, -200003);
IS(PMEMSET_E_INVALID_SOURCE_TYPE, -200004);
IS(PMEMSET_E_CANNOT_ALLOCATE_INTERNAL_STRUCTURE, -200005);
IS(PMEMSET_E_INVALID_OFFSET_VALUE, -200006);
IS(PMEMSET_E_GRANULARITY_NOT_SUPPORTED, -200007);
IS(PMEMSET_E_INVALID_PMEM2_MAP, -200008);
IS(PMEMSET_E_PART_EXISTS, -200009);
IS(PMEMSET_E_GRANULARITY_NOT_SET, -200010);
IS(PMEMSET_E_GRANULARITY_MISMATCH, -200011);
IS(PMEMSET_E_NO_PART_MAPPED, -200012);
IS(PMEMSET_E_CANNOT_FIND_PART_MAP, -200013);
IS(PMEMSET_E_CANNOT_COALESCE_PARTS, -200014);
IS(PMEMSET_E_LENGTH_UNALIGNED, -200015);
IS(PMEMSET_E_PART_NOT_FOUND, -200016);
IS(PMEMSET_E_INVALID_COALESCING_VALUE, -200017);
IS(PMEMSET_E_DEEP_FLUSH_FAIL, -200018);
IS(PMEMSET_E_INVALID_SOURCE_FILE_CREATE_FLAGS, -200019);
IS(PMEMSET_E_CANNOT_CREATE_TEMP_FILE, -200020);
IS(PMEMSET_E_CANNOT_GROW_SOURCE_FILE, -200021);
IS(PMEMSET_E_PART_MAP_POSSIBLE_USE_AFTER_DROP, -200022);
IS(PMEMSET_E_CANNOT_FIT_PART_MAP, -200023);

IS(PMEMSET_SOURCE_FILE_CREATE_ALWAYS, 1u);
IS(PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED, 2u);
IS(PMEMSET_E_OFFSET_OUT_OF_RANGE, -200024);
IS(PMEMSET_E_INVALID_PART_STATES, -200025);
IS(PMEMSET_E_UNDESIRABLE_PART_STATE, -200026);
IS(PMEMSET_E_SDS_ALREADY_SET, -200027);
IS(PMEMSET_E_SDS_NOSUPP, -200028);
IS(PMEMSET_E_SDS_DEVICE_ID_LEN_TOO_BIG, -200029);
IS(PMEMSET_E_MAP_LENGTH_UNSET, -200030);
IS(PMEMSET_E_SOURCE_FILE_IS_TOO_SMALL, -200031);
IS(PMEMSET_E_IO_FAIL, -200032);
IS(PMEMSET_E_LENGTH_OUT_OF_RANGE, -200033);
IS(PMEMSET_E_INVALID_ALIGNMENT_VALUE, -200035);
IS(PMEMSET_E_DAX_REGION_NOT_FOUND, -200036);
IS(PMEMSET_E_CANNOT_READ_BOUNDS, -200037);
IS(PMEMSET_E_BADBLOCK_NOSUPP, -200038);

#if PMEMSET_API_VERSION == 112
IS(PMEMSET_SOURCE_FILE_DO_NOT_GROW, 4u);
IS(PMEMSET_SOURCE_FILE_CREATE_VALID_FLAGS, (uint64_t)0777 << 32 | 7);
IS(PMEMSET_SOURCE_FILE_VALID_MODES, (uint64_t)0777 << 32);
IS(PMEMSET_SOURCE_FILE_CREATE_MODE(0640), (uint64_t)0640 << 32);
IS(PMEMSET_SOURCE_FILE_CREATE_ALWAYS_MODE(0640), ((uint64_t)0640 << 32 | 1));
IS(FILE_CREATE_MODE_FROM_FLAG((uint64_t)0640 << 32 | 7), 0640);
IS(sizeof(PMEMSET_SOURCE_FILE_CREATE_MODE(0600)), 8);
IS(sizeof(FILE_CREATE_MODE_FROM_FLAG((uint64_t)0)), 4);
IS(PMEMSET_SOURCE_FILE_RWXU_MODE, 0700);
IS(PMEMSET_SOURCE_FILE_RWU_MODE, 0600);
IS(PMEMSET_SOURCE_FILE_RUSR_MODE, 0400);
IS(PMEMSET_SOURCE_FILE_WUSR_MODE, 0200);
IS(PMEMSET_SOURCE_FILE_XUSR_MODE, 0100);
IS(PMEMSET_SOURCE_FILE_RWXG_MODE, 070);
IS(PMEMSET_SOURCE_FILE_RWG_MODE, 060);
IS(PMEMSET_SOURCE_FILE_RGRP_MODE, 040);
IS(PMEMSET_SOURCE_FILE_WGRP_MODE, 020);
IS(PMEMSET_SOURCE_FILE_XGRP_MODE, 010);
IS(PMEMSET_SOURCE_FILE_RWXO_MODE, 07);
IS(PMEMSET_SOURCE_FILE_RWO_MODE, 06);
IS(PMEMSET_SOURCE_FILE_ROTH_MODE, 04);
IS(PMEMSET_SOURCE_FILE_WOTH_MODE, 02);
IS(PMEMSET_SOURCE_FILE_XOTH_MODE, 01);
IS(PMEMSET_SDS_DEVICE_ID_LEN, 512);
#ifndef __cplusplus
static const struct pmemset_sds initial __attribute__((unused)) = PMEMSET_SDS_INITIALIZE();
#endif
#if defined(PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED) || defined(PMEMSET_E_CANNOT_TRUNCATE_SOURCE_FILE)
#error "a name that 1.12 does not have"
#endif
#else
IS(PMEMSET_E_CANNOT_TRUNCATE_SOURCE_FILE, -200021);
IS(PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED, 4u);
IS(PMEMSET_SOURCE_FILE_CREATE_VALID_FLAGS, 7u);
IS(sizeof(PMEMSET_SOURCE_FILE_CREATE_VALID_FLAGS), sizeof(unsigned));
#if PMEMSET_SOURCE_FILE_CREATE_VALID_FLAGS != 7
#error "a constant cannot be used in #if"
#endif
#if defined(PMEMSET_SOURCE_FILE_DO_NOT_GROW) || defined(PMEMSET_SDS_DEVICE_ID_LEN) || defined(FILE_CREATE_MODE_FROM_FLAG)
#error "a name that would mean something else in a program for 1.11"
#endif
#endif

IS(PMEMSET_F_MEM_NODRAIN, 1u);
IS(PMEMSET_F_MEM_NONTEMPORAL, 2u);
IS(PMEMSET_F_MEM_TEMPORAL, 4u);
IS(PMEMSET_F_MEM_WC, 8u);
IS(PMEMSET_F_MEM_WB, 16u);
IS(PMEMSET_F_MEM_NOFLUSH, 32u);
IS(PMEMSET_F_MEM_VALID_FLAGS, 63u);

IS(PMEMSET_EVENT_CONTEXT_SIZE, 64);

IS(sizeof(PMEMSET_E_UNKNOWN), sizeof(int));
IS(sizeof(PMEMSET_F_MEM_VALID_FLAGS), sizeof(unsigned));

#if PMEMSET_E_UNKNOWN != -200000 || PMEMSET_E_CANNOT_FIT_PART_MAP != -200023 || PMEMSET_F_MEM_VALID_FLAGS != 63 || \
	PMEMSET_E_BADBLOCK_NOSUPP != -200038 || PMEMSET_EVENT_CONTEXT_SIZE != 64
#error "a constant cannot be used in #if"
#endif

IS(PMEM2_GRANULARITY_BYTE, 0);
IS(PMEM2_GRANULARITY_CACHE_LINE, 1);
IS(PMEM2_GRANULARITY_PAGE, 2);

IS(PMEMSET_COALESCING_NONE, 0);
IS(PMEMSET_COALESCING_OPPORTUNISTIC, 1);
IS(PMEMSET_COALESCING_FULL, 2);

#if PMEMSET_API_VERSION == 112
IS(PMEMSET_PART_STATE_INDETERMINATE, 1);
IS(PMEMSET_PART_STATE_OK, 2);
IS(PMEMSET_PART_STATE_OK_BUT_ALREADY_OPEN, 4);
IS(PMEMSET_PART_STATE_OK_BUT_INTERRUPTED, 8);
IS(PMEMSET_PART_STATE_CORRUPTED, 16);
#else
IS(PMEMSET_PART_STATE_INDETERMINATE, 0);
IS(PMEMSET_PART_STATE_OK, 1);
IS(PMEMSET_PART_STATE_OK_BUT_INTERRUPTED, 2);
IS(PMEMSET_PART_STATE_CORRUPTED, 3);
#endif

IS(PMEMSET_EVENT_COPY, 0);
IS(PMEMSET_EVENT_MOVE, 1);
IS(PMEMSET_EVENT_SET, 2);
IS(PMEMSET_EVENT_FLUSH, 3);
IS(PMEMSET_EVENT_DRAIN, 4);
IS(PMEMSET_EVENT_PERSIST, 5);
#if PMEMSET_API_VERSION == 112
IS(PMEMSET_EVENT_REMOVE_RANGE, 6);
IS(PMEMSET_EVENT_SDS_UPDATE, 9);
IS(PMEMSET_EVENT_BADBLOCK, 10);
IS(PMEMSET_EVENT_BADBLOCKS_CLEARED, 11);
#else
IS(PMEMSET_EVENT_BAD_BLOCK, 6);
#endif
IS(PMEMSET_EVENT_PART_ADD, 7);
IS(PMEMSET_EVENT_PART_REMOVE, 8);

/* 3. Layout on 64-bit Linux, and the type of every member. */

#define SIZE(type, size) CHECK(sizeof(type) == (size))
#define AT(record, member, type, offset) \
	CHECK(offsetof(struct record, member) == (offset)); \
	static __inline__ type *GLUE(record##_, __LINE__)(struct record *r) { return &r->member; }

SIZE(enum pmem2_granularity, 4);
SIZE(enum pmemset_coalescing, 4);
SIZE(enum pmemset_part_state, 4);
SIZE(enum pmemset_event, 4);

SIZE(struct pmemset_part_descriptor, 16);
AT(pmemset_part_descriptor, addr, void *, 0)
AT(pmemset_part_descriptor, size, size_t, 8)

#if PMEMSET_API_VERSION == 111
SIZE(struct pmemset_extras, 24);
AT(pmemset_extras, sds_in, const struct pmemset_part_shutdown_state_data *, 0)
AT(pmemset_extras, sds_out, struct pmemset_part_shutdown_state_data *, 8)
AT(pmemset_extras, state, enum pmemset_part_state *, 16)
#else
SIZE(struct pmemset_sds, 536);
AT(pmemset_sds, id[0], char, 0)
AT(pmemset_sds, id[512], char, 512)
AT(pmemset_sds, usc, uint64_t, 520)
AT(pmemset_sds, refcount, int, 528)
#endif

SIZE(struct pmemset_badblock, 16);
AT(pmemset_badblock, offset, size_t, 0)
AT(pmemset_badblock, length, size_t, 8)

SIZE(struct pmemset_event_copy, 32);
AT(pmemset_event_copy, src, void *, 0)
AT(pmemset_event_copy, dest, void *, 8)
AT(pmemset_event_copy, len, size_t, 16)
AT(pmemset_event_copy, flags, unsigned, 24)

SIZE(struct pmemset_event_move, 32);
AT(pmemset_event_move, src, void *, 0)
AT(pmemset_event_move, dest, void *, 8)
AT(pmemset_event_move, len, size_t, 16)
AT(pmemset_event_move, flags, unsigned, 24)

SIZE(struct pmemset_event_set, 32);
AT(pmemset_event_set, dest, void *, 0)
AT(pmemset_event_set, value, int, 8)
AT(pmemset_event_set, len, size_t, 16)
AT(pmemset_event_set, flags, unsigned, 24)

SIZE(struct pmemset_event_flush, 16);
AT(pmemset_event_flush, addr, void *, 0)
AT(pmemset_event_flush, len, size_t, 8)

SIZE(struct pmemset_event_persist, 16);
AT(pmemset_event_persist, addr, void *, 0)
AT(pmemset_event_persist, len, size_t, 8)

#if PMEMSET_API_VERSION == 111
SIZE(struct pmemset_event_bad_block, 16);
AT(pmemset_event_bad_block, addr, void *, 0)
AT(pmemset_event_bad_block, len, size_t, 8)
#else
SIZE(struct pmemset_event_remove_range, 16);
AT(pmemset_event_remove_range, addr, void *, 0)
AT(pmemset_event_remove_range, len, size_t, 8)

SIZE(struct pmemset_event_sds_update, 16);
AT(pmemset_event_sds_update, sds, struct pmemset_sds *, 0)
AT(pmemset_event_sds_update, src, struct pmemset_source *, 8)

SIZE(struct pmemset_event_badblock, 16);
AT(pmemset_event_badblock, bb, struct pmemset_badblock *, 0)
AT(pmemset_event_badblock, src, struct pmemset_source *, 8)

SIZE(struct pmemset_event_badblocks_cleared, 8);
AT(pmemset_event_badblocks_cleared, src, struct pmemset_source *, 0)
#endif

SIZE(struct pmemset_event_part_remove, 24);
AT(pmemset_event_part_remove, addr, void *, 0)
AT(pmemset_event_part_remove, len, size_t, 8)
AT(pmemset_event_part_remove, src, struct pmemset_source *, 16)

SIZE(struct pmemset_event_part_add, 24);
AT(pmemset_event_part_add, addr, void *, 0)
AT(pmemset_event_part_add, len, size_t, 8)
AT(pmemset_event_part_add, src, struct pmem2_source *, 16)

SIZE(struct pmemset_event_context, 72);
AT(pmemset_event_context, type, enum pmemset_event, 0)
AT(pmemset_event_context, data._data[0], char, 8)
AT(pmemset_event_context, data._data[63], char, 71)
AT(pmemset_event_context, data.copy, struct pmemset_event_copy, 8)
AT(pmemset_event_context, data.move, struct pmemset_event_move, 8)
AT(pmemset_event_context, data.set, struct pmemset_event_set, 8)
AT(pmemset_event_context, data.flush, struct pmemset_event_flush, 8)
AT(pmemset_event_context, data.persist, struct pmemset_event_persist, 8)
#if PMEMSET_API_VERSION == 111
AT(pmemset_event_context, data.bad_block, struct pmemset_event_bad_block, 8)
#else
AT(pmemset_event_context, data.remove_range, struct pmemset_event_remove_range, 8)
AT(pmemset_event_context, data.sds_update, struct pmemset_event_sds_update, 8)
AT(pmemset_event_context, data.badblock, struct pmemset_event_badblock, 8)
AT(pmemset_event_context, data.badblocks_cleared, struct pmemset_event_badblocks_cleared, 8)
#endif
AT(pmemset_event_context, data.part_remove, struct pmemset_event_part_remove, 8)
AT(pmemset_event_context, data.part_add, struct pmemset_event_part_add, 8)
CHECK(sizeof(((struct pmemset_event_context *)0)->data) == 64);
CHECK(sizeof(((struct pmemset_event_context *)0)->data._data) == PMEMSET_EVENT_CONTEXT_SIZE);

#ifdef __cplusplus
}
#endif

#endif
