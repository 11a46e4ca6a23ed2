//! Shutdown state: whether a device may have lost data that was in use.
//!
//! A device counts the times when it lost power before it had written everything (its unsafe shutdown count, USC). A program
//! stores, for each source, the device's identity and count and how many mappings it has ([`Sds`]); the next time it compares.

use std::cell::UnsafeCell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::region::Region;
use crate::error::{Error, Result};
use crate::file::OpenFile;
use crate::mem;
use crate::sync::Wait;
use crate::sys;

/// Bytes of a device's identity at most.
const ID_LEN: usize = 512;

/// What a program stores for a source. Laid out as `struct pmemset_sds` of the C interface.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sds {
    id: [u8; ID_LEN + 1],
    /// The device's count when the data was last known to be whole.
    pub usc: u64,
    /// Mappings.
    pub refcount: i32,
}

impl Default for Sds {
    fn default() -> Self {
        Sds {
            id: [0; ID_LEN + 1],
            usc: 0,
            refcount: 0,
        }
    }
}

impl std::fmt::Debug for Sds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sds")
            .field("id", &String::from_utf8_lossy(self.id()))
            .field("usc", &self.usc)
            .field("refcount", &self.refcount)
            .finish()
    }
}

impl Sds {
    /// The device's identity, as the kernel prints that of its DIMMs.
    pub fn id(&self) -> &[u8] {
        let len = self.id.iter().position(|b| *b == 0);
        &self.id[..len.unwrap_or(self.id.len())]
    }

    /// Another identity, which must not be longer than one can be.
    pub(super) fn set_id(&mut self, id: &[u8]) {
        self.id = [0; ID_LEN + 1];
        self.append_id(id);
    }

    /// Appends to the identity; false when there is no room.
    pub(super) fn append_id(&mut self, more: &[u8]) -> bool {
        let len = self.id().len();
        if len + more.len() > ID_LEN {
            return false;
        }
        self.id[len..len + more.len()].copy_from_slice(more);
        true
    }
}

/// What is known about a part's data. The values are those of the C interface of 1.12.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum State {
    /// It cannot be known: the state was stored for another device.
    Indeterminate = 1,
    /// Nothing is known to be wrong.
    Ok = 2,
    /// Nothing is known to be wrong, and this process has the source mapped already.
    OkButAlreadyOpen = 4,
    /// It was in use when the program stopped; the device lost nothing.
    OkButInterrupted = 8,
    /// The device may have lost data that was in use.
    Corrupted = 16,
}

impl State {
    pub(crate) const ALL: u64 = 31;

    fn name(self) -> &'static str {
        match self {
            State::Indeterminate => "INDETERMINATE",
            State::Ok => "OK",
            State::OkButAlreadyOpen => "OK_BUT_ALREADY_OPEN",
            State::OkButInterrupted => "OK_BUT_INTERRUPTED",
            State::Corrupted => "CORRUPTED",
        }
    }
}

/// The shutdown state that a source was given, and the word that came with it.
#[derive(Clone, Copy)]
struct Kept {
    sds: Sds,
    report: usize,
    /// Mappings of this process that count.
    here: usize,
}

/// Which shutdown state a source has.
#[derive(Clone, Copy, Default)]
struct Current {
    /// How many it was given up to now: parts count in the one that they were mapped with.
    number: usize,
    /// Two of it, of which one is valid, so that there is a whole one at every moment.
    pair: Option<NonNull<[Kept; 2]>>,
    valid: usize,
}

// SAFETY: the pair belongs to the account, and is reached in turns.
unsafe impl Send for Current {}

impl Current {
    fn kept(&self) -> Option<&Kept> {
        // SAFETY: the pair lives while it is here.
        self.pair.map(|pair| unsafe { &pair.as_ref()[self.valid] })
    }

    /// Changes it, in the one that is not valid yet.
    fn change(&mut self, change: impl FnOnce(&mut Kept)) {
        if let Some(mut pair) = self.pair {
            // SAFETY: as above; whoever has the turn has it alone.
            let pair = unsafe { pair.as_mut() };
            let other = 1 - self.valid;
            pair[other] = pair[self.valid];
            change(&mut pair[other]);
            self.valid = other;
        }
    }
}

/// What a source's shutdown state becomes when it is mapped, and which of those that the source was given that is.
pub(crate) struct Next {
    number: usize,
    sds: Sds,
}

/// Compares what was stored with what the device says: the part's state, and what is to be stored from now on.
fn compare(stored: &Sds, device: &Sds, mapped_here: bool) -> (State, Sds) {
    let in_use = stored.refcount > 0;
    let taken_over = Sds {
        refcount: 0,
        ..*device
    };
    match (stored.id() == device.id(), stored.usc == device.usc) {
        (false, _) if in_use => (State::Indeterminate, *stored),
        (true, false) if in_use => (State::Corrupted, *stored),
        (true, true) if in_use && mapped_here => (State::OkButAlreadyOpen, *stored),
        (true, true) if in_use => (State::OkButInterrupted, *stored),
        _ => (State::Ok, taken_over),
    }
}

/// What is known of one source, beyond its file. Parts that are mapped keep it.
#[derive(Default)]
pub(crate) struct Account {
    /// The address by which the C interface knows the source, while it does.
    handle: AtomicUsize,
    /// Direct mappings look for bad blocks.
    pub detects_badblocks: AtomicBool,
    /// Several sets may map one source at once, so that a child that has one of them may find this in use by a thread that
    /// it does not have.
    shutdown: Turns<Current>,
}

impl Account {
    pub(crate) fn handle(&self) -> usize {
        self.handle.load(Ordering::Relaxed)
    }

    pub(super) fn set_handle(&self, handle: usize) {
        self.handle.store(handle, Ordering::Relaxed);
    }

    pub(super) fn set_sds(&self, sds: &Sds, report: usize) -> Result<()> {
        let kept = Kept {
            sds: *sds,
            report,
            here: 0,
        };
        let pair = NonNull::from(Box::leak(mem::try_box([kept; 2])?));
        let had = self.shutdown.change(|current| {
            let had = current.pair.is_some();
            if !had {
                *current = Current {
                    number: current.number + 1,
                    pair: Some(pair),
                    valid: 0,
                };
            }
            had
        });
        if had {
            // SAFETY: made above, and nobody has seen it.
            drop(unsafe { Box::from_raw(pair.as_ptr()) });
            return Err(Error::SdsAlreadySet);
        }
        Ok(())
    }

    /// The source has no shutdown state any more. Parts that count in it count no more.
    pub(super) fn clear_sds(&self) {
        if let Some(pair) = self.shutdown.change(|current| current.pair.take()) {
            // SAFETY: made by set_sds, and reached through the account only, where it is no more.
            drop(unsafe { Box::from_raw(pair.as_ptr()) });
        }
    }

    /// Looks at the device, for a source that has a shutdown state. `report` hears of the part's state and of the word that
    /// was given with the shutdown state. Returns what will be stored once the source is mapped.
    pub(crate) fn shutdown_state(
        &self,
        file: &OpenFile,
        acceptable: u64,
        report: &mut dyn FnMut(State, usize),
    ) -> Result<Option<Box<Next>>> {
        let Some(stored) = self.sds() else {
            return Ok(None);
        };
        let device = file.region_of_device(super::region::SYS).map_or(
            Err(Error::SdsUnsupported("it is not in persistent memory")),
            |region| region.shutdown_facts(stored.id()),
        )?;
        let is_mapped = file.is_mapped();
        // What is stored and what is mapped change together.
        let found = self.shutdown.change(|current| {
            let kept = current.kept()?;
            let (state, sds) = compare(&kept.sds, &device, kept.here > 0 || is_mapped);
            let number = current.number;
            Some((state, Next { number, sds }, kept.report))
        });
        let Some((state, next, word)) = found else {
            return Ok(None);
        };
        report(state, word);
        if state as u64 & acceptable == 0 {
            return Err(Error::UndesirableState(state.name(), acceptable));
        }
        Ok(Some(mem::try_box(next)?))
    }

    /// One mapping more, by a call that [`shutdown_state`](Self::shutdown_state) answered with `next`. Returns what it counts
    /// by; 0 when the shutdown state has been taken away meanwhile.
    pub(crate) fn counted(&self, next: &Next) -> usize {
        self.shutdown.change(|current| {
            if current.number != next.number || current.pair.is_none() {
                return 0;
            }
            current.change(|kept| {
                let refcount = kept.sds.refcount.max(0).saturating_add(1);
                kept.sds = Sds {
                    refcount,
                    ..next.sds
                };
                kept.here += 1;
            });
            current.number
        })
    }

    /// One mapping less of those that count by this number; what is to be stored now, if that shutdown state is still there.
    pub(crate) fn uncounted(&self, number: usize) -> Option<Sds> {
        self.shutdown.change(|current| {
            if current.number != number {
                return None;
            }
            current.change(|kept| {
                kept.sds.refcount = (kept.sds.refcount - 1).max(0);
                kept.here = kept.here.saturating_sub(1);
            });
            current.kept().map(|kept| kept.sds)
        })
    }

    /// What is to be stored.
    pub(crate) fn sds(&self) -> Option<Sds> {
        // Most sources have none.
        let current = |current: &mut Current| current.kept().map(|kept| kept.sds);
        self.shutdown.change(current)
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.clear_sds();
    }
}

/// Something that threads change in turns, even in a child of a fork that happened while another thread had its turn: that
/// thread is not in the child, and will not end its turn there. So a turn works on a copy that takes the place of what was
/// there in one step, and who comes next looks whether the thread whose turn it is exists.
struct Turns<T> {
    /// The process and the thread whose turn it is; 0 when it is nobody's.
    holder: AtomicU64,
    valid: AtomicUsize,
    values: [UnsafeCell<T>; 2],
}

// SAFETY: the values are reached by whoever has the turn.
unsafe impl<T: Send> Sync for Turns<T> {}

impl<T: Copy + Default> Default for Turns<T> {
    fn default() -> Self {
        Turns {
            holder: AtomicU64::new(0),
            valid: AtomicUsize::new(0),
            values: Default::default(),
        }
    }
}

impl<T: Copy> Turns<T> {
    /// Changes the value, in this thread's turn. For what takes no time: others wait.
    fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let _uncancelled = sys::Uncancelled::new();
        let _turn = self.take_turn();
        let valid = self.valid.load(Ordering::Relaxed);
        // SAFETY: this thread has the turn.
        let mut value = unsafe { *self.values[valid].get() };
        let result = change(&mut value);
        // SAFETY: as above; and nobody takes this one for the valid one yet.
        unsafe { *self.values[1 - valid].get() = value };
        self.valid.store(1 - valid, Ordering::Release);
        result
    }

    fn take_turn(&self) -> Turn<'_> {
        let me = sys::this_thread();
        let mut wait = Wait::default();
        let mut free = 0;
        loop {
            let taken =
                self.holder
                    .compare_exchange(free, me, Ordering::Acquire, Ordering::Acquire);
            match taken {
                Ok(_) => return Turn(&self.holder),
                // From now on as good as nobody's.
                Err(holder) if holder == me || !sys::is_here(holder) => free = holder,
                Err(_) => {
                    free = 0;
                    wait.a_moment();
                }
            }
        }
    }
}

struct Turn<'a>(&'a AtomicU64);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Release);
    }
}

impl OpenFile {
    pub(super) fn region_of_device(&self, root: &'static str) -> Option<Region> {
        match self.kind {
            crate::file::Kind::DeviceDax(_) => Region::of(root, self.facts.rdev, true),
            crate::file::Kind::File => Region::of(root, self.facts.dev, false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sds(id: &str, usc: u64, refcount: i32) -> Sds {
        let mut sds = Sds {
            usc,
            refcount,
            ..Sds::default()
        };
        assert!(sds.append_id(id.as_bytes()));
        sds
    }

    #[test]
    fn every_state() {
        use State::*;
        let device = sds("8680-aa", 7, 0);
        for (stored, here, state, refcount, usc) in [
            (sds("", 0, 0), false, Ok, 0, 7),
            (sds("other", 9, 0), false, Ok, 0, 7),
            (sds("other", 7, 1), false, Indeterminate, 1, 7),
            (sds("", 0, 3), true, Indeterminate, 3, 0),
            (sds("8680-aa", 6, 0), false, Ok, 0, 7),
            (sds("8680-aa", 8, 0), true, Ok, 0, 7),
            (sds("8680-aa", 6, 1), false, Corrupted, 1, 6),
            (sds("8680-aa", 6, 1), true, Corrupted, 1, 6),
            (sds("8680-aa", 7, 0), true, Ok, 0, 7),
            (sds("8680-aa", 7, 1), true, OkButAlreadyOpen, 1, 7),
            (sds("8680-aa", 7, 1), false, OkButInterrupted, 1, 7),
            (sds("8680-aa", 6, -5), false, Ok, 0, 7),
            (sds("8680-aab", 7, 1), false, Indeterminate, 1, 7),
            (sds("8680-a", 7, 1), false, Indeterminate, 1, 7),
        ] {
            let (found, next) = compare(&stored, &device, here);
            assert_eq!(found, state, "{stored:?}");
            assert_eq!((next.refcount, next.usc), (refcount, usc), "{stored:?}");
            if state == Ok {
                assert_eq!(next.id(), device.id());
            } else {
                assert_eq!(next, stored);
            }
        }
    }

    #[test]
    fn an_identity_without_an_end() {
        let full = Sds {
            id: [b'x'; ID_LEN + 1],
            ..Sds::default()
        };
        assert_eq!(full.id().len(), ID_LEN + 1);
        let mut device = Sds::default();
        assert!(device.append_id(&[b'x'; ID_LEN]));
        assert!(!device.append_id(b"x"));
        assert_ne!(full.id(), device.id());
    }

    fn next(account: &Account) -> Next {
        account.shutdown.change(|current| Next {
            number: current.number,
            sds: current.kept().unwrap().sds,
        })
    }

    #[test]
    fn a_shutdown_state_is_taken_away_with_what_counted_in_it() {
        let account = Account::default();
        account.clear_sds();
        assert_eq!(account.sds(), None);
        account.set_sds(&sds("a", 1, 0), 7).unwrap();
        let again = account.set_sds(&sds("b", 2, 0), 8);
        assert_eq!(again, Err(Error::SdsAlreadySet));
        let first = next(&account);
        let one = account.counted(&first);
        let two = account.counted(&first);
        assert!(one != 0 && one == two);
        assert_eq!(account.sds(), Some(sds("a", 1, 2)));
        assert_eq!(account.uncounted(one), Some(sds("a", 1, 1)));

        account.clear_sds();
        assert_eq!(account.sds(), None);
        // A mapping that began before does not count, and the part that is left counts no more.
        assert_eq!(account.counted(&first), 0);
        assert_eq!(account.uncounted(two), None);

        account.set_sds(&sds("c", 3, 0), 9).unwrap();
        assert_eq!(account.counted(&first), 0);
        let three = account.counted(&next(&account));
        assert!(three != 0 && three != two);
        assert_eq!(account.uncounted(two), None, "a part of an earlier one");
        assert_eq!(account.sds(), Some(sds("c", 3, 1)));
        assert_eq!(account.uncounted(three), Some(sds("c", 3, 0)));
    }

    /// What a function returns in a child, whose only thread this is; false when it does not return in time.
    fn in_child(f: impl FnOnce() -> bool) -> bool {
        // SAFETY: the child allocates, which works after a fork, and leaves without unwinding.
        unsafe {
            let child = libc::fork();
            assert!(child >= 0);
            if child == 0 {
                libc::signal(libc::SIGALRM, libc::SIG_DFL);
                libc::alarm(10);
                libc::_exit(i32::from(!f()));
            }
            let mut status = 0;
            assert_eq!(libc::waitpid(child, &mut status, 0), child);
            status == 0
        }
    }

    #[test]
    fn a_child_does_not_wait_for_a_thread_that_it_does_not_have() {
        let account = Account::default();
        account.set_sds(&sds("a", 1, 1), 0).unwrap();
        let number = next(&account).number;
        for when in [0, 1] {
            let (begun, has_begun) = std::sync::mpsc::channel();
            let (end, may_end) = std::sync::mpsc::channel();
            std::thread::scope(|scope| {
                let account = &account;
                scope.spawn(move || {
                    account.shutdown.change(|current| {
                        let wait = || {
                            begun.send(()).unwrap();
                            may_end.recv().unwrap();
                        };
                        // Before anything has changed, or in the middle of it.
                        match when {
                            0 => wait(),
                            _ => current.change(|kept| {
                                kept.sds.refcount = 77;
                                wait();
                                kept.sds.refcount = 1;
                            }),
                        }
                    });
                });
                has_begun.recv().unwrap();
                let right = in_child(|| {
                    let before = account.sds();
                    let counted = account.counted(&next(account));
                    let more = account.sds();
                    account.clear_sds();
                    before == Some(sds("a", 1, 1))
                        && counted == number
                        && more == Some(sds("a", 1, 2))
                        && account.set_sds(&sds("b", 2, 0), 0).is_ok()
                });
                end.send(()).unwrap();
                assert!(right, "in the child");
            });
            assert_eq!(account.sds(), Some(sds("a", 1, 1)));
        }
    }

    #[test]
    fn nobody_waits_for_a_thread_that_has_ended() {
        let turns = Turns::<usize>::default();
        let dead = std::thread::spawn(sys::this_thread).join().unwrap();
        turns.holder.store(dead, Ordering::Relaxed);
        assert_eq!(turns.change(|n| std::mem::replace(n, 5)), 0);
        // Nor for itself, by the number of somebody whose memory this is a copy of.
        turns.holder.store(sys::this_thread(), Ordering::Relaxed);
        assert_eq!(turns.change(|n| *n), 5);
        assert_eq!(turns.holder.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn turns_of_threads_do_not_mix() {
        let turns = Turns::<(usize, usize)>::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        turns.change(|(a, b)| {
                            assert_eq!(*a, *b);
                            *a += 1;
                            *b += 1;
                        });
                    }
                });
            }
        });
        assert_eq!(turns.change(|value| *value), (8000, 8000));
    }
}
