//! A descriptor of a file, kept open as long as somebody needs it and no longer, and never trusted: a program may have closed
//! it and opened something else under its number.

use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};

use super::durability::FileId;
use crate::sys::{self, FileFacts, SysResult};

/// Descriptors that are kept open only for the syncs of mapped parts, over the process: few, since programs that use select
/// need numbers below 1024, and others run with small limits.
static RETAINED: AtomicUsize = AtomicUsize::new(0);
const MOST_RETAINED: u64 = 64;

// The word: whether it is open, whether it is retained, how many openers and how many calls under way it has.
const OPEN: u64 = 1 << 63;
const RETAINED_BIT: u64 = 1 << 62;
const OPENER: u64 = 1 << 31;
const OPENERS: u64 = (RETAINED_BIT - 1) & !(OPENER - 1);
const PINS: u64 = OPENER - 1;

/// The descriptor of one opening of a file.
pub(crate) struct Descriptor {
    fd: RawFd,
    file: FileId,
    /// It is the program's: it is used until a part is mapped and no longer, and never closed or duplicated.
    borrowed: bool,
    word: AtomicU64,
}

/// A descriptor in use: it is not closed meanwhile.
pub(crate) struct Pinned<'a>(&'a Descriptor);

impl Descriptor {
    pub(super) fn owned(fd: OwnedFd, file: FileId) -> Descriptor {
        // A device has no offset to mark it by.
        let _ = sys::seek(&fd, mark());
        Descriptor {
            fd: fd.into_raw_fd(),
            file,
            borrowed: false,
            word: AtomicU64::new(OPEN),
        }
    }

    pub(super) fn borrowed(fd: RawFd, file: FileId) -> Descriptor {
        Descriptor {
            fd,
            file,
            borrowed: true,
            word: AtomicU64::new(0),
        }
    }

    /// The number, for sources and parts that are not mapped yet, and count as openers.
    pub(super) fn number(&self) -> RawFd {
        self.fd
    }

    pub(super) fn is_borrowed(&self) -> bool {
        self.borrowed
    }

    /// One more needs the descriptor: a source, or a part that is not mapped yet.
    pub(super) fn opened(&self) {
        self.word.fetch_add(OPENER, SeqCst);
    }

    pub(super) fn has_one_opener(&self) -> bool {
        self.word.load(SeqCst) & OPENERS == OPENER
    }

    /// One opener less. `keep`: the descriptor is to be kept for the syncs of mapped parts, if there are few of such.
    pub(super) fn closed(&self, keep: impl FnOnce() -> bool) {
        if self.has_one_opener()
            && !self.borrowed
            && self.word.load(SeqCst) & RETAINED_BIT == 0
            && keep()
            && retain()
            && self.word.fetch_or(RETAINED_BIT, SeqCst) & RETAINED_BIT != 0
        {
            RETAINED.fetch_sub(1, SeqCst);
        }
        let before = self.word.fetch_sub(OPENER, SeqCst);
        self.close_if_idle(before - OPENER);
    }

    /// The facts of the file; `ESTALE` when the number is another file's by now.
    pub(super) fn facts(&self) -> SysResult<FileFacts> {
        let facts = sys::file_facts(self.fd)?;
        if facts.id() != self.file {
            return Err(libc::ESTALE);
        }
        Ok(facts)
    }

    /// Keeps the descriptor open for a call; `None` when it is not open any more, or not this file's.
    pub(crate) fn pin(&self) -> Option<Pinned<'_>> {
        let before = self.word.fetch_add(1, SeqCst);
        let pinned = Pinned(self);
        (before & OPEN != 0 && self.is_ours()).then_some(pinned)
    }

    /// Whether the number still stands for this opening of the file, and not for another that the program has made of it.
    fn is_ours(&self) -> bool {
        let device = |facts: FileFacts| facts.kind() != libc::S_IFREG;
        self.facts().is_ok_and(device) || sys::has_offset(self.fd, self.file, mark())
    }

    fn close_if_idle(&self, mut word: u64) {
        while word & OPEN != 0 && word & (OPENERS | PINS | RETAINED_BIT) == 0 {
            match self
                .word
                .compare_exchange(word, word & !OPEN, SeqCst, SeqCst)
            {
                Ok(_) => return self.close(),
                Err(now) => word = now,
            }
        }
    }

    /// Closes it, unless somebody has put another file into its place.
    fn close(&self) {
        if self.is_ours() {
            // SAFETY: the number is this file's, opened by this library, and nobody uses it any more.
            drop(unsafe { OwnedFd::from_raw_fd(self.fd) });
        }
    }
}

impl Pinned<'_> {
    pub(crate) fn fd(&self) -> RawFd {
        self.0.fd
    }
}

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        let before = self.0.word.fetch_sub(1, SeqCst);
        self.0.close_if_idle(before - 1);
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        let word = *self.word.get_mut();
        if word & RETAINED_BIT != 0 {
            RETAINED.fetch_sub(1, SeqCst);
        }
        if word & OPEN != 0 {
            self.close();
        }
    }
}

/// An offset that this library's openings have, which nobody else uses: a number of this process and its relatives that every file
/// system can have for one.
fn mark() -> u64 {
    static MARK: AtomicU64 = AtomicU64::new(0);
    match MARK.load(SeqCst) {
        0 => {
            let seed = (&raw const MARK as u64) ^ u64::from(sys::process_number()) << 40;
            let mark = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 34 | 1 << 30;
            match MARK.compare_exchange(0, mark, SeqCst, SeqCst) {
                Ok(_) => mark,
                Err(theirs) => theirs,
            }
        }
        mark => mark,
    }
}

/// Counts one more retained descriptor, if there may be one.
fn retain() -> bool {
    let most = (sys::limit(libc::RLIMIT_NOFILE) / 8).min(MOST_RETAINED) as usize;
    RETAINED
        .fetch_update(SeqCst, SeqCst, |n| (n < most).then_some(n + 1))
        .is_ok()
}
