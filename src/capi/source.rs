//! pmemset_source_from_file(3) and its family.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr::NonNull;

use super::types::*;
use super::{arg, end, object_delete, object_out, trace_call};
use crate::error::{Error, Result};
use crate::source::Source;

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
) -> Result<()> {
    // SAFETY: as the caller promises.
    let out = unsafe { arg(src, "src")? };
    *out = std::ptr::null_mut();
    object_out(out, source()?)
}

/// Makes a source of an existing file or device DAX.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_source_from_file(
    src: *mut *mut pmemset_source,
    file: *const c_char,
) -> c_int {
    trace_call!(BASIC, "pmemset_source_from_file", "{src:p}, {file:p}");
    // SAFETY: the caller's promises.
    let made = unsafe { make(src, || Source::open(path_arg(file)?)) };
    end("pmemset_source_from_file", made)
}

/// Makes a source of a file, created or growing as the flags say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_xsource_from_file(
    src: *mut *mut pmemset_source,
    file: *const c_char,
    flags: c_uint,
) -> c_int {
    trace_call!(
        BASIC,
        "pmemset_xsource_from_file",
        "{src:p}, {file:p}, {flags:#x}"
    );
    // SAFETY: the caller's promises.
    let made = unsafe { make(src, || Source::open_with(path_arg(file)?, u64::from(flags))) };
    end("pmemset_xsource_from_file", made)
}

/// Makes a source of an unnamed file in a directory; it grows when it is mapped and goes when it is closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_source_from_temporary(
    src: *mut *mut pmemset_source,
    dir: *const c_char,
) -> c_int {
    trace_call!(BASIC, "pmemset_source_from_temporary", "{src:p}, {dir:p}");
    // SAFETY: the caller's promises.
    let made = unsafe { make(src, || Source::temporary(path_arg(dir)?)) };
    end("pmemset_source_from_temporary", made)
}

/// Makes a source of one of libpmem2's, which stays the caller's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_source_from_pmem2(
    src: *mut *mut pmemset_source,
    pmem2_src: *mut pmem2_source,
) -> c_int {
    trace_call!(BASIC, "pmemset_source_from_pmem2", "{src:p}, {pmem2_src:p}");
    // SAFETY: the caller's promises.
    let made = unsafe {
        make(src, || {
            let source = NonNull::new(pmem2_src.cast::<c_void>());
            Source::from_pmem2(source.ok_or(Error::InvalidPmem2Source("it is NULL"))?)
        })
    };
    end("pmemset_source_from_pmem2", made)
}

/// Deletes a source and sets the pointer to NULL; its parts stay as they are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_source_delete(src: *mut *mut pmemset_source) -> c_int {
    trace_call!(BASIC, "pmemset_source_delete", "{src:p}");
    // SAFETY: the caller's promises.
    let deleted = unsafe { object_delete::<Source, _>(src, "src") };
    end("pmemset_source_delete", deleted)
}
