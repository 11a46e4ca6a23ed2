//! pmemset_map(3) and pmemset_map_config_new(3): mapping as 1.12 has it.

use std::ffi::c_int;

use super::types::*;
use super::{
    Variable, call, code, descriptor, object, object_alone, object_delete, object_out, set_arg,
};
use crate::error::Error;

/// What `struct pmemset_map_config` is.
#[derive(Clone, Copy, Default)]
pub(super) struct MapConfig {
    offset: usize,
    length: usize,
}

/// Makes a map config that stands for a whole source.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_map_config_new(map_cfg: *mut *mut pmemset_map_config) -> c_int {
    code(call!(BASIC, "pmemset_map_config_new", ("{map_cfg:p}"), {
        // SAFETY: the caller's promises.
        unsafe { Variable::arg(map_cfg, "map_cfg") }.and_then(|out| {
            out.store(std::ptr::null_mut());
            object_out(out, MapConfig::default())
        })
    }))
}

/// Deletes a map config and sets the pointer to NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_map_config_delete(map_cfg: *mut *mut pmemset_map_config) -> c_int {
    code(call!(
        BASIC,
        "pmemset_map_config_delete",
        ("{map_cfg:p}"),
        {
            // SAFETY: the caller's promises.
            unsafe { object_delete(map_cfg, "map_cfg") }
        }
    ))
}

/// Sets where in the source a mapping begins.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_map_config_set_offset(
    map_cfg: *mut pmemset_map_config,
    offset: usize,
) -> c_int {
    code(call!(
        BASIC,
        "pmemset_map_config_set_offset",
        ("{map_cfg:p}, {offset}"),
        {
            // SAFETY: the caller's promises.
            unsafe { object_alone(map_cfg, "map_cfg") }.and_then(|config| {
                if offset > i64::MAX as usize {
                    return Err(Error::OffsetOutOfRange(offset));
                }
                config.offset = offset;
                Ok(())
            })
        }
    ))
}

/// Sets how long a mapping is; 0, as it is at first, means up to the end.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_map_config_set_length(
    map_cfg: *mut pmemset_map_config,
    length: usize,
) {
    let _ = call!(
        BASIC,
        "pmemset_map_config_set_length",
        ("{map_cfg:p}, {length}"),
        {
            // SAFETY: the caller's promises.
            unsafe { object_alone(map_cfg, "map_cfg")? }.length = length;
            Ok(())
        }
    );
}

/// Maps a source, or the range of it that the map config says, into a set; a file that is too short grows.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_map(
    set: *mut pmemset,
    src: *mut pmemset_source,
    map_cfg: *mut pmemset_map_config,
    desc: *mut pmemset_part_descriptor,
) -> c_int {
    code(call!(
        BASIC,
        "pmemset_map",
        ("{set:p}, {src:p}, {map_cfg:p}, {desc:p}"),
        {
            // SAFETY: the caller's promises.
            let set = unsafe { set_arg(set)? };
            // Whatever becomes of the call.
            set.maps_directly();
            // SAFETY: the caller's promises.
            let source = unsafe { object(src, "src") }.map_err(|_| Error::NullSource)?;
            // SAFETY: the caller's promises.
            let range = unsafe { Variable::new(map_cfg.cast::<MapConfig>()) };
            let range = range.map_or_else(MapConfig::default, Variable::load);
            // SAFETY: the caller's promises.
            let desc = unsafe { Variable::new(desc) };
            let mut report = |state, word: usize| {
                let state_ptr = word as *mut pmemset_part_state_value;
                // SAFETY: NULL, or what the program gave to pmemset_source_set_sds for this.
                if let Some(out) = unsafe { Variable::new(state_ptr) } {
                    out.store(state as pmemset_part_state_value);
                }
            };
            set.map_source_then(source, range.offset, range.length, &mut report, |extent| {
                if let Some(desc) = desc {
                    desc.store(descriptor(extent));
                }
            })
        }
    ))
}
