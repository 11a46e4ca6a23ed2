//! An open file that parts keep alive, and what is known about it.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicUsize, Ordering};

use super::device::{self, DeviceDax, Path};
use super::mapped::{Mapped, Syncs};
use crate::error::{Error, Name, Result};
use crate::granularity::Granularity;
use crate::mem::{Shared, lock, try_box};
use crate::persist::arch;
use crate::pmem2;
use crate::sys::{self, Errno, SysResult};

/// What the file is.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    File,
    DeviceDax(DeviceDax),
}

impl Kind {
    pub(crate) fn of(facts: &sys::FileFacts, name: Name) -> Result<Kind> {
        match facts.kind() {
            libc::S_IFREG => Ok(Kind::File),
            libc::S_IFDIR => Err(Error::SystemAt("open", name, libc::EISDIR)),
            libc::S_IFCHR => DeviceDax::of(facts.rdev)
                .map(Kind::DeviceDax)
                .ok_or(Error::InvalidSourceType(name)),
            _ => Err(Error::InvalidSourceType(name)),
        }
    }
}

/// How several ranges of a file become durable together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SyncPlan {
    /// Write all of them back and wait, then sync one: on these file systems a sync of any range commits all metadata
    /// of the file and flushes the device, so that what has been written before is durable after it.
    Commit = 1,
    /// Start writing all of them back, then sync each.
    StartEach = 2,
    /// Sync each: nothing is gained by starting early (memory file systems), or the file is not open any more.
    Each = 3,
}

/// File systems on which the sync of one range commits the file: ext4 (a sync waits for the range, then commits the
/// transaction with the inode's last change and flushes the device; the conversion of extents that were allocated for
/// written pages is part of the inode's changes and done before the pages count as written) and xfs (a sync waits for the
/// range, then forces the log up to the inode's last change, or flushes the device if there is none). ext2 and ext3 share
/// ext4's number and its driver. Copy-on-write and log-structured file systems tie what is committed to the range that
/// is synced, and are not listed.
const COMMITTING: [u64; 2] = [0xEF53, 0x5846_5342];
/// tmpfs, ramfs, hugetlbfs: nothing is written back.
const IN_MEMORY: [u64; 3] = [0x0102_1994, 0x8584_58F6, 0x9584_58F6];

const UNKNOWN: u8 = 0;
const NO: u8 = 1;
const YES: u8 = 2;

struct Descriptor {
    fd: Option<OwnedFd>,
    /// Sources, and parts that are not mapped yet: they need the descriptor.
    openers: usize,
    /// System calls under way on it.
    pins: usize,
    /// It counts in RETAINED.
    retained: bool,
}

/// Descriptors that are kept open only for the syncs of mapped parts, over the process.
static RETAINED: AtomicUsize = AtomicUsize::new(0);

/// Descriptors of the program's that are in use.
static BORROWED: Mutex<Vec<Borrowed>> = Mutex::new(Vec::new());

struct Borrowed {
    /// Number, device and inode.
    key: (RawFd, u64, u64),
    /// The file for it: as something [`Shared`], and itself.
    shared: usize,
    file: usize,
}

/// An open file. Everything about durability of one file goes through one of these for each time it was opened, since
/// that is what the kernel's error reporting goes by.
pub(crate) struct OpenFile {
    pub(super) kind: Kind,
    pub(super) name: Name,
    pub(super) facts: sys::FileFacts,
    /// The file had a name that can be deleted.
    named: bool,
    /// Mapping a part may make the file longer.
    pub(super) growth: bool,
    /// Mapping the source directly must not make the file longer.
    pub(super) fixed_size: bool,
    descriptor: Mutex<Descriptor>,
    /// The same descriptor, valid while there are openers; or the program's, which has to stay open as long.
    raw: RawFd,
    /// It is the program's: it is used until a part is mapped and no longer, and never duplicated.
    borrowed: bool,
    /// It is in BORROWED.
    listed: AtomicBool,
    /// What offsets, lengths and addresses must be multiples of, if that is more than is known here.
    coarser: usize,
    /// libpmem2's view of the file, made when somebody needs it: a box.
    pmem2: AtomicPtr<pmem2::Source>,
    map_sync: AtomicU8,
    caches_survive: AtomicBool,
    plan: AtomicU8,
    /// The directory entry may not be durable yet.
    new_entry: AtomicBool,
    entry_lock: Mutex<()>,
    /// How often the library has made the file longer, and how many of these sizes are durable.
    growths: AtomicUsize,
    durable_growths: AtomicUsize,
    mapped: AtomicUsize,
    syncs: Syncs,
}

impl OpenFile {
    pub(super) fn new(fd: OwnedFd, name: Name) -> Result<OpenFile> {
        Self::of(fd.as_raw_fd(), Some(fd), name)
    }

    /// A file that the program has opened and will close. While one of these lives, the same descriptor gives the same: what
    /// becomes of its syncs concerns all who use it.
    pub(super) fn borrowed(fd: RawFd, name: Name, alignment: usize) -> Result<Shared<OpenFile>> {
        let mut file = Self::of(fd, None, name)?;
        file.coarser = alignment;
        let key = (fd, file.facts.dev, file.facts.inode);
        let mut known = lock(&BORROWED);
        let same = known.iter().find(|k| k.key == key);
        // SAFETY: a file leaves the list, under its lock, before its memory goes.
        if let Some(same) = same.and_then(|k| unsafe { Shared::revive(k.shared) }) {
            return Ok(same);
        }
        known
            .try_reserve(1)
            .map_err(|_| Error::OutOfMemory("source"))?;
        let file = Shared::try_new(file)?;
        file.listed.store(true, Ordering::Relaxed);
        known.push(Borrowed {
            key,
            shared: Shared::id(&file),
            file: std::ptr::from_ref(&*file) as usize,
        });
        Ok(file)
    }

    fn of(raw: RawFd, fd: Option<OwnedFd>, name: Name) -> Result<OpenFile> {
        let facts = sys::file_facts(raw).map_err(|e| Error::SystemAt("look up", name, e))?;
        let kind = Kind::of(&facts, name)?;
        Ok(OpenFile {
            kind,
            name,
            facts,
            named: false,
            growth: false,
            raw,
            borrowed: fd.is_none(),
            listed: AtomicBool::new(false),
            coarser: 1,
            pmem2: AtomicPtr::new(std::ptr::null_mut()),
            fixed_size: false,
            descriptor: Mutex::new(Descriptor {
                fd,
                openers: 0,
                pins: 0,
                retained: false,
            }),
            map_sync: AtomicU8::new(UNKNOWN),
            caches_survive: AtomicBool::new(false),
            plan: AtomicU8::new(UNKNOWN),
            new_entry: AtomicBool::new(false),
            entry_lock: Mutex::new(()),
            growths: AtomicUsize::new(0),
            durable_growths: AtomicUsize::new(0),
            mapped: AtomicUsize::new(0),
            syncs: Syncs::default(),
        })
    }

    /// From now on a part cannot be made once the file has been deleted. A path through /proc names an open file, which
    /// may have been deleted long ago.
    pub(super) fn check_links(&mut self, path: &CStr) {
        let through_proc = |prefix: &&[u8]| path.to_bytes().starts_with(prefix);
        self.named = matches!(self.kind, Kind::File)
            && self.facts.links > 0
            && ![&b"/proc/"[..], b"/dev/fd/"].iter().any(through_proc);
    }

    pub(super) fn entry_may_be_new(&self) {
        self.new_entry.store(true, Ordering::Release);
    }

    // ---- the descriptor ------------------------------------------------------------------------------------------

    pub(crate) fn opened(&self) {
        lock(&self.descriptor).openers += 1;
    }

    /// One opener less. After the last the descriptor is kept for the syncs of mapped parts, if they gain by it, and only
    /// within a small share of the process's descriptors.
    pub(crate) fn closed(&self) {
        let mut d = lock(&self.descriptor);
        d.openers -= 1;
        if d.openers > 0 || self.borrowed || self.mapped.load(Ordering::Acquire) == 0 {
            return;
        }
        if self.new_entry.load(Ordering::Acquire) {
            if let Some(fd) = &d.fd {
                // Best done now: later there is no descriptor to find the directory by. A failure stays to be reported.
                if sync_directory_of(fd.as_raw_fd()).is_ok() {
                    self.new_entry.store(false, Ordering::Release);
                }
            }
        }
        let worth_it = self.plan_of(self.raw) != SyncPlan::Each;
        if d.retained || (worth_it && retain()) {
            d.retained = true;
        } else {
            self.close_if_idle(&mut d);
        }
    }

    /// The descriptor, for those who count as openers.
    pub(crate) fn fd(&self) -> RawFd {
        self.raw
    }

    /// Runs `f` with the descriptor, if it is still open.
    pub(crate) fn with_fd<T>(&self, f: impl FnOnce(Option<RawFd>) -> T) -> T {
        let fd = {
            let mut d = lock(&self.descriptor);
            d.pins += 1;
            d.fd.as_ref().map(|fd| fd.as_raw_fd())
        };
        let result = f(fd);
        let mut d = lock(&self.descriptor);
        d.pins -= 1;
        self.close_if_idle(&mut d);
        result
    }

    /// Closes what nobody needs any more. The directory entry needs it until it is durable.
    fn close_if_idle(&self, d: &mut Descriptor) {
        let needed = d.openers > 0 || d.retained || self.new_entry.load(Ordering::Acquire);
        if d.pins == 0 && !needed {
            d.fd = None;
        }
    }

    // ---- facts ---------------------------------------------------------------------------------------------------

    /// Fails if the file had a name when it was opened and has none any more.
    pub(crate) fn check_exists(&self) -> Result<()> {
        if self.named {
            let facts =
                sys::file_facts(self.raw).map_err(|e| Error::SystemAt("look up", self.name, e))?;
            if facts.links == 0 {
                return Err(Error::SourceDeleted(self.name));
            }
        }
        Ok(())
    }

    /// The size in bytes at this moment.
    pub(crate) fn size(&self) -> Result<u64> {
        let now = match self.borrowed {
            true => Some(self.check_borrowed()?),
            false => None,
        };
        match (self.kind, now) {
            (Kind::DeviceDax(dax), _) => Ok(dax.size),
            // The program's file offset stays where it is.
            (Kind::File, Some(facts)) => Ok(facts.size),
            (Kind::File, None) => {
                sys::file_size(self.raw).map_err(|e| Error::SystemAt("look up", self.name, e))
            }
        }
    }

    /// Fails if the program has closed its descriptor, or its number is another file's by now.
    fn check_borrowed(&self) -> Result<sys::FileFacts> {
        let facts =
            sys::file_facts(self.raw).map_err(|e| Error::SystemAt("look up", self.name, e))?;
        if (facts.dev, facts.inode) != (self.facts.dev, self.facts.inode) {
            return Err(Error::InvalidPmem2Source(
                "its descriptor has been closed and is another file's now",
            ));
        }
        Ok(facts)
    }

    /// What offsets, lengths and addresses must be multiples of.
    pub(crate) fn alignment(&self) -> usize {
        match self.kind {
            Kind::DeviceDax(dax) => (dax.align as usize).max(sys::page_size()),
            Kind::File => sys::page_size(),
        }
        .max(self.coarser)
    }

    /// A libpmem2 source of the file, the same each time, which lives as long as this; `None` without libpmem2. For those
    /// who count as openers.
    pub(crate) fn pmem2_source(&self) -> Result<Option<&pmem2::Source>> {
        let mut made = self.pmem2.load(Ordering::Acquire);
        if made.is_null() {
            let Some(source) = pmem2::Source::from_fd(self.raw)? else {
                return Ok(None);
            };
            let source = Box::into_raw(try_box(source)?);
            let null = std::ptr::null_mut();
            let first =
                self.pmem2
                    .compare_exchange(null, source, Ordering::AcqRel, Ordering::Acquire);
            made = match first {
                Ok(_) => source,
                Err(others) => {
                    // SAFETY: made above, and nobody has seen it.
                    drop(unsafe { Box::from_raw(source) });
                    others
                }
            };
        }
        // SAFETY: a box that is freed when the file is dropped.
        Ok(Some(unsafe { &*made }))
    }

    pub(crate) fn grows(&self) -> bool {
        self.growth && matches!(self.kind, Kind::File)
    }

    /// The same for a source that is mapped directly.
    pub(crate) fn grows_directly(&self) -> bool {
        !self.fixed_size && matches!(self.kind, Kind::File)
    }

    /// The alignment, if it is one.
    pub(crate) fn published_alignment(&self) -> Result<usize> {
        match self.kind {
            Kind::DeviceDax(dax) if !dax.align.is_power_of_two() => {
                Err(Error::InvalidAlignment(dax.align))
            }
            _ => Ok(self.alignment()),
        }
    }

    /// Fails if the range is not inside the file.
    pub(crate) fn check_range(&self, offset: usize, len: usize) -> Result<()> {
        let gone = |e: Error| Error::Medium("look up", offset, e.errno().unwrap_or(libc::EBADF));
        let size = self.size().map_err(gone)?;
        match offset.checked_add(len) {
            Some(end) if end as u64 <= size => Ok(()),
            _ => Err(Error::LengthOutOfRange(offset, len)),
        }
    }

    /// # Safety
    /// The destination must be valid for stores of `len` bytes.
    pub(super) unsafe fn read(&self, dest: *mut u8, len: usize, offset: usize) -> Result<()> {
        // SAFETY: as the caller promises; a window is mapped while it is used.
        let done = unsafe {
            match self.kind {
                Kind::File => sys::read_at(self.raw, dest, len, offset as u64),
                Kind::DeviceDax(_) => {
                    self.with_window(offset, len, |window| sys::copy_guarded(dest, window, len))
                }
            }
        };
        done.map_err(|errno| Error::Medium("read", offset, errno))
    }

    /// # Safety
    /// The origin must be valid for loads of `len` bytes.
    pub(super) unsafe fn write(&self, origin: *const u8, len: usize, offset: usize) -> Result<()> {
        // SAFETY: as the caller promises; a window is mapped while it is used.
        let done = unsafe {
            match self.kind {
                Kind::File => sys::write_at(self.raw, origin, len, offset as u64),
                Kind::DeviceDax(_) => self.with_window(offset, len, |window| {
                    sys::copy_guarded(window, origin, len)?;
                    arch::persist(window, len);
                    Ok(())
                }),
            }
        };
        done.map_err(|errno| Error::Medium("write", offset, errno))
    }

    /// Maps a range of a device, which has no read and write, for a moment.
    fn with_window(
        &self,
        offset: usize,
        len: usize,
        f: impl FnOnce(*mut u8) -> SysResult<()>,
    ) -> SysResult<()> {
        if len == 0 {
            return Ok(());
        }
        let align = self.alignment();
        let start = offset / align * align;
        let size = (offset + len - start).next_multiple_of(align);
        // SAFETY: without a fixed address nothing of anybody's is replaced.
        let window = unsafe { sys::map_file(None, size, self.raw, start as u64, false)? };
        let done = f((window + (offset - start)) as *mut u8);
        // SAFETY: mapped above, and known to nobody any more.
        unsafe { sys::unmap(window, size) };
        done
    }

    /// Whether anything of the source is mapped.
    pub(super) fn is_mapped(&self) -> bool {
        self.mapped.load(Ordering::Acquire) > 0
    }

    pub(crate) fn grow(&self, size: u64) -> Result<()> {
        sys::grow(self.raw, self.facts.inode, size)
            .map_err(|e| Error::CannotGrow(size as usize, e))?;
        self.growths.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Whether mappings can have MAP_SYNC. Found out once, at an address that the kernel picks: a refused mapping at a
    /// fixed address may leave a hole there.
    pub(crate) fn takes_map_sync(&self) -> Result<bool> {
        match self.map_sync.load(Ordering::Acquire) {
            UNKNOWN => {}
            known => return Ok(known == YES),
        }
        let len = self.alignment();
        // SAFETY: without a fixed address nothing of anybody's is replaced.
        let takes = match unsafe { sys::map_file(None, len, self.raw, 0, true) } {
            Ok(addr) => {
                // SAFETY: mapped above, and known to nobody.
                unsafe { sys::unmap(addr, len) };
                let survive = self
                    .region()
                    .is_some_and(device::caches_survive_power_failure);
                self.caches_survive.store(survive, Ordering::Relaxed);
                true
            }
            Err(libc::EOPNOTSUPP | libc::EINVAL) => {
                // SAFETY: as above. A file that cannot be mapped at all says so here, and not over a reservation.
                let addr = unsafe { sys::map_file(None, len, self.raw, 0, false) }
                    .map_err(|e| self.cannot_map(len, e))?;
                // SAFETY: mapped above, and known to nobody.
                unsafe { sys::unmap(addr, len) };
                false
            }
            Err(errno) => return Err(self.cannot_map(len, errno)),
        };
        self.map_sync
            .store(if takes { YES } else { NO }, Ordering::Release);
        Ok(takes)
    }

    pub(crate) fn cannot_map(&self, len: usize, errno: Errno) -> Error {
        match errno {
            libc::ENOMEM | libc::EAGAIN => Error::NoRoom(len, errno),
            errno => Error::SystemAt("map", self.name, errno),
        }
    }

    /// The store granularity of the medium: what `PMEM2_FORCE_GRANULARITY` says, else what the medium is.
    pub(crate) fn granularity(&self) -> Result<Granularity> {
        let synchronous = self.takes_map_sync()?;
        Ok(match Granularity::forced() {
            Some(forced) => forced,
            None if !synchronous => Granularity::Page,
            // A processor whose cache lines this library cannot write back.
            None if arch::facts().write_back() == arch::WriteBack::None => Granularity::Page,
            None if self.caches_survive.load(Ordering::Relaxed) => Granularity::Byte,
            None => Granularity::CacheLine,
        })
    }

    /// The number of the persistent-memory region the file is in.
    pub(crate) fn region(&self) -> Option<u32> {
        match self.kind {
            Kind::DeviceDax(_) => device::region_of(self.facts.rdev, true),
            Kind::File => device::region_of(self.facts.dev, false),
        }
    }

    pub(crate) fn is_device(&self) -> bool {
        matches!(self.kind, Kind::DeviceDax(_))
    }

    fn plan_of(&self, fd: RawFd) -> SyncPlan {
        match self.plan.load(Ordering::Relaxed) {
            1 => return SyncPlan::Commit,
            2 => return SyncPlan::StartEach,
            3 => return SyncPlan::Each,
            _ => {}
        }
        let plan = match (self.kind, sys::file_system_type(fd)) {
            (Kind::File, Some(fs)) if COMMITTING.contains(&fs) => SyncPlan::Commit,
            (Kind::File, Some(fs)) if !IN_MEMORY.contains(&fs) => SyncPlan::StartEach,
            _ => SyncPlan::Each,
        };
        self.plan.store(plan as u8, Ordering::Relaxed);
        plan
    }

    /// Runs `f` with the way in which several ranges are synced best, and the descriptor for it.
    pub(crate) fn with_plan<T>(&self, f: impl FnOnce(SyncPlan, RawFd) -> T) -> T {
        self.with_fd(|fd| match fd {
            Some(fd) => f(self.plan_of(fd), fd),
            None => f(SyncPlan::Each, -1),
        })
    }

    /// Whether several ranges become durable by one commit. It takes the descriptor.
    pub(crate) fn commits_together(&self) -> bool {
        self.with_plan(|plan, _| plan == SyncPlan::Commit)
    }

    /// To be asked before a sync that is to be followed by [`settle`](Self::settle).
    pub(crate) fn growth_so_far(&self) -> usize {
        self.growths.load(Ordering::Acquire)
    }

    /// After a sync of any range of the file, which made the size durable that the file had before: makes the directory entry
    /// durable, too, if the file was opened to be created.
    pub(crate) fn settle(&self, growths: usize) -> SysResult<()> {
        self.settle_entry()?;
        self.durable_growths.fetch_max(growths, Ordering::AcqRel);
        Ok(())
    }

    fn settle_entry(&self) -> SysResult<()> {
        if !self.new_entry.load(Ordering::Acquire) {
            return Ok(());
        }
        let _one = lock(&self.entry_lock);
        if !self.new_entry.load(Ordering::Acquire) {
            return Ok(());
        }
        self.with_fd(|fd| fd.map_or(Err(libc::EBADF), sync_directory_of))?;
        self.new_entry.store(false, Ordering::Release);
        Ok(())
    }

    /// Whether the directory entry or the size may not be durable yet, because of this library.
    pub(crate) fn is_unsettled(&self) -> bool {
        self.new_entry.load(Ordering::Acquire)
            || self.durable_growths.load(Ordering::Acquire) < self.growth_so_far()
    }

    /// Syncs a range of a mapped part for the sake of what is unsettled, or beyond what flushing does.
    pub(crate) fn sync_part(&self, addr: usize, len: usize) -> SysResult<()> {
        let growths = self.growth_so_far();
        let ticket = self.syncs.begin().map_err(|_| libc::ENOMEM)?;
        let synced = sys::sync_range(addr, len).and_then(|()| self.settle(growths));
        self.syncs.end(ticket, synced).map(drop)
    }

    // ---- parts ---------------------------------------------------------------------------------------------------

    /// A part has been mapped. It must not move until [`removed`](Self::removed).
    pub(crate) fn added(&self, part: &Mapped) {
        self.mapped.fetch_add(1, Ordering::Release);
        self.syncs.added(part);
    }

    /// A part is about to be freed.
    pub(crate) fn removed(&self, part: &Mapped) {
        self.syncs.removed(part);
        self.mapped.fetch_sub(1, Ordering::Release);
    }

    /// How the file's syncs fare.
    pub(crate) fn syncs(&self) -> &Syncs {
        &self.syncs
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        let d = self
            .descriptor
            .get_mut()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if d.retained {
            RETAINED.fetch_sub(1, Ordering::Relaxed);
        }
        if *self.listed.get_mut() {
            let this = std::ptr::from_ref(self) as usize;
            let mut known = lock(&BORROWED);
            known.retain(|k| k.file != this);
            if known.is_empty() {
                *known = Vec::new();
            }
        }
        let source = *self.pmem2.get_mut();
        if !source.is_null() {
            // SAFETY: made by pmem2_source, and nobody has the file any more.
            drop(unsafe { Box::from_raw(source) });
        }
    }
}

/// Counts one more retained descriptor, if an eighth of what the process may have allows it.
fn retain() -> bool {
    let most = (sys::limit(libc::RLIMIT_NOFILE) / 8) as usize;
    RETAINED
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
            (n < most).then_some(n + 1)
        })
        .is_ok()
}

/// Makes the entry of an open file durable, wherever it has been renamed to.
fn sync_directory_of(fd: RawFd) -> SysResult<()> {
    let mut buffer = [0u8; libc::PATH_MAX as usize];
    let parent = Path::new(format_args!("/proc/self/fd/{fd}"))
        .and_then(|link| sys::read_link(link.as_cstr(), &mut buffer).ok())
        .and_then(|path| path.iter().rposition(|b| *b == b'/'))
        .and_then(|slash| {
            buffer[slash.max(1)] = 0;
            let dir = CStr::from_bytes_until_nul(&buffer).ok()?;
            sys::open(dir, libc::O_RDONLY | libc::O_DIRECTORY, 0).ok()
        });
    match parent {
        Some(dir) => match sys::fsync(dir.as_raw_fd()) {
            // Directories of some file systems cannot be synced, and need not be.
            Err(libc::EINVAL | libc::EROFS | libc::EOPNOTSUPP) => Ok(()),
            result => result,
        },
        None => sys::sync_file_system(fd),
    }
}
