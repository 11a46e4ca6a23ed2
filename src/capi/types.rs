//! The types of the C interface, laid out as C programs have compiled them in.
//!
//! Values of C enums come and go as integers: a bad value from a C caller in a Rust enum would be
//! undefined behaviour. The aliases named `*_value` print as the C enum in the header.
#![allow(non_camel_case_types)]
#![allow(
    dead_code,
    reason = "some are only for the header that is made of this file"
)]

use crate::codes::PMEMSET_EVENT_CONTEXT_SIZE;
use core::ffi::{c_char, c_int, c_uint, c_void};

// Opaque to C. Without repr(C), so that the header shows a name only.

/// Part maps in one address arena, with one way to persist.
pub struct pmemset {
    _opaque: [u8; 0],
}
/// What a set is born with.
pub struct pmemset_config {
    _opaque: [u8; 0],
}
/// Where bytes live: a file, an unnamed temporary, a device, a libpmem2 source.
pub struct pmemset_source {
    _opaque: [u8; 0],
}
/// A range of a source, not mapped yet.
pub struct pmemset_part {
    _opaque: [u8; 0],
}
/// A mapped part, or a run of coalesced ones.
pub struct pmemset_part_map {
    _opaque: [u8; 0],
}
/// Named in struct pmemset_extras, never defined by any release.
pub struct pmemset_part_shutdown_state_data {
    _opaque: [u8; 0],
}

/// libpmem2's source; the header leaves its definition to libpmem2.h.
pub struct pmem2_source {
    _opaque: [u8; 0],
}
/// libpmem2's reservation of address space; the header leaves its definition to libpmem2.h.
pub struct pmem2_vm_reservation {
    _opaque: [u8; 0],
}

/// A value of `enum pmem2_granularity`.
pub type pmem2_granularity_value = c_int;
/// `PMEM2_GRANULARITY_BYTE`: stores are durable once fenced.
pub const PMEM2_GRANULARITY_BYTE: pmem2_granularity_value = 0;
/// `PMEM2_GRANULARITY_CACHE_LINE`: cache lines have to be written back.
pub const PMEM2_GRANULARITY_CACHE_LINE: pmem2_granularity_value = 1;
/// `PMEM2_GRANULARITY_PAGE`: pages have to be synced.
pub const PMEM2_GRANULARITY_PAGE: pmem2_granularity_value = 2;

/// How a new part is placed relative to the previous one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum pmemset_coalescing {
    /// Anywhere, as a part map of its own.
    None = 0,
    /// Right after the previous part if that place is free, else anywhere.
    Opportunistic = 1,
    /// Right after the previous part, or not at all.
    Full = 2,
}
/// A value of [`pmemset_coalescing`] from a C caller.
pub type pmemset_coalescing_value = c_int;

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
/// A value of [`pmemset_part_state`], stored for a C caller.
pub type pmemset_part_state_value = c_int;

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
/// A value of [`pmemset_event`], stored for a C caller.
pub type pmemset_event_value = c_int;

/// Address and size of a part map.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct pmemset_part_descriptor {
    /// First byte.
    pub addr: *mut c_void,
    /// Size in bytes.
    pub size: usize,
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

/// Payload of PMEMSET_EVENT_COPY.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct pmemset_event_copy {
    /// Where the bytes come from.
    pub src: *mut c_void,
    /// Where they go.
    pub dest: *mut c_void,
    /// How many.
    pub len: usize,
    /// The flags as given.
    pub flags: c_uint,
}

/// Payload of PMEMSET_EVENT_MOVE.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct pmemset_event_move {
    /// Where the bytes come from.
    pub src: *mut c_void,
    /// Where they go.
    pub dest: *mut c_void,
    /// How many.
    pub len: usize,
    /// The flags as given.
    pub flags: c_uint,
}

/// Payload of PMEMSET_EVENT_SET.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct pmemset_event_set {
    /// First byte to fill.
    pub dest: *mut c_void,
    /// The byte to fill with.
    pub value: c_int,
    /// How many bytes.
    pub len: usize,
    /// The flags as given.
    pub flags: c_uint,
}

/// Payload of PMEMSET_EVENT_FLUSH.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct pmemset_event_flush {
    /// First byte.
    pub addr: *mut c_void,
    /// How many.
    pub len: usize,
}

/// Payload of PMEMSET_EVENT_PERSIST.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct pmemset_event_persist {
    /// First byte.
    pub addr: *mut c_void,
    /// How many.
    pub len: usize,
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

/// Payload of PMEMSET_EVENT_PART_REMOVE.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct pmemset_event_part_remove {
    /// First byte of the part map.
    pub addr: *mut c_void,
    /// Its size.
    pub len: usize,
    /// Its source.
    pub src: *mut pmemset_source,
}

/// Payload of PMEMSET_EVENT_PART_ADD.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct pmemset_event_part_add {
    /// First byte of the part map.
    pub addr: *mut c_void,
    /// Its size.
    pub len: usize,
    /// Its libpmem2 source, or NULL.
    pub src: *mut pmem2_source,
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

/// `pmemset_event_callback *` in C: NULL, or the function to call. What it returns is ignored.
pub type pmemset_event_callback = Option<
    unsafe extern "C" fn(
        set: *mut pmemset,
        ctx: *mut pmemset_event_context,
        arg: *mut c_void,
    ) -> c_int,
>;

const _: () = {
    assert!(size_of::<pmemset_part_descriptor>() == 16);
    assert!(size_of::<pmemset_extras>() == 24);
    assert!(size_of::<pmemset_event_context_data>() == PMEMSET_EVENT_CONTEXT_SIZE);
    assert!(size_of::<pmemset_event_context>() == 8 + PMEMSET_EVENT_CONTEXT_SIZE);
    assert!(core::mem::offset_of!(pmemset_event_context, data) == 8);
};
