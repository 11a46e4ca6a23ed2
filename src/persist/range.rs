//! File ranges: what a drain takes out of the dirty map, and what becomes of it.

use std::ptr::NonNull;

use crate::error::{Error, Result};
use crate::file::{OpenFile, SyncPlan};
use crate::mem::Shared;
use crate::persist::dirty::DirtyMap;
use crate::sys::{self, Errno};

/// What has become of a range that is in flight. One for which there was no memory never gets there: it stays marked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It is on the medium; at first: nothing has gone wrong yet.
    Durable,
    /// A sync of its file has failed since it was taken out of the map, with this errno.
    Lost(Errno),
}

/// A range of one file that is to become durable.
pub(crate) struct FileRange {
    pub(crate) addr: usize,
    pub(crate) len: usize,
    pub(crate) offset: u64,
    /// The extent of its part.
    pub(crate) part: (usize, usize),
    pub(crate) file: Shared<OpenFile>,
    pub(crate) map: NonNull<DirtyMap>,
    /// How many syncs of the file had failed when it was taken out of the map.
    pub(crate) failures: u64,
    pub(crate) end: End,
}

// SAFETY: the map is shared like a reference; a set's maps live until the set ends, and no drain outlives its set.
unsafe impl Send for FileRange {}

impl FileRange {
    pub(crate) fn map(&self) -> &DirtyMap {
        // SAFETY: a set's maps live until the set ends, and no drain outlives its set.
        unsafe { self.map.as_ref() }
    }

    fn continues(&self, next: &FileRange) -> bool {
        self.addr + self.len == next.addr
            && self.offset + self.len as u64 == next.offset
            && Shared::same(&self.file, &next.file)
            && self.map == next.map
    }

    /// That it is not durable.
    pub(crate) fn not_durable(&self, errno: Errno) -> Error {
        Error::NotDurable {
            addr: self.addr,
            len: self.len,
            offset: self.offset,
            name: self.file.name,
            errno,
        }
    }
}

/// Makes ranges durable, file by file, each with a verdict of its own; says in each what has become of it. The error is one
/// of a directory that could not be synced for the entry of a new file, which concerns no range.
pub(crate) fn sync(ranges: &mut Vec<FileRange>) -> Result<()> {
    ranges.sort_unstable_by_key(|r| (Shared::id(&r.file), r.offset, r.addr));
    ranges.dedup_by(|next, r| {
        let joins = r.continues(next);
        if joins {
            r.len += next.len;
            r.failures = r.failures.min(next.failures);
        }
        joins
    });
    // Write-back of all files is started before anything is waited for. No report is handed out by that: a lost write that
    // it comes upon is reported later, to whom it belongs.
    if ranges.len() > 1 {
        for r in ranges.iter_mut() {
            if let Err(errno) = r.file.start(r.offset, r.len) {
                r.end = End::Lost(errno);
            }
        }
    }
    let mut result = Ok(());
    for group in ranges.chunk_by_mut(|a, b| Shared::same(&a.file, &b.file)) {
        result = result.and(sync_file(group));
    }
    result
}

/// Syncs the ranges of one file, which are lost together.
fn sync_file(group: &mut [FileRange]) -> Result<()> {
    let Some(since) = group.iter().map(|r| r.failures).min() else {
        return Ok(());
    };
    let file = group[0].file.clone();
    let growths = file.inode().growths();
    let started = group.iter().find_map(|r| match r.end {
        End::Lost(errno) => Some(errno),
        _ => None,
    });
    let ticket = file.begin(file.plan.syncs_alone());
    let each = group.iter().map(|r| (r.addr, r.offset, r.len));
    let synced = file.sync(&ticket, each);
    let synced = started.map_or(synced, Err);
    if let Err(errno) = ticket.end(synced, since) {
        for r in group {
            r.end = End::Lost(errno);
        }
        return Ok(());
    }
    if file.plan != SyncPlan::Memory {
        for r in group.iter().filter(|r| r.map().set_apart(r.addr, r.len)) {
            // Now, while they are clean.
            sys::cache_apart(r.addr, r.len);
        }
    }
    file.settle(growths)
        .map_err(|errno| Error::SystemAt("make durable the directory entry of", file.name, errno))
}

/// Whether what was synced, of pages of a file that has failed, is on the medium: where the first write was to have
/// allocated their blocks, the file system may count the blocks as unwritten for ever, and give back zeros for what is in
/// them, whatever the sync said.
pub(crate) fn is_written(file: &OpenFile, offset: u64, len: usize) -> bool {
    file.with_any_fd(|fd| {
        let Some(fd) = fd else {
            return !file.plan.may_stay_unwritten();
        };
        let mut written = true;
        let walked = sys::each_unwritten(fd, offset, len, &mut |offset, len| {
            written = is_zero(fd, offset, len);
            written
        });
        match walked {
            Ok(()) => written,
            // It says nothing about blocks; the sync's word is all there is.
            Err(errno) => sys::is_refused(errno),
        }
    })
}

/// Whether a range of a file is all zeros, as far as it is inside.
pub(crate) fn is_zero(fd: std::os::fd::RawFd, offset: u64, len: usize) -> bool {
    let mut buffer = [0u8; 512];
    let mut at = 0;
    while at < len {
        let n = (len - at).min(buffer.len());
        match sys::read_some(fd, &mut buffer[..n], offset + at as u64) {
            Ok(0) => return true,
            Ok(got) if buffer[..got].iter().all(|b| *b == 0) => at += got,
            _ => return false,
        }
    }
    true
}
