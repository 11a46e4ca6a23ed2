//! An open file that sources and parts keep alive, and what is known about its medium.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering,
};

use super::descriptor::{Descriptor, Pinned};
use super::durability::{FileId, Ticket};
use super::inode::{Inode, InodeRef};
use super::sync_plan::{HUGETLBFS, SyncPlan};
use crate::error::{Error, Name, Result};
use crate::fork;
use crate::granularity::Granularity;
use crate::mem::try_box;
use crate::persist::arch;
use crate::pmem2;
use crate::source::device::{self, DeviceDax, Path};
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

const UNKNOWN: u8 = 0;
const NO: u8 = 1;
const YES: u8 = 2;

/// One opening of a file.
pub(crate) struct OpenFile {
    pub(crate) kind: Kind,
    pub(crate) name: Name,
    pub(crate) facts: sys::FileFacts,
    /// The file had a name that can be deleted.
    named: bool,
    /// Mapping a part may make the file longer.
    pub(crate) growth: bool,
    /// Mapping the source directly must not make the file longer.
    pub(crate) fixed_size: bool,
    pub(super) descriptor: Descriptor,
    /// What offsets, lengths and addresses must be multiples of, if that is more than is known here.
    coarser: usize,
    /// libpmem2's view of the file, made when somebody needs it: a box.
    pmem2: AtomicPtr<pmem2::Source>,
    map_sync: AtomicU8,
    caches_survive: AtomicBool,
    /// How ranges of the file become durable.
    pub(crate) plan: SyncPlan,
    /// Parts that are mapped.
    mapped: AtomicUsize,
    inode: InodeRef,
    /// The process that opened it; 0 when the program has, which may have got it from another.
    opener: u64,
    /// Failures of the file that the kernel has no report of any more for this opening.
    reports_taken: AtomicU64,
    /// The process of which a thread is asking for reports.
    asking: AtomicU32,
}

impl OpenFile {
    pub(crate) fn new(fd: OwnedFd, name: Name) -> Result<OpenFile> {
        Self::of(fd.as_raw_fd(), Some(fd), name)
    }

    /// A file that the program has opened and will close.
    pub(crate) fn borrowed(fd: RawFd, name: Name, alignment: usize) -> Result<OpenFile> {
        let mut file = Self::of(fd, None, name)?;
        file.coarser = file.coarser.max(alignment);
        Ok(file)
    }

    fn of(raw: RawFd, fd: Option<OwnedFd>, name: Name) -> Result<OpenFile> {
        let facts = sys::file_facts(raw).map_err(|e| Error::SystemAt("look up", name, e))?;
        let kind = Kind::of(&facts, name)?;
        let inode = Inode::of(facts.id())?;
        let system = match kind {
            Kind::File => sys::file_system(raw),
            Kind::DeviceDax(_) => None,
        };
        // The kernel rounds a mapping of a file of huge pages to these, over whatever is beside it.
        let huge = system.filter(|system| system.0 == HUGETLBFS);
        let plan = SyncPlan::of(kind, &facts, system.map(|system| system.0));
        let failures = inode.failures();
        let opener = if fd.is_some() { fork::process() } else { 0 };
        Ok(OpenFile {
            kind,
            name,
            facts,
            named: false,
            growth: false,
            fixed_size: false,
            descriptor: match fd {
                Some(fd) => Descriptor::owned(fd, facts.id()),
                None => Descriptor::borrowed(raw, facts.id()),
            },
            coarser: huge.map_or(1, |system| system.1),
            pmem2: AtomicPtr::new(std::ptr::null_mut()),
            map_sync: AtomicU8::new(UNKNOWN),
            caches_survive: AtomicBool::new(false),
            plan,
            mapped: AtomicUsize::new(0),
            inode,
            opener,
            reports_taken: AtomicU64::new(failures),
            asking: AtomicU32::new(0),
        })
    }

    pub(crate) fn id(&self) -> FileId {
        self.inode.id()
    }

    /// What is remembered of the file's durability.
    pub(crate) fn inode(&self) -> &InodeRef {
        &self.inode
    }

    /// From now on a part cannot be made once the file has been deleted. A path through /proc names an open file, which
    /// may have been deleted long ago.
    pub(crate) fn check_links(&mut self, path: &CStr) {
        let through_proc = |prefix: &&[u8]| path.to_bytes().starts_with(prefix);
        self.named = matches!(self.kind, Kind::File)
            && self.facts.links > 0
            && ![&b"/proc/"[..], b"/dev/fd/"].iter().any(through_proc);
    }

    // ---- the descriptor ------------------------------------------------------------------------------------------

    pub(crate) fn opened(&self) {
        self.descriptor.opened();
    }

    /// One opener less. After the last the descriptor is kept for the syncs of mapped parts, if they gain by it, and only
    /// within a small number.
    pub(crate) fn closed(&self) {
        let is_mapped = self.is_mapped();
        if self.inode.has_new_entry()
            && self.descriptor.has_one_opener()
            && (is_mapped || self.inode.must_settle())
        {
            // Best done now: later there is no descriptor to find the directory by. A failure stays to be reported.
            let _ = self.settle_entry();
        }
        self.descriptor
            .closed(|| is_mapped && self.plan != SyncPlan::Memory);
    }

    /// The descriptor, for those who count as openers.
    pub(crate) fn fd(&self) -> RawFd {
        self.descriptor.number()
    }

    /// The same, if nobody has closed it or put another file into its place.
    pub(crate) fn checked_fd(&self) -> Result<RawFd> {
        self.facts_now()?;
        Ok(self.descriptor.number())
    }

    fn facts_now(&self) -> Result<sys::FileFacts> {
        self.descriptor.facts().map_err(|e| {
            if e == libc::ESTALE && self.descriptor.is_borrowed() {
                return Error::InvalidPmem2Source(
                    "its descriptor has been closed and is another file's now",
                );
            }
            Error::SystemAt("look up", self.name, e)
        })
    }

    /// The descriptor for a call, if it is still open.
    pub(crate) fn pin(&self) -> Option<Pinned<'_>> {
        self.descriptor.pin()
    }

    // ---- facts ---------------------------------------------------------------------------------------------------

    /// Fails if the file had a name when it was opened and has none any more.
    pub(crate) fn check_exists(&self) -> Result<()> {
        if self.named && self.facts_now()?.links == 0 {
            return Err(Error::SourceDeleted(self.name));
        }
        Ok(())
    }

    /// The size in bytes at this moment.
    pub(crate) fn size(&self) -> Result<u64> {
        match self.kind {
            Kind::DeviceDax(dax) => Ok(dax.size),
            Kind::File => Ok(self.facts_now()?.size),
        }
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
            let Some(source) = pmem2::Source::from_fd(self.checked_fd()?)? else {
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
    pub(crate) unsafe fn read(&self, dest: *mut u8, len: usize, offset: usize) -> Result<()> {
        // SAFETY: as the caller promises; a window is mapped while it is used.
        let done = unsafe {
            match self.kind {
                Kind::File => sys::read_at(self.fd(), dest, len, offset as u64),
                Kind::DeviceDax(_) => {
                    self.with_window(offset, len, |window| sys::copy_guarded(dest, window, len))
                }
            }
        };
        done.map_err(|errno| Error::Medium("read", offset, errno))
    }

    /// # Safety
    /// The origin must be valid for loads of `len` bytes.
    pub(crate) unsafe fn write(&self, origin: *const u8, len: usize, offset: usize) -> Result<()> {
        // SAFETY: as the caller promises; a window is mapped while it is used.
        let done = unsafe {
            match self.kind {
                Kind::File => sys::write_at(self.fd(), origin, len, offset as u64),
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
        let window = unsafe { sys::map_file(None, size, self.fd(), start as u64, false)? };
        let done = f((window + (offset - start)) as *mut u8);
        // SAFETY: mapped above, and known to nobody any more.
        unsafe { sys::unmap(window, size) };
        done
    }

    /// Whether anything of the source is mapped.
    pub(crate) fn is_mapped(&self) -> bool {
        self.mapped.load(Ordering::Acquire) > 0
    }

    pub(crate) fn grow(&self, size: u64) -> Result<()> {
        let failed = |e| Error::CannotGrow(size as usize, e);
        let fd = self.checked_fd()?;
        let extended = match sys::extend(fd, size) {
            Err(e) if sys::is_refused(e) || matches!(e, libc::ENOSPC | libc::EDQUOT) => {
                let _alone = self.inode.growing();
                sys::extend_sparsely(fd, size)
            }
            result => result,
        };
        extended.map_err(failed)?;
        self.inode.grown();
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
        let takes = match unsafe { sys::map_file(None, len, self.fd(), 0, true) } {
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
                let addr = unsafe { sys::map_file(None, len, self.fd(), 0, false) }
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

    /// Before the system calls of a sync. `alone`: no other sync of the file is to run at the same time.
    pub(crate) fn begin(&self, alone: bool) -> Ticket<'static> {
        self.inode.begin(alone, self.opener)
    }

    // ---- reports -------------------------------------------------------------------------------------------------

    /// The kernel reports a failure that is known, of another opening, to this opening once more. This has it do so now, when
    /// nothing is flushed through it that it could be about, so that it is not taken for a new one. It waits for nothing; where
    /// there is no descriptor any more, nothing is done.
    pub(crate) fn take_known_reports(&self) {
        if self.has_taken_reports() {
            return;
        }
        let Some(pinned) = self.pin() else {
            return;
        };
        self.take_reports(|ticket| match sys::take_report(ticket, pinned.fd()) {
            Err(e) if sys::is_call_refused(e, |fd| sys::take_report(ticket, fd)) => Ok(()),
            report => report,
        });
    }

    /// The same at the beginning of a flush of a page, by way of that: it may be written. Others that do this at the same time
    /// are waited for.
    pub(crate) fn take_known_reports_at(&self, addr: usize) {
        self.take_known_reports();
        self.take_reports(
            |ticket| match sys::sync_range(ticket, addr, sys::page_size()) {
                // The part is being removed by another thread.
                Err(libc::ENOMEM) => Ok(()),
                report => report,
            },
        );
        let mut wait = crate::sync::Wait::default();
        while self.asking.load(Ordering::Acquire) == fork::token() {
            wait.a_moment();
        }
    }

    /// Whether the kernel has no report of a known failure for this opening any more.
    fn has_taken_reports(&self) -> bool {
        self.reports_taken.load(Ordering::Acquire) == self.inode.failures()
    }

    fn take_reports(&self, take: impl FnOnce(&Ticket<'_>) -> SysResult<()>) {
        let failures = self.inode.failures();
        let _uncancelled = sys::Uncancelled::new();
        let me = fork::token();
        let asks = self.asking.load(Ordering::Acquire);
        // A thread of another process, of which this one is a child, will never be done here.
        if self.has_taken_reports()
            || asks == me
            || self
                .asking
                .compare_exchange(asks, me, Ordering::AcqRel, Ordering::Acquire)
                .is_err()
        {
            return;
        }
        let mut ticket = self.begin(false);
        let report = take(&ticket);
        // A relative of this process may have flushed through the same opening since: then what is reported counts.
        ticket.leave(match self.inode.join() {
            true => report,
            false => Ok(()),
        });
        self.reports_taken.store(failures, Ordering::Release);
        self.asking.store(0, Ordering::Release);
    }

    // ---- parts ---------------------------------------------------------------------------------------------------

    /// A part has been mapped.
    pub(crate) fn added(&self) {
        self.mapped.fetch_add(1, Ordering::Release);
    }

    /// A part has been removed.
    pub(crate) fn removed(&self) {
        self.mapped.fetch_sub(1, Ordering::Release);
    }

    // ---- directory entry and size --------------------------------------------------------------------------------

    /// After a sync of any range of the file, which made the size durable that the file had before: makes the directory entry
    /// durable, too, if the file was opened to be created.
    pub(crate) fn settle(&self, growths: usize) -> SysResult<()> {
        self.settle_entry()?;
        self.inode.size_is_durable(growths);
        Ok(())
    }

    fn settle_entry(&self) -> SysResult<()> {
        if !self.inode.has_new_entry() {
            return Ok(());
        }
        // Two that meet here both do it, which does no harm.
        let opened;
        let pinned;
        let fd = if let Some(p) = self.pin() {
            pinned = p;
            pinned.fd()
        } else {
            opened = self.open_again();
            match &opened {
                Some(fd) => fd.as_raw_fd(),
                None => {
                    sys::sync_everything();
                    self.inode.entry_is_durable();
                    return Ok(());
                }
            }
        };
        if sys::file_facts(fd).is_ok_and(|facts| facts.links == 0) {
            // Nothing leads to it.
            self.inode.entry_is_durable();
            return Ok(());
        }
        if !sync_directory_of(fd, self.id())? {
            let ticket = self.begin(false);
            let since = self.inode.failures();
            match sys::sync_file_system(&ticket, fd) {
                Err(e) if sys::is_call_refused(e, |fd| sys::sync_file_system(&ticket, fd)) => {
                    sys::sync_everything();
                    ticket.end(Ok(()), since)?;
                }
                result => ticket.end(result, since)?,
            }
        }
        self.inode.entry_is_durable();
        Ok(())
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        let source = *self.pmem2.get_mut();
        if !source.is_null() {
            // SAFETY: made by pmem2_source, and nobody has the file any more.
            drop(unsafe { Box::from_raw(source) });
        }
    }
}

/// Makes the entry of an open file durable, wherever it has been renamed to. `false` when its directory cannot be found, or
/// something has been mounted over it since.
fn sync_directory_of(fd: RawFd, id: FileId) -> SysResult<bool> {
    let mut buffer = [0u8; libc::PATH_MAX as usize];
    let parent = Path::new(format_args!("/proc/self/fd/{fd}"))
        .and_then(|link| {
            let len = sys::read_link(link.as_cstr(), &mut buffer).ok()?.len();
            buffer[len] = 0;
            let is_this = |path: &CStr| sys::path_facts(path).is_ok_and(|facts| facts.id() == id);
            CStr::from_bytes_until_nul(&buffer)
                .ok()
                .filter(|p| is_this(p))?;
            buffer[..len].iter().rposition(|b| *b == b'/')
        })
        .and_then(|slash| {
            buffer[slash.max(1)] = 0;
            let dir = CStr::from_bytes_until_nul(&buffer).ok()?;
            sys::open(dir, libc::O_RDONLY | libc::O_DIRECTORY, 0).ok()
        });
    match parent {
        Some(dir) => match sys::sync_directory(&dir) {
            // Directories of some file systems cannot be synced, and need not be.
            Err(libc::EINVAL | libc::EROFS | libc::EOPNOTSUPP) => Ok(true),
            Err(libc::EPERM | libc::EACCES | libc::ENOSYS) => Ok(false),
            result => result.map(|()| true),
        },
        None => Ok(false),
    }
}
