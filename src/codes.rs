//! The numbers of the C interface: error codes, flags and sizes. Literals only, because the C
//! header is generated from this file.

/// The code of a failure that has no better one; the others count down from here.
pub const PMEMSET_E_UNKNOWN: i32 = -200000;
/// The operation is not supported here.
pub const PMEMSET_E_NOSUPP: i32 = -200001;
/// The libpmem2 source is NULL or cannot be used.
pub const PMEMSET_E_INVALID_PMEM2_SOURCE: i32 = -200002;
/// There is no file at the path.
pub const PMEMSET_E_INVALID_SOURCE_PATH: i32 = -200003;
/// The path is neither a regular file nor a device DAX.
pub const PMEMSET_E_INVALID_SOURCE_TYPE: i32 = -200004;
/// An internal structure could not be allocated.
pub const PMEMSET_E_CANNOT_ALLOCATE_INTERNAL_STRUCTURE: i32 = -200005;
/// The offset does not fit into the type of a file offset.
pub const PMEMSET_E_INVALID_OFFSET_VALUE: i32 = -200006;
/// The value is not a granularity.
pub const PMEMSET_E_GRANULARITY_NOT_SUPPORTED: i32 = -200007;
/// The range cannot be mapped, or its medium is coarser than the required granularity.
pub const PMEMSET_E_INVALID_PMEM2_MAP: i32 = -200008;
/// The range holds a part already.
pub const PMEMSET_E_PART_EXISTS: i32 = -200009;
/// The config has no required store granularity.
pub const PMEMSET_E_GRANULARITY_NOT_SET: i32 = -200010;
/// The part's granularity differs from the set's.
pub const PMEMSET_E_GRANULARITY_MISMATCH: i32 = -200011;
/// Nothing has been mapped into the set yet.
pub const PMEMSET_E_NO_PART_MAPPED: i32 = -200012;
/// No part map contains the address.
pub const PMEMSET_E_CANNOT_FIND_PART_MAP: i32 = -200013;
/// The part cannot be placed right after the previous one.
pub const PMEMSET_E_CANNOT_COALESCE_PARTS: i32 = -200014;
/// The length is no multiple of the page size or the device's alignment.
pub const PMEMSET_E_LENGTH_UNALIGNED: i32 = -200015;
/// The part map is not in this set.
pub const PMEMSET_E_PART_NOT_FOUND: i32 = -200016;
/// The value is not a way of coalescing.
pub const PMEMSET_E_INVALID_COALESCING_VALUE: i32 = -200017;
/// The deep flush failed.
pub const PMEMSET_E_DEEP_FLUSH_FAIL: i32 = -200018;
/// The flags contain unknown bits.
pub const PMEMSET_E_INVALID_SOURCE_FILE_CREATE_FLAGS: i32 = -200019;
/// The temporary file cannot be created.
pub const PMEMSET_E_CANNOT_CREATE_TEMP_FILE: i32 = -200020;
/// The file cannot be grown to the length that was asked for.
pub const PMEMSET_E_CANNOT_TRUNCATE_SOURCE_FILE: i32 = -200021;
/// The same in 1.12: the file cannot be grown to the length that was asked for.
pub const PMEMSET_E_CANNOT_GROW_SOURCE_FILE: i32 = -200021;
/// Somebody else holds a reference to the part map.
pub const PMEMSET_E_PART_MAP_POSSIBLE_USE_AFTER_DROP: i32 = -200022;
/// The reservation has no room for the part.
pub const PMEMSET_E_CANNOT_FIT_PART_MAP: i32 = -200023;
/// The offset does not fit into the type of a file offset.
pub const PMEMSET_E_OFFSET_OUT_OF_RANGE: i32 = -200024;
/// The part states contain unknown bits.
pub const PMEMSET_E_INVALID_PART_STATES: i32 = -200025;
/// The state of the part is none of those that the config accepts.
pub const PMEMSET_E_UNDESIRABLE_PART_STATE: i32 = -200026;
/// The source has a shutdown state already.
pub const PMEMSET_E_SDS_ALREADY_SET: i32 = -200027;
/// The device has no identity or no count of unsafe shutdowns.
pub const PMEMSET_E_SDS_NOSUPP: i32 = -200028;
/// The device's identity is longer than a shutdown state has room for.
pub const PMEMSET_E_SDS_DEVICE_ID_LEN_TOO_BIG: i32 = -200029;
/// No length was given for a source that is empty.
pub const PMEMSET_E_MAP_LENGTH_UNSET: i32 = -200030;
/// The file is too short and must not grow.
pub const PMEMSET_E_SOURCE_FILE_IS_TOO_SMALL: i32 = -200031;
/// The medium cannot be read or written, or has bad blocks that nobody cleared.
pub const PMEMSET_E_IO_FAIL: i32 = -200032;
/// The range ends behind the source, or does not fit into the type of a file offset.
pub const PMEMSET_E_LENGTH_OUT_OF_RANGE: i32 = -200033;
/// The source's alignment cannot be found out.
pub const PMEMSET_E_INVALID_ALIGNMENT_VALUE: i32 = -200035;
/// The persistent-memory region of the source is not where it should be.
pub const PMEMSET_E_DAX_REGION_NOT_FOUND: i32 = -200036;
/// The place of the source's namespace in its region cannot be read.
pub const PMEMSET_E_CANNOT_READ_BOUNDS: i32 = -200037;
/// The kernel or the file system has no means to list or clear bad blocks.
pub const PMEMSET_E_BADBLOCK_NOSUPP: i32 = -200038;

/// Create the file, or empty an existing one.
pub const PMEMSET_SOURCE_FILE_CREATE_ALWAYS: u32 = 1u32 << 0;
/// Create the file if it does not exist.
pub const PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED: u32 = 1u32 << 1;
/// Grow the file when a mapping reaches past its end; it never shrinks.
pub const PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED: u32 = 1u32 << 2;
/// Do not grow the file when a mapping reaches past its end.
pub const PMEMSET_SOURCE_FILE_DO_NOT_GROW: u32 = 1u32 << 2;
/// All flags of pmemset_xsource_from_file().
pub const PMEMSET_SOURCE_FILE_CREATE_VALID_FLAGS: u32 = PMEMSET_SOURCE_FILE_CREATE_ALWAYS
    | PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED
    | PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED;

/// Leave out the drain: a later drain makes the copy durable.
pub const PMEMSET_F_MEM_NODRAIN: u32 = 1u32 << 0;
/// Hint: bypass the cache.
pub const PMEMSET_F_MEM_NONTEMPORAL: u32 = 1u32 << 1;
/// Hint: go through the cache.
pub const PMEMSET_F_MEM_TEMPORAL: u32 = 1u32 << 2;
/// Hint: write combining.
pub const PMEMSET_F_MEM_WC: u32 = 1u32 << 3;
/// Hint: write back.
pub const PMEMSET_F_MEM_WB: u32 = 1u32 << 4;
/// Leave out the flush, too.
pub const PMEMSET_F_MEM_NOFLUSH: u32 = 1u32 << 5;
/// All flags of pmemset_memmove(), pmemset_memcpy() and pmemset_memset().
pub const PMEMSET_F_MEM_VALID_FLAGS: u32 = PMEMSET_F_MEM_NODRAIN
    | PMEMSET_F_MEM_NONTEMPORAL
    | PMEMSET_F_MEM_TEMPORAL
    | PMEMSET_F_MEM_WC
    | PMEMSET_F_MEM_WB
    | PMEMSET_F_MEM_NOFLUSH;

/// Bytes set aside for the payload of any event, known and future.
pub const PMEMSET_EVENT_CONTEXT_SIZE: usize = 64;
