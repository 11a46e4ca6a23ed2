//! pmemset_persist(3), pmemset_flush(3), pmemset_drain(3), pmemset_deep_flush(3).

use std::ffi::{c_int, c_void};

use super::types::*;
use super::{call, code, quick_call, range_arg, set_arg};

/// Makes a range durable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_persist(
    set: *mut pmemset,
    ptr: *mut c_void,
    size: usize,
) -> c_int {
    code(quick_call!(
        CALLS,
        "pmemset_persist",
        ("{set:p}, {ptr:p}, {size}"),
        {
            // SAFETY: the caller's promises.
            unsafe { set_arg(set) }.and_then(|set| {
                range_arg(ptr, size, "ptr")?;
                // SAFETY: the caller's promises.
                unsafe { set.persist(ptr.cast(), size) }
            })
        }
    ))
}

/// Begins to make a range durable; pmemset_drain() ends it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_flush(set: *mut pmemset, ptr: *mut c_void, size: usize) -> c_int {
    code(quick_call!(
        CALLS,
        "pmemset_flush",
        ("{set:p}, {ptr:p}, {size}"),
        {
            // SAFETY: the caller's promises.
            unsafe { set_arg(set) }.and_then(|set| {
                range_arg(ptr, size, "ptr")?;
                // SAFETY: the caller's promises.
                unsafe { set.flush(ptr.cast(), size) }
            })
        }
    ))
}

/// Returns when everything flushed on the set before is durable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_drain(set: *mut pmemset) -> c_int {
    code(quick_call!(CALLS, "pmemset_drain", ("{set:p}"), {
        // SAFETY: the caller's promises.
        unsafe { set_arg(set) }.and_then(|set| set.drain())
    }))
}

/// Makes a range durable beyond the platform's own buffers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_deep_flush(
    set: *mut pmemset,
    ptr: *mut c_void,
    size: usize,
) -> c_int {
    code(call!(
        CALLS,
        "pmemset_deep_flush",
        ("{set:p}, {ptr:p}, {size}"),
        {
            // SAFETY: the caller's promises.
            unsafe { set_arg(set) }.and_then(|set| {
                range_arg(ptr, size, "ptr")?;
                set.deep_flush(ptr as usize, size)
            })
        }
    ))
}
