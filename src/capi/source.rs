//! pmemset_source_from_file(3) and its family.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::NonNull;

use super::types::*;
use super::types_112::pmemset_sds;
use super::{Path, Variable, call, code, object, object_delete, object_out, range_arg};
use crate::codes;
use crate::error::{Error, Result};
use crate::source::Source;
use crate::source::sds::Sds;

/// A path, or its absence.
///
/// # Safety
/// NULL or a C string.
unsafe fn path_arg<'a>(path: *const c_char) -> Result<&'a CStr> {
    if path.is_null() {
        return Err(Error::NullPath);
    }
    // SAFETY: as the caller promises.
    Ok(unsafe { CStr::from_ptr(path) })
}

/// Makes a source and hands it out; the pointer is NULL after a failure.
///
/// # Safety
/// `src` is NULL or points to a pointer.
unsafe fn make(
    src: *mut *mut pmemset_source,
    source: impl FnOnce() -> Result<Source>,
) -> Result<*mut pmemset_source> {
    // SAFETY: as the caller promises.
    let out = unsafe { Variable::arg(src, "src")? };
    out.store(std::ptr::null_mut());
    let made = object_out(out, source()?)?;
    // SAFETY: just made, and the caller's alone.
    unsafe { object(made, "src")? }.set_handle(made as usize);
    Ok(made)
}

/// Makes a source of an existing file or device DAX.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_source_from_file(
    src: *mut *mut pmemset_source,
    file: *const c_char,
) -> c_int {
    code(call!(
        BASIC,
        "pmemset_source_from_file",
        ("{src:p}, {}", Path(file)),
        {
            // SAFETY: the caller's promises.
            unsafe { make(src, || Source::open(path_arg(file)?)) }
        }
    ))
}

/// What a caller can have meant. One for 1.11 passes 32 bits, and leaves in the upper half of the register whatever was there:
/// to it bit 2 beside a flag that creates says that the file is to grow, which is what programs do with files that they
/// create. To one for 1.12 the same says that it is not to grow; it may still give a mode, or a wrong one by mistake, but
/// nothing that is no mode of any regular file.
fn meant(flags: pmemset_source_flags) -> pmemset_source_flags {
    const MODES: u64 = (libc::S_IFREG | 0o7777) as u64;
    let grows = flags & u64::from(codes::PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED) != 0;
    if grows && (flags >> 32) & !MODES != 0 {
        return flags & u64::from(u32::MAX);
    }
    flags
}

/// Makes a source of a file, created or growing as the flags say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_xsource_from_file(
    src: *mut *mut pmemset_source,
    file: *const c_char,
    flags: pmemset_source_flags,
) -> c_int {
    code(call!(
        BASIC,
        "pmemset_xsource_from_file",
        ("{src:p}, {}, {flags:#x}", Path(file)),
        {
            // SAFETY: the caller's promises.
            unsafe { make(src, || Source::open_with(path_arg(file)?, meant(flags))) }
        }
    ))
}

/// Makes a source of an unnamed file in a directory; it grows when it is mapped and goes when it is closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_source_from_temporary(
    src: *mut *mut pmemset_source,
    dir: *const c_char,
) -> c_int {
    code(call!(
        BASIC,
        "pmemset_source_from_temporary",
        ("{src:p}, {}", Path(dir)),
        {
            // SAFETY: the caller's promises.
            unsafe { make(src, || Source::temporary(path_arg(dir)?)) }
        }
    ))
}

/// Makes a source of one of libpmem2's, which stays the caller's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_source_from_pmem2(
    src: *mut *mut pmemset_source,
    pmem2_src: *mut pmem2_source,
) -> c_int {
    code(call!(
        BASIC,
        "pmemset_source_from_pmem2",
        ("{src:p}, {pmem2_src:p}"),
        {
            // SAFETY: the caller's promises.
            unsafe {
                make(src, || {
                    let source = NonNull::new(pmem2_src.cast::<c_void>());
                    Source::from_pmem2(source.ok_or(Error::InvalidPmem2Source("it is NULL"))?)
                })
            }
        }
    ))
}

/// Deletes a source and sets the pointer to NULL; its parts stay as they are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_source_delete(src: *mut *mut pmemset_source) -> c_int {
    code(call!(BASIC, "pmemset_source_delete", ("{src:p}"), {
        // SAFETY: the caller's promises.
        unsafe {
            // What is mapped of it does not know it by this address any more.
            if let Ok(source) = Variable::arg(src, "src").and_then(|src| object(src.load(), "*src"))
            {
                source.set_handle(0);
            }
            object_delete(src, "src")
        }
    }))
}

/// Gives a source its shutdown state, which is copied, and says where pmemset_map() stores the part's; NULL takes it away.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_source_set_sds(
    src: *mut pmemset_source,
    sds: *mut pmemset_sds,
    state_ptr: *mut pmemset_part_state_value,
) -> c_int {
    code(call!(
        BASIC,
        "pmemset_source_set_sds",
        ("{src:p}, {sds:p}, {state_ptr:p}"),
        {
            // SAFETY: the caller's promises.
            let source = unsafe { object(src, "src")? };
            if sds.is_null() {
                source.clear_sds();
                return Ok(());
            }
            // SAFETY: the caller's promises; the two types are laid out alike.
            let sds = unsafe { Variable::arg(sds.cast::<Sds>(), "sds")? };
            source.set_sds(&sds.load(), state_ptr as usize)
        }
    ))
}

/// Has pmemset_map() look for bad blocks of a source first, or not to, as it is at first.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_source_set_badblock_detection(
    src: *mut pmemset_source,
    value: pmemset_bool,
) {
    let _ = call!(
        BASIC,
        "pmemset_source_set_badblock_detection",
        ("{src:p}, {value}"),
        {
            // SAFETY: the caller's promises.
            unsafe { object(src, "src")? }.set_badblock_detection(value != 0);
            Ok(())
        }
    );
}

/// Reads from a source; what its medium cannot give back is an error and not a signal.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_source_pread_mcsafe(
    src: *mut pmemset_source,
    buf: *mut c_void,
    size: usize,
    offset: usize,
) -> c_int {
    code(call!(
        BASIC,
        "pmemset_source_pread_mcsafe",
        ("{src:p}, {buf:p}, {size}, {offset}"),
        {
            // SAFETY: the caller's promises.
            let source = unsafe { object(src, "src")? };
            range_arg(buf, size, "buf")?;
            // SAFETY: the caller's promises.
            unsafe { source.read(buf.cast(), size, offset) }
        }
    ))
}

/// Writes to a source; what its medium does not take is an error and not a signal.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_source_pwrite_mcsafe(
    src: *mut pmemset_source,
    buf: *mut c_void,
    size: usize,
    offset: usize,
) -> c_int {
    code(call!(
        BASIC,
        "pmemset_source_pwrite_mcsafe",
        ("{src:p}, {buf:p}, {size}, {offset}"),
        {
            // SAFETY: the caller's promises.
            let source = unsafe { object(src, "src")? };
            range_arg(buf, size, "buf")?;
            // SAFETY: the caller's promises.
            unsafe { source.write(buf.cast(), size, offset) }
        }
    ))
}

/// Stores what offsets and lengths of a source's mappings must be multiples of.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_source_alignment(
    src: *mut pmemset_source,
    alignment: *mut usize,
) -> c_int {
    code(call!(
        BASIC,
        "pmemset_source_alignment",
        ("{src:p}, {alignment:p}"),
        {
            // SAFETY: the caller's promises.
            let source = unsafe { object(src, "src")? };
            // SAFETY: the caller's promises.
            let out = unsafe { Variable::arg(alignment, "alignment")? };
            let found = source.alignment()?;
            out.store(found);
            Ok(found)
        }
    ))
}
