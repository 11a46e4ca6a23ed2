//! The atomics of the index and of references: loom's where a model check is built, else the standard ones.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicUsize, Ordering, fence};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicUsize, Ordering, fence};

/// A moment for others.
pub(crate) fn relax() {
    #[cfg(loom)]
    loom::thread::yield_now();
    // The one that is waited for may need this very processor.
    #[cfg(not(loom))]
    std::thread::yield_now();
}

/// A number that threads get in turns.
#[cfg(not(loom))]
#[inline]
pub(crate) fn shard() -> usize {
    use std::cell::Cell;
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static MINE: Cell<usize> = const { Cell::new(usize::MAX) });
    #[cold]
    fn first(mine: &Cell<usize>) -> usize {
        mine.set(NEXT.fetch_add(1, Ordering::Relaxed) & (usize::MAX >> 1));
        mine.get()
    }
    MINE.with(|mine| match mine.get() {
        usize::MAX => first(mine),
        shard => shard,
    })
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
