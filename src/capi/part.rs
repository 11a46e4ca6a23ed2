//! pmemset_part_new(3) and pmemset_part_map(3).

use std::ffi::{c_int, c_void};
use std::ptr::NonNull;

use super::types::*;
use super::types_111::{pmemset_extras, pmemset_part, pmemset_part_state};
use super::{CPart, arg, end, object_delete, object_out, trace_call};
use crate::error::{Error, Result};
use crate::set::{Core, Part, Set};
use crate::source::Source;

/// Makes a part of a source, to be mapped into a set; a length of 0 means up to the end.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_part_new(
    part: *mut *mut pmemset_part,
    set: *mut pmemset,
    src: *mut pmemset_source,
    offset: usize,
    length: usize,
) -> c_int {
    trace_call!(
        BASIC,
        "pmemset_part_new",
        "{part:p}, {set:p}, {src:p}, {offset}, {length}"
    );
    let make = || -> Result<()> {
        // SAFETY: the caller's promises.
        let out = unsafe { arg(part, "part")? };
        *out = std::ptr::null_mut();
        let set = NonNull::new(set.cast::<Core>()).ok_or(Error::NullArgument("set"))?;
        // SAFETY: the caller's promises.
        let source = unsafe { arg(src.cast::<Source>(), "src")? };
        object_out(
            out,
            CPart {
                set,
                part: Part::new(source, offset, length)?,
            },
        )
    };
    end("pmemset_part_new", make())
}

/// Deletes a part that is not mapped and sets the pointer to NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_part_delete(part: *mut *mut pmemset_part) -> c_int {
    trace_call!(BASIC, "pmemset_part_delete", "{part:p}");
    // SAFETY: the caller's promises.
    let deleted = unsafe { object_delete::<CPart, _>(part, "part") };
    end("pmemset_part_delete", deleted)
}

/// Maps a part into its set; on success the part is consumed and its pointer set to NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_part_map(
    part_ptr: *mut *mut pmemset_part,
    extra: *mut pmemset_extras,
    desc: *mut pmemset_part_descriptor,
) -> c_int {
    trace_call!(
        BASIC,
        "pmemset_part_map",
        "{part_ptr:p}, {extra:p}, {desc:p}"
    );
    let map = || -> Result<()> {
        // SAFETY: the caller's promises.
        let out = unsafe { arg(part_ptr, "part_ptr")? };
        // SAFETY: the caller's promises.
        let part = unsafe { arg(out.cast::<CPart>(), "*part_ptr")? };
        // SAFETY: the set outlives the mapping of its parts, by the caller's promises.
        let set = unsafe { Set::from_raw(part.set) };
        let mut consumed = out.cast::<CPart>();
        // The results are stored before observers hear of the mapping: a callback may look at them.
        set.map_then(&part.part, |extent| {
            *out = std::ptr::null_mut();
            // SAFETY: the caller's promises.
            if let Some(desc) = unsafe { desc.as_mut() } {
                desc.addr = extent.addr as *mut c_void;
                desc.size = extent.len;
            }
            // SAFETY: the caller's promises.
            if let Some(state) = unsafe { extra.as_ref().and_then(|e| e.state.as_mut()) } {
                let found = if part.part.facts_are_known() {
                    pmemset_part_state::Ok
                } else {
                    pmemset_part_state::Indeterminate
                };
                *state = found as pmemset_part_state_value;
            }
        })?;
        // SAFETY: made by pmemset_part_new, and mapped: it is consumed.
        unsafe { object_delete::<CPart, _>(&raw mut consumed, "part_ptr") }
    };
    end("pmemset_part_map", map())
}
