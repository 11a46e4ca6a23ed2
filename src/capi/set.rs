//! pmemset_new(3), pmemset_delete(3) and the settings of a set.

use std::ffi::c_int;
use std::mem::ManuallyDrop;
use std::ptr::null_mut;

use super::types::*;
use super::{Variable, behind, call, code, object, set_arg, set_out};
use crate::error::Error;
use crate::set::{Coalescing, Set};

/// Makes a set; the config is copied.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_new(set: *mut *mut pmemset, cfg: *mut pmemset_config) -> c_int {
    code(call!(BASIC, "pmemset_new", ("{set:p}, {cfg:p}"), {
        // SAFETY: the caller's promises.
        unsafe { Variable::arg(set, "set") }.and_then(|out| {
            out.store(null_mut());
            // SAFETY: the caller's promises.
            let config = unsafe { object(cfg, "cfg") }?;
            let set = set_out(Set::new(config)?);
            out.store(set);
            Ok(set)
        })
    }))
}

/// Syncs what was flushed, unmaps everything, frees the set and sets the pointer to NULL, whatever it returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_delete(set: *mut *mut pmemset) -> c_int {
    code(call!(BASIC, "pmemset_delete", ("{set:p}"), {
        // SAFETY: the caller's promises.
        unsafe { Variable::arg(set, "set") }.and_then(|set| {
            let old = set.load();
            set.store(null_mut());
            if let Ok(core) = behind(old, "*set") {
                // SAFETY: a live set by the caller's promises; the pointer is gone from where it was.
                ManuallyDrop::into_inner(unsafe { Set::from_raw(core) }).delete()?;
            }
            Ok(old)
        })
    }))
}

/// Sets how parts that are mapped from now on are placed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_set_contiguous_part_coalescing(
    set: *mut pmemset,
    value: pmemset_coalescing_value,
) -> c_int {
    code(call!(
        BASIC,
        "pmemset_set_contiguous_part_coalescing",
        ("{set:p}, {value}"),
        {
            // SAFETY: the caller's promises.
            unsafe { set_arg(set) }.and_then(|set| {
                let value = value as u32;
                set.set_coalescing(
                    Coalescing::from_raw(value).ok_or(Error::InvalidCoalescing(value))?,
                );
                Ok(())
            })
        }
    ))
}

/// Stores the set's granularity, which is that of the first part mapped into it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_get_store_granularity(
    set: *mut pmemset,
    g: *mut pmem2_granularity_value,
) -> c_int {
    code(call!(
        CALLS,
        "pmemset_get_store_granularity",
        ("{set:p}, {g:p}"),
        {
            // SAFETY: the caller's promises.
            unsafe { set_arg(set) }.and_then(|set| {
                // SAFETY: the caller's promises.
                let out = unsafe { Variable::arg(g, "g") }?;
                let granularity = set.granularity()?;
                out.store(granularity as pmem2_granularity_value);
                Ok(granularity)
            })
        }
    ))
}
