/* Create the file, or empty an existing one, or grow it unless it must not; a mode of the file is or'ed to them. */
#define PMEMSET_SOURCE_FILE_CREATE_VALID_FLAGS (PMEMSET_SOURCE_FILE_CREATE_ALWAYS | PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED | PMEMSET_SOURCE_FILE_DO_NOT_GROW | PMEMSET_SOURCE_FILE_VALID_MODES)

/* The mode of a file that is created, as flags of pmemset_xsource_from_file(), and back. */
#define PMEMSET_SOURCE_FILE_CREATE_MODE(mode) ((uint64_t)(mode) << 32)
#define FILE_CREATE_MODE_FROM_FLAG(flag) ((uint32_t)((uint64_t)(flag) >> 32))
/* The flag to create a file with that mode, or to empty an existing one. */
#define PMEMSET_SOURCE_FILE_CREATE_ALWAYS_MODE(mode) (PMEMSET_SOURCE_FILE_CREATE_ALWAYS | PMEMSET_SOURCE_FILE_CREATE_MODE(mode))

/* Permissions of the owner. */
#define PMEMSET_SOURCE_FILE_RWXU_MODE 0700
#define PMEMSET_SOURCE_FILE_RWU_MODE 0600
#define PMEMSET_SOURCE_FILE_RUSR_MODE 0400
#define PMEMSET_SOURCE_FILE_WUSR_MODE 0200
#define PMEMSET_SOURCE_FILE_XUSR_MODE 0100
/* Permissions of the group. */
#define PMEMSET_SOURCE_FILE_RWXG_MODE 0070
#define PMEMSET_SOURCE_FILE_RWG_MODE 0060
#define PMEMSET_SOURCE_FILE_RGRP_MODE 0040
#define PMEMSET_SOURCE_FILE_WGRP_MODE 0020
#define PMEMSET_SOURCE_FILE_XGRP_MODE 0010
/* Permissions of everybody else. */
#define PMEMSET_SOURCE_FILE_RWXO_MODE 0007
#define PMEMSET_SOURCE_FILE_RWO_MODE 0006
#define PMEMSET_SOURCE_FILE_ROTH_MODE 0004
#define PMEMSET_SOURCE_FILE_WOTH_MODE 0002
#define PMEMSET_SOURCE_FILE_XOTH_MODE 0001
/* All of them, where they stand in the flags. */
#define PMEMSET_SOURCE_FILE_VALID_MODES ((uint64_t)(PMEMSET_SOURCE_FILE_RWXU_MODE | PMEMSET_SOURCE_FILE_RWXG_MODE | PMEMSET_SOURCE_FILE_RWXO_MODE) << 32)

/* A mapped part, or a run of coalesced ones. */
struct pmemset_part_map;

/* Room for a device's identity, without the NUL at its end. */
#define PMEMSET_SDS_DEVICE_ID_LEN ((size_t)512ULL)

/* Shutdown state: what the program stores durably for each source, and sets again when it opens it the next time. */
struct pmemset_sds {
    /* The device's identity; empty at first. */
    char id[PMEMSET_SDS_DEVICE_ID_LEN + 1];
    /* The device's count of unsafe shutdowns when the data was last known to be whole. */
    uint64_t usc;
    /* Mappings; above zero when the program ended without removing them. */
    int refcount;
};

/* What a struct pmemset_sds is before its first use. In C++ the names need C++20. */
#define PMEMSET_SDS_INITIALIZE() { .id = {0}, .usc = 0, .refcount = 0 }
