//! What the C interface of 1.12 has alone, or has with other names and numbers than 1.11.
#![allow(non_camel_case_types)]
#![allow(
    dead_code,
    reason = "some are only for the header that is made of this file"
)]

use super::types::*;
use crate::codes::PMEMSET_EVENT_CONTEXT_SIZE;
use core::ffi::{c_char, c_int, c_void};

/// What is known about a part's data after the machine's last failure.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum pmemset_part_state {
    /// It cannot be known: the shutdown state belongs to another device.
    Indeterminate = 1,
    /// Nothing is known to be wrong.
    Ok = 2,
    /// Nothing is known to be wrong, and this process has the source mapped already.
    OkButAlreadyOpen = 4,
    /// The part was in use when the program stopped; the device lost nothing.
    OkButInterrupted = 8,
    /// The device may have lost data that was in use.
    Corrupted = 16,
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
    /// Before a range goes.
    RemoveRange = 6,
    /// After a part was mapped.
    PartAdd = 7,
    /// Before a part map goes.
    PartRemove = 8,
    /// A source's shutdown state has changed.
    SdsUpdate = 9,
    /// A bad block was found.
    Badblock = 10,
    /// All bad blocks that were found have been cleared.
    BadblocksCleared = 11,
}
/// Room for a device's identity, without the NUL at its end.
pub const PMEMSET_SDS_DEVICE_ID_LEN: usize = 512;

/// Shutdown state, as programs store it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct pmemset_sds {
    /// The device's identity.
    pub id: [c_char; 513],
    /// The device's count of unsafe shutdowns.
    pub usc: u64,
    /// Mappings.
    pub refcount: c_int,
}

/// Payload of PMEMSET_EVENT_REMOVE_RANGE.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct pmemset_event_remove_range {
    /// First byte.
    pub addr: *mut c_void,
    /// How many.
    pub len: usize,
}

/// Payload of PMEMSET_EVENT_SDS_UPDATE.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct pmemset_event_sds_update {
    /// The shutdown state, to be stored durably.
    pub sds: *mut pmemset_sds,
    /// Its source; NULL once that has been deleted.
    pub src: *mut pmemset_source,
}

/// Payload of PMEMSET_EVENT_BADBLOCK.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct pmemset_event_badblock {
    /// Where it is.
    pub bb: *mut pmemset_badblock,
    /// In which source.
    pub src: *mut pmemset_source,
}

/// Payload of PMEMSET_EVENT_BADBLOCKS_CLEARED.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct pmemset_event_badblocks_cleared {
    /// The source that has no bad blocks any more.
    pub src: *mut pmemset_source,
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
    /// PMEMSET_EVENT_REMOVE_RANGE.
    pub remove_range: pmemset_event_remove_range,
    /// PMEMSET_EVENT_PART_REMOVE.
    pub part_remove: pmemset_event_part_remove,
    /// PMEMSET_EVENT_PART_ADD.
    pub part_add: pmemset_event_part_add,
    /// PMEMSET_EVENT_SDS_UPDATE.
    pub sds_update: pmemset_event_sds_update,
    /// PMEMSET_EVENT_BADBLOCK.
    pub badblock: pmemset_event_badblock,
    /// PMEMSET_EVENT_BADBLOCKS_CLEARED.
    pub badblocks_cleared: pmemset_event_badblocks_cleared,
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
    assert!(size_of::<pmemset_sds>() == 536);
    assert!(core::mem::offset_of!(pmemset_sds, usc) == 520);
    assert!(core::mem::offset_of!(pmemset_sds, refcount) == 528);
    assert!(size_of::<pmemset_event_context_data>() == PMEMSET_EVENT_CONTEXT_SIZE);
    assert!(size_of::<pmemset_event_context>() == 8 + PMEMSET_EVENT_CONTEXT_SIZE);
    assert!(core::mem::offset_of!(pmemset_event_context, data) == 8);
};
