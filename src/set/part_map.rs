//! Part maps: the objects that callers hold references to.
//!
//! A part map lives in a slot that is never given back to the allocator while its set lives, nor after that while anybody
//! holds a reference. One word of the slot says everything that a reader must see at once: how many references there are,
//! whether the slot is being removed, and a generation that changes whenever the part map goes or loses addresses. A reader
//! takes a reference by exchanging that very word, so it can neither get one to a part map that is gone nor show up in the
//! count of one that it did not find.

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::atomic::AtomicPtr;

use crate::error::{Error, Result};
use crate::mem;
use crate::persist::log::Log;
use crate::sync::{AtomicUsize, Ordering};

const COUNT: usize = (1 << 29) - 1;
/// A removal is under way; its outcome is known once the set's lock is free.
const CLAIMED: usize = 1 << 29;
/// Nothing lives in the slot.
const FREE: usize = 1 << 30;
/// The set is gone; the references that are left keep the slot's memory.
const ORPHAN: usize = 1 << 31;
const GENERATION: usize = 1 << 32;

/// A part map. Made, changed and removed under its set's lock only. Half a cache line, so that a look-up misses one.
#[repr(align(32))]
pub struct Slot {
    word: AtomicUsize,
    start: AtomicUsize,
    size: AtomicUsize,
    log: AtomicPtr<Log>,
}

/// What a try to take a reference came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    Yes,
    /// The word is not what it was when the part map was found.
    Changed,
    /// A removal is under way: the set's lock tells how it ends.
    Claimed,
    /// All the references that can be counted are taken.
    Full,
}

impl Slot {
    /// The word, to be handed to [`take`](Self::take) once the part map is known to be the right one.
    #[inline]
    pub(crate) fn word(&self) -> usize {
        self.word.load(Ordering::Acquire)
    }

    /// Takes a reference, if neither the part map nor its extent has changed since `word` was read, but for growth.
    #[inline]
    pub(crate) fn take(&self, mut word: usize) -> Taken {
        loop {
            if word & (CLAIMED | FREE | ORPHAN) != 0 {
                return if word & CLAIMED != 0 {
                    Taken::Claimed
                } else {
                    Taken::Changed
                };
            }
            if word & COUNT == COUNT {
                return Taken::Full;
            }
            match self
                .word
                .compare_exchange(word, word + 1, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return Taken::Yes,
                // Other references came or went: still the same part map.
                Err(now) if (now ^ word) & !COUNT == 0 => word = now,
                Err(now) if now & CLAIMED != 0 => return Taken::Claimed,
                Err(_) => return Taken::Changed,
            }
        }
    }

    /// Gives a reference back; one that was never taken is ignored.
    ///
    /// # Safety
    /// The slot's memory must be valid: it is while its set lives and while references are held.
    #[inline]
    pub(crate) unsafe fn drop_reference(this: NonNull<Slot>) {
        // SAFETY: as the caller promises.
        let slot = unsafe { this.as_ref() };
        let mut word = slot.word.load(Ordering::Relaxed);
        loop {
            if word & COUNT == 0 {
                return;
            }
            match slot.word.compare_exchange_weak(
                word,
                word - 1,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => break,
                Err(now) => word = now,
            }
        }
        if word & ORPHAN != 0 && word & COUNT == 1 {
            // SAFETY: the set is gone and left its home to the orphans, of which this was one until now.
            unsafe { Home::orphan_gone(slot.home()) };
        }
    }

    /// Marks the part map as being removed, if exactly `allowed` references are held.
    pub(crate) fn claim(&self, allowed: usize) -> Result<()> {
        let mut word = self.word.load(Ordering::Acquire);
        loop {
            let held = word & COUNT;
            if held != allowed || word & CLAIMED != 0 {
                return Err(Error::PartMapInUse(
                    self.start(),
                    held.saturating_sub(allowed) as u32,
                ));
            }
            match self.word.compare_exchange(
                word,
                word | CLAIMED,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return Ok(()),
                Err(now) => word = now,
            }
        }
    }

    /// Whether a removal of it is under way.
    pub(crate) fn is_claimed(&self) -> bool {
        self.word.load(Ordering::Relaxed) & CLAIMED != 0
    }

    /// A number that changes when the part map goes or loses addresses.
    pub(crate) fn generation(&self) -> usize {
        self.word.load(Ordering::Relaxed) & !(GENERATION - 1)
    }

    /// Takes the claim back; `shrunk` when the part map has lost addresses meanwhile.
    pub(crate) fn unclaim(&self, shrunk: bool) {
        if shrunk {
            self.word.fetch_add(GENERATION, Ordering::AcqRel);
        }
        self.word.fetch_and(!CLAIMED, Ordering::AcqRel);
    }

    /// What the slot's slab belongs to.
    fn home(&self) -> *const Home {
        let slab = (std::ptr::from_ref(self)).map_addr(|a| a & !(SLAB_SIZE - 1));
        // SAFETY: slots are in slabs only, and slabs are aligned to their size.
        unsafe { (*slab.cast::<Slab>()).home }
    }

    /// How many references are held.
    pub(crate) fn references(&self) -> usize {
        self.word.load(Ordering::Relaxed) & COUNT
    }

    pub(crate) fn start(&self) -> usize {
        self.start.load(Ordering::Relaxed)
    }

    pub(crate) fn size(&self) -> usize {
        self.size.load(Ordering::Relaxed)
    }

    pub(crate) fn end(&self) -> usize {
        self.start() + self.size()
    }

    /// The log of the flushes to this part map; `None` where flushes need no log.
    pub(crate) fn log(&self) -> Option<NonNull<Log>> {
        NonNull::new(self.log.load(Ordering::Relaxed))
    }

    pub(crate) fn set_extent(&self, start: usize, size: usize) {
        self.start.store(start, Ordering::Relaxed);
        self.size.store(size, Ordering::Relaxed);
    }

    pub(crate) fn contains(&self, addr: usize) -> bool {
        addr.wrapping_sub(self.start()) < self.size()
    }

    /// Whether the part map is one of the live set that `home` belongs to.
    pub(crate) fn lives_in(&self, home: NonNull<Home>) -> bool {
        std::ptr::eq(self.home(), home.as_ptr()) && self.word() & (FREE | ORPHAN) == 0
    }
}

const SLAB_SIZE: usize = if cfg!(loom) { 65536 } else { 4096 };
/// Few for the model check, which looks at every order of what happens to them.
const SLOTS: usize = if cfg!(loom) {
    2
} else {
    SLAB_SIZE / size_of::<Slot>() - 1
};

/// Aligned to its size, so that a slot's address leads to it.
#[cfg_attr(not(loom), repr(align(4096)))]
#[cfg_attr(loom, repr(align(65536)))]
struct Slab {
    next: *mut Slab,
    home: *const Home,
    slots: [Slot; SLOTS],
}

const _: () = assert!(size_of::<Slab>() == SLAB_SIZE);

/// The memory of a set's part maps. It outlives the set while references are held.
pub(crate) struct Home {
    slabs: *mut Slab,
    /// Slots that are free, linked by `start`.
    free: usize,
    /// After the set's end: slots that are still referenced, and one for the end itself.
    orphans: AtomicUsize,
}

impl Home {
    pub(crate) fn new() -> Result<NonNull<Home>> {
        let home = mem::try_box(Home {
            slabs: std::ptr::null_mut(),
            free: 0,
            orphans: AtomicUsize::new(1),
        })?;
        Ok(NonNull::from(Box::leak(home)))
    }

    /// Makes sure that the next `count` slots can be had.
    ///
    /// # Safety
    /// Under the set's lock.
    pub(crate) unsafe fn reserve(this: NonNull<Home>, count: usize) -> Result<()> {
        let mut have = 0;
        // SAFETY: the lock makes this the only thread in the free list; slots live as long as the home.
        unsafe {
            let mut at = (*this.as_ptr()).free;
            while at != 0 && have < count {
                have += 1;
                at = (*(at as *const Slot)).start();
            }
        }
        if have >= count {
            return Ok(());
        }
        // SAFETY: Slab has a size.
        let slab = unsafe { std::alloc::alloc(Layout::new::<Slab>()) }.cast::<Slab>();
        if slab.is_null() {
            return Err(Error::OutOfMemory("part map"));
        }
        // SAFETY: the new slab is written before anything in it is read; the lock is held.
        unsafe {
            let home = &mut *this.as_ptr();
            (&raw mut (*slab).next).write(home.slabs);
            (&raw mut (*slab).home).write(this.as_ptr());
            let slots = (&raw mut (*slab).slots).cast::<Slot>();
            for i in (0..SLOTS).rev() {
                slots.add(i).write(Slot {
                    word: AtomicUsize::new(FREE),
                    start: AtomicUsize::new(home.free),
                    size: AtomicUsize::new(0),
                    log: AtomicPtr::new(std::ptr::null_mut()),
                });
                home.free = slots.add(i) as usize;
            }
            home.slabs = slab;
        }
        Ok(())
    }

    /// A new part map, out of what `reserve` has put aside. Nobody finds it before it is in the index.
    ///
    /// # Safety
    /// Under the set's lock, within a write of the index's version.
    pub(crate) unsafe fn make(
        this: NonNull<Home>,
        start: usize,
        size: usize,
        log: Option<NonNull<Log>>,
    ) -> NonNull<Slot> {
        // SAFETY: the lock makes this the only thread in the free list.
        unsafe {
            let home = &mut *this.as_ptr();
            let slot = NonNull::new(home.free as *mut Slot).expect("make without reserve");
            let s = slot.as_ref();
            home.free = s.start();
            s.set_extent(start, size);
            s.log.store(
                log.map_or(std::ptr::null_mut(), NonNull::as_ptr),
                Ordering::Relaxed,
            );
            let generation = s.word.load(Ordering::Relaxed) & !(GENERATION - 1);
            s.word
                .store(generation.wrapping_add(GENERATION), Ordering::Release);
            slot
        }
    }

    /// Frees the slot of a claimed part map that is in the index no more.
    ///
    /// # Safety
    /// Under the set's lock.
    pub(crate) unsafe fn recycle(this: NonNull<Home>, slot: NonNull<Slot>) {
        // SAFETY: the lock makes this the only thread in the free list.
        unsafe {
            let home = &mut *this.as_ptr();
            let s = slot.as_ref();
            let generation = s.word.load(Ordering::Relaxed) & !(GENERATION - 1);
            s.word.store(
                generation.wrapping_add(GENERATION) | FREE,
                Ordering::Release,
            );
            s.size.store(0, Ordering::Relaxed);
            s.start.store(home.free, Ordering::Relaxed);
            home.free = slot.as_ptr() as usize;
        }
    }

    /// Ends the set's hold on its part maps: those that are referenced stay readable until their last reference goes.
    ///
    /// # Safety
    /// The set is at its end: nobody makes, finds or removes part maps any more.
    pub(crate) unsafe fn abandon(this: NonNull<Home>) {
        // SAFETY: the home is freed below at the earliest.
        unsafe {
            let home = this.as_ref();
            let mut slab = home.slabs;
            while !slab.is_null() {
                for slot in &(*slab).slots {
                    // Counted before it can be dropped by somebody else.
                    home.orphans.fetch_add(1, Ordering::Relaxed);
                    if slot.word.fetch_or(ORPHAN, Ordering::AcqRel) & COUNT == 0 {
                        home.orphans.fetch_sub(1, Ordering::Relaxed);
                    }
                }
                slab = (*slab).next;
            }
            Home::orphan_gone(this.as_ptr());
        }
    }

    /// # Safety
    /// The caller's share of `orphans` must be its to give up.
    unsafe fn orphan_gone(this: *const Home) {
        // SAFETY: the caller's share keeps the home alive until this subtraction.
        if unsafe { &*this }.orphans.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        // SAFETY: the last share is gone: no set, no references.
        unsafe {
            let home = Box::from_raw(this.cast_mut());
            let mut slab = home.slabs;
            while !slab.is_null() {
                let next = (*slab).next;
                std::alloc::dealloc(slab.cast(), Layout::new::<Slab>());
                slab = next;
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn references_claims_and_generations() {
        let home = Home::new().unwrap();
        // SAFETY: one thread; slots are used while the home lives.
        unsafe {
            Home::reserve(home, 40).unwrap();
            Home::reserve(home, 140).unwrap();
            let slot = Home::make(home, 4096, 4096, None);
            let s = slot.as_ref();
            let word = s.word();
            assert_eq!(s.take(word), Taken::Yes);
            assert_eq!(
                s.take(word),
                Taken::Yes,
                "a change of the count alone is no change"
            );
            assert!(matches!(s.claim(1), Err(Error::PartMapInUse(4096, 1))));
            Slot::drop_reference(slot);
            s.claim(1).unwrap();
            assert_eq!(s.take(word), Taken::Claimed);
            s.unclaim(false);
            assert_eq!(s.take(word), Taken::Yes);
            Slot::drop_reference(slot);
            s.claim(1).unwrap();
            s.unclaim(true);
            assert_eq!(s.take(word), Taken::Changed);
            Slot::drop_reference(slot);
            Slot::drop_reference(slot);
            assert_eq!(s.references(), 0, "one drop too many does nothing");
            s.claim(0).unwrap();
            Home::recycle(home, slot);
            assert_eq!(s.take(word), Taken::Changed);
            let again = Home::make(home, 8192, 4096, None);
            assert_eq!(again, slot);
            assert_eq!(s.take(word), Taken::Changed);
            assert_eq!(s.take(s.word()), Taken::Yes);
            Home::abandon(home);
            assert!(!s.lives_in(home));
            Slot::drop_reference(slot);
        }
    }
}

/// Every interleaving of finding, referencing and removing, and of the end of a set with references that are given back.
///
/// A cell stands for the memory behind a part: unmapping is a store to it, looking at the memory through a reference is
/// a load. The one who looks must see it mapped, and looking and unmapping must be ordered. The tests that must panic plant
/// a bug each, so that a check that cannot fail would show.

#[cfg(all(test, loom))]
mod model;
