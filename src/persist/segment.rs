//! Ranges of files that are made durable together, and what is known of them afterwards.

use std::os::fd::RawFd;
use std::ptr::NonNull;

use crate::error::{Error, Result};
use crate::mem::Shared;
use crate::persist::log::Log;
use crate::source::{OpenFile, SyncPlan, Ticket};
use crate::sys::{self, Errno};

/// A range of one file that is to become durable.
pub(super) struct Segment {
    pub(super) addr: usize,
    pub(super) len: usize,
    pub(super) offset: u64,
    /// The extent of its part.
    pub(super) part: (usize, usize),
    pub(super) file: Shared<OpenFile>,
    pub(super) log: NonNull<Log>,
    /// How many syncs of the file had failed when it was taken out of the log.
    pub(super) failures: u64,
    pub(super) failed: Errno,
    /// In the first segment of each file, while they are being synced.
    pub(super) ticket: Option<Ticket>,
}

// SAFETY: the log is shared like a reference; a set's logs live until the set ends, and no drain outlives its set.
unsafe impl Send for Segment {}

impl Segment {
    fn log(&self) -> &Log {
        // SAFETY: a set's logs live until the set ends, and no drain outlives its set.
        unsafe { self.log.as_ref() }
    }

    fn continues(&self, next: &Segment) -> bool {
        self.addr + self.len == next.addr
            && self.offset + self.len as u64 == next.offset
            && Shared::same(&self.file, &next.file)
            && self.log == next.log
    }

    /// Recorded as it was.
    pub(super) fn back(&self) {
        self.log().record(self.addr, self.len);
    }

    /// Recorded, and to be made dirty before it is synced again.
    pub(super) fn lost(&self) {
        self.log().put_back(self.addr, self.len);
    }
}

/// Makes segments durable; those that could not be are marked. The first failure is the error.
pub(super) fn sync(segments: &mut Vec<Segment>) -> Result<()> {
    segments.sort_unstable_by_key(|s| (Shared::id(&s.file), s.offset, s.addr));
    segments.dedup_by(|next, s| {
        let joins = s.continues(next);
        if joins {
            s.len += next.len;
            s.failures = s.failures.min(next.failures);
        }
        joins
    });
    // Before anything that the kernel reports a failure to. Sets that sync some of the same files cannot wait for each other:
    // all end their tickets in the order of the files.
    for group in segments.chunk_by_mut(|a, b| Shared::same(&a.file, &b.file)) {
        match group[0].file.syncs().begin() {
            Ok(mut ticket) => {
                group.iter().for_each(|s| ticket.covers_since(s.failures));
                group[0].ticket = Some(ticket);
            }
            Err(_) => group.iter_mut().for_each(|s| s.failed = libc::ENOMEM),
        }
    }
    let several = segments.len() > 1;
    for s in segments.iter_mut().filter(|s| s.failed == 0) {
        redirty(s);
    }
    // Start everything, of all files, before waiting for anything.
    for s in segments.iter_mut().filter(|s| several && s.failed == 0) {
        if let Err(errno) = start(&s.file, |fd| sys::start_writeback(fd, s.offset, s.len)) {
            if !unsupported(errno) {
                s.failed = errno;
            }
        }
    }
    let mut result = Ok(());
    for group in segments.chunk_by_mut(|a, b| Shared::same(&a.file, &b.file)) {
        sync_file(group);
        for s in group.iter().filter(|s| s.failed != 0) {
            result = result.and(Err(Error::NotDurable(s.addr, s.len, s.failed)));
        }
    }
    result
}

/// Starts writing to a file, where that is of use.
pub(super) fn start(
    file: &OpenFile,
    write: impl FnOnce(RawFd) -> sys::SysResult<()>,
) -> sys::SysResult<()> {
    file.with_plan(|plan, fd| match plan {
        SyncPlan::Each => Ok(()),
        _ => write(fd),
    })
}

/// Pages whose last sync failed count as clean in the kernel: a sync would find nothing to do and succeed.
fn redirty(s: &mut Segment) {
    let mut failed = 0;
    let log = s.log();
    log.each_lost(s.addr, s.len, |addr, len| {
        match sys::make_dirty(addr, len) {
            Ok(()) => true,
            Err(errno) => {
                failed = errno;
                false
            }
        }
    });
    if failed != 0 {
        s.failed = match s.file.syncs().last_errno() {
            0 => failed,
            errno => errno,
        };
    }
}

fn unsupported(errno: Errno) -> bool {
    matches!(
        errno,
        libc::ENOSYS | libc::EINVAL | libc::ESPIPE | libc::EOPNOTSUPP | libc::EBADF
    )
}

/// Syncs the segments of one file and marks all of them when the file's syncs have failed.
fn sync_file(group: &mut [Segment]) {
    let Some(ticket) = group.first_mut().and_then(|s| s.ticket.take()) else {
        return;
    };
    let file = group[0].file.clone();
    let grown = file.growth_so_far();
    let mut failure = group
        .iter()
        .map(|s| s.failed)
        .find(|e| *e != 0)
        .map_or(Ok(()), Err);
    if group.len() > 1 && failure.is_ok() {
        failure = file.with_plan(|plan, fd| match plan {
            SyncPlan::Commit => finish_and_commit(group, fd),
            _ => sync_each(group),
        });
    } else {
        failure = failure.and(sync_each(group));
    }
    if failure.is_ok() {
        failure = file.settle(grown);
    }
    match file.syncs().end(ticket, failure) {
        Err(errno) => {
            for s in group.iter_mut() {
                s.failed = errno;
            }
        }
        Ok(failures) => {
            for s in group.iter_mut() {
                verify(s, failures);
            }
            // Now, while they are clean.
            if file.with_plan(|plan, _| plan != SyncPlan::Each) {
                for s in group.iter().filter(|s| s.log().set_apart(s.addr, s.len)) {
                    sys::cache_apart(s.addr, s.len);
                }
            }
        }
    }
}

/// Pages that were lost once and have been synced again without a complaint: where the first write was to have allocated
/// their blocks, the file system may count the blocks as unwritten for ever and give back zeroes for what is in them. Then
/// they are not durable, whatever the sync said; and so when that cannot be found out. `failures`: of the file's syncs so far.
fn verify(s: &mut Segment, failures: u64) {
    let mut failed = 0;
    let log = s.log();
    let durable = log.each_lost(s.addr, s.len, |addr, len| {
        let offset = s.offset + (addr - s.addr) as u64;
        let written = s
            .file
            .with_fd(|fd| fd.map(|fd| sys::blocks_are_written(fd, offset, len)));
        match written {
            Some(Some(true) | None) => true,
            Some(Some(false)) | None => {
                failed = s.file.syncs().last_errno();
                false
            }
        }
    });
    if durable {
        // What has been lost since may be in these pages again.
        s.file
            .syncs()
            .unless_failed_since(failures, || log.found(s.addr, s.len));
    } else {
        s.failed = failed;
    }
}

fn finish_and_commit(group: &[Segment], fd: RawFd) -> sys::SysResult<()> {
    for s in group {
        match sys::finish_writeback(fd, s.offset, s.len) {
            Err(errno) if unsupported(errno) => return sync_each(group),
            result => result?,
        }
    }
    match group.first() {
        Some(s) => sys::sync_range(s.addr, sys::page_size()),
        None => Ok(()),
    }
}

fn sync_each(group: &[Segment]) -> sys::SysResult<()> {
    let mut result = Ok(());
    for s in group {
        // All of them, even after a failure: others may be healthy, and the kernel forgets what it has reported.
        result = result.and(sys::sync_range(s.addr, s.len));
    }
    result
}
