//! What the race detector of a program is told about the orders that this library makes.
//!
//! ThreadSanitizer, helgrind and DRD know pthread's locks, and neither std's nor the index's, which needs none. So they take
//! what a set orders (the use of an address before its part was removed, and what is mapped there next; a mapping,
//! and a look-up that finds it) for races of the program that uses the addresses. Where one of them watches it is told;
//! elsewhere that costs a look at one byte. What they then still see inside of the library is for the suppression
//! files in tools/suppressions to name.

use std::sync::atomic::{AtomicBool, Ordering};

/// Stands for the kernel, which gives to one set the addresses that another has given back.
pub(crate) static KERNEL: u8 = 0;

static WATCHED: AtomicBool = AtomicBool::new(false);

/// Not where this library is itself what is examined: what it says of itself would hide what is wrong with it.
#[cfg(not(any(miri, loom, pmemset_instrumented)))]
mod told {
    use std::ffi::c_void;

    // Nothing behind the addresses is touched.
    unsafe extern "C" {
        pub(super) safe fn pmemset_order_watched() -> std::ffi::c_int;
        pub(super) safe fn pmemset_order_gives(at: *mut c_void);
        pub(super) safe fn pmemset_order_takes(at: *mut c_void);
        pub(super) safe fn pmemset_order_forgets(at: *mut c_void);
    }
}

#[cfg(any(miri, loom, pmemset_instrumented))]
mod told {
    use std::ffi::c_void;

    pub(super) fn pmemset_order_watched() -> i32 {
        0
    }
    pub(super) fn pmemset_order_gives(_at: *mut c_void) {}
    pub(super) fn pmemset_order_takes(_at: *mut c_void) {}
    pub(super) fn pmemset_order_forgets(_at: *mut c_void) {}
}

/// Finds out whether anybody watches. Comes before the first of the others.
pub(crate) fn look() {
    if told::pmemset_order_watched() != 0 {
        WATCHED.store(true, Ordering::Relaxed);
    }
}

#[inline]
fn watched() -> bool {
    WATCHED.load(Ordering::Relaxed)
}

/// What this thread did so far comes before what others do once they have taken from the same object.
#[inline]
pub(crate) fn gives<T>(at: &T) {
    if watched() {
        told::pmemset_order_gives(std::ptr::from_ref(at).cast_mut().cast());
    }
}

/// The other end of [`gives`].
#[inline]
pub(crate) fn takes<T>(at: &T) {
    if watched() {
        told::pmemset_order_takes(std::ptr::from_ref(at).cast_mut().cast());
    }
}

/// The object goes, and another may come to lie where it was.
pub(crate) fn forgets<T>(at: &T) {
    if watched() {
        told::pmemset_order_forgets(std::ptr::from_ref(at).cast_mut().cast());
    }
}
