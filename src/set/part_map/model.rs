//! The model check of the index and of references: every order of what two or three threads do. Run by tests/loom.sh.

use std::alloc::{GlobalAlloc, System};
use std::cell::Cell;

use loom::cell::UnsafeCell;
use loom::model::Builder;
use loom::sync::Mutex;
use loom::thread;

use super::*;
use crate::config::Config;
use crate::granularity::Granularity;
use crate::set::index::Locked;
use crate::set::{Core, Set};

/// Counts the slabs there are, and overwrites those that go, so that use after that shows.
struct Counting;
// A model's threads all run in one of the system's.
std::thread_local!(static LIVE: Cell<isize> = const { Cell::new(0) });

fn counts(layout: Layout) -> bool {
    layout == Layout::new::<Slab>()
}

// SAFETY: the system's allocator does the work; memory that is given back may be written to before.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if counts(layout) {
            LIVE.set(LIVE.get() + 1);
        }
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if counts(layout) {
            LIVE.set(LIVE.get() - 1);
            // SAFETY: the caller's until it is given back.
            unsafe { memory.write_bytes(0xFF, size_of::<[Slot; SLOTS + 1]>()) };
        }
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const PAGE: usize = 4096;
/// Places of two pages each.
const A: usize = 16 * PAGE;
const B: usize = 2 * A;
const C: usize = 3 * A;
const D: usize = 4 * A;

/// How a look-up goes about it.
#[derive(Clone, Copy, PartialEq)]
enum Look {
    Right,
    /// Takes the reference whatever the word is by now.
    PlantedNoGeneration,
    /// Does not look at the version.
    PlantedNoVersion,
}

#[derive(Clone, Copy, PartialEq)]
enum Remove {
    Right,
    /// Looks at the count and does not claim.
    PlantedNoClaim,
}

/// A set whose lock is loom's, and the memory of the places: which part is mapped there, 0 for none.
struct World {
    set: Set,
    lock: Mutex<()>,
    memory: [UnsafeCell<usize>; 8],
}

// SAFETY: cells are reached under a reference, or by the one who has claimed the part map; loom checks that.
unsafe impl Sync for World {}

fn page(addr: usize) -> usize {
    (addr / A - 1) * 2 + addr % A / PAGE
}

impl World {
    /// Never dropped by a panic, which would go on with the model after it has ended.
    fn new() -> &'static World {
        let mut config = Config::new();
        config.set_required_granularity(Granularity::Page);
        Box::leak(Box::new(World {
            set: Set::new(&config).unwrap(),
            lock: Mutex::new(()),
            memory: std::array::from_fn(|_| UnsafeCell::new(0)),
        }))
    }

    fn end(&'static self) {
        // SAFETY: leaked by `new`, and its threads have been joined.
        drop(unsafe { Box::from_raw(std::ptr::from_ref(self).cast_mut()) });
    }

    fn core(&self) -> &Core {
        self.set.core()
    }

    /// As mapping does it.
    fn map(&self, addr: usize, pages: usize, value: usize) {
        let core = self.core();
        let _inner = self.lock.lock().unwrap();
        core.maps.reserve(1).unwrap();
        // SAFETY: under the lock.
        unsafe { Home::reserve(core.home, 1).unwrap() };
        for i in 0..pages {
            // SAFETY: free, under the lock.
            self.memory[page(addr) + i].with_mut(|m| unsafe { *m = value });
        }
        let _writing = core.version.write();
        // SAFETY: under the lock, within a write, after the reserve.
        let slot = unsafe { Home::make(core.home, addr, pages * PAGE, None) };
        core.maps.insert(addr, slot.as_ptr() as usize);
    }

    /// As removal does it: the pages from `lo` to `hi` of the part map there; all, or those at its end.
    fn remove(&self, lo: usize, hi: usize, how: Remove) -> bool {
        let core = self.core();
        let _inner = self.lock.lock().unwrap();
        let Some((start, slot)) = core.maps.floor(lo, &Locked).unwrap() else {
            return false;
        };
        let slot = NonNull::new(slot as *mut Slot).unwrap();
        // SAFETY: slots live as long as the set.
        let s = unsafe { slot.as_ref() };
        if !s.contains(lo) || s.references() != 0 {
            return false;
        }
        if how == Remove::Right && s.claim(0).is_err() {
            return false;
        }
        for addr in (lo..hi).step_by(PAGE) {
            // SAFETY: nobody else has the part map; loom looks whether that is so.
            self.memory[page(addr)].with_mut(|m| unsafe { *m = 0 });
        }
        let _writing = core.version.write();
        if start < lo {
            s.set_extent(start, lo - start);
            s.unclaim(true);
        } else {
            core.maps.remove(start);
            // SAFETY: under the lock; it is in the index no more.
            unsafe { Home::recycle(core.home, slot) };
        }
        true
    }

    /// As `Core::find` does it, with few tries.
    fn find(&self, addr: usize, how: Look) -> Option<NonNull<Slot>> {
        let core = self.core();
        for _ in 0..2 {
            let Some(reading) = core.version.begin() else {
                thread::yield_now();
                continue;
            };
            match how {
                Look::Right => {
                    let Ok(entry) = core.maps.floor(addr, &reading) else {
                        continue;
                    };
                    if let Some(found) = core.take(entry, addr, &reading) {
                        return found.ok();
                    }
                }
                Look::PlantedNoVersion => {
                    let entry = core.maps.floor(addr, &Locked).unwrap();
                    if let Some(found) = core.take(entry, addr, &Locked) {
                        return found.ok();
                    }
                }
                Look::PlantedNoGeneration => {
                    let Ok(entry) = core.maps.floor(addr, &reading) else {
                        continue;
                    };
                    let slot = NonNull::new(entry?.1 as *mut Slot)?;
                    // SAFETY: slots live as long as the set.
                    let s = unsafe { slot.as_ref() };
                    use crate::set::index::Check;
                    if s.contains(addr) && reading.holds() {
                        s.word_of(sync::shard()).fetch_add(1, Ordering::AcqRel);
                        return Some(slot);
                    }
                }
            }
        }
        let _inner = self.lock.lock().unwrap();
        let entry = core.maps.floor(addr, &Locked).unwrap();
        core.take(entry, addr, &Locked).unwrap().ok()
    }

    /// Finds the part map at an address, looks at its memory, gives it back; what was there, if it was found.
    fn visit(&self, addr: usize, how: Look) -> Option<usize> {
        let slot = self.find(addr, how)?;
        // SAFETY: the reference keeps the slot.
        let s = unsafe { slot.as_ref() };
        assert!(s.contains(addr), "another part map");
        // SAFETY: the reference keeps the memory; loom looks whether that is so.
        let value = self.memory[page(addr)].with(|m| unsafe { *m });
        assert_ne!(value, 0, "memory that is not mapped");
        // SAFETY: taken above.
        unsafe { Slot::drop_reference(slot) };
        Some(value)
    }
}

/// `LOOM_MAX_PREEMPTIONS` goes deeper.
fn check(model: impl Fn() + Send + Sync + 'static) {
    check_to(2, model);
}

fn check_to(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    builder.max_branches = 10_000;
    builder.check(move || {
        LIVE.set(0);
        model();
        assert_eq!(LIVE.get(), 0, "slabs left");
    });
}

/// A thread that counts its references in this shard.
fn spawn<T: 'static>(shard: usize, run: impl FnOnce() -> T + 'static) -> thread::JoinHandle<T> {
    thread::spawn(move || {
        sync::SHARD.with(|s| s.set(shard));
        run()
    })
}

fn removal(shard: usize, look: Look, remove: Remove) {
    check(move || {
        let world = World::new();
        world.map(A, 1, 1);
        let looker = spawn(shard, move || world.visit(A + 5, look));
        let gone = world.remove(A, A + PAGE, remove);
        let found = looker.join().unwrap();
        assert!(gone || found == Some(1), "neither removed nor found");
        assert_eq!(world.visit(A, Look::Right), (!gone).then_some(1));
        world.end();
    });
}

#[test]
fn loom_look_up_races_with_removal() {
    removal(0, Look::Right, Remove::Right);
    removal(1, Look::Right, Remove::Right);
}

#[test]
#[should_panic(expected = "Concurrent read and write accesses")]
fn loom_planted_no_claim() {
    removal(1, Look::Right, Remove::PlantedNoClaim);
}

#[test]
#[should_panic(expected = "memory that is not mapped")]
fn loom_planted_no_generation() {
    removal(1, Look::PlantedNoGeneration, Remove::Right);
}

/// The slot of the part map that went is used again, elsewhere and in the same place.
fn again(place: usize) {
    check(move || {
        let world = World::new();
        world.map(A, 1, 1);
        let looker = spawn(1, move || world.visit(A, Look::Right));
        let gone = world.remove(A, A + PAGE, Remove::Right);
        if gone {
            world.map(place, 1, 2);
        }
        let found = looker.join().unwrap();
        match found {
            None => assert!(gone),
            Some(1) => {}
            Some(value) => assert!(gone && place == A && value == 2),
        }
        let now = world.visit(place, Look::Right);
        assert_eq!(
            now,
            if gone {
                Some(2)
            } else {
                (place == A).then_some(1)
            }
        );
        world.end();
    });
}

#[test]
fn loom_slot_used_again_elsewhere() {
    again(B);
}

#[test]
fn loom_slot_used_again_in_place() {
    again(A);
}

/// Others come and go beside a part map, which is found all the while: in a leaf whose entries move, in one that is
/// split, in one that is merged.
fn others(before: &'static [usize], change: usize, sought: usize, look: Look) {
    check(move || {
        let world = World::new();
        for addr in before {
            world.map(*addr, 1, 1);
        }
        let looker = spawn(1, move || world.visit(sought, look));
        if before.contains(&change) {
            assert!(world.remove(change, change + PAGE, Remove::Right));
        } else {
            world.map(change, 1, 1);
        }
        let found = looker.join().unwrap();
        assert_eq!(found, Some(1), "not found, but there");
        world.end();
    });
}

#[test]
fn loom_others_in_the_same_leaf() {
    others(&[A, B], A, B, Look::Right);
    others(&[B], A, B, Look::Right);
}

#[test]
fn loom_others_split_a_leaf() {
    others(&[A, C, D], B, C, Look::Right);
}

#[test]
fn loom_others_empty_a_leaf() {
    others(&[A, B, C, D], D, A, Look::Right);
}

#[test]
#[should_panic(expected = "not found, but there")]
fn loom_planted_no_version() {
    others(&[A, B], A, B, Look::PlantedNoVersion);
}

/// The upper part of a run goes, the lower stays and is found all the while.
#[test]
fn loom_look_up_races_with_a_split() {
    for part in [0, 1] {
        check(move || {
            let world = World::new();
            world.map(A, 2, 1);
            let looker = spawn(1, move || world.visit(A + part * PAGE, Look::Right));
            let gone = world.remove(A + PAGE, A + 2 * PAGE, Remove::Right);
            let found = looker.join().unwrap();
            assert!(found.is_some() || (gone && part == 1));
            assert_eq!(world.visit(A, Look::Right), Some(1));
            world.end();
        });
    }
}

/// Two look-ups and a removal.
#[test]
fn loom_two_look_ups_and_a_removal() {
    check_to(1, || {
        let world = World::new();
        world.map(A, 1, 1);
        let one = spawn(0, move || world.visit(A, Look::Right));
        let two = spawn(1, move || world.visit(A, Look::Right));
        let gone = world.remove(A, A + PAGE, Remove::Right);
        let found = (one.join().unwrap(), two.join().unwrap());
        assert!(gone || found == (Some(1), Some(1)));
        world.end();
    });
}

/// Gives a reference back without stopping the others where it is not found at once.
unsafe fn drop_by_looking(slot: NonNull<Slot>) {
    // SAFETY: as the caller promises.
    let s = unsafe { slot.as_ref() };
    let mine = s.words().skip(sync::shard());
    for word in mine.chain(s.words()) {
        // SAFETY: as the caller promises.
        if unsafe { s.drop_in(word) } {
            return;
        }
    }
}

/// Two threads give back references that the other has taken.
fn hands(give: unsafe fn(NonNull<Slot>)) {
    check(move || {
        let home = Home::new().unwrap();
        // SAFETY: before the threads begin; the slots stay while the home does.
        let slot = unsafe {
            Home::reserve(home, 1).unwrap();
            Home::make(home, A, PAGE, None)
        };
        // SAFETY: as above.
        let s = unsafe { slot.as_ref() };
        assert_eq!(s.check_in().take(), Taken::Yes);
        let slot = slot.as_ptr() as usize;
        let other = spawn(1, move || {
            // SAFETY: the reference that the first thread has taken.
            unsafe { give(NonNull::new(slot as *mut Slot).unwrap()) };
        });
        sync::SHARD.with(|s| s.set(1));
        assert_eq!(s.check_in().take(), Taken::Yes);
        sync::SHARD.with(|s| s.set(0));
        // SAFETY: the reference that was taken just now.
        unsafe { give(NonNull::new(slot as *mut Slot).unwrap()) };
        other.join().unwrap();
        assert_eq!(s.references(), 0, "a reference is left");
        s.claim(0).unwrap();
        // SAFETY: nobody uses the part map any more.
        unsafe { Home::abandon(home) };
    });
}

#[test]
fn loom_references_change_hands() {
    hands(Slot::drop_reference);
}

#[test]
#[should_panic(expected = "a reference is left")]
fn loom_planted_drop_by_looking() {
    hands(drop_by_looking);
}

/// One reference too many is given back, in the presence of others.
#[test]
fn loom_drop_too_many() {
    check(|| {
        let world = World::new();
        world.map(A, 1, 1);
        let other = spawn(1, move || world.visit(A, Look::Right));
        let slot = world.find(A, Look::Right).unwrap();
        // SAFETY: the slot stays while the world does.
        unsafe {
            Slot::drop_reference(slot);
            Slot::drop_elsewhere(slot.as_ref());
        }
        other.join().unwrap();
        world.end();
    });
}

/// References that are given back while the set ends: the slots stay until the last has gone, and then go.
fn end(abandon: unsafe fn(NonNull<Home>)) {
    check(move || {
        let home = Home::new().unwrap();
        // SAFETY: before the threads begin; the slots stay while references are held.
        let slots = unsafe {
            Home::reserve(home, 2).unwrap();
            [A, B].map(|addr| Home::make(home, addr, PAGE, None).as_ptr() as usize)
        };
        let threads = slots.map(|slot| {
            let slot = NonNull::new(slot as *mut Slot).unwrap();
            // SAFETY: as above.
            let s = unsafe { slot.as_ref() };
            assert_eq!(s.check_in().take(), Taken::Yes);
            let slot = slot.as_ptr() as usize;
            spawn(1, move || {
                let slot = NonNull::new(slot as *mut Slot).unwrap();
                // SAFETY: the reference keeps the slot.
                assert_eq!(unsafe { slot.as_ref() }.size(), PAGE);
                // SAFETY: the reference that was taken above.
                unsafe { Slot::drop_reference(slot) };
            })
        });
        // SAFETY: nobody makes or finds part maps any more.
        unsafe { abandon(home) };
        for t in threads {
            t.join().unwrap();
        }
    });
}

#[test]
fn loom_references_outlive_the_set() {
    end(Home::abandon);
}

/// Counts an orphan once it can be gone already.
unsafe fn abandon_late(this: NonNull<Home>) {
    // SAFETY: as for `Home::abandon`; that this is too late is what the check must find.
    unsafe {
        let home = this.as_ref();
        for word in (*home.slabs).words.iter().flat_map(|row| &row.0) {
            assert_eq!(LIVE.get(), 1, "gone too early");
            if word.fetch_or(ORPHAN, Ordering::AcqRel) & COUNT != 0 {
                home.orphans.fetch_add(1, Ordering::Relaxed);
            }
        }
        assert_eq!(LIVE.get(), 1, "gone too early");
        Home::orphan_gone(this.as_ptr());
    }
}

#[test]
#[should_panic(expected = "gone too early")]
fn loom_planted_orphans_counted_late() {
    end(abandon_late);
}
