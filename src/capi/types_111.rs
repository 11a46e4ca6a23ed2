//! What the C interface of 1.11 has alone, or has with other names and numbers than 1.12.
#![allow(non_camel_case_types)]
#![allow(
    dead_code,
    reason = "some are only for the header that is made of this file"
)]

use super::types::*;
use crate::codes::PMEMSET_EVENT_CONTEXT_SIZE;
use core::ffi::{c_char, c_void};

/// A range of a source, not mapped yet.
pub struct pmemset_part {
    _opaque: [u8; 0],
}
/// Named in struct pmemset_extras, never defined by any release.
pub struct pmemset_part_shutdown_state_data {
    _opaque: [u8; 0],
}

/// What is known about a part's data after the machine's last failure.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum pmemset_part_state {
    /// The device's facts cannot be read.
    Indeterminate = 0,
    /// Nothing is known to be wrong.
    Ok = 1,
    /// The part was in use when the machine stopped; the data is whole.
    OkButInterrupted = 2,
    /// The device lost data that was in use.
    Corrupted = 3,
}
/// What happened to a set.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum pmemset_event {
    /// Before a pmemset_memcpy().
    Copy = 0,
    /// Before a pmemset_memmove().
    Move = 1,
    /// Before a pmemset_memset().
    Set = 2,
    /// Before a flush.
    Flush = 3,
    /// After a drain.
    Drain = 4,
    /// Before a persist.
    Persist = 5,
    /// A bad block was found.
    BadBlock = 6,
    /// After a part was mapped.
    PartAdd = 7,
    /// Before a part map goes.
    PartRemove = 8,
}
/// Optional results of pmemset_part_map().
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct pmemset_extras {
    /// Ignored.
    pub sds_in: *const pmemset_part_shutdown_state_data,
    /// Ignored.
    pub sds_out: *mut pmemset_part_shutdown_state_data,
    /// Where to store the part's state, or NULL.
    pub state: *mut pmemset_part_state_value,
}

/// Payload of PMEMSET_EVENT_BAD_BLOCK.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct pmemset_event_bad_block {
    /// First byte.
    pub addr: *mut c_void,
    /// How many.
    pub len: usize,
}

/// The payload of an event; the type of the event says which member counts.
#[repr(C)]
#[derive(Clone, Copy)]
pub union pmemset_event_context_data {
    /// Fixes the size.
    pub _data: [c_char; PMEMSET_EVENT_CONTEXT_SIZE],
    /// PMEMSET_EVENT_COPY.
    pub copy: pmemset_event_copy,
    /// PMEMSET_EVENT_MOVE.
    pub r#move: pmemset_event_move,
    /// PMEMSET_EVENT_SET.
    pub set: pmemset_event_set,
    /// PMEMSET_EVENT_FLUSH.
    pub flush: pmemset_event_flush,
    /// PMEMSET_EVENT_PERSIST.
    pub persist: pmemset_event_persist,
    /// PMEMSET_EVENT_BAD_BLOCK.
    pub bad_block: pmemset_event_bad_block,
    /// PMEMSET_EVENT_PART_REMOVE.
    pub part_remove: pmemset_event_part_remove,
    /// PMEMSET_EVENT_PART_ADD.
    pub part_add: pmemset_event_part_add,
}

/// What an event callback is told.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct pmemset_event_context {
    /// Which event.
    pub r#type: pmemset_event_value,
    /// Its payload.
    pub data: pmemset_event_context_data,
}

const _: () = {
    assert!(size_of::<pmemset_extras>() == 24);
    assert!(size_of::<pmemset_event_context_data>() == PMEMSET_EVENT_CONTEXT_SIZE);
    assert!(size_of::<pmemset_event_context>() == 8 + PMEMSET_EVENT_CONTEXT_SIZE);
    assert!(core::mem::offset_of!(pmemset_event_context, data) == 8);
};
