//! How ranges of a file become durable, by file system: which system calls, why, and on what proof.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::{Kind, OpenFile, Ticket};
use crate::sys::{self, SysResult};

/// What makes ranges of a file durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SyncPlan {
    /// Write all of them and wait, then msync one page: that commits all metadata of the file and flushes the device, so that
    /// what has been written before is durable after it.
    Commit,
    /// msync each of them.
    Each,
    /// The same, one sync of the file at a time.
    EachAlone,
    /// The same as each; nothing is written back to anything: memory file systems.
    Memory,
    /// Write all of them and wait, have the file's metadata be dirty, and msync one page that has just been written: without
    /// dirty metadata an msync flushes no device. One sync of the file at a time, since another would clean the metadata.
    Touch,
    /// The same, but for writing by msync: on stacked file systems sync_file_range does nothing.
    TouchEach,
    /// As TouchEach, then fsync the descriptor, which may write more of the file than was flushed.
    Careful,
}

/// A file system, by the number that statfs gives, or several that are alike.
struct Row {
    numbers: &'static [u64],
    plan: SyncPlan,
}

pub(super) const HUGETLBFS: u64 = 0x9584_58F6;
const EXT: u64 = 0xEF53;
const OVERLAY: u64 = 0x794C_7630;

/// The file systems that are known. What is not listed gets [`SyncPlan::Careful`].
///
/// *Power loss* means that the power of virtual machines was cut at random moments (tests/guest, cases power-*), with Linux
/// 6.1; *sources* means the kernel's of that release.
const TABLE: &[Row] = &[
    // ext4 with a journal, any data= mode, and ext3: ext4_sync_file waits for the range, then commits the transaction with the
    // inode's last change, size and entry included, and flushes the device. Power loss, all three modes.
    // Without a journal, and ext2 (the same driver): see `SyncPlan::of`. Power loss.
    Row {
        numbers: &[EXT],
        plan: SyncPlan::Commit,
    },
    // xfs: xfs_file_fsync waits for the range, then forces the log up to the inode's last change, or flushes the device if there
    // is none. Power loss.
    // exFAT: exfat_file_fsync writes all of the device's buffers and always flushes. Power loss.
    // OCFS2: as ext4 with a journal. HFS+: hfsplus_file_fsync writes the trees and flushes. Sources.
    Row {
        numbers: &[0x5846_5342, 0x2011_BAB0, 0x7461_636F, 0x482B],
        plan: SyncPlan::Commit,
    },
    // btrfs: what is committed is tied to the range that is synced (btrfs_sync_file), and of syncs of a file beside each other one
    // may return before the other's flush. nilfs2: the same, since the flush is noted before it is made. Power loss: nothing
    // lost one at a time, and of btrfs some beside each other.
    Row {
        numbers: &[0x9123_683E, 0x3434],
        plan: SyncPlan::EachAlone,
    },
    // reiserfs: reiserfs_sync_file commits the transaction and flushes. Power loss.
    // NFS: nfs_file_fsync commits what was written of the range, and the server's word is the medium's; after a server's restart
    // only the range that is asked for is written again, so that one commit for all would lie. CIFS: a flush at the server
    // (cifs_strict_fsync). Sources.
    Row {
        numbers: &[0x5265_4973, 0x6969, 0xFF53_4D42, 0xFE53_4D42, 0x517B],
        plan: SyncPlan::Each,
    },
    // vfat, UDF, minix, NTFS (ntfs3), System V: generic_file_fsync and its like always flush the device, but a size or an entry
    // that the kernel's own write-back got to first stays in memory; dirty metadata has it written. Power loss (the first
    // three), sources. GFS2: an msync of a file with clean metadata flushes nothing (gfs2_fsync). Sources.
    Row {
        numbers: &[
            0x4D44,
            0x1501_3346,
            0x137F,
            0x138F,
            0x2468,
            0x2478,
            0x4D5A,
            0x7366_746E,
            0x5346_544E,
            0x0116_1970,
        ],
        plan: SyncPlan::Touch,
    },
    // f2fs: the first sync after a checkpoint does not wait for its node block, and of two beside each other the second skips its
    // flush (f2fs_do_sync_file); a further one with dirty metadata does. Power loss: everything else lost something.
    // overlayfs: a mapping is one of the file below, so that msync is what it is there, sync_file_range on its own descriptors
    // does nothing, and new times reach the file below. Power loss, on ext4 with and without a journal.
    // FUSE, 9p: what the server does with a sync is what it does below, and it may ask for data only; new times reach the file
    // below. Power loss (fuse2fs, bindfs), sources.
    Row {
        numbers: &[0xF2F5_2010, OVERLAY, 0x6573_5546, 0x0102_1997],
        plan: SyncPlan::TouchEach,
    },
    // JFS, HFS, AFFS: nothing flushes the device, whatever is called (jfs_fsync and their like). A drain is worth what the
    // device's cache is. Power loss (JFS), sources.
    Row {
        numbers: &[0x3153_464A, 0x4244, 0xADFF],
        plan: SyncPlan::Each,
    },
    // tmpfs, ramfs, hugetlbfs: nothing is written back.
    Row {
        numbers: &[0x0102_1994, 0x8584_58F6, HUGETLBFS],
        plan: SyncPlan::Memory,
    },
];

impl SyncPlan {
    /// The plan for a file on a file system with this number, if that could be found out.
    pub(super) fn of(kind: Kind, facts: &sys::FileFacts, number: Option<u64>) -> SyncPlan {
        if let Kind::DeviceDax(_) = kind {
            return SyncPlan::Memory;
        }
        let known = |number| TABLE.iter().find(|row| row.numbers.contains(&number));
        let Some(row) = number.and_then(known) else {
            return SyncPlan::Careful;
        };
        match row.plan {
            // Without a journal ext4_fsync_nojournal flushed the device only when the inode was dirty, for an msync only when
            // more than its times were, until Linux 6.5; and the kernel's own write-back cleans it without a flush. After
            // `touch` it is dirty. Later kernels always write the inode and flush.
            SyncPlan::Commit
                if number == Some(EXT) && !sys::kernel_is(6, 6) && !has_journal(facts.dev) =>
            {
                SyncPlan::Touch
            }
            SyncPlan::Commit if !has_integral_writeback() => SyncPlan::Each,
            plan => plan,
        }
    }

    /// Whether what several threads flush of a file becomes durable by one commit.
    pub(crate) fn commits_together(self) -> bool {
        matches!(self, SyncPlan::Commit | SyncPlan::Touch)
    }

    /// Whether one sync of a file must be over before the next begins.
    pub(crate) fn syncs_alone(self) -> bool {
        use SyncPlan::*;
        matches!(self, EachAlone | Touch | TouchEach | Careful)
    }

    /// Whether blocks of a file may count as unwritten for ever after a lost first write: on ext4, and on what may be on it.
    pub(crate) fn may_stay_unwritten(self) -> bool {
        use SyncPlan::*;
        matches!(self, Commit | Touch | TouchEach | Careful)
    }
}

/// One range to be synced: address, offset in the file, bytes.
pub(crate) type FileRange = (usize, u64, usize);

impl OpenFile {
    /// Starts writing a range, where that is of use. What fails here has failed for good: it may not be reported again.
    pub(crate) fn start(&self, offset: u64, len: usize) -> SysResult<()> {
        use SyncPlan::*;
        let Some(pinned) = matches!(self.plan, Commit | Each | EachAlone | Touch)
            .then(|| self.pin())
            .flatten()
        else {
            return Ok(());
        };
        match sys::start_writeback(pinned.fd(), offset, len) {
            Err(errno) if sys::is_refused(errno) => Ok(()),
            result => result,
        }
    }

    /// Makes ranges durable, and the size that the file has now.
    pub(crate) fn sync<I>(&self, ticket: &Ticket<'_>, ranges: I) -> SysResult<()>
    where
        I: Iterator<Item = FileRange> + Clone,
    {
        let first = ranges.clone().next().map_or(0, |range| range.0);
        let several = ranges.clone().nth(1).is_some();
        use SyncPlan::*;
        let mut result = match self.plan {
            Commit | Touch if several => match self.write_back(ticket, ranges.clone()) {
                Some(written) => written.and_then(|()| match self.plan {
                    Commit => sys::sync_range(ticket, first, sys::page_size()),
                    _ => Ok(()),
                }),
                None => sync_each(ticket, ranges),
            },
            _ => sync_each(ticket, ranges),
        };
        if matches!(self.plan, Touch | TouchEach | Careful) && result.is_ok() {
            result = self.with_any_fd(|fd| match fd.map(sys::touch) {
                Some(Ok(())) => sys::sync_range(ticket, first, sys::page_size()),
                _ => self.flush_otherwise(ticket, fd),
            });
        }
        if self.plan == Careful && result.is_ok() {
            result = self.with_any_fd(|fd| self.flush_otherwise(ticket, fd));
        }
        result
    }

    /// Syncs a range of a mapped part for the sake of what is unsettled, or beyond what flushing does.
    pub(crate) fn sync_part(&self, range: FileRange) -> SysResult<()> {
        let growths = self.inode().growths();
        let since = self.inode().failures();
        let ticket = self.begin(self.plan.syncs_alone());
        let synced = self.sync(&ticket, std::iter::once(range));
        ticket.end(synced, since)?;
        self.settle(growths)
    }

    fn flush_otherwise(&self, ticket: &Ticket<'_>, fd: Option<RawFd>) -> SysResult<()> {
        match fd.map(|fd| sys::fsync(ticket, fd)) {
            Some(Err(e)) if !sys::is_call_refused(e, |fd| sys::fsync(ticket, fd)) => Err(e),
            Some(Ok(())) => Ok(()),
            _ => {
                sys::sync_everything();
                Ok(())
            }
        }
    }

    /// Writes ranges and waits; `None` where there is no call that does so with integrity, and no report has been handed out.
    fn write_back<I>(&self, ticket: &Ticket<'_>, ranges: I) -> Option<SysResult<()>>
    where
        I: Iterator<Item = FileRange>,
    {
        let pinned = self.pin().filter(|_| has_integral_writeback())?;
        let mut result = Ok(());
        for (_, offset, len) in ranges {
            let written = sys::finish_writeback(ticket, pinned.fd(), offset, len);
            if let Err(e) = written {
                let refused = |fd| sys::finish_writeback(ticket, fd, 0, 1);
                if result.is_ok() && sys::is_call_refused(e, refused) {
                    return None;
                }
            }
            // All of them, even after a failure: others may be healthy.
            result = result.and(written);
        }
        Some(result)
    }

    /// Runs `f` with the descriptor, or with one that is opened for it.
    pub(crate) fn with_any_fd<T>(&self, f: impl FnOnce(Option<RawFd>) -> T) -> T {
        if let Some(pinned) = self.pin() {
            return f(Some(pinned.fd()));
        }
        let opened = self.open_again();
        f(opened.as_ref().map(AsRawFd::as_raw_fd))
    }

    /// Opens the file once more, by the name that the kernel shows for a mapping of it.
    pub(super) fn open_again(&self) -> Option<OwnedFd> {
        sys::open_mapped_file(self.id())
    }
}

/// Whether sync_file_range writes with integrity: kernels before 5.2 passed over pages that were being written already.
fn has_integral_writeback() -> bool {
    sys::kernel_is(5, 2)
}

/// All of them, even after a failure: others may be healthy, and the kernel forgets what it has reported.
fn sync_each(ticket: &Ticket<'_>, ranges: impl Iterator<Item = FileRange>) -> SysResult<()> {
    let mut result = Ok(());
    for (addr, _, len) in ranges {
        result = result.and(sys::sync_range(ticket, addr, len));
    }
    result
}

/// Whether an ext4 file system is known to have a journal. It is looked up for each opening: under the same number there may be
/// another file system by then.
fn has_journal(dev: u64) -> bool {
    use crate::source::device::Path;
    let (major, minor) = (libc::major(dev), libc::minor(dev));
    let mut buffer = [0; 512];
    let mut task = [0; 64];
    let mut journal = || {
        let device = Path::new(format_args!("/sys/dev/block/{major}:{minor}"))?;
        let link = sys::read_link(device.as_cstr(), &mut buffer).ok()?;
        let name = std::str::from_utf8(link.rsplit(|b| *b == b'/').next()?).ok()?;
        let path = Path::new(format_args!("/sys/fs/ext4/{name}/journal_task"))?;
        let text = sys::read_small(path.as_cstr(), &mut task).ok()?;
        Some(text.trim_ascii() != b"<none>")
    };
    journal().unwrap_or(false)
}
