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
#[cfg(all(test, not(loom)))]
mod tests;
pub(crate) mod types;
mod types_111;
pub(crate) mod types_112;

use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr::{NonNull, null_mut};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::granularity::Granularity;
use crate::mem::try_box;
use crate::set::part_map::Slot;
use crate::set::{Core, Extent, Part, Set};
use crate::source::Source;
use crate::trace;
use types::{
    pmemset, pmemset_config, pmemset_map_config, pmemset_part_descriptor, pmemset_part_map,
    pmemset_source,
};
use types_111::pmemset_part;

/// What `struct pmemset_part` is: a part and the set that it is for.
struct CPart {
    set: NonNull<Core>,
    part: Part,
}

/// A call: its failure becomes this thread's message, and the log has what is asked for of its arguments and its result.
///
/// The thread is not cancelled meanwhile: that would unwind through frames that cannot be unwound, and end the process.
macro_rules! call {
    ($($what:tt)*) => {
        $crate::capi::quick_call!(@ $crate::capi::uncancelled, $($what)*)
    };
}
use call;

/// The same for calls that count nanoseconds. What in them can be cancelled sees to it itself.
macro_rules! quick_call {
    ($level:ident, $($what:tt)*) => {
        $crate::capi::quick_call!(@ $crate::capi::run, $level, $($what)*)
    };
    (@ $run:path, $level:ident, $function:literal, ($($args:tt)*), $body:expr) => {{
        let logged = $crate::trace::is_on();
        if logged {
            let call = format_args!(concat!($function, "({}) begins"), format_args!($($args)*));
            $crate::trace::line($crate::trace::ALL, call);
        }
        let result = $run(|| $body);
        if let Err(e) = &result {
            $crate::capi::failed(e);
        }
        if logged {
            let call = format_args!(concat!($function, "({})"), format_args!($($args)*));
            $crate::capi::log_end($crate::trace::$level, call, &result);
        }
        result
    }};
}
use quick_call;

fn uncancelled<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    let _uncancelled = crate::sys::Uncancelled::new();
    body()
}

#[inline(always)]
fn run<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    body()
}

#[cold]
fn failed(e: &Error) {
    error::set_message(e);
}

#[cold]
fn log_end(level: u8, call: fmt::Arguments<'_>, result: &Result<impl Shown>) {
    match result {
        Ok(value) => trace::line(level, format_args!("{call} = 0{}", Value(value))),
        Err(e) => trace::line(trace::ERRORS, format_args!("{call} = {}: {e}", e.code())),
    }
}

/// The code of a result.
#[inline]
fn code<T>(result: Result<T>) -> c_int {
    match result {
        Ok(_) => 0,
        Err(e) => e.code(),
    }
}

/// What the log says of what a call has stored.
trait Shown {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;
}

struct Value<'a, T>(&'a T);

impl<T: Shown> fmt::Display for Value<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.show(f)
    }
}

impl Shown for () {
    fn show(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

impl<T> Shown for *mut T {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, ", {:p}", *self)
    }
}

impl Shown for usize {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, ", {self}")
    }
}

impl Shown for Granularity {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, ", {}", self.name())
    }
}

impl Shown for Extent {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, ", {:#x}, {} bytes", self.addr, self.len)
    }
}

/// A part map that was found, referenced; or none.
impl Shown for Option<NonNull<Slot>> {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(slot) = self else {
            return f.write_str(", none");
        };
        // SAFETY: the reference that was taken keeps the slot; the program has no pointer to it yet but through its variable.
        let at = unsafe { slot.as_ref() };
        write!(f, ", {:p}: {:#x}, {} bytes", *slot, at.start(), at.size())
    }
}

/// A path in the log: the end of it when it is long, without anything that ends a line or a quotation.
///
/// # Safety
/// Made of NULL or a C string.
struct Path(*const c_char);

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 400;
        if self.0.is_null() {
            return f.write_str("NULL");
        }
        // SAFETY: the caller's promises.
        let path = unsafe { CStr::from_ptr(self.0) }.to_bytes();
        let tail = &path[path.len().saturating_sub(MOST)..];
        let cut = if tail.len() < path.len() { "..." } else { "" };
        write!(f, "\"{cut}{}\"", tail.escape_ascii())
    }
}

/// An opaque type of the C interface, and what is behind a pointer to one.
trait Opaque {
    type Object;
}

impl Opaque for pmemset {
    type Object = Core;
}

impl Opaque for pmemset_config {
    type Object = Config;
}

impl Opaque for pmemset_map_config {
    type Object = map_config::MapConfig;
}

impl Opaque for pmemset_source {
    type Object = Source;
}

impl Opaque for pmemset_part {
    type Object = CPart;
}

impl Opaque for pmemset_part_map {
    type Object = Slot;
}

/// The object behind a pointer that must not be NULL, as a pointer.
#[inline]
fn behind<C: Opaque>(pointer: *mut C, name: &'static str) -> Result<NonNull<C::Object>> {
    NonNull::new(pointer.cast()).ok_or(Error::NullArgument(name))
}

/// An object that others may be using at the same time.
///
/// # Safety
/// NULL, or an object that is not deleted or changed meanwhile.
unsafe fn object<'a, C: Opaque>(pointer: *mut C, name: &'static str) -> Result<&'a C::Object> {
    // SAFETY: as the caller promises.
    Ok(unsafe { behind(pointer, name)?.as_ref() })
}

/// An object that is changed: the manual forbids others to use it meanwhile.
///
/// # Safety
/// NULL, or an object that nobody else uses meanwhile.
unsafe fn object_alone<'a, C: Opaque>(
    pointer: *mut C,
    name: &'static str,
) -> Result<&'a mut C::Object> {
    // SAFETY: as the caller promises.
    Ok(unsafe { behind(pointer, name)?.as_mut() })
}

/// The set behind a pointer, lent.
///
/// # Safety
/// NULL, or a set that has not been deleted.
#[inline]
unsafe fn set_arg(set: *mut pmemset) -> Result<ManuallyDrop<Set>> {
    // SAFETY: a pointer to a set is made by `set_out`.
    Ok(unsafe { Set::from_raw(behind(set, "set")?) })
}

fn set_out(set: Set) -> *mut pmemset {
    set.into_raw().as_ptr().cast()
}

/// A variable of the program's. Others may look at it, callbacks among them, so it is never borrowed.
struct Variable<T>(NonNull<T>);

impl<T> Clone for Variable<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Variable<T> {}

impl<T: Copy> Variable<T> {
    /// # Safety
    /// NULL, or a variable that can be loaded and stored until the call ends.
    unsafe fn new(pointer: *mut T) -> Option<Self> {
        NonNull::new(pointer).map(Variable)
    }

    /// One that must not be NULL.
    ///
    /// # Safety
    /// As for `new`.
    unsafe fn arg(pointer: *mut T, name: &'static str) -> Result<Self> {
        // SAFETY: as the caller promises.
        unsafe { Self::new(pointer) }.ok_or(Error::NullArgument(name))
    }

    fn load(self) -> T {
        // SAFETY: promised when this was made.
        unsafe { self.0.as_ptr().read() }
    }

    fn store(self, value: T) {
        // SAFETY: promised when this was made.
        unsafe { self.0.as_ptr().write(value) }
    }
}

/// A range of memory: NULL is fine when it is empty.
#[inline]
fn range_arg<T>(pointer: *const T, len: usize, name: &'static str) -> Result<()> {
    if pointer.is_null() && len > 0 {
        return Err(Error::NullArgument(name));
    }
    Ok(())
}

fn descriptor(extent: Extent) -> pmemset_part_descriptor {
    pmemset_part_descriptor {
        addr: extent.addr as *mut c_void,
        size: extent.len,
    }
}

/// Hands an object to C.
fn object_out<C: Opaque>(out: Variable<*mut C>, object: C::Object) -> Result<*mut C> {
    let object = Box::into_raw(try_box(object)?).cast();
    out.store(object);
    Ok(object)
}

/// Deletes the object that a variable points to, if it points to any, and sets the variable to NULL. Returns what it was.
///
/// # Safety
/// The object must come from `object_out`, and nobody else may use it.
unsafe fn object_delete<C: Opaque>(object: *mut *mut C, name: &'static str) -> Result<*mut C> {
    // SAFETY: as the module says.
    let variable = unsafe { Variable::arg(object, name)? };
    let old = variable.load();
    variable.store(null_mut());
    // SAFETY: as the caller promises; the pointer is gone from where it was.
    unsafe { object_drop(old) };
    Ok(old)
}

/// # Safety
/// NULL, or an object that comes from `object_out` and that nobody else uses.
unsafe fn object_drop<C: Opaque>(object: *mut C) {
    if !object.is_null() {
        // SAFETY: as the caller promises.
        drop(unsafe { Box::from_raw(object.cast::<C::Object>()) });
    }
}
