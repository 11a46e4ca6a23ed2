//! Every failure of the library: its code, its errno and its message. Nothing else formats errors.

use std::ffi::CStr;
use std::fmt;

use crate::codes;
use crate::granularity::Granularity;

/// The result of everything here that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// A path as a message shows it: the end of it when it is long. Fixed in size, so that an error needs no memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name {
    len: u8,
    bytes: [u8; Name::MAX],
}

impl Name {
    const MAX: usize = 79;

    /// Keeps the last bytes of `path`.
    pub fn new(path: &[u8]) -> Self {
        let tail = &path[path.len().saturating_sub(Self::MAX)..];
        let mut bytes = [0; Self::MAX];
        bytes[..tail.len()].copy_from_slice(tail);
        Name {
            len: tail.len() as u8,
            bytes,
        }
    }
}

impl From<&CStr> for Name {
    fn from(path: &CStr) -> Self {
        Name::new(path.to_bytes())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.bytes[..self.len as usize].utf8_chunks() {
            // A message is one line.
            for piece in chunk.valid().split_inclusive(|c: char| c.is_control()) {
                let shown = piece.trim_end_matches(|c: char| c.is_control());
                f.write_str(shown)?;
                if shown.len() < piece.len() {
                    f.write_str("?")?;
                }
            }
            if !chunk.invalid().is_empty() {
                f.write_str("?")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// A failure. It owns no memory, so that it can be made when there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A pointer that must not be NULL was (its name in the C interface).
    NullArgument(&'static str),
    /// An argument that makes no sense (what is wrong with it).
    InvalidArgument(&'static str),
    /// There is no memory for this.
    OutOfMemory(&'static str),
    /// A system call failed (what for, errno).
    System(&'static str, i32),
    /// A system call on a path failed (what for, the path, errno).
    SystemAt(&'static str, Name, i32),
    /// No address space or address range for a mapping of so many bytes (errno).
    NoRoom(usize, i32),
    /// A range of a set could not be made durable.
    NotDurable {
        /// Its first address.
        addr: usize,
        /// Bytes.
        len: usize,
        /// Its offset in the file.
        offset: u64,
        /// The file, as it was opened.
        name: Name,
        /// The errno of the sync that failed.
        errno: i32,
    },
    /// A range outside the set's part maps could not be made durable (address, bytes, errno).
    OutsideNotDurable(usize, usize, i32),
    /// An address range that is not mapped (address, bytes).
    NotMapped(usize, usize),
    /// No path was given.
    NullPath,
    /// There is no such file or directory.
    PathNotFound(Name),
    /// The source's file has been deleted.
    SourceDeleted(Name),
    /// No unnamed file could be made in this directory (errno).
    CannotCreateTemporary(Name, i32),
    /// The path is no regular file and no device DAX.
    InvalidSourceType(Name),
    /// No source was given to map.
    NullSource,
    /// A libpmem2 source that cannot be used (why).
    InvalidPmem2Source(&'static str),
    /// A libpmem2 call failed (which, its code, its message).
    Pmem2(&'static str, i32, Name),
    /// A system call failed in a libpmem2 call (which, errno).
    Pmem2Errno(&'static str, i32),
    /// libpmem2 is needed and not in the process (for what).
    Pmem2Missing(&'static str),
    /// Unknown source flags.
    InvalidCreateFlags(u64),
    /// The config names no granularity.
    GranularityNotSet,
    /// No granularity has this number.
    GranularityNotSupported(u32),
    /// The medium is coarser than required (required, available).
    GranularityTooCoarse(Granularity, Granularity),
    /// The set has another granularity already (the set's, the source's).
    GranularityMismatch(Granularity, Granularity),
    /// An offset beyond the largest file offset.
    InvalidOffset(usize),
    /// An offset that is no multiple of the alignment (offset, alignment).
    OffsetUnaligned(usize, usize),
    /// A length that is no multiple of the alignment (length, alignment).
    LengthUnaligned(usize, usize),
    /// The part ends behind the source (offset, length, the source's size).
    PastEnd(usize, usize, usize),
    /// Nothing to map: the source is empty and no length was given.
    EmptySource,
    /// The file could not grow (to how many bytes, errno).
    CannotGrow(usize, i32),
    /// Nothing has been mapped into the set yet.
    NoPartMapped,
    /// No part map has this address.
    PartMapNotFound(usize),
    /// The part map does not belong to this set.
    PartNotFound,
    /// The place right behind the previous part map is taken (its end, the bytes needed).
    CannotCoalesce(usize, usize),
    /// No coalescing has this number.
    InvalidCoalescing(u32),
    /// A part map is referenced (its address, references besides the one that a removal takes over); or, with 0, nobody has the
    /// reference that it should take over.
    PartMapInUse(usize, u32),
    /// A part map has as many references as can be counted (its address).
    TooManyReferences(usize),
    /// Another call is removing the part map, or parts of it (its address).
    PartMapBeingRemoved(usize),
    /// The reservation has no room (bytes needed).
    CannotFit(usize),
    /// Deep flush failed (address, errno).
    DeepFlush(usize, i32),
    /// An offset beyond the largest file offset, in an interface of 1.12.
    OffsetOutOfRange(usize),
    /// A range that ends behind the source or beyond the largest file offset (offset, length).
    LengthOutOfRange(usize, usize),
    /// Unknown part states.
    InvalidPartStates(u64),
    /// The state of a source is not acceptable (the state, the acceptable ones).
    UndesirableState(&'static str, u64),
    /// The source has a shutdown state already.
    SdsAlreadySet,
    /// The source's device has no identity or no count of unsafe shutdowns (what is wrong).
    SdsUnsupported(&'static str),
    /// The identity of the source's device has more than this many bytes.
    SdsIdTooLong(usize),
    /// The source is empty and no length was given, in an interface of 1.12.
    LengthUnset,
    /// The file is too short and must not grow (offset, length, the file's size).
    FileTooSmall(usize, usize, usize),
    /// The medium could not be read or written (what for, offset, errno).
    Medium(&'static str, usize, i32),
    /// The source has bad blocks that nobody cleared (offset and length of the first).
    BadBlocks(usize, usize),
    /// The alignment of a device that is published makes no sense.
    InvalidAlignment(u64),
    /// The persistent-memory region of the source is not where it should be.
    RegionNotFound(Name),
    /// The place of the source's namespace in its region cannot be read.
    CannotReadBounds(Name),
    /// Bad blocks cannot be listed or cleared here (what is missing).
    BadBlocksUnsupported(&'static str),
}

impl Error {
    /// The code of the C interface: a `PMEMSET_E_*` constant or -errno.
    pub fn code(&self) -> i32 {
        use Error::*;
        match *self {
            NullArgument(_) | InvalidArgument(_) => -libc::EINVAL,
            OutOfMemory(_) | NotMapped(..) => -libc::ENOMEM,
            System(_, errno) | SystemAt(_, _, errno) | NoRoom(_, errno) | Pmem2Errno(_, errno) => {
                -errno
            }
            NotDurable { errno, .. } | OutsideNotDurable(_, _, errno) => -errno,
            NullPath | PathNotFound(_) | SourceDeleted(_) => codes::PMEMSET_E_INVALID_SOURCE_PATH,
            CannotCreateTemporary(..) => codes::PMEMSET_E_CANNOT_CREATE_TEMP_FILE,
            InvalidSourceType(_) | NullSource => codes::PMEMSET_E_INVALID_SOURCE_TYPE,
            InvalidPmem2Source(_) => codes::PMEMSET_E_INVALID_PMEM2_SOURCE,
            Pmem2(..) => codes::PMEMSET_E_INVALID_PMEM2_MAP,
            Pmem2Missing(_) => codes::PMEMSET_E_NOSUPP,
            InvalidCreateFlags(_) => codes::PMEMSET_E_INVALID_SOURCE_FILE_CREATE_FLAGS,
            GranularityNotSet => codes::PMEMSET_E_GRANULARITY_NOT_SET,
            GranularityNotSupported(_) => codes::PMEMSET_E_GRANULARITY_NOT_SUPPORTED,
            GranularityMismatch(..) => codes::PMEMSET_E_GRANULARITY_MISMATCH,
            InvalidOffset(_) => codes::PMEMSET_E_INVALID_OFFSET_VALUE,
            LengthUnaligned(..) => codes::PMEMSET_E_LENGTH_UNALIGNED,
            GranularityTooCoarse(..) | OffsetUnaligned(..) | PastEnd(..) | EmptySource => {
                codes::PMEMSET_E_INVALID_PMEM2_MAP
            }
            CannotGrow(..) => codes::PMEMSET_E_CANNOT_TRUNCATE_SOURCE_FILE,
            NoPartMapped => codes::PMEMSET_E_NO_PART_MAPPED,
            PartMapNotFound(_) => codes::PMEMSET_E_CANNOT_FIND_PART_MAP,
            PartNotFound => codes::PMEMSET_E_PART_NOT_FOUND,
            CannotCoalesce(..) => codes::PMEMSET_E_CANNOT_COALESCE_PARTS,
            InvalidCoalescing(_) => codes::PMEMSET_E_INVALID_COALESCING_VALUE,
            PartMapInUse(..) | TooManyReferences(_) | PartMapBeingRemoved(_) => {
                codes::PMEMSET_E_PART_MAP_POSSIBLE_USE_AFTER_DROP
            }
            CannotFit(_) => codes::PMEMSET_E_CANNOT_FIT_PART_MAP,
            DeepFlush(..) => codes::PMEMSET_E_DEEP_FLUSH_FAIL,
            OffsetOutOfRange(_) => codes::PMEMSET_E_OFFSET_OUT_OF_RANGE,
            LengthOutOfRange(..) => codes::PMEMSET_E_LENGTH_OUT_OF_RANGE,
            InvalidPartStates(_) => codes::PMEMSET_E_INVALID_PART_STATES,
            UndesirableState(..) => codes::PMEMSET_E_UNDESIRABLE_PART_STATE,
            SdsAlreadySet => codes::PMEMSET_E_SDS_ALREADY_SET,
            SdsUnsupported(_) => codes::PMEMSET_E_SDS_NOSUPP,
            SdsIdTooLong(_) => codes::PMEMSET_E_SDS_DEVICE_ID_LEN_TOO_BIG,
            LengthUnset => codes::PMEMSET_E_MAP_LENGTH_UNSET,
            FileTooSmall(..) => codes::PMEMSET_E_SOURCE_FILE_IS_TOO_SMALL,
            Medium(..) | BadBlocks(..) => codes::PMEMSET_E_IO_FAIL,
            InvalidAlignment(_) => codes::PMEMSET_E_INVALID_ALIGNMENT_VALUE,
            RegionNotFound(_) => codes::PMEMSET_E_DAX_REGION_NOT_FOUND,
            CannotReadBounds(_) => codes::PMEMSET_E_CANNOT_READ_BOUNDS,
            BadBlocksUnsupported(_) => codes::PMEMSET_E_BADBLOCK_NOSUPP,
        }
    }

    /// The errno behind it, where a system call failed.
    pub fn errno(&self) -> Option<i32> {
        use Error::*;
        match *self {
            OutOfMemory(_) | NotMapped(..) => Some(libc::ENOMEM),
            PathNotFound(_) => Some(libc::ENOENT),
            System(_, errno)
            | SystemAt(_, _, errno)
            | NoRoom(_, errno)
            | Pmem2Errno(_, errno)
            | NotDurable { errno, .. }
            | OutsideNotDurable(_, _, errno)
            | CannotCreateTemporary(_, errno)
            | CannotGrow(_, errno)
            | DeepFlush(_, errno)
            | Medium(_, _, errno) => Some(errno),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Error::*;
        match self {
            NullArgument(name) => write!(f, "argument {name} must not be NULL"),
            InvalidArgument(what) => f.write_str(what),
            OutOfMemory(what) => write!(f, "no memory for {what}"),
            System(what, _) => write!(f, "cannot {what}"),
            SystemAt(what, name, _) => write!(f, "cannot {what} {name}"),
            NoRoom(len, libc::ENOMEM) => write!(
                f,
                "no address space for {len} bytes, or the limit of address ranges (vm.max_map_count) is reached"
            ),
            NoRoom(len, _) => write!(f, "cannot map {len} bytes"),
            NotDurable {
                addr,
                len,
                offset,
                name,
                ..
            } => write!(
                f,
                "{len} bytes at {addr:#x} (offset {offset} of {name}) are not durable and have to be flushed again"
            ),
            OutsideNotDurable(addr, len, _) => {
                write!(
                    f,
                    "{len} bytes at {addr:#x}, outside the set, are not durable"
                )
            }
            // What the system's own words for it are misleads.
            NotMapped(addr, len) => write!(
                f,
                "nothing is mapped at {addr:#x} ({len} bytes), which the system reports as"
            ),
            NullPath => f.write_str("file path cannot be empty"),
            PathNotFound(name) => write!(f, "source path {name} does not exist"),
            SourceDeleted(name) => write!(f, "the source's file {name} has been deleted"),
            CannotCreateTemporary(name, _) => write!(f, "cannot create an unnamed file in {name}"),
            InvalidSourceType(name) => {
                write!(f, "{name} is neither a regular file nor a device DAX")
            }
            NullSource => f.write_str("the source must not be NULL"),
            InvalidPmem2Source(why) => write!(f, "libpmem2 source cannot be used: {why}"),
            Pmem2(call, code, text) => write!(f, "{call} failed with code {code}: {text}"),
            Pmem2Errno(call, _) => write!(f, "{call} failed"),
            Pmem2Missing(what) => write!(
                f,
                "{what} needs libpmem2, which is not loaded in this process: link or load libpmem2.so.1"
            ),
            InvalidCreateFlags(flags) => write!(f, "source flags {flags:#x} have unknown bits"),
            GranularityNotSet => f.write_str("the config has no required store granularity"),
            GranularityNotSupported(value) => {
                write!(f, "no store granularity has the value {value}")
            }
            GranularityTooCoarse(required, available) => write!(
                f,
                "required store granularity is {} but only {} is available",
                required.name(),
                available.name()
            ),
            GranularityMismatch(set, source) => write!(
                f,
                "the set's store granularity is {} and the source's is {}",
                set.name(),
                source.name()
            ),
            InvalidOffset(offset) => write!(f, "offset {offset} is beyond the largest file offset"),
            OffsetUnaligned(offset, align) => {
                write!(
                    f,
                    "offset {offset} is not a multiple of the alignment {align}"
                )
            }
            LengthUnaligned(length, align) => {
                write!(
                    f,
                    "length {length} is not a multiple of the alignment {align}"
                )
            }
            PastEnd(offset, length, size) => write!(
                f,
                "{length} bytes at offset {offset} end behind the source, which has {size} bytes"
            ),
            EmptySource => f.write_str("the source is empty and no length was given"),
            CannotGrow(size, _) => write!(f, "cannot grow the source file to {size} bytes"),
            NoPartMapped => f.write_str("nothing has been mapped into the set"),
            PartMapNotFound(addr) => {
                write!(f, "no part map of the set contains the address {addr:#x}")
            }
            PartNotFound => f.write_str("the part map does not belong to this set"),
            CannotCoalesce(end, len) => write!(
                f,
                "no room for {len} bytes at {end:#x}, right behind the previous part map"
            ),
            InvalidCoalescing(value) => write!(f, "no part coalescing has the value {value}"),
            PartMapInUse(addr, 0) => {
                write!(f, "nobody has a reference to the part map at {addr:#x}")
            }
            PartMapInUse(addr, 1) => write!(
                f,
                "the part map at {addr:#x} is in use: 1 reference has to be dropped first"
            ),
            PartMapInUse(addr, refs) => write!(
                f,
                "the part map at {addr:#x} is in use: {refs} references have to be dropped first"
            ),
            TooManyReferences(addr) => write!(
                f,
                "the part map at {addr:#x} has as many references as can be counted"
            ),
            PartMapBeingRemoved(addr) => {
                write!(f, "another call is removing the part map at {addr:#x}")
            }
            CannotFit(len) => write!(f, "the reservation has no free place of {len} bytes"),
            DeepFlush(addr, _) => write!(f, "deep flush of the range at {addr:#x} failed"),
            OffsetOutOfRange(offset) => {
                write!(f, "offset {offset} is beyond the largest file offset")
            }
            LengthOutOfRange(offset, length) => write!(
                f,
                "{length} bytes at offset {offset} end behind the source or beyond the largest file offset"
            ),
            InvalidPartStates(states) => write!(f, "part states {states:#x} have unknown bits"),
            UndesirableState(state, acceptable) => write!(
                f,
                "the part is in state {state}, which is not among the acceptable ones ({acceptable:#x})"
            ),
            SdsAlreadySet => f.write_str("the source has a shutdown state already"),
            SdsUnsupported(why) => write!(f, "no shutdown state for this source: {why}"),
            SdsIdTooLong(most) => write!(f, "the device's identity is longer than {most} bytes"),
            LengthUnset => f.write_str("the source is empty and no length was set"),
            FileTooSmall(offset, length, size) => write!(
                f,
                "{length} bytes at offset {offset} do not fit into the file, which has {size} bytes and must not grow"
            ),
            Medium(what, offset, _) => write!(f, "cannot {what} the source at offset {offset}"),
            BadBlocks(offset, length) => write!(
                f,
                "the source has bad blocks; the first: {length} bytes at offset {offset}"
            ),
            InvalidAlignment(align) => write!(f, "the device's alignment makes no sense: {align}"),
            RegionNotFound(name) => write!(f, "cannot find the persistent-memory region of {name}"),
            CannotReadBounds(name) => {
                write!(
                    f,
                    "cannot read where the namespace of {name} is in its region"
                )
            }
            BadBlocksUnsupported(what) => write!(f, "bad blocks cannot be handled here: {what}"),
        }?;
        match self.errno() {
            Some(errno) => {
                f.write_str(": ")?;
                let mut text = [0u8; 128];
                f.write_str(crate::sys::strerror(errno, &mut text))
            }
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// The errno that an error code of the C interface stands for.
pub fn code_to_errno(code: i32) -> i32 {
    match code {
        0 => 0,
        codes::PMEMSET_E_NOSUPP => libc::ENOTSUP,
        c if c <= codes::PMEMSET_E_UNKNOWN => libc::EINVAL,
        c if c < 0 => c.saturating_neg(),
        _ => libc::EINVAL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_errors_end_in_strerror_text() {
        let e = Error::SystemAt("open", Name::new(b"/nowhere"), libc::EACCES);
        assert_eq!(e.to_string(), "cannot open /nowhere: Permission denied");
        assert_eq!(e.code(), -libc::EACCES);
        assert!(
            Error::OutOfMemory("set")
                .to_string()
                .ends_with(": Cannot allocate memory")
        );
        assert_eq!(Error::NullPath.to_string(), "file path cannot be empty");
    }

    #[test]
    fn long_names_keep_their_end() {
        let long = [b'a'; 300];
        assert_eq!(Name::new(&long).to_string().len(), Name::MAX);
        assert_eq!(Name::new(b"x\xffy").to_string(), "x?y");
        let odd = Name::new("\n\na\x1b[1mb\u{85}c\u{e9}\r".as_bytes());
        assert_eq!(odd.to_string(), "??a?[1mb?c\u{e9}?");
    }

    #[test]
    fn codes_and_errnos() {
        assert_eq!(code_to_errno(0), 0);
        assert_eq!(code_to_errno(-libc::ENOSPC), libc::ENOSPC);
        assert_eq!(code_to_errno(codes::PMEMSET_E_NOSUPP), libc::ENOTSUP);
        assert_eq!(code_to_errno(codes::PMEMSET_E_UNKNOWN), libc::EINVAL);
        assert_eq!(
            code_to_errno(codes::PMEMSET_E_CANNOT_FIT_PART_MAP),
            libc::EINVAL
        );
        assert_eq!(code_to_errno(i32::MIN), libc::EINVAL);
    }
}
