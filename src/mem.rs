//! Allocation that can fail: every object of this library is made here, so that running out of memory is an error
//! that a caller sees and never an abort.

use std::alloc::Layout;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

/// Moves `value` to the heap.
pub(crate) fn try_box<T>(value: T) -> Result<Box<T>> {
    let layout = Layout::new::<T>();
    assert!(layout.size() != 0);
    // SAFETY: the layout has a size above zero; the memory is written before the Box takes it over, and Box frees with
    // the same layout.
    unsafe {
        let memory = std::alloc::alloc(layout).cast::<T>();
        if memory.is_null() {
            return Err(Error::OutOfMemory("object"));
        }
        memory.write(value);
        Ok(Box::from_raw(memory))
    }
}

/// Appends to a vector, or says that there is no memory for it.
pub(crate) fn try_push<T>(vec: &mut Vec<T>, value: T) -> Result<()> {
    vec.try_reserve(1).map_err(|_| Error::OutOfMemory("list"))?;
    vec.push(value);
    Ok(())
}

/// A mutex whose poisoning is ignored: a panic inside is a bug that ends the process in the shipped library.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Counted<T> {
    count: AtomicUsize,
    value: T,
}

/// An `Arc` whose making can fail (std's aborts when there is no memory). No weak references.
pub(crate) struct Shared<T>(NonNull<Counted<T>>);

// SAFETY: as for std's Arc: the value is only reached by shared reference, and dropped by whichever thread is last.
unsafe impl<T: Send + Sync> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(crate) fn try_new(value: T) -> Result<Self> {
        let counted = try_box(Counted {
            count: AtomicUsize::new(1),
            value,
        })?;
        Ok(Shared(NonNull::from(Box::leak(counted))))
    }

    pub(crate) fn same(a: &Self, b: &Self) -> bool {
        a.0 == b.0
    }

    /// An address that tells two shared objects apart, for sorting.
    pub(crate) fn id(this: &Self) -> usize {
        this.0.as_ptr() as usize
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        // SAFETY: the reference that is being cloned keeps the object alive.
        unsafe { self.0.as_ref() }
            .count
            .fetch_add(1, Ordering::Relaxed);
        Shared(self.0)
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: this reference keeps the object alive.
        unsafe { &self.0.as_ref().value }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // An acquire at every drop, and not a fence at the last: ThreadSanitizer knows no fences.
        // SAFETY: this reference still counts, so the object is alive.
        if unsafe { self.0.as_ref() }
            .count
            .fetch_sub(1, Ordering::AcqRel)
            == 1
        {
            // SAFETY: the count reached zero, so nobody else has it; it was made by try_box.
            drop(unsafe { Box::from_raw(self.0.as_ptr()) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_drops_once_when_the_last_goes() {
        struct Probe<'a>(&'a AtomicUsize);
        impl Drop for Probe<'_> {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let drops = AtomicUsize::new(0);
        let a = Shared::try_new(Probe(&drops)).unwrap();
        let b = a.clone();
        assert!(Shared::same(&a, &b));
        assert_eq!(Shared::id(&a), Shared::id(&b));
        drop(a);
        assert_eq!(drops.load(Ordering::Relaxed), 0);
        drop(b);
        assert_eq!(drops.load(Ordering::Relaxed), 1);
    }
}
