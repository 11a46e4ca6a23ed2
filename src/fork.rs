//! What a fork leaves behind: which process this is, and a lock that the child finds free.
//!
//! A child has one thread, the one that called fork. A lock that another thread of the parent held at that moment stays
//! taken in the child's copy of the memory, and nobody will ever give it back. Locks of one set are covered by the rule for
//! programs, that nobody may be inside a call on a set that the child goes on using. What sets share with each other is
//! without locks, or has a [`ForkLock`].

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use crate::file::durability;
use crate::sys;

/// The highest bit of a lock's word: somebody waits.
const WAITED_FOR: u32 = 1 << 31;

/// Words that the kernel clears in the child of a fork, however that is made.
#[derive(Default)]
struct Wiped {
    process: AtomicU64,
    token: AtomicU32,
}

/// Those words; `None` where the kernel has no such memory.
#[inline]
fn wiped() -> Option<&'static Wiped> {
    static PAGE: AtomicUsize = AtomicUsize::new(0);
    let mut page = PAGE.load(Ordering::Acquire);
    if page == 0 {
        let made = sys::map_wiped_on_fork().unwrap_or(1);
        page = match PAGE.compare_exchange(0, made, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => made,
            Err(theirs) => {
                if made > 1 {
                    // SAFETY: mapped above, and nobody has seen it.
                    unsafe { sys::unmap(made, sys::page_size()) };
                }
                theirs
            }
        };
    }
    // SAFETY: a page of our own that stays mapped for ever, of words of which zero is a value.
    (page > 1).then(|| unsafe { &*(page as *const Wiped) })
}

/// Which process this is. The lower half is its number, not 0; the upper half says in which namespace that is its number, and
/// is 0 where that is not known.
#[inline]
pub(crate) fn process() -> u64 {
    let Some(wiped) = wiped() else {
        return u64::from(sys::process_number());
    };
    match wiped.process.load(Ordering::Relaxed) {
        0 => {}
        process => return process,
    }
    let process = sys::process_number_space() << 32 | u64::from(sys::process_number());
    wiped.process.store(process, Ordering::Relaxed);
    process
}

/// A number, not 0, that this process has to itself among those that have come from each other by forks.
pub(crate) fn token() -> u32 {
    let Some((wiped, ledger)) = wiped().zip(durability::ledger()) else {
        return sys::process_number();
    };
    match wiped.token.load(Ordering::Relaxed) {
        0 => {}
        token => return token,
    }
    let mine = ledger.next_token();
    match wiped
        .token
        .compare_exchange(0, mine, Ordering::Relaxed, Ordering::Relaxed)
    {
        Ok(_) => mine,
        Err(theirs) => theirs,
    }
}

/// Whether a process is known to run no more: its number is one of this process's namespace, and nobody has it, or only its
/// parent still has to hear of its end.
pub(crate) fn is_gone(process: u64) -> bool {
    let (mine, theirs) = (self::process() >> 32, process >> 32);
    mine != 0 && mine == theirs && !sys::is_alive(process as u32)
}

/// A lock for a few instructions, which knows the process that took it: another one, a child of it, finds it free. So what
/// it protects must be whole at every instruction, as a list is to which a node is linked by one store.
pub(crate) struct ForkLock {
    word: AtomicU32,
}

/// The lock is held, until this is dropped. The thread is not cancelled meanwhile.
pub(crate) struct Held<'a> {
    lock: &'a ForkLock,
    _uncancelled: sys::Uncancelled,
}

impl ForkLock {
    pub(crate) const fn new() -> ForkLock {
        ForkLock {
            word: AtomicU32::new(0),
        }
    }

    pub(crate) fn lock(&self) -> Held<'_> {
        let uncancelled = sys::Uncancelled::new();
        let me = token();
        let mut tries = 0;
        let mut taken = me;
        loop {
            let held = self.word.load(Ordering::Relaxed);
            // Free, or taken by a thread that this process does not have.
            if held & !WAITED_FOR != me {
                let exchanged =
                    self.word
                        .compare_exchange(held, taken, Ordering::Acquire, Ordering::Relaxed);
                if exchanged.is_ok() {
                    return Held {
                        lock: self,
                        _uncancelled: uncancelled,
                    };
                }
                continue;
            }
            tries += 1;
            if tries < 50 {
                std::hint::spin_loop();
                continue;
            }
            // Others may be asleep, too: whoever takes it from here on has to wake them.
            taken = me | WAITED_FOR;
            if self
                .word
                .compare_exchange(
                    held,
                    held | WAITED_FOR,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                )
                .is_ok()
            {
                sys::wait_while(&self.word, held | WAITED_FOR);
            }
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.lock.word.swap(0, Ordering::Release) & WAITED_FOR != 0 {
            sys::wake_all(&self.lock.word);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let lock = &ForkLock::new();
        let (inside, sum) = (&AtomicU32::new(0), &AtomicU64::new(0));
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(move || {
                    for _ in 0..20_000 {
                        let _held = lock.lock();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        sum.store(sum.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(sum.load(Ordering::Relaxed), 80_000);
    }

    #[test]
    #[cfg(not(miri))]
    fn a_child_finds_it_free() {
        let lock = ForkLock::new();
        let held = lock.lock();
        let me = token();
        // SAFETY: the child calls what needs no other thread, and ends without destructors.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: no pointers involved; a child that hangs is ended.
            unsafe { libc::alarm(5) };
            let another = token() != me;
            drop(lock.lock());
            // SAFETY: as above.
            unsafe { libc::_exit(if another { 0 } else { 1 }) };
        }
        let mut status = -1;
        // SAFETY: the status is a variable of our own.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0);
        drop(held);
    }
}
