//! A part that is mapped: where it is, of which file, and what failed syncs of that file mean for it.

use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::atomic::AtomicUsize;

use crate::file::OpenFile;
use crate::mem::Shared;
use crate::persist::dirty::DirtyMap;
use crate::persist::range::{End, FileRange};
use crate::pmem2;
use crate::source::sds::Account;
use crate::sys::Errno;

/// A part that is mapped. What changes in it is used under the set's lock.
pub(crate) struct Mapped {
    pub start: usize,
    pub len: usize,
    pub offset: u64,
    pub file: Shared<OpenFile>,
    pub map: Option<NonNull<DirtyMap>>,
    /// In lent space, the mapping as libpmem2 knows it.
    pub lent: Cell<Option<pmem2::Map>>,
    /// The source it came from.
    pub account: Option<Shared<Account>>,
    /// In which of the shutdown states that the source was given it counts; 0 for none.
    pub counted: AtomicUsize,
    /// Its place in the set's list of parts whose files were unsettled, or `usize::MAX`.
    pub unsettled: Cell<usize>,
    /// Failures of the file's syncs that the dirty map knows the consequences of.
    seen: Cell<u64>,
    /// The errno of the last of them.
    errno: Cell<Errno>,
    /// Its removal has been refused since something of it was lost last.
    refused: Cell<bool>,
}

impl Mapped {
    pub(crate) fn new(len: usize, offset: u64, file: Shared<OpenFile>) -> Self {
        // What has failed before has lost nothing that will be flushed to this part; nor may what the kernel still has to
        // report of it be taken for news later, or news for that.
        file.take_known_reports();
        let seen = file.inode().failures();
        Mapped {
            start: 0,
            len,
            offset,
            file,
            map: None,
            lent: Cell::new(None),
            account: None,
            counted: AtomicUsize::new(0),
            unsettled: Cell::new(usize::MAX),
            seen: Cell::new(seen),
            errno: Cell::new(0),
            refused: Cell::new(false),
        }
    }

    pub(crate) fn end(&self) -> usize {
        self.start + self.len
    }

    fn map(&self) -> Option<&DirtyMap> {
        // SAFETY: a set's maps outlive its parts.
        self.map.map(|map| unsafe { map.as_ref() })
    }

    /// Hears of the failures that there have been meanwhile: what is marked of the part was flushed before and is lost.
    pub(crate) fn catch_up(&self) {
        let failures = self.file.inode().failures();
        if failures == self.seen.get() {
            return;
        }
        self.file.take_known_reports();
        if self
            .map()
            .is_some_and(|m| m.lose_marked(self.start, self.len))
        {
            self.lost_by(self.file.inode().errno());
        }
        self.seen.set(failures);
    }

    /// Whether the file has ever failed. Then flushes have to make pages dirty again.
    pub(crate) fn has_failed(&self) -> bool {
        self.seen.get() > 0
    }

    /// Failures that it has heard of.
    pub(crate) fn seen(&self) -> u64 {
        self.seen.get()
    }

    /// Something of it has been lost.
    pub(crate) fn lost_by(&self, errno: Errno) {
        self.errno.set(errno);
        self.refused.set(false);
    }

    /// How what is lost of it was lost.
    pub(crate) fn errno(&self) -> Errno {
        match self.errno.get() {
            0 => libc::EIO,
            errno => errno,
        }
    }

    /// Whether its removal has to be refused, once, for the sake of what is lost of it.
    pub(crate) fn refuses(&self) -> bool {
        let lost = |m: &DirtyMap| m.first_lost(self.start, self.len).is_some();
        !self.refused.get() && self.map().is_some_and(lost)
    }

    pub(crate) fn refuse(&self) {
        self.refused.set(true);
    }

    /// Forgets what is marked and lost of it.
    pub(crate) fn forget(&self) {
        if let Some(map) = self.map() {
            map.forget(self.start, self.len);
        }
    }

    /// What of `addr..end` is in the part, as a range of its file.
    pub(crate) fn file_range(&self, map: &DirtyMap, addr: usize, end: usize) -> FileRange {
        FileRange {
            addr,
            len: end.min(self.end()) - addr,
            offset: self.offset + (addr - self.start) as u64,
            part: (self.start, self.end()),
            file: self.file.clone(),
            map: NonNull::from(map),
            failures: self.seen.get(),
            end: End::Durable,
        }
    }
}
