//! System calls, each wrapped once and named after what it is for here. Safe where no memory of the caller is touched.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::file::FileId;
use crate::order;

mod storage;
pub(crate) use storage::{
    clear_error, each_allocated, each_extent, each_unwritten, reallocate, write_zeros,
};

/// An errno.
pub(crate) type Errno = i32;

/// The result of a system call.
pub(crate) type SysResult<T> = Result<T, Errno>;

unsafe extern "C" {
    fn secure_getenv(name: *const libc::c_char) -> *mut libc::c_char;
    fn pthread_setcancelstate(state: libc::c_int, old: *mut libc::c_int) -> libc::c_int;
}

/// Keeps the calling thread from being cancelled, until it is dropped: others may wait for what it has begun.
pub(crate) struct Uncancelled(libc::c_int);

impl Uncancelled {
    pub(crate) fn new() -> Self {
        const PTHREAD_CANCEL_DISABLE: libc::c_int = 1;
        let mut old = 0;
        if cfg!(not(miri)) {
            // SAFETY: the old state is stored in a variable of our own.
            unsafe { pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &mut old) };
        }
        Uncancelled(old)
    }
}

impl Drop for Uncancelled {
    fn drop(&mut self) {
        if cfg!(not(miri)) {
            // SAFETY: no old state is asked for.
            unsafe { pthread_setcancelstate(self.0, std::ptr::null_mut()) };
        }
    }
}

/// The calling thread among all threads of all processes that there are now, as far as this process can name them.
pub(crate) fn this_thread() -> u64 {
    // SAFETY: gettid has no arguments.
    let thread = unsafe { libc::gettid() };
    u64::from(std::process::id()) << 32 | u64::from(thread as u32)
}

/// Whether a thread is one of this process. One that the parent of a fork had is not.
pub(crate) fn is_here(thread: u64) -> bool {
    let (process, number) = (thread >> 32, thread as u32);
    if process != u64::from(std::process::id()) {
        return false;
    }
    if cfg!(miri) {
        // Which has no forks, and cannot be asked.
        return true;
    }
    // SAFETY: no pointers involved; signal 0 is none.
    let asked = unsafe { libc::syscall(libc::SYS_tgkill, process as i32, number as i32, 0) };
    asked == 0 || errno() != libc::ESRCH
}

/// The errno of this thread's last failed call.
pub(crate) fn errno() -> Errno {
    // SAFETY: the location is valid for the calling thread.
    unsafe { *libc::__errno_location() }
}

fn check(rc: libc::c_int) -> SysResult<()> {
    if rc == 0 { Ok(()) } else { Err(errno()) }
}

/// Makes a call again as long as a signal interrupts it: that is no result of it.
fn uninterrupted<T>(mut call: impl FnMut() -> SysResult<T>) -> SysResult<T> {
    loop {
        match call() {
            Err(libc::EINTR) => {}
            result => return result,
        }
    }
}

/// Whether a call that only helps is not to be had here: the kernel or the file system has none, or a sandbox refuses it.
pub(crate) fn is_refused(errno: Errno) -> bool {
    matches!(
        errno,
        libc::ENOSYS
            | libc::EPERM
            | libc::EACCES
            | libc::EOPNOTSUPP
            | libc::ENOTTY
            | libc::EINVAL
            | libc::ESPIPE
            | libc::EBADF
    )
}

/// The number of this process.
pub(crate) fn process_number() -> u32 {
    // SAFETY: no pointers involved.
    unsafe { libc::getpid() as u32 }
}

/// The kernel's number of the calling thread.
pub(crate) fn thread_task() -> u32 {
    // SAFETY: no pointers involved.
    unsafe { libc::syscall(libc::SYS_gettid) as u32 }
}

/// Whether this process has a thread with this number.
pub(crate) fn has_thread(task: u32) -> bool {
    // SAFETY: no signal is sent by number 0.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), task as libc::c_int, 0) == 0 }
}

/// Of which namespace the number of this process is: half of its inode number, or 0 where that cannot be found out.
pub(crate) fn process_number_space() -> u64 {
    path_facts(c"/proc/self/ns/pid").map_or(0, |facts| facts.inode & 0xFFFF_FFFF)
}

/// Whether a process with this number runs: there is one, and it is not one whose end its parent still has to hear of.
pub(crate) fn is_alive(process: u32) -> bool {
    // SAFETY: no signal is sent by number 0.
    if check(unsafe { libc::kill(process as libc::pid_t, 0) }) == Err(libc::ESRCH) {
        return false;
    }
    let mut text = [0u8; 512];
    let path = crate::source::device::Path::new(format_args!("/proc/{process}/stat"));
    let Some(text) = path.and_then(|path| read_small(path.as_cstr(), &mut text).ok()) else {
        return true;
    };
    // Behind the name, which may have anything in it: the state, and 17 words later the number of threads.
    let fields = text.rsplit(|b| *b == b')').next().unwrap_or(b"");
    let mut fields = fields.split(|b| *b == b' ').skip(1);
    let ended = matches!(fields.next(), Some(b"Z" | b"X"));
    let threads = fields.nth(16);
    !(ended && matches!(threads, None | Some(b"0" | b"1")))
}

/// strerror text in a buffer of the caller's.
pub(crate) fn strerror(code: Errno, text: &mut [u8]) -> &str {
    // SAFETY: the buffer is valid for its length.
    let rc = unsafe { libc::strerror_r(code, text.as_mut_ptr().cast(), text.len()) };
    if rc != 0 {
        return "unknown error";
    }
    CStr::from_bytes_until_nul(text)
        .ok()
        .and_then(|t| t.to_str().ok())
        .unwrap_or("unknown error")
}

/// Looks at an environment variable; `None` when it is unset, or the program runs with privileges that its user has not.
pub(crate) fn secure_env<T>(name: &CStr, look: impl FnOnce(&[u8]) -> T) -> Option<T> {
    if cfg!(miri) {
        return None;
    }
    // SAFETY: secure_getenv takes a C string, and what it returns stays valid until the environment is changed, which a
    // program with threads must not do.
    unsafe {
        let value = secure_getenv(name.as_ptr());
        if value.is_null() {
            return None;
        }
        Some(look(CStr::from_ptr(value).to_bytes()))
    }
}

/// The page size in bytes.
pub(crate) fn page_size() -> usize {
    static SIZE: AtomicUsize = AtomicUsize::new(0);
    match SIZE.load(Ordering::Relaxed) {
        0 => {
            // SAFETY: no pointers involved.
            let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
            SIZE.store(size, Ordering::Relaxed);
            size
        }
        size => size,
    }
}

/// The facts of an open file that are asked for here.
#[derive(Clone, Copy)]
pub(crate) struct FileFacts {
    pub links: u64,
    pub mode: u32,
    pub dev: u64,
    pub inode: u64,
    pub size: u64,
    pub rdev: u64,
}

impl FileFacts {
    fn from_stat(st: &libc::stat) -> Self {
        FileFacts {
            // 32 bits wide on some architectures.
            #[allow(clippy::unnecessary_cast)]
            links: st.st_nlink as u64,
            mode: st.st_mode,
            dev: st.st_dev,
            inode: st.st_ino,
            size: st.st_size as u64,
            rdev: st.st_rdev,
        }
    }

    pub(crate) fn id(&self) -> FileId {
        FileId {
            dev: self.dev,
            inode: self.inode,
        }
    }

    pub(crate) fn kind(&self) -> u32 {
        self.mode & libc::S_IFMT
    }
}

pub(crate) fn file_facts(fd: RawFd) -> SysResult<FileFacts> {
    let mut st = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the buffer is a stat structure, initialised when the call succeeds.
    unsafe {
        uninterrupted(|| check(libc::fstat(fd, st.as_mut_ptr())))?;
        Ok(FileFacts::from_stat(&st.assume_init()))
    }
}

/// Sets the offset of an open file.
pub(crate) fn seek(fd: &OwnedFd, offset: u64) -> SysResult<()> {
    // SAFETY: no pointers involved.
    match unsafe { libc::lseek(fd.as_raw_fd(), offset as libc::off_t, libc::SEEK_SET) } {
        -1 => Err(errno()),
        _ => Ok(()),
    }
}

/// Whether a descriptor is one of this file with this offset.
pub(crate) fn has_offset(fd: RawFd, file: FileId, offset: u64) -> bool {
    // SAFETY: no pointers involved.
    let at = unsafe { libc::lseek(fd, 0, libc::SEEK_CUR) };
    at == offset as libc::off_t && file_facts(fd).is_ok_and(|facts| facts.id() == file)
}

pub(crate) fn path_facts(path: &CStr) -> SysResult<FileFacts> {
    let mut st = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: path is a C string; the buffer is initialised when the call succeeds.
    unsafe {
        uninterrupted(|| check(libc::stat(path.as_ptr(), st.as_mut_ptr())))?;
        Ok(FileFacts::from_stat(&st.assume_init()))
    }
}

/// The file system that an open file is on: its type (`f_type` of statfs), and the size of its blocks.
pub(crate) fn file_system(fd: RawFd) -> Option<(u64, usize)> {
    if cfg!(miri) {
        return None;
    }
    let mut st = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the buffer is initialised when the call succeeds.
    let st = unsafe {
        uninterrupted(|| check(libc::fstatfs(fd, st.as_mut_ptr()))).ok()?;
        st.assume_init()
    };
    Some((st.f_type as u64, st.f_bsize as usize))
}

/// A new descriptor of the library's. It is never 0, 1 or 2, which programs write to whatever they are.
///
/// # Safety
/// The descriptor is new and nobody else's.
unsafe fn own(fd: RawFd) -> SysResult<OwnedFd> {
    // SAFETY: as the caller promises.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    // SAFETY: no pointers involved.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3) } {
        -1 => Err(errno()),
        // SAFETY: a new descriptor that nobody else has.
        higher => Ok(unsafe { OwnedFd::from_raw_fd(higher) }),
    }
}

/// Opens close-on-exec, again if a signal interrupts.
pub(crate) fn open(path: &CStr, mut flags: i32, mode: u32) -> SysResult<OwnedFd> {
    if cfg!(miri) {
        // It knows no terminals and pipes, nor the flags for them.
        flags &= !(libc::O_NOCTTY | libc::O_NONBLOCK);
    }
    uninterrupted(|| {
        // SAFETY: path is a C string.
        match unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC, mode) } {
            -1 => Err(errno()),
            // SAFETY: a new descriptor that nobody else has.
            fd => unsafe { own(fd) },
        }
    })
}

/// A file in a directory that has no name any more, for file systems without O_TMPFILE.
pub(crate) fn make_unlinked(dir: &CStr) -> SysResult<OwnedFd> {
    let tail = b"/.pmemset-XXXXXX\0";
    let mut path: Vec<u8> = Vec::new();
    path.try_reserve_exact(dir.count_bytes() + tail.len())
        .map_err(|_| libc::ENOMEM)?;
    path.extend_from_slice(dir.to_bytes());
    path.extend_from_slice(tail);
    // SAFETY: path is a C string of our own that ends in six X; the call replaces those.
    let fd = unsafe { libc::mkostemp(path.as_mut_ptr().cast(), libc::O_CLOEXEC) };
    if fd < 0 {
        return Err(errno());
    }
    // SAFETY: a new descriptor that nobody else has; path is still a C string.
    unsafe {
        let fd = own(fd);
        check(libc::unlink(path.as_ptr().cast()))?;
        fd
    }
}

/// Makes a file longer if it is shorter, by having its new last byte allocated: unlike ftruncate, which sets a size whatever
/// it has become since one looked, that can never make it shorter, and needs no lock. Refuses what the file-size limit forbids
/// before the kernel does, which would raise SIGXFSZ.
pub(crate) fn extend(fd: RawFd, size: u64) -> SysResult<()> {
    if size > limit(libc::RLIMIT_FSIZE) || size > i64::MAX as u64 {
        return Err(libc::EFBIG);
    }
    if size <= file_facts(fd)?.size {
        return Ok(());
    }
    uninterrupted(|| {
        // SAFETY: no pointers involved.
        check(unsafe { libc::fallocate(fd, 0, size as i64 - 1, 1) })
    })
}

/// The same where nothing can be allocated: the file system cannot, or has no room now, which a sparse file does not need. The
/// caller keeps others of this process and its relatives out; other processes are by a lock of the file.
pub(crate) fn extend_sparsely(fd: RawFd, size: u64) -> SysResult<()> {
    let _others = GrowthLock::new(fd);
    if file_facts(fd)?.size >= size {
        return Ok(());
    }
    // SAFETY: no pointers involved.
    uninterrupted(|| check(unsafe { libc::ftruncate(fd, size as libc::off_t) }))
}

/// A lock on the last byte that a file can have. Only others who grow the file are waited for, and not for long, since a
/// process may be stopped; whoever has locked the whole file, perhaps this program itself, is not.
struct GrowthLock(RawFd);

impl GrowthLock {
    const BYTE: libc::off_t = libc::off_t::MAX - 1;

    fn new(fd: RawFd) -> Option<GrowthLock> {
        for _ in 0..100 {
            match Self::ask(fd, libc::F_OFD_SETLK, libc::F_WRLCK) {
                Ok(_) => return Some(GrowthLock(fd)),
                Err(libc::EAGAIN | libc::EACCES) => {}
                Err(_) => return None,
            }
            let other = Self::ask(fd, libc::F_OFD_GETLK, libc::F_WRLCK).ok()?;
            if other.l_type == libc::F_UNLCK as libc::c_short {
                continue;
            }
            if other.l_start != Self::BYTE {
                return None;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        None
    }

    fn ask(fd: RawFd, what: libc::c_int, kind: libc::c_int) -> SysResult<libc::flock> {
        // SAFETY: a plain structure.
        let mut lock: libc::flock = unsafe { std::mem::zeroed() };
        lock.l_type = kind as libc::c_short;
        lock.l_whence = libc::SEEK_SET as libc::c_short;
        lock.l_start = Self::BYTE;
        lock.l_len = 1;
        // SAFETY: the structure is valid for the call.
        match unsafe { libc::fcntl(fd, what, &raw mut lock) } {
            -1 => Err(errno()),
            _ => Ok(lock),
        }
    }
}

impl Drop for GrowthLock {
    fn drop(&mut self) {
        let _ = Self::ask(self.0, libc::F_OFD_SETLK, libc::F_UNLCK);
    }
}

/// A soft resource limit; `u64::MAX` when there is none.
pub(crate) fn limit(resource: libc::__rlimit_resource_t) -> u64 {
    let mut rl = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the buffer is an rlimit structure.
    match check(unsafe { libc::getrlimit(resource, &mut rl) }) {
        Ok(()) if rl.rlim_cur != libc::RLIM_INFINITY => rl.rlim_cur,
        _ => u64::MAX,
    }
}

/// Reads a small file whole, as sysfs and procfs files are: what fits into `buffer`.
pub(crate) fn read_small<'a>(path: &CStr, buffer: &'a mut [u8]) -> SysResult<&'a [u8]> {
    let fd = open(path, libc::O_RDONLY, 0)?;
    let mut len = 0;
    while len < buffer.len() {
        match read(&fd, &mut buffer[len..])? {
            0 => break,
            n => len += n,
        }
    }
    Ok(&buffer[..len])
}

/// Reads once, again if a signal interrupts; 0 at the end.
pub(crate) fn read(fd: &OwnedFd, buffer: &mut [u8]) -> SysResult<usize> {
    loop {
        // SAFETY: the buffer is valid for its length.
        let n = unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
        if n >= 0 {
            return Ok(n as usize);
        }
        let e = errno();
        if e != libc::EINTR {
            return Err(e);
        }
    }
}

/// Reads once from a place of a file, again if a signal interrupts; 0 at the end.
pub(crate) fn read_some(fd: RawFd, buffer: &mut [u8], offset: u64) -> SysResult<usize> {
    uninterrupted(|| {
        let (to, len) = (buffer.as_mut_ptr().cast(), buffer.len());
        // SAFETY: the buffer is valid for its length.
        match unsafe { libc::pread(fd, to, len, offset as libc::off_t) } {
            -1 => Err(errno()),
            n => Ok(n as usize),
        }
    })
}

/// The same, of what is in memory: nothing is read from the medium, nor read ahead.
pub(crate) fn read_cached(fd: RawFd, buffer: &mut [u8], offset: u64) -> SysResult<usize> {
    uninterrupted(|| {
        let to = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        };
        // SAFETY: the buffer is valid for its length.
        match unsafe { libc::preadv2(fd, &to, 1, offset as libc::off_t, libc::RWF_NOWAIT) } {
            -1 => Err(errno()),
            n => Ok(n as usize),
        }
    })
}

/// Repeats a transfer until all of it is done; `step` is told how much is. One that ends early is an error.
fn in_full(len: usize, mut step: impl FnMut(usize) -> isize) -> SysResult<()> {
    let mut done = 0;
    while done < len {
        match step(done) {
            0 => return Err(libc::EIO),
            n if n > 0 => done += n as usize,
            _ if errno() != libc::EINTR => return Err(errno()),
            _ => {}
        }
    }
    Ok(())
}

/// Writes all of it.
pub(crate) fn write_all(fd: RawFd, bytes: &[u8]) -> SysResult<()> {
    in_full(bytes.len(), |done| {
        let rest = &bytes[done..];
        // SAFETY: the slice is valid for its length.
        unsafe { libc::write(fd, rest.as_ptr().cast(), rest.len()) }
    })
}

/// Where a link points to, in the caller's buffer.
pub(crate) fn read_link<'a>(path: &CStr, buffer: &'a mut [u8]) -> SysResult<&'a [u8]> {
    // SAFETY: the buffer is valid for its length.
    let n = unsafe { libc::readlink(path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) };
    if n < 0 {
        return Err(errno());
    }
    if n as usize == buffer.len() {
        return Err(libc::ENAMETOOLONG);
    }
    Ok(&buffer[..n as usize])
}

// ---- address space -------------------------------------------------------------------------------------------------

const RESERVED: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;

fn map(addr: usize, len: usize, prot: i32, flags: i32, fd: RawFd, offset: u64) -> SysResult<usize> {
    // SAFETY: without MAP_FIXED the kernel picks addresses that nobody uses; every caller here that passes it says why
    // the addresses are its own.
    let p = unsafe { libc::mmap(addr as *mut _, len, prot, flags, fd, offset as libc::off_t) };
    if p == libc::MAP_FAILED {
        Err(errno())
    } else {
        order::takes(&order::KERNEL);
        Ok(p as usize)
    }
}

/// Reserves address space that nothing can be stored in. It costs no memory.
/// `near`: where, if that is free.
pub(crate) fn reserve(len: usize, near: Option<usize>) -> SysResult<usize> {
    let addr = map(near.unwrap_or(0), len, libc::PROT_NONE, RESERVED, -1, 0)?;
    leave_out_of_dumps(addr, len);
    Ok(addr)
}

/// Reserves exactly this range, if nobody has any of it.
pub(crate) fn reserve_at(addr: usize, len: usize) -> SysResult<()> {
    let got = map(
        addr,
        len,
        libc::PROT_NONE,
        RESERVED | libc::MAP_FIXED_NOREPLACE,
        -1,
        0,
    )?;
    if got == addr {
        leave_out_of_dumps(addr, len);
        return Ok(());
    }
    // A kernel before 4.17 takes the flag for a hint.
    // SAFETY: the range was mapped by the call above, and nobody knows of it.
    unsafe { unmap(got, len) };
    Err(libc::EEXIST)
}

/// Turns a range back into reserved address space, whatever is mapped there. It shows in the dumps
/// of debuggers until [`leave_out_of_dumps`] has had it.
///
/// # Safety
/// The range must be the caller's: reserved by it, or mapped by it over what it had reserved; and nobody uses it any more.
pub(crate) unsafe fn reserve_over(addr: usize, len: usize) -> SysResult<()> {
    let flags = RESERVED | libc::MAP_FIXED;
    map(addr, len, libc::PROT_NONE, flags, -1, 0).map(drop)
}

/// Leaves a range of the caller's own out of core dumps. The kernel leaves out what was never
/// touched without being asked, but a debugger that writes a dump reads what cannot be read by the
/// program, too, page by page.
pub(crate) fn leave_out_of_dumps(addr: usize, len: usize) {
    // SAFETY: the advice concerns core dumps only. Without it they are large, and that is all.
    unsafe { libc::madvise(addr as *mut _, len, libc::MADV_DONTDUMP) };
}

/// Makes the ends of a range of mapped files ends of address ranges of the kernel's, by a flag that
/// has no other effect while they are about to be unmapped. What follows this in the range may
/// still be what it was when it fails.
pub(crate) fn split_off(addr: usize, len: usize) -> SysResult<()> {
    // SAFETY: the advice concerns core dumps only.
    check(unsafe { libc::madvise(addr as *mut _, len, libc::MADV_DONTDUMP) }).map_err(|e| match e {
        // What a lack of ranges is called here.
        libc::EAGAIN => libc::ENOMEM,
        e => e,
    })
}

/// Takes [`split_off`] back, for mapped files only: reserved address space would show in dumps.
pub(crate) fn split_undo(addr: usize, len: usize) {
    // SAFETY: as above. What fails leaves a range out of core dumps.
    unsafe { libc::madvise(addr as *mut _, len, libc::MADV_DODUMP) };
}

/// Gives a range back to the kernel. It can only fail by exceeding the number of ranges, when it changes nothing.
///
/// # Safety
/// The range must be the caller's, and nobody uses it any more.
pub(crate) unsafe fn try_unmap(addr: usize, len: usize) -> SysResult<()> {
    order::gives(&order::KERNEL);
    // SAFETY: as the caller promises.
    check(unsafe { libc::munmap(addr as *mut _, len) })
}

/// The same for those who are done with the range whatever happens. The kernel refuses, at the
/// limit of address ranges, to take a piece out of the middle of a range, and the range may well be
/// larger than what is given back: neighbours that are alike are one. Then it is noted down, and
/// given back when there are fewer ranges.
///
/// # Safety
/// As for [`try_unmap`].
pub(crate) unsafe fn unmap(addr: usize, len: usize) {
    // SAFETY: as the caller promises.
    match unsafe { try_unmap(addr, len) } {
        Ok(()) => unmap_refused(),
        Err(libc::ENOMEM) => {
            // Ranges with nothing in common, each of a set that went at the limit: more than there
            // is room for are not to be expected, and only address space is lost then.
            if REFUSED.iter().any(|slot| slot.put(addr, len)) {
                REFUSALS.fetch_add(1, Ordering::Relaxed);
            }
        }
        // It was no range that can be unmapped: another try would end like this one.
        Err(_) => {}
    }
}

/// Tries once more to give back what the kernel would not take.
pub(crate) fn unmap_refused() {
    if REFUSALS.load(Ordering::Relaxed) == 0 {
        return;
    }
    for slot in &REFUSED {
        // SAFETY: it was noted down by `unmap`, whose caller promised that nobody uses it; it is
        // still mapped, so nobody else can have got it.
        if slot.take_if(|addr, len| unsafe { try_unmap(addr, len) }.is_ok()) {
            REFUSALS.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A range that the kernel would not unmap. No lock, since a child of a fork would find it taken.
struct Refused {
    /// 0 when the slot is free.
    addr: AtomicUsize,
    /// 0 while somebody is at work on the slot.
    len: AtomicUsize,
}

static REFUSED: [Refused; 64] = [const {
    Refused {
        addr: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
    }
}; 64];

/// How many slots are in use, more or less.
static REFUSALS: AtomicUsize = AtomicUsize::new(0);

impl Refused {
    /// Notes a range down if the slot is free.
    fn put(&self, addr: usize, len: usize) -> bool {
        let free = self
            .addr
            .compare_exchange(0, addr, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok();
        if free {
            self.len.store(len, Ordering::Release);
        }
        free
    }

    /// Frees the slot if something is noted down that `done` agrees to be done with.
    fn take_if(&self, done: impl FnOnce(usize, usize) -> bool) -> bool {
        match self.len.swap(0, Ordering::Acquire) {
            0 => false,
            len if done(self.addr.load(Ordering::Relaxed), len) => {
                self.addr.store(0, Ordering::Release);
                true
            }
            len => {
                self.len.store(len, Ordering::Release);
                false
            }
        }
    }
}

/// Maps a range of a file, shared, for loads and stores. `at`: where, over reserved address space of the caller's; else
/// wherever the kernel likes. `sync`: with MAP_SYNC, on file systems that have it.
///
/// # Safety
/// A range given in `at` must be the caller's and unused.
pub(crate) unsafe fn map_file(
    at: Option<usize>,
    len: usize,
    fd: RawFd,
    offset: u64,
    sync: bool,
) -> SysResult<usize> {
    let kind = if sync {
        libc::MAP_SHARED_VALIDATE | libc::MAP_SYNC
    } else {
        libc::MAP_SHARED
    };
    let fixed = if at.is_some() { libc::MAP_FIXED } else { 0 };
    map(
        at.unwrap_or(0),
        len,
        libc::PROT_READ | libc::PROT_WRITE,
        kind | fixed,
        fd,
        offset,
    )
}

/// Memory that this process shares with the children of its forks. It is zero, and takes no room until it is touched.
pub(crate) fn map_shared(len: usize) -> SysResult<usize> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // Miri has no children to share with.
    let shared = if cfg!(miri) {
        libc::MAP_PRIVATE
    } else {
        libc::MAP_SHARED
    };
    map(0, len, access, shared | libc::MAP_ANONYMOUS, -1, 0)
}

/// A page that the kernel clears in the child of a fork; `None` where it cannot.
pub(crate) fn map_wiped_on_fork() -> Option<usize> {
    if cfg!(miri) {
        return None;
    }
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let page = map(0, page_size(), access, flags, -1, 0).ok()?;
    // SAFETY: mapped above; the advice concerns children only.
    let wiped = check(unsafe { libc::madvise(page as *mut _, page_size(), libc::MADV_WIPEONFORK) });
    if wiped.is_err() {
        // SAFETY: mapped above, and nobody knows of it.
        unsafe { unmap(page, page_size()) };
        return None;
    }
    Some(page)
}

/// Memory of our own that is zero and takes no room until it is touched, page by page. It is left
/// out of core dumps: a debugger would read all of it.
pub(crate) fn map_zeroed(len: usize) -> SysResult<usize> {
    let addr = map(0, len, libc::PROT_NONE, RESERVED, -1, 0)?;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: mapped above, and nobody knows of it. Where the program has its future memory locked, all of it would be made
    // present otherwise. The advice changes no byte: without it one touch may cost a huge page; a kernel that has none refuses.
    unsafe {
        libc::munlock(addr as *const _, len);
        if let Err(e) = check(libc::mprotect(addr as *mut _, len, access)) {
            unmap(addr, len);
            return Err(e);
        }
        libc::madvise(addr as *mut _, len, libc::MADV_NOHUGEPAGE);
    }
    leave_out_of_dumps(addr, len);
    Ok(addr)
}

// ---- durability ----------------------------------------------------------------------------------------------------

/// Implemented by what passes on the reports of lost writes that calls hand out: the kernel gives each of them once.
pub(crate) trait HearsReports {}

/// Writes the dirty pages of a range back and waits until they are durable.
pub(crate) fn sync_range(_: &impl HearsReports, addr: usize, len: usize) -> SysResult<()> {
    // SAFETY: msync stores nothing; a range that is not mapped is an error.
    uninterrupted(|| check(unsafe { libc::msync(addr as *mut _, len, libc::MS_SYNC) }))
}

/// Makes all of a file durable.
pub(crate) fn fsync(_: &impl HearsReports, fd: RawFd) -> SysResult<()> {
    // SAFETY: no pointers involved.
    uninterrupted(|| check(unsafe { libc::fsync(fd) }))
}

/// Makes the entries of a directory durable, which the caller has just opened: no report about a file is handed out.
pub(crate) fn sync_directory(dir: &OwnedFd) -> SysResult<()> {
    // SAFETY: no pointers involved.
    uninterrupted(|| check(unsafe { libc::fsync(dir.as_raw_fd()) }))
}

/// Makes everything on the file's file system durable.
pub(crate) fn sync_file_system(_: &impl HearsReports, fd: RawFd) -> SysResult<()> {
    // SAFETY: no pointers involved.
    uninterrupted(|| check(unsafe { libc::syncfs(fd) }))
}

/// Makes everything on all file systems durable, as far as the kernel can; it reports nothing.
pub(crate) fn sync_everything() {
    // SAFETY: no pointers involved.
    unsafe { libc::sync() };
}

/// Has the file's last change be now, which makes its metadata dirty. Whoever may write to a file may do this.
pub(crate) fn touch(fd: RawFd) -> SysResult<()> {
    // SAFETY: without times both are now.
    uninterrupted(|| check(unsafe { libc::futimens(fd, std::ptr::null()) }))
}

/// Sleeps while a word has a value, or a little less long. For many that wait for one: they need not take a lock in turns when
/// they wake.
pub(crate) fn wait_while(word: &AtomicU32, value: u32) {
    let op = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    let forever = std::ptr::null::<libc::timespec>();
    // SAFETY: the word is valid for the call; nothing is written.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), op, value, forever) };
}

/// Wakes all that sleep on a word.
pub(crate) fn wake_all(word: &AtomicU32) {
    let op = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the word's address is all that is used.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), op, i32::MAX) };
}

/// As [`wait_while`], on a word that processes share; no longer than `most`.
pub(crate) fn wait_while_shared(word: &AtomicU32, value: u32, most: std::time::Duration) {
    let timeout = libc::timespec {
        tv_sec: most.as_secs() as libc::time_t,
        tv_nsec: most.subsec_nanos().into(),
    };
    // SAFETY: the word and the time are valid for the call; nothing is written.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            value,
            &timeout,
        )
    };
}

/// Wakes all that sleep on a word that processes share.
pub(crate) fn wake_all_shared(word: &AtomicU32) {
    // SAFETY: the word's address is all that is used.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}

/// Starts writing back the dirty pages of a range of a file. Nothing is durable by this, and no failure of it is reported,
/// which those who need to know of it would miss.
pub(crate) fn start_writeback(fd: RawFd, offset: u64, len: usize) -> SysResult<()> {
    sync_file_range(fd, offset, len, libc::SYNC_FILE_RANGE_WRITE)
}

/// Writes back the dirty pages of a range of a file and waits for them, without the flush of the device or the commit of
/// metadata that would make them durable.
pub(crate) fn finish_writeback(
    _: &impl HearsReports,
    fd: RawFd,
    offset: u64,
    len: usize,
) -> SysResult<()> {
    sync_file_range(
        fd,
        offset,
        len,
        libc::SYNC_FILE_RANGE_WAIT_BEFORE
            | libc::SYNC_FILE_RANGE_WRITE
            | libc::SYNC_FILE_RANGE_WAIT_AFTER,
    )
}

fn sync_file_range(fd: RawFd, offset: u64, len: usize, flags: libc::c_uint) -> SysResult<()> {
    // SAFETY: no pointers involved.
    uninterrupted(|| check(unsafe { libc::sync_file_range(fd, offset as i64, len as i64, flags) }))
}

/// Has the kernel hand out to this descriptor what reports it still has for it, without writing or waiting for anything: of a
/// range behind any file's end.
pub(crate) fn take_report(_: &impl HearsReports, fd: RawFd) -> SysResult<()> {
    const FAR: u64 = 1 << 62;
    sync_file_range(fd, FAR, 1, libc::SYNC_FILE_RANGE_WAIT_BEFORE)
}

/// Whether the kernel is this release or a later one.
pub(crate) fn kernel_is(major: u32, minor: u32) -> bool {
    static KNOWN: AtomicU32 = AtomicU32::new(0);
    let mut known = KNOWN.load(Ordering::Relaxed);
    if known == 0 {
        let mut name = std::mem::MaybeUninit::<libc::utsname>::uninit();
        // SAFETY: the buffer is initialised when the call succeeds.
        let release =
            unsafe { (libc::uname(name.as_mut_ptr()) == 0).then(|| name.assume_init().release) };
        let mut numbers = [0u32; 2];
        let mut at = 0;
        for byte in release.iter().flatten().map(|b| *b as u8) {
            match byte {
                b'0'..=b'9' => {
                    numbers[at] = (numbers[at] * 10 + u32::from(byte - b'0')).min(1 << 14);
                }
                b'.' if at == 0 => at = 1,
                _ => break,
            }
        }
        known = 1 << 31 | numbers[0] << 15 | numbers[1];
        KNOWN.store(known, Ordering::Relaxed);
    }
    known & !(1 << 31) >= major << 15 | minor
}

/// Asks the kernel to cache a small range of a file apart from what is around it. It caches files in folios of up to some
/// megabytes, and writes a whole one back for one dirty page; advice about a part of a clean one splits it into pages. What
/// else the advice does, counting the pages as not used lately, ends with their next use.
pub(crate) fn cache_apart(addr: usize, len: usize) {
    // SAFETY: no byte changes. A kernel that does not know the advice, or has the range locked in memory, refuses.
    unsafe { libc::madvise(addr as *mut _, len, libc::MADV_COLD) };
}

/// Reads a range of a file that is inside it; an end of the file before is an error.
///
/// # Safety
/// The destination must be valid for stores of `len` bytes.
pub(crate) unsafe fn read_at(fd: RawFd, dest: *mut u8, len: usize, offset: u64) -> SysResult<()> {
    in_full(len, |done| {
        let at = (offset + done as u64) as libc::off_t;
        // SAFETY: what is left of the caller's range.
        unsafe { libc::pread(fd, dest.add(done).cast(), len - done, at) }
    })
}

/// Writes a range of a file that is inside it. Refuses what the file-size limit forbids before the kernel does, which would
/// raise SIGXFSZ.
///
/// # Safety
/// The origin must be valid for loads of `len` bytes.
pub(crate) unsafe fn write_at(
    fd: RawFd,
    origin: *const u8,
    len: usize,
    offset: u64,
) -> SysResult<()> {
    if offset.saturating_add(len as u64) > limit(libc::RLIMIT_FSIZE) {
        return Err(libc::EFBIG);
    }
    in_full(len, |done| {
        let at = (offset + done as u64) as libc::off_t;
        // SAFETY: what is left of the caller's range.
        unsafe { libc::pwrite(fd, origin.add(done).cast(), len - done, at) }
    })
}

/// Copies through the kernel, by way of a pipe: where a load or a store would raise SIGBUS or SIGSEGV, this fails. (The
/// kernel's copies from and to the memory of programs survive poisoned lines; those between processes do not.)
///
/// # Safety
/// The destination must be the caller's to store to, if it is valid.
pub(crate) unsafe fn copy_guarded(dest: *mut u8, origin: *const u8, len: usize) -> SysResult<()> {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors, which are new and nobody else's.
    let (reader, writer) = unsafe {
        check(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC))?;
        let (reader, writer) = (own(ends[0]), own(ends[1]));
        (reader?, writer?)
    };
    let mut done = 0;
    while done < len {
        // No more than an empty pipe always takes, so that nothing blocks.
        let step = (len - done).min(4096);
        // SAFETY: the kernel checks both addresses.
        let put = unsafe { libc::write(writer.as_raw_fd(), origin.add(done).cast(), step) };
        if put <= 0 {
            match errno() {
                libc::EINTR if put < 0 => continue,
                e => return Err(if put < 0 { e } else { libc::EIO }),
            }
        }
        let mut taken = 0;
        while taken < put as usize {
            // SAFETY: as above; the range is the caller's to store to.
            let got = unsafe {
                libc::read(
                    reader.as_raw_fd(),
                    dest.add(done + taken).cast(),
                    put as usize - taken,
                )
            };
            match got {
                n if n > 0 => taken += n as usize,
                0 => return Err(libc::EIO),
                _ if errno() != libc::EINTR => return Err(errno()),
                _ => {}
            }
        }
        done += taken;
    }
    Ok(())
}

/// Whether a call that hands out reports is refused as such, by the kernel or a sandbox, rather than having failed: with a
/// descriptor that there is not it says something else than that.
pub(crate) fn is_call_refused(errno: Errno, call: impl FnOnce(RawFd) -> SysResult<()>) -> bool {
    is_refused(errno) && call(-1) != Err(libc::EBADF)
}

/// Adds nothing to a word, as the kernel does it for a program's locks: what raises a signal in a program is an error here.
pub(crate) fn add_nothing(word: usize) -> SysResult<()> {
    const ADD: u32 = 1;
    let op = libc::FUTEX_WAKE_OP | libc::FUTEX_PRIVATE_FLAG;
    let nobody = AtomicU32::new(0);
    uninterrupted(|| {
        // SAFETY: the kernel checks the address; nobody sleeps on either word, and no byte changes.
        let rc = unsafe {
            let (mine, none) = (nobody.as_ptr(), 0usize);
            libc::syscall(libc::SYS_futex, mine, op, 0, none, word, ADD << 28)
        };
        if rc < 0 { Err(errno()) } else { Ok(()) }
    })
}

/// Which pages of a range the program has mapped, by a word for each, of which the highest bit says so. `None` where that is
/// not shown.
pub(crate) fn mapped_pages(addr: usize, words: &mut [u64]) -> Option<()> {
    const WORD: usize = size_of::<u64>();
    let fd = open(c"/proc/self/pagemap", libc::O_RDONLY, 0).ok()?;
    let offset = addr / page_size() * WORD;
    // SAFETY: any bytes are words.
    let bytes = unsafe {
        std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<u8>(), words.len() * WORD)
    };
    // SAFETY: the slice is valid for its length.
    unsafe {
        read_at(
            fd.as_raw_fd(),
            bytes.as_mut_ptr(),
            bytes.len(),
            offset as u64,
        )
    }
    .ok()
}

/// Makes every page of a range present and dirty, as a store to each would, without storing. A refusal where there is no
/// room or no disk any more is an error and no signal.
pub(crate) fn make_dirty(addr: usize, len: usize) -> SysResult<()> {
    const MADV_POPULATE_WRITE: i32 = 23;
    uninterrupted(|| {
        // SAFETY: no byte changes; a range that is not mapped is an error.
        check(unsafe { libc::madvise(addr as *mut _, len, MADV_POPULATE_WRITE) })
    })
}

/// Which pages of a range are in memory: the lowest bit of a byte for each.
pub(crate) fn resident(addr: usize, len: usize, pages: &mut [u8]) -> SysResult<()> {
    assert!(pages.len() >= len.div_ceil(page_size()));
    // SAFETY: there is a byte for each page.
    uninterrupted(|| check(unsafe { libc::mincore(addr as *mut _, len, pages.as_mut_ptr()) }))
}

/// One line of the kernel's list of mappings: first address and the one behind the last, device, inode, path.
fn mapping(line: &[u8]) -> Option<(usize, usize, u64, u64, &[u8])> {
    let mut rest = line;
    let mut word = || {
        let start = rest.iter().position(|b| *b != b' ')?;
        let len = rest[start..].iter().position(|b| *b == b' ');
        let end = len.map_or(rest.len(), |len| start + len);
        let word = std::str::from_utf8(&rest[start..end]).ok();
        rest = &rest[end..];
        word
    };
    let hex = |text| u64::from_str_radix(text, 16).ok();
    let (lo, hi) = word()?.split_once('-')?;
    let (_, _, device, inode) = (word()?, word()?, word()?, word()?);
    let (major, minor) = device.split_once(':')?;
    let dev = libc::makedev(hex(major)? as u32, hex(minor)? as u32);
    Some((
        hex(lo)? as usize,
        hex(hi)? as usize,
        dev,
        inode.parse().ok()?,
        rest.trim_ascii_start(),
    ))
}

/// The device and inode of the file that is mapped at an address; `None` if there is none, or its file system has no device,
/// so that the numbers may not be those that stat gives.
pub(crate) fn file_mapped_at(addr: usize) -> Option<(u64, u64)> {
    let fd = open(c"/proc/self/maps", libc::O_RDONLY, 0).ok()?;
    let mut found = None;
    each_line(&fd, &mut |line| match mapping(line) {
        Some((lo, hi, dev, inode, _)) if (lo..hi).contains(&addr) => {
            found = (libc::major(dev) != 0).then_some((dev, inode));
            false
        }
        _ => true,
    });
    found
}

/// Opens a mapped file by the path that the kernel shows for a mapping of it, if that is still this file.
pub(crate) fn open_mapped_file(file: FileId) -> Option<OwnedFd> {
    let maps = open(c"/proc/self/maps", libc::O_RDONLY, 0).ok()?;
    let mut found = None;
    each_line(&maps, &mut |line| {
        let Some((.., inode, path)) = mapping(line) else {
            return true;
        };
        let mut buffer = [0u8; 1024];
        if inode != file.inode || !path.starts_with(b"/") || path.len() >= buffer.len() {
            return true;
        }
        buffer[..path.len()].copy_from_slice(path);
        let path = CStr::from_bytes_until_nul(&buffer).unwrap_or(c"");
        let opened = open(path, libc::O_RDWR | libc::O_NOCTTY | libc::O_NONBLOCK, 0);
        found = opened
            .ok()
            .filter(|fd| file_facts(fd.as_raw_fd()).is_ok_and(|facts| facts.id() == file));
        found.is_none()
    });
    found
}

/// The lines of a file of procfs, as far as they fit into a buffer, until `visit` says false.
fn each_line(fd: &OwnedFd, visit: &mut dyn FnMut(&[u8]) -> bool) {
    // What does not fit is a longer path than is looked for here.
    let mut buffer = [0u8; 1024];
    let mut have = 0;
    while let Ok(got @ 1..) = read(fd, &mut buffer[have..]) {
        let end = have + got;
        let mut at = 0;
        while let Some(len) = buffer[at..end].iter().position(|b| *b == b'\n') {
            if !visit(&buffer[at..at + len]) {
                return;
            }
            at += len + 1;
        }
        if at == 0 && end == buffer.len() {
            at = end;
        }
        buffer.copy_within(at..end, 0);
        have = end - at;
    }
}
