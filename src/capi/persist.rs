//! pmemset_persist(3), pmemset_flush(3), pmemset_drain(3), pmemset_deep_flush(3).

use std::ffi::{c_int, c_void};

use super::types::*;
use super::{end, range_arg, set_arg, trace_call};

/// Makes a range durable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_persist(
    set: *mut pmemset,
    ptr: *mut c_void,
    size: usize,
) -> c_int {
    trace_call!(CALLS, "pmemset_persist", "{set:p}, {ptr:p}, {size}");
    // SAFETY: the caller's promises.
    let done = unsafe { set_arg(set) }.and_then(|set| {
        range_arg(ptr, size, "ptr")?;
        // SAFETY: the caller's promises.
        unsafe { set.persist(ptr.cast(), size) }
    });
    end("pmemset_persist", done)
}

/// Begins to make a range durable; pmemset_drain() ends it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_flush(set: *mut pmemset, ptr: *mut c_void, size: usize) -> c_int {
    trace_call!(CALLS, "pmemset_flush", "{set:p}, {ptr:p}, {size}");
    // SAFETY: the caller's promises.
    let done = unsafe { set_arg(set) }.and_then(|set| {
        range_arg(ptr, size, "ptr")?;
        // SAFETY: the caller's promises.
        unsafe { set.flush(ptr.cast(), size) }
    });
    end("pmemset_flush", done)
}

/// Returns when everything flushed on the set before is durable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_drain(set: *mut pmemset) -> c_int {
    trace_call!(CALLS, "pmemset_drain", "{set:p}");
    // SAFETY: the caller's promises.
    let done = unsafe { set_arg(set) }.and_then(|set| set.drain());
    end("pmemset_drain", done)
}

/// Makes a range durable beyond the platform's own buffers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_deep_flush(
    set: *mut pmemset,
    ptr: *mut c_void,
    size: usize,
) -> c_int {
    trace_call!(CALLS, "pmemset_deep_flush", "{set:p}, {ptr:p}, {size}");
    // SAFETY: the caller's promises.
    let done = unsafe { set_arg(set) }.and_then(|set| {
        range_arg(ptr, size, "ptr")?;
        set.deep_flush(ptr as usize, size)
    });
    end("pmemset_deep_flush", done)
}
