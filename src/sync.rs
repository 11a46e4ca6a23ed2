//! The atomics of the index, of references and of the ledger of failed syncs: loom's where a model check is built, else the
//! standard ones.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

/// Waiting for what another thread does in a few instructions.
#[derive(Default)]
pub(crate) struct Wait(#[cfg(not(loom))] u32);

impl Wait {
    #[cold]
    pub(crate) fn a_moment(&mut self) {
        #[cfg(loom)]
        loom::thread::yield_now();
        // The one that is waited for may need this very processor, and have a lower priority.
        #[cfg(not(loom))]
        if self.0 < 100 {
            self.0 += 1;
            std::thread::yield_now();
        } else {
            std::thread::sleep(std::time::Duration::from_micros(50));
        }
    }
}

#[cfg(not(miri))]
unsafe extern "C" {
    safe fn pmemset_thread_number() -> std::ffi::c_ulong;
}

/// A number that threads get in turns, and keep to themselves.
#[inline]
pub(crate) fn thread_number() -> usize {
    #[cfg(not(miri))]
    return pmemset_thread_number() as usize;
    #[cfg(miri)]
    1
}

/// In which shard the calling thread counts.
#[cfg(not(loom))]
#[inline]
pub(crate) fn shard() -> usize {
    thread_number()
}

/// The number that a model has given the thread.
#[cfg(loom)]
pub(crate) fn shard() -> usize {
    SHARD.with(|shard| shard.get())
}

#[cfg(loom)]
loom::thread_local! {
    pub(crate) static SHARD: std::cell::Cell<usize> = std::cell::Cell::new(0);
}
