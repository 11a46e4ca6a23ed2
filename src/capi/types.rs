//! The types of the C interface that both releases have, laid out as C programs have compiled them in.
//!
//! Values of C enums come and go as integers: a bad value from a C caller in a Rust enum would be
//! undefined behaviour. The aliases named `*_value` print as the C enum in the header.
#![allow(non_camel_case_types)]
#![allow(
    dead_code,
    reason = "some are only for the header that is made of this file"
)]

use super::types_112::pmemset_event_context;
use core::ffi::{c_int, c_uint, c_void};

// Opaque to C. Without repr(C), so that the header shows a name only.

/// Part maps in one address arena, with one way to persist.
pub struct pmemset {
    _opaque: [u8; 0],
}
/// What a set is born with.
pub struct pmemset_config {
    _opaque: [u8; 0],
}
/// Which range of a source is mapped.
pub struct pmemset_map_config {
    _opaque: [u8; 0],
}
/// Where bytes live: a file, an unnamed temporary, a device, a libpmem2 source.
pub struct pmemset_source {
    _opaque: [u8; 0],
}
/// A mapped part, or a run of coalesced ones.
pub struct pmemset_part_map {
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

/// A value of `pmemset_part_state` of either release, stored for a C caller.
pub type pmemset_part_state_value = c_int;

/// A value of `pmemset_event`, stored for a C caller.
pub type pmemset_event_value = c_int;

/// Flags of pmemset_xsource_from_file(): 32 bits in a program for 1.11, 64 in one for 1.12.
pub type pmemset_source_flags = u64;
/// `bool` in C: any value from a C caller.
pub type pmemset_bool = u8;

/// A range of a source that cannot be read.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct pmemset_badblock {
    /// First byte, from the start of the source.
    pub offset: usize,
    /// How many.
    pub length: usize,
}

/// Address and size of a part map.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct pmemset_part_descriptor {
    /// First byte.
    pub addr: *mut c_void,
    /// Size in bytes.
    pub size: usize,
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

/// Payload of PMEMSET_EVENT_PART_REMOVE.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct pmemset_event_part_remove {
    /// First byte of the part map.
    pub addr: *mut c_void,
    /// Its size.
    pub len: usize,
    /// Its source, or its first part's; NULL once that has been deleted.
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
    assert!(size_of::<pmemset_badblock>() == 16);
};
