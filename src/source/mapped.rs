//! The parts of an open file that are mapped, and how the file's syncs fare, which concerns all of them.

use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use super::file::OpenFile;
use super::sds::Account;
use crate::error::Result;
use crate::mem::{self, Shared, lock};
use crate::persist::log::Log;
use crate::pmem2;
use crate::sys::{Errno, SysResult};

/// A part that is mapped.
pub(crate) struct Mapped {
    pub start: usize,
    pub len: usize,
    pub offset: u64,
    pub file: Shared<OpenFile>,
    pub log: Option<NonNull<Log>>,
    /// In lent space, the mapping as libpmem2 knows it. Used under the set's lock.
    pub map: Cell<Option<pmem2::Map>>,
    /// The source it came from.
    pub account: Option<Shared<Account>>,
    /// It counts in the source's shutdown state.
    pub counted: AtomicBool,
    /// A failure of the file's syncs that no drain of this part's set has reported yet; 0 if there is none.
    pub owed: AtomicI32,
    links: Cell<(*const Mapped, *const Mapped)>,
}

impl Mapped {
    pub(crate) fn new(
        start: usize,
        len: usize,
        offset: u64,
        file: Shared<OpenFile>,
        log: Option<NonNull<Log>>,
    ) -> Self {
        Mapped {
            start,
            len,
            offset,
            file,
            log,
            map: Cell::new(None),
            account: None,
            counted: AtomicBool::new(false),
            owed: AtomicI32::new(0),
            links: Cell::new((std::ptr::null(), std::ptr::null())),
        }
    }

    /// A sync of the file has failed.
    fn lost(&self, errno: Errno) {
        let Some(log) = self.log else {
            return;
        };
        // SAFETY: a set's logs outlive its parts.
        let log = unsafe { log.as_ref() };
        log.lose(self.start, self.len);
        // What a drain is just taking out of the log may have been recorded; it looks at what is owed once it has it.
        if log.is_being_taken() || log.has_recorded(self.start, self.len) {
            self.owed.store(errno, Ordering::Release);
        }
    }
}

/// The syncs of an open file and the parts whose flushes they serve.
#[derive(Default)]
pub(crate) struct Syncs {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// How often a sync has failed, and how at last.
    failures: u64,
    errno: Errno,
    /// Syncs under way: the tickets they began with, and the process that they are of.
    running: Vec<u64>,
    process: u32,
    next_ticket: u64,
    /// The parts that have a log, linked through [`Mapped`].
    first: *const Mapped,
}

impl Default for State {
    fn default() -> Self {
        State {
            failures: 0,
            errno: 0,
            running: Vec::new(),
            process: 0,
            next_ticket: 0,
            first: std::ptr::null(),
        }
    }
}

// SAFETY: the list of parts is only followed under the lock, and a part leaves it before it is freed.
unsafe impl Send for State {}

/// A sync under way, to be ended by [`Syncs::end`].
pub(crate) struct Ticket {
    number: u64,
    failures: u64,
}

impl Ticket {
    /// It is also for pages that were taken out of their log when so many syncs had failed.
    pub(crate) fn covers_since(&mut self, failures: u64) {
        self.failures = self.failures.min(failures);
    }
}

impl Syncs {
    pub(super) fn added(&self, part: &Mapped) {
        if part.log.is_none() {
            return;
        }
        let mut state = lock(&self.state);
        let next = state.first;
        part.links.set((std::ptr::null(), next));
        // SAFETY: parts in the list are alive, and their links are only touched under the lock.
        if let Some(next) = unsafe { next.as_ref() } {
            next.links.set((part, next.links.get().1));
        }
        state.first = part;
        if state.failures > 0 {
            part.lost(state.errno);
        }
    }

    pub(super) fn removed(&self, part: &Mapped) {
        if part.log.is_none() {
            return;
        }
        let mut state = lock(&self.state);
        let (prev, next) = part.links.get();
        // SAFETY: as in `added`.
        unsafe {
            match prev.as_ref() {
                Some(prev) => prev.links.set((prev.links.get().0, next)),
                None => state.first = next,
            }
            if let Some(next) = next.as_ref() {
                next.links.set((prev, next.links.get().1));
            }
        }
    }

    /// Before the system calls of a sync.
    pub(crate) fn begin(&self) -> Result<Ticket> {
        let mut state = lock(&self.state);
        let process = std::process::id();
        if state.process != process {
            // Those of threads that a fork has left behind never end.
            state.running.clear();
            state.process = process;
        }
        let number = state.next_ticket;
        state.next_ticket += 1;
        mem::try_push(&mut state.running, number)?;
        Ok(Ticket {
            number,
            failures: state.failures,
        })
    }

    /// After them: the verdict. The kernel reports a lost write once for each time the file was opened, to whichever sync
    /// asks first; so a failure of any sync that ran at the same time counts, and every page of every part of the file may
    /// be lost, also one that was stored to and not flushed yet. What is recorded is owed a report. To hear of such a
    /// failure this waits for the syncs of the file that are still running.
    /// Returns how many have failed by now.
    pub(crate) fn end(&self, ticket: Ticket, result: SysResult<()>) -> SysResult<u64> {
        let mut state = lock(&self.state);
        if let Err(errno) = result {
            state.failures += 1;
            state.errno = errno;
            let mut part = state.first;
            // SAFETY: as in `added`.
            while let Some(p) = unsafe { part.as_ref() } {
                p.lost(errno);
                part = p.links.get().1;
            }
        }
        let oldest = state.running.iter().min() == Some(&ticket.number);
        state.running.retain(|t| *t != ticket.number);
        if oldest {
            // Only then can anybody have waited for this one alone.
            self.changed.notify_all();
        }
        let upto = state.next_ticket;
        while state.running.iter().any(|t| *t < upto) {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if state.failures == ticket.failures {
            Ok(state.failures)
        } else {
            Err(state.errno)
        }
    }

    /// How many syncs have failed.
    pub(crate) fn failures(&self) -> u64 {
        lock(&self.state).failures
    }

    /// Runs `f`, unless a sync has failed since so many had; none fails meanwhile.
    pub(crate) fn unless_failed_since(&self, failures: u64, f: impl FnOnce()) {
        let state = lock(&self.state);
        if state.failures == failures {
            f();
        }
    }

    /// The errno of the last sync that failed; 0 if none has.
    pub(crate) fn last_errno(&self) -> Errno {
        lock(&self.state).errno
    }
}
