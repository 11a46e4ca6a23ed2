//! Part maps: the objects that callers hold references to.
//!
//! A part map lives in a slot that is never given back to the allocator while its set lives, nor after that while anybody
//! holds a reference. The references are counted in shards, and every thread counts in one of them, so that threads that
//! look up the same part maps do not write to the same cache lines. The word of a shard says everything that a reader must
//! see at once: how many references were taken in it, whether the slot is being removed, and a generation that changes
//! whenever the part map goes or loses addresses. A reader takes a reference by exchanging that very word, so it can
//! neither get one to a part map that is gone nor show up in the count of one that it did not find. A removal marks the
//! words of all shards first: from then on the sum of the counts can only fall.

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::atomic::AtomicPtr;

use crate::error::{Error, Result};
use crate::mem;
use crate::order;
use crate::persist::dirty::DirtyMap as Log;
use crate::sync::{self, AtomicUsize, Ordering};

const COUNT: usize = (1 << 28) - 1;
/// A drop looks for the shard that has its reference, see [`Slot::drop_elsewhere`].
const FROZEN: usize = 1 << 28;
/// A removal is under way; its outcome is known once the set's lock is free.
const CLAIMED: usize = 1 << 29;
/// Nothing lives in the slot.
const FREE: usize = 1 << 30;
/// The set is gone; the references that are left keep the slot's memory.
const ORPHAN: usize = 1 << 31;
const GENERATION: usize = 1 << 32;

/// What has to be the same for a part map to be the one that was found.
const IDENTITY: usize = !(COUNT | FROZEN);

/// A part map. Made, changed and removed under its set's lock only.
pub struct Slot {
    start: AtomicUsize,
    size: AtomicUsize,
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
    /// The slab that the slot is in, and which of its slots it is.
    #[inline]
    fn place(&self) -> (&Slab, usize) {
        let addr = std::ptr::from_ref(self).addr();
        let slab = std::ptr::with_exposed_provenance::<Slab>(addr & !(SLAB_SIZE - 1));
        let at = (addr % SLAB_SIZE - std::mem::offset_of!(Slab, slots)) / size_of::<Slot>();
        // SAFETY: slots are in slabs only, which are aligned to their size, and exposed when they are made; what a slab has
        // besides atomics is written before its slots are used.
        (unsafe { &*slab }, at)
    }

    #[inline]
    fn word_of(&self, shard: usize) -> &AtomicUsize {
        let (slab, at) = self.place();
        &slab.words[shard].0[at]
    }

    /// The words of all shards.
    fn words(&self) -> impl Iterator<Item = &AtomicUsize> {
        let (slab, at) = self.place();
        slab.words.iter().map(move |row| &row.0[at])
    }

    /// What a reference will be taken by, to be read before the part map is known to be the right one.
    #[inline]
    pub(crate) fn check_in(&self) -> Word<'_> {
        let word = self.word_of(sync::shard() % SHARDS);
        Word {
            word,
            seen: word.load(Ordering::Acquire),
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
        order::gives(slot);
        // SAFETY: as the caller promises.
        if unsafe { !slot.drop_in(slot.word_of(sync::shard() % SHARDS)) } {
            // SAFETY: as the caller promises.
            unsafe { slot.drop_elsewhere() };
        }
    }

    /// Gives a reference back that was taken in this shard; `false` when there is none.
    ///
    /// # Safety
    /// As for `drop_reference`; after `true` the slot's memory may be gone.
    #[inline]
    unsafe fn drop_in(&self, word: &AtomicUsize) -> bool {
        let mut seen = word.load(Ordering::Relaxed);
        let mut wait = sync::Wait::default();
        loop {
            if seen & FROZEN != 0 {
                wait.a_moment();
                seen = word.load(Ordering::Relaxed);
                continue;
            }
            if seen & COUNT == 0 {
                return false;
            }
            // What others have done with their references before comes before the end of the slot's memory.
            let less =
                word.compare_exchange_weak(seen, seen - 1, Ordering::AcqRel, Ordering::Relaxed);
            match less {
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
        // SAFETY: as the caller promises.
        unsafe { self.dropped(seen) };
        true
    }

    /// What follows when a word has lost a reference.
    ///
    /// # Safety
    /// `before` must be what the word was before.
    #[inline]
    unsafe fn dropped(&self, before: usize) {
        if before & ORPHAN != 0 && before & COUNT == 1 {
            // SAFETY: the set is gone and left its home to the shards with references, of which this was one until now.
            unsafe { Home::orphan_gone(self.place().0.home) };
        }
    }

    /// Gives a reference back that another thread has taken. Where a look at one shard after the other finds none, it may
    /// have missed one, for references are alike: others can take here and drop there meanwhile. So none can come or go
    /// during the second look.
    ///
    /// # Safety
    /// As for `drop_reference`.
    #[cold]
    unsafe fn drop_elsewhere(&self) {
        for word in self.words() {
            // SAFETY: as the caller promises; on `true` nothing is used any more.
            if unsafe { self.drop_in(word) } {
                return;
            }
        }
        // In order, so that two that do it cannot wait for each other.
        for word in self.words() {
            let mut wait = sync::Wait::default();
            while word.fetch_or(FROZEN, Ordering::Acquire) & FROZEN != 0 {
                wait.a_moment();
            }
        }
        let has_one = |word: &&AtomicUsize| word.load(Ordering::Relaxed) & COUNT != 0;
        let found = self.words().find(has_one);
        for word in self.words() {
            if !found.is_some_and(|f| std::ptr::eq(f, word)) {
                word.fetch_and(!FROZEN, Ordering::Release);
            }
        }
        if let Some(word) = found {
            let mut before = word.load(Ordering::Relaxed);
            // Frozen until this very moment, and the reference keeps the slot as long; but when there was one drop too many
            // the part map may have gone meanwhile, and what is here now is another's.
            while before & FROZEN != 0 && before & COUNT != 0 {
                let less = before - (FROZEN + 1);
                match word.compare_exchange(before, less, Ordering::AcqRel, Ordering::Relaxed) {
                    // SAFETY: as the caller promises.
                    Ok(_) => return unsafe { self.dropped(before) },
                    Err(now) => before = now,
                }
            }
        }
    }

    /// Marks the part map as being removed, if exactly `allowed` references are held and nobody has marked it: whoever has
    /// may be telling observers of it without the lock. Under the set's lock.
    pub(crate) fn claim(&self, allowed: usize) -> Result<()> {
        if self.is_claimed() {
            return Err(Error::PartMapBeingRemoved(self.start()));
        }
        // None can be taken in a shard that is marked, so there are never more than were counted.
        let mut held = 0;
        for word in self.words() {
            held += word.fetch_or(CLAIMED, Ordering::AcqRel) & COUNT;
        }
        if held == allowed {
            order::takes(self);
            return Ok(());
        }
        self.unclaim(false);
        Err(Error::PartMapInUse(
            self.start(),
            held.saturating_sub(allowed) as u32,
        ))
    }

    /// Whether a removal of it is under way.
    pub(crate) fn is_claimed(&self) -> bool {
        self.word_of(0).load(Ordering::Relaxed) & CLAIMED != 0
    }

    /// A number that changes when the part map goes or loses addresses.
    pub(crate) fn generation(&self) -> usize {
        self.word_of(0).load(Ordering::Relaxed) & !(GENERATION - 1)
    }

    /// Takes the claim back; `shrunk` when the part map has lost addresses meanwhile.
    pub(crate) fn unclaim(&self, shrunk: bool) {
        for word in self.words() {
            if shrunk {
                word.fetch_add(GENERATION, Ordering::AcqRel);
            }
            word.fetch_and(!CLAIMED, Ordering::AcqRel);
        }
    }

    /// How many references are held; more or less a few while others come and go.
    pub(crate) fn references(&self) -> usize {
        let counts = self.words().map(|w| w.load(Ordering::Relaxed) & COUNT);
        counts.sum()
    }

    /// Takes all the references that can be counted in this thread's shard; how many there were.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn take_all(&self) -> usize {
        let word = self.word_of(sync::shard() % SHARDS);
        word.fetch_or(COUNT, Ordering::AcqRel) & COUNT
    }

    /// Gives them back but for so many.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn give_all_but(&self, held: usize) {
        let word = self.word_of(sync::shard() % SHARDS);
        word.fetch_sub(COUNT - held, Ordering::AcqRel);
    }

    /// Another part map lives here from now on, or none.
    fn renew(&self, flags: usize) {
        let next = self.generation().wrapping_add(GENERATION) | flags;
        for word in self.words() {
            word.store(next, Ordering::Release);
        }
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
        let (slab, at) = self.place();
        NonNull::new(slab.logs.0[at].load(Ordering::Relaxed))
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
        std::ptr::eq(self.place().0.home, home.as_ptr())
            && self.word_of(0).load(Ordering::Acquire) & (FREE | ORPHAN) == 0
    }
}

/// The word of the calling thread's shard, as it was at a moment.
pub(crate) struct Word<'slot> {
    word: &'slot AtomicUsize,
    seen: usize,
}

impl Word<'_> {
    /// Takes a reference, if neither the part map nor its extent has changed since then, but for growth.
    #[inline]
    pub(crate) fn take(self) -> Taken {
        let mut seen = self.seen;
        let mut wait = sync::Wait::default();
        loop {
            if seen & (CLAIMED | FREE | ORPHAN | FROZEN) != 0 {
                if seen & CLAIMED != 0 {
                    return Taken::Claimed;
                }
                if seen & FROZEN == 0 {
                    return Taken::Changed;
                }
                wait.a_moment();
                let now = self.word.load(Ordering::Acquire);
                if (now ^ seen) & IDENTITY & !CLAIMED != 0 {
                    return Taken::Changed;
                }
                seen = now;
                continue;
            }
            if seen & COUNT == COUNT {
                return Taken::Full;
            }
            let more =
                self.word
                    .compare_exchange(seen, seen + 1, Ordering::AcqRel, Ordering::Acquire);
            match more {
                Ok(_) => return Taken::Yes,
                // Other references came or went: still the same part map.
                Err(now) if (now ^ seen) & IDENTITY == 0 => seen = now,
                Err(now) if now & CLAIMED != 0 => return Taken::Claimed,
                Err(_) => return Taken::Changed,
            }
        }
    }
}

/// Threads are counted in turns, so that up to this many share no shard. More would cost 8 bytes a part each.
const SHARDS: usize = if cfg!(loom) { 2 } else { 4 };

const SLAB_SIZE: usize = if cfg!(loom) { 65536 } else { 4096 };
/// As many as fit. Few for the model check, which looks at every order of what happens to them.
const SLOTS: usize = if cfg!(loom) { 2 } else { 72 };

/// Something of every slot of a slab, sharing no cache line with anything else.
#[repr(C, align(64))]
struct Row<T>([T; SLOTS]);

/// Aligned to its size, so that a slot's address leads to it.
#[cfg_attr(not(loom), repr(C, align(4096)))]
#[cfg_attr(loom, repr(C, align(65536)))]
struct Slab {
    next: *mut Slab,
    home: *const Home,
    slots: Row<Slot>,
    logs: Row<AtomicPtr<Log>>,
    words: [Row<AtomicUsize>; SHARDS],
}

const _: () = assert!(size_of::<Slab>() == SLAB_SIZE);

/// The memory of a set's part maps. It outlives the set while references are held.
pub(crate) struct Home {
    slabs: *mut Slab,
    /// Slots that are free, linked by `start`.
    free: usize,
    /// After the set's end: shards of slots that still have references, and one for the end itself.
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
            (&raw mut (*slab).logs).write(Row(std::array::from_fn(|_| AtomicPtr::default())));
            (&raw mut (*slab).words).write(std::array::from_fn(|_| {
                Row(std::array::from_fn(|_| AtomicUsize::new(FREE)))
            }));
            let slots = (&raw mut (*slab).slots).cast::<Slot>();
            for i in (0..SLOTS).rev() {
                slots.add(i).write(Slot {
                    start: AtomicUsize::new(home.free),
                    size: AtomicUsize::new(0),
                });
                home.free = slots.add(i).expose_provenance();
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
            let log = log.map_or(std::ptr::null_mut(), NonNull::as_ptr);
            let (slab, at) = s.place();
            slab.logs.0[at].store(log, Ordering::Relaxed);
            s.renew(0);
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
            s.renew(FREE);
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
                for word in (*slab).words.iter().flat_map(|row| &row.0) {
                    // Counted before it can be dropped by somebody else.
                    home.orphans.fetch_add(1, Ordering::Relaxed);
                    if word.fetch_or(ORPHAN, Ordering::AcqRel) & COUNT == 0 {
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
            let before = || s.check_in();
            let early = before();
            assert_eq!(s.check_in().take(), Taken::Yes);
            assert_eq!(
                early.take(),
                Taken::Yes,
                "a change of the count alone is no change"
            );
            assert!(matches!(s.claim(1), Err(Error::PartMapInUse(4096, 1))));
            Slot::drop_reference(slot);
            let early = before();
            s.claim(1).unwrap();
            for allowed in 0..3 {
                let again = s.claim(allowed);
                assert!(matches!(again, Err(Error::PartMapBeingRemoved(4096))));
            }
            assert_eq!(early.take(), Taken::Claimed);
            let early = before();
            s.unclaim(false);
            assert_eq!(early.take(), Taken::Claimed);
            assert_eq!(before().take(), Taken::Yes);
            Slot::drop_reference(slot);
            let early = before();
            s.claim(1).unwrap();
            s.unclaim(true);
            assert_eq!(early.take(), Taken::Changed);
            Slot::drop_reference(slot);
            Slot::drop_reference(slot);
            assert_eq!(s.references(), 0, "one drop too many does nothing");
            let early = [before(), before()];
            s.claim(0).unwrap();
            Home::recycle(home, slot);
            let [one, two] = early;
            assert_eq!(one.take(), Taken::Changed);
            let again = Home::make(home, 8192, 4096, None);
            assert_eq!(again, slot);
            assert_eq!(two.take(), Taken::Changed);
            assert_eq!(before().take(), Taken::Yes);
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
