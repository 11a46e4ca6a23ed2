//! pmemset_part_new(3) and pmemset_part_map(3).

use std::ffi::c_int;
use std::ptr::null_mut;

use super::types::*;
use super::types_111::{pmemset_extras, pmemset_part, pmemset_part_state};
use super::{
    CPart, Variable, behind, call, code, descriptor, object, object_delete, object_drop, object_out,
};
use crate::set::{Part, Set};

/// Makes a part of a source, to be mapped into a set; a length of 0 means up to the end.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_part_new(
    part: *mut *mut pmemset_part,
    set: *mut pmemset,
    src: *mut pmemset_source,
    offset: usize,
    length: usize,
) -> c_int {
    code(call!(
        BASIC,
        "pmemset_part_new",
        ("{part:p}, {set:p}, {src:p}, {offset}, {length}"),
        {
            // SAFETY: the caller's promises.
            let out = unsafe { Variable::arg(part, "part")? };
            out.store(null_mut());
            let set = behind(set, "set")?;
            // SAFETY: the caller's promises.
            let source = unsafe { object(src, "src")? };
            object_out(
                out,
                CPart {
                    set,
                    part: Part::new(source, offset, length)?,
                },
            )
        }
    ))
}

/// Deletes a part that is not mapped and sets the pointer to NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_part_delete(part: *mut *mut pmemset_part) -> c_int {
    code(call!(BASIC, "pmemset_part_delete", ("{part:p}"), {
        // SAFETY: the caller's promises.
        unsafe { object_delete(part, "part") }
    }))
}

/// Maps a part into its set; on success the part is consumed and its pointer set to NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_part_map(
    part_ptr: *mut *mut pmemset_part,
    extra: *mut pmemset_extras,
    desc: *mut pmemset_part_descriptor,
) -> c_int {
    code(call!(
        BASIC,
        "pmemset_part_map",
        ("{part_ptr:p}, {extra:p}, {desc:p}"),
        {
            // SAFETY: the caller's promises.
            let out = unsafe { Variable::arg(part_ptr, "part_ptr")? };
            let consumed = out.load();
            // SAFETY: the caller's promises.
            let part = unsafe { object(consumed, "*part_ptr")? };
            // SAFETY: the set outlives the mapping of its parts, by the caller's promises.
            let set = unsafe { Set::from_raw(part.set) };
            // SAFETY: the caller's promises.
            let (desc, extra) = unsafe { (Variable::new(desc), Variable::new(extra)) };
            // SAFETY: the caller's promises.
            let state = extra.and_then(|extra| unsafe { Variable::new(extra.load().state) });
            // The results are stored before observers hear of the mapping: a callback may look at them.
            let extent = set.map_then(&part.part, |extent| {
                out.store(null_mut());
                if let Some(desc) = desc {
                    desc.store(descriptor(extent));
                }
                if let Some(state) = state {
                    let found = if part.part.facts_are_known() {
                        pmemset_part_state::Ok
                    } else {
                        pmemset_part_state::Indeterminate
                    };
                    state.store(found as pmemset_part_state_value);
                }
            })?;
            // SAFETY: made by pmemset_part_new, and mapped: it is consumed.
            unsafe { object_drop(consumed) };
            Ok(extent)
        }
    ))
}
