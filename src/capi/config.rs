//! pmemset_config_new(3) and its family.

use std::ffi::{c_int, c_void};

use super::types::*;
use super::types_112::*;
use super::{Variable, call, code, object_alone, object_delete, object_out};
use crate::config::Config;
use crate::error::Error;
use crate::event::{Event, Observer};
use crate::granularity::Granularity;
use crate::set::Set;

/// Makes a config with nothing set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_config_new(cfg: *mut *mut pmemset_config) -> c_int {
    code(call!(BASIC, "pmemset_config_new", ("{cfg:p}"), {
        // SAFETY: the caller's promises.
        unsafe { Variable::arg(cfg, "cfg") }.and_then(|out| {
            out.store(std::ptr::null_mut());
            object_out(out, Config::new())
        })
    }))
}

/// Deletes a config and sets the pointer to NULL; the sets made with it keep theirs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_config_delete(cfg: *mut *mut pmemset_config) -> c_int {
    code(call!(BASIC, "pmemset_config_delete", ("{cfg:p}"), {
        // SAFETY: the caller's promises.
        unsafe { object_delete(cfg, "cfg") }
    }))
}

/// Sets the coarsest store granularity that the program can work with; mandatory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_config_set_required_store_granularity(
    cfg: *mut pmemset_config,
    g: pmem2_granularity_value,
) -> c_int {
    code(call!(
        BASIC,
        "pmemset_config_set_required_store_granularity",
        ("{cfg:p}, {g}"),
        {
            // SAFETY: the caller's promises.
            unsafe { object_alone(cfg, "cfg") }.and_then(|config| {
                let granularity = Granularity::from_raw(g as u32)
                    .ok_or(Error::GranularityNotSupported(g as u32))?;
                config.set_required_granularity(granularity);
                Ok(())
            })
        }
    ))
}

/// Sets the libpmem2 reservation in which parts are placed, or NULL for none; it must outlive the sets.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_config_set_reservation(
    cfg: *mut pmemset_config,
    rsv: *mut pmem2_vm_reservation,
) {
    let _ = call!(
        BASIC,
        "pmemset_config_set_reservation",
        ("{cfg:p}, {rsv:p}"),
        {
            // SAFETY: the caller's promises, which include the reservation's life.
            unsafe { object_alone(cfg, "cfg")?.set_reservation(rsv as usize) };
            Ok(())
        }
    );
}

/// Sets in which states a source with a shutdown state may be mapped.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_config_set_acceptable_states(
    cfg: *mut pmemset_config,
    states: u64,
) -> c_int {
    code(call!(
        BASIC,
        "pmemset_config_set_acceptable_states",
        ("{cfg:p}, {states:#x}"),
        {
            // SAFETY: the caller's promises.
            unsafe { object_alone(cfg, "cfg") }.and_then(|config| {
                config.set_acceptable_states(states)?;
                Ok(())
            })
        }
    ))
}

/// Sets the function that is told what happens on the sets, or NULL for none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_config_set_event_callback(
    config: *mut pmemset_config,
    callback: pmemset_event_callback,
    arg: *mut c_void,
) {
    let _ = call!(
        BASIC,
        "pmemset_config_set_event_callback",
        ("{config:p}, {callback:?}, {arg:p}"),
        {
            let observer = match callback {
                None => Observer::None,
                Some(function) => Observer::Foreign {
                    adapter: tell,
                    callback: function as usize,
                    arg: arg as usize,
                },
            };
            // SAFETY: the caller's promises.
            unsafe { object_alone(config, "config")? }.set_observer(observer);
            Ok(())
        }
    );
}

/// Calls a C callback with an event.
fn tell(callback: usize, arg: usize, set: &Set, event: &Event) {
    let callback = std::ptr::with_exposed_provenance::<c_void>(callback);
    // SAFETY: it was this very type in pmemset_config_set_event_callback, where it became a number.
    let callback =
        unsafe { std::mem::transmute::<*const c_void, pmemset_event_callback>(callback) };
    let Some(callback) = callback else {
        return;
    };
    let mut ctx = pmemset_event_context {
        r#type: 0,
        data: pmemset_event_context_data {
            _data: [0; crate::codes::PMEMSET_EVENT_CONTEXT_SIZE],
        },
    };
    // What payloads point to lives across the call.
    let (mut bad, mut sds);
    let ptr = |addr: usize| addr as *mut c_void;
    let kind = match *event {
        Event::Copy {
            src,
            dest,
            len,
            flags,
        } => {
            ctx.data.copy = pmemset_event_copy {
                src: ptr(src),
                dest: ptr(dest),
                len,
                flags,
            };
            pmemset_event::Copy
        }
        Event::Move {
            src,
            dest,
            len,
            flags,
        } => {
            ctx.data.r#move = pmemset_event_move {
                src: ptr(src),
                dest: ptr(dest),
                len,
                flags,
            };
            pmemset_event::Move
        }
        Event::Set {
            dest,
            value,
            len,
            flags,
        } => {
            ctx.data.set = pmemset_event_set {
                dest: ptr(dest),
                value,
                len,
                flags,
            };
            pmemset_event::Set
        }
        Event::Flush { addr, len } => {
            ctx.data.flush = pmemset_event_flush {
                addr: ptr(addr),
                len,
            };
            pmemset_event::Flush
        }
        Event::Drain => pmemset_event::Drain,
        Event::PartAdd {
            addr,
            len,
            pmem2_source,
        } => {
            ctx.data.part_add = pmemset_event_part_add {
                addr: ptr(addr),
                len,
                src: pmem2_source as *mut pmem2_source,
            };
            pmemset_event::PartAdd
        }
        Event::RemoveRange { addr, len } => {
            ctx.data.remove_range = pmemset_event_remove_range {
                addr: ptr(addr),
                len,
            };
            pmemset_event::RemoveRange
        }
        Event::PartRemove { addr, len, source } => {
            ctx.data.part_remove = pmemset_event_part_remove {
                addr: ptr(addr),
                len,
                src: source as *mut pmemset_source,
            };
            pmemset_event::PartRemove
        }
        Event::SdsUpdate {
            sds: changed,
            source,
        } => {
            // SAFETY: valid during the call, and laid out alike.
            sds = unsafe { *(changed as *const pmemset_sds) };
            ctx.data.sds_update = pmemset_event_sds_update {
                sds: &mut sds,
                src: source as *mut pmemset_source,
            };
            pmemset_event::SdsUpdate
        }
        Event::BadBlock {
            offset,
            length,
            source,
        } => {
            bad = pmemset_badblock { offset, length };
            ctx.data.badblock = pmemset_event_badblock {
                bb: &mut bad,
                src: source as *mut pmemset_source,
            };
            pmemset_event::Badblock
        }
        Event::BadBlocksCleared { source } => {
            ctx.data.badblocks_cleared = pmemset_event_badblocks_cleared {
                src: source as *mut pmemset_source,
            };
            pmemset_event::BadblocksCleared
        }
    };
    ctx.r#type = kind as pmemset_event_value;
    // SAFETY: the program gave this function to be called with its argument; the context lives across the call.
    unsafe { callback(set.as_raw().as_ptr().cast(), &mut ctx, arg as *mut c_void) };
}
