//! The C skin: checks pointers, calls the core, turns the result into a code.
//!
//! What a C caller promises is the same for every function here: a pointer that is not NULL points to what its type says,
//! an object pointer comes from this library and its object has not been deleted, and a range of memory is what the manual
//! page of the function asks for. NULL is checked. The objects behind the opaque types are
//!
//! | in C | here | owned by |
//! | --- | --- | --- |
//! | `struct pmemset_config` | `Box<Config>` | the caller |
//! | `struct pmemset` | [`Set`], as its core | the caller |
//! | `struct pmemset_source` | `Box<Source>` | the caller |
//! | `struct pmemset_map_config` | a box with offset and length | the caller |
//! | `struct pmemset_part` | `Box<`[`CPart`]`>` | the caller, until it is mapped |
//! | `struct pmemset_part_map` | a [`Slot`] of the set | the set; the caller has a reference |
#![allow(
    clippy::missing_safety_doc,
    reason = "the module says once what all callers promise"
)]

mod badblock;
mod config;
pub(crate) mod error;
mod map_config;
mod mem;
mod part;
mod part_map;
mod persist;
mod set;
mod source;
pub(crate) mod types;
mod types_111;
pub(crate) mod types_112;

use std::ffi::c_int;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use crate::error::{Error, Result};
use crate::mem::try_box;
use crate::set::part_map::Slot;
use crate::set::{Core, Part, Set};
use crate::trace;
use types::{pmemset, pmemset_part_map};

/// What `struct pmemset_part` is: a part and the set that it is for.
struct CPart {
    set: NonNull<Core>,
    part: Part,
}

/// Ends a call: its failure becomes this thread's message and the code.
fn end(function: &str, result: Result<()>) -> c_int {
    match result {
        Ok(()) => 0,
        Err(e) => fail(function, &e),
    }
}

#[cold]
fn fail(function: &str, e: &Error) -> c_int {
    error::set_message(e);
    if trace::is_on() {
        trace::line(
            trace::ERRORS,
            format_args!("{function} = {}: {e}", e.code()),
        );
    }
    e.code()
}

/// Logs a call with its arguments, if that is asked for.
macro_rules! trace_call {
    ($level:ident, $function:literal, $($args:tt)*) => {
        if $crate::trace::is_on() {
            $crate::trace::line(
                $crate::trace::$level,
                format_args!(concat!($function, "({})"), format_args!($($args)*)),
            );
        }
    };
}
use trace_call;

/// A pointer argument that must not be NULL.
///
/// # Safety
/// The caller's pointer is NULL or points to a T that nobody else uses meanwhile.
unsafe fn arg<'a, T>(pointer: *mut T, name: &'static str) -> Result<&'a mut T> {
    // SAFETY: as the caller promises.
    unsafe { pointer.as_mut() }.ok_or(Error::NullArgument(name))
}

/// The set behind a pointer, lent.
///
/// # Safety
/// NULL, or a set that has not been deleted.
#[inline]
unsafe fn set_arg(set: *mut pmemset) -> Result<ManuallyDrop<Set>> {
    let core = NonNull::new(set.cast::<Core>()).ok_or(Error::NullArgument("set"))?;
    // SAFETY: a pointer to a set is made by `set_out`.
    Ok(unsafe { Set::from_raw(core) })
}

fn set_out(set: Set) -> *mut pmemset {
    set.into_raw().as_ptr().cast()
}

/// A range of memory: NULL is fine when it is empty.
#[inline]
fn range_arg<T>(pointer: *const T, len: usize, name: &'static str) -> Result<()> {
    if pointer.is_null() && len > 0 {
        return Err(Error::NullArgument(name));
    }
    Ok(())
}

/// Hands an object to C.
fn object_out<T, C>(out: &mut *mut C, object: T) -> Result<()> {
    *out = Box::into_raw(try_box(object)?).cast();
    Ok(())
}

/// Deletes the object that a pointer points to, if it points to any, and sets the pointer to NULL.
///
/// # Safety
/// The object must come from `object_out` with this T.
unsafe fn object_delete<T, C>(object: *mut *mut C, name: &'static str) -> Result<()> {
    // SAFETY: as the module says.
    let object = unsafe { arg(object, name)? };
    let old = std::mem::replace(object, std::ptr::null_mut());
    if !old.is_null() {
        // SAFETY: as the caller promises; the pointer is gone from where it was.
        drop(unsafe { Box::from_raw(old.cast::<T>()) });
    }
    Ok(())
}

/// The slot behind a pointer to a part map.
fn slot_arg(map: *mut pmemset_part_map, name: &'static str) -> Result<NonNull<Slot>> {
    NonNull::new(map.cast::<Slot>()).ok_or(Error::NullArgument(name))
}
