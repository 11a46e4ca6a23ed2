//! pmemset_memmove(3), pmemset_memcpy(3), pmemset_memset(3).

use std::ffi::{c_int, c_uint, c_void};

use super::types::*;
use super::{quick_call, range_arg, set_arg};
use crate::error::Result;
use crate::set::{Copying, Flags};

/// # Safety
/// As the module says.
#[inline]
unsafe fn copy(
    set: *mut pmemset,
    dest: *mut c_void,
    what: Copying,
    len: usize,
    flags: c_uint,
) -> Result<()> {
    // SAFETY: the caller's promises.
    let set = unsafe { set_arg(set)? };
    range_arg(dest, len, "pmemdest")?;
    if let Copying::Copy(src) | Copying::Move(src) = what {
        range_arg(src, len, "src")?;
    }
    // SAFETY: the caller's promises.
    unsafe { set.copy_untold(dest.cast(), what, len, Flags(flags)) }
}

/// Copies between ranges that may overlap, and makes the copy durable unless the flags say otherwise.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_memmove(
    set: *mut pmemset,
    pmemdest: *mut c_void,
    src: *mut c_void,
    len: usize,
    flags: c_uint,
) -> *mut c_void {
    let _ = quick_call!(
        CALLS,
        "pmemset_memmove",
        ("{set:p}, {pmemdest:p}, {src:p}, {len}, {flags:#x}"),
        {
            // SAFETY: the caller's promises.
            unsafe { copy(set, pmemdest, Copying::Move(src.cast()), len, flags) }
        }
    );
    pmemdest
}

/// Copies, and makes the copy durable unless the flags say otherwise.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_memcpy(
    set: *mut pmemset,
    pmemdest: *mut c_void,
    src: *mut c_void,
    len: usize,
    flags: c_uint,
) -> *mut c_void {
    let _ = quick_call!(
        CALLS,
        "pmemset_memcpy",
        ("{set:p}, {pmemdest:p}, {src:p}, {len}, {flags:#x}"),
        {
            // SAFETY: the caller's promises.
            unsafe { copy(set, pmemdest, Copying::Copy(src.cast()), len, flags) }
        }
    );
    pmemdest
}

/// Fills a range with a byte, and makes it durable unless the flags say otherwise.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_memset(
    set: *mut pmemset,
    pmemdest: *mut c_void,
    c: c_int,
    len: usize,
    flags: c_uint,
) -> *mut c_void {
    let _ = quick_call!(
        CALLS,
        "pmemset_memset",
        ("{set:p}, {pmemdest:p}, {c}, {len}, {flags:#x}"),
        {
            // SAFETY: the caller's promises.
            unsafe { copy(set, pmemdest, Copying::Fill(c), len, flags) }
        }
    );
    pmemdest
}
