//! Where bytes live: a path, an unnamed temporary file, a device or another library's source, as an open file that parts
//! keep alive.

pub(crate) mod badblock;
pub(crate) mod device;
mod region;
pub(crate) mod sds;

use std::ffi::{CStr, c_void};
use std::ptr::NonNull;
use std::sync::atomic::Ordering::Relaxed;

use crate::codes;
use crate::error::{Error, Name, Result};
use crate::file::{Kind, OpenFile};
use crate::mem::Shared;
use crate::pmem2;
use crate::sys;
use badblock::BadBlock;
use sds::{Account, Sds};

/// A source: an open file that parts are made of. It holds one descriptor. Parts that are mapped do not need it any more.
pub struct Source {
    file: Shared<OpenFile>,
    account: Shared<Account>,
    pmem2: usize,
}

impl Source {
    /// Opens an existing file or device DAX for loads and stores.
    pub fn open(path: &CStr) -> Result<Source> {
        Self::open_with(path, 0)
    }

    /// Opens a file, with `PMEMSET_SOURCE_FILE_*` flags. A file that is created has the mode in the upper 32 bits, or 0644
    /// if there is none, less the umask. Those bits count only together with a flag that creates.
    pub fn open_with(path: &CStr, flags: u64) -> Result<Source> {
        const CREATING: u64 = (codes::PMEMSET_SOURCE_FILE_CREATE_ALWAYS
            | codes::PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED) as u64;
        let mut permissions = 0o644;
        if flags & CREATING != 0 && flags >> 32 != 0 {
            permissions = (flags >> 32) as u32;
        }
        let given = flags;
        let flags = flags & u64::from(u32::MAX);
        if flags & !u64::from(codes::PMEMSET_SOURCE_FILE_CREATE_VALID_FLAGS) != 0
            || permissions & !0o777 != 0
        {
            return Err(Error::InvalidCreateFlags(given));
        }
        let name = Name::from(path);
        if flags == 0 {
            let facts = sys::path_facts(path).map_err(|errno| match errno {
                libc::ENOENT => Error::PathNotFound(name),
                errno => Error::SystemAt("look up", name, errno),
            })?;
            Kind::of(&facts, name)?;
        }
        let always = flags & u64::from(codes::PMEMSET_SOURCE_FILE_CREATE_ALWAYS) != 0;
        let create = always || flags & u64::from(codes::PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED) != 0;
        let mut mode = libc::O_RDWR | libc::O_NOCTTY;
        if always {
            mode |= libc::O_TRUNC;
        }
        let mut opened = open_file(path, mode, 0);
        // Only what is not there is created: in sticky directories the kernel may refuse O_CREAT for a file of somebody else's.
        if create && opened.as_ref().is_err_and(|e| *e == libc::ENOENT) {
            opened = open_file(path, mode | libc::O_CREAT, permissions);
        }
        let fd = opened.map_err(|errno| {
            // Of a socket or of a device without a driver.
            let special = matches!(errno, libc::ENXIO | libc::ENODEV);
            let facts = special.then(|| sys::path_facts(path).ok()).flatten();
            let kind = facts.map_or(Ok(Kind::File), |facts| Kind::of(&facts, name));
            kind.err().unwrap_or(Error::SystemAt("open", name, errno))
        })?;
        let mut file = OpenFile::new(fd, name)?;
        file.check_links(path);
        if create {
            file.inode().entry_may_be_new();
        }
        // One bit with two meanings: which, the mapping call says.
        let bit = flags & u64::from(codes::PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED) != 0;
        file.growth = bit;
        file.fixed_size = bit;
        Source::of(file, 0)
    }

    /// Makes an unnamed file in a directory: mode 0600, empty, growing when it is mapped, gone when it is closed.
    pub fn temporary(dir: &CStr) -> Result<Source> {
        let name = Name::from(dir);
        if let Err(libc::ENOENT) = sys::path_facts(dir) {
            return Err(Error::PathNotFound(name));
        }
        let fd = match sys::open(dir, libc::O_TMPFILE | libc::O_RDWR | libc::O_EXCL, 0o600) {
            // The file system or the kernel has no O_TMPFILE.
            Err(libc::EOPNOTSUPP | libc::EISDIR | libc::ENOENT | libc::EINVAL) => {
                sys::make_unlinked(dir)
            }
            result => result,
        }
        .map_err(|e| Error::CannotCreateTemporary(name, e))?;
        let mut file = OpenFile::new(fd, name)?;
        file.growth = true;
        Source::of(file, 0)
    }

    /// Makes a source of one of libpmem2's (`struct pmem2_source`) with a file behind it. The program keeps both; the
    /// descriptor must stay open until parts are mapped.
    ///
    /// # Safety
    /// The pointer must be a source of the libpmem2 in this process, not deleted yet.
    pub unsafe fn from_pmem2(source: NonNull<c_void>) -> Result<Source> {
        // SAFETY: as the caller promises.
        let facts = unsafe { pmem2::source_facts(source)? };
        let name = Name::new(b"the file of a libpmem2 source");
        let file = OpenFile::borrowed(facts.fd, name, facts.alignment)?;
        Source::of(file, source.as_ptr() as usize)
    }

    fn of(file: OpenFile, pmem2: usize) -> Result<Source> {
        let file = Shared::try_new(file)?;
        let account = Shared::try_new(Account::default())?;
        file.opened();
        Ok(Source {
            file,
            account,
            pmem2,
        })
    }

    /// The program's libpmem2 source that this was made of, as an address; 0 when it was made of something else.
    pub(crate) fn pmem2(&self) -> usize {
        self.pmem2
    }

    pub(crate) fn account(&self) -> &Shared<Account> {
        &self.account
    }

    pub(crate) fn file(&self) -> &Shared<OpenFile> {
        &self.file
    }

    /// What offsets, lengths and addresses of mappings must be multiples of.
    pub fn alignment(&self) -> Result<usize> {
        self.file.published_alignment()
    }

    /// Reads through the file: what cannot be read is an error and never a signal.
    ///
    /// # Safety
    /// The destination must be valid for stores of `len` bytes.
    pub unsafe fn read(&self, dest: *mut u8, len: usize, offset: usize) -> Result<()> {
        self.file.check_range(offset, len)?;
        // SAFETY: as the caller promises.
        unsafe { self.file.read(dest, len, offset) }
    }

    /// Writes through the file: what cannot be written is an error and never a signal.
    ///
    /// # Safety
    /// The origin must be valid for loads of `len` bytes.
    pub unsafe fn write(&self, origin: *const u8, len: usize, offset: usize) -> Result<()> {
        self.file.check_range(offset, len)?;
        // SAFETY: as the caller promises.
        unsafe { self.file.write(origin, len, offset) }
    }

    /// Has direct mappings look for bad blocks first, or not to, as it is at first.
    pub fn set_badblock_detection(&self, detect: bool) {
        self.account.detects_badblocks.store(detect, Relaxed);
    }

    /// The ranges that are known to be unreadable.
    pub fn bad_blocks(&self) -> Result<Vec<BadBlock>> {
        self.file.bad_blocks()
    }

    /// Makes an unreadable range readable again. What it held is lost; a file's range reads as zeros.
    pub fn clear_bad_block(&self, bad: BadBlock) -> Result<()> {
        self.file.clear_bad_block(bad)
    }

    /// Gives the source a shutdown state, as the program has stored it after the last change that it was told. `report` is a
    /// word for whoever wants to know the state of the parts.
    pub fn set_sds(&self, sds: &Sds, report: usize) -> Result<()> {
        self.account.set_sds(sds, report)
    }

    /// Takes the shutdown state away again: mappings look at the device no more, until another is given.
    pub fn clear_sds(&self) {
        self.account.clear_sds();
    }

    /// The address by which the C interface knows this source; 0 when it does not any more.
    pub(crate) fn set_handle(&self, handle: usize) {
        self.account.set_handle(handle);
    }
}

/// Opens a file that may be something else. A FIFO without a reader is not waited for; a lease on a file, which whoever has it
/// must give up when asked, is.
fn open_file(path: &CStr, mode: i32, permissions: u32) -> sys::SysResult<std::os::fd::OwnedFd> {
    match sys::open(path, mode | libc::O_NONBLOCK, permissions) {
        Err(libc::EAGAIN) => match sys::path_facts(path)?.kind() {
            libc::S_IFREG => sys::open(path, mode, permissions),
            _ => Err(libc::EAGAIN),
        },
        result => result,
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.file.closed();
    }
}
