//! The log that `PMEMSET_LOG_LEVEL` and `PMEMSET_LOG_FILE` ask for. When there is none a call costs one load.
//!
//! It lives in the program's process, and takes care of what the program does there. Its descriptor is none of the standard
//! ones, and is looked at before every line, since the program may have closed it and opened another file by that number. There
//! is no lock, which a child of a fork could find taken: what threads find out they publish in one step. A line is no point
//! where a thread is cancelled, never blocks on a pipe, and raises no signal.

use std::ffi::CStr;
use std::fmt::{Arguments, Write};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU8, Ordering};

use crate::mem;
use crate::sys::{self, Errno, SysResult};

/// Failed calls.
pub(crate) const ERRORS: u8 = 1;
/// Making, mapping, removing and deleting.
pub(crate) const BASIC: u8 = 2;
/// Every call.
pub(crate) const CALLS: u8 = 3;
/// The beginnings of calls, and events, too.
pub(crate) const ALL: u8 = 4;

const UNKNOWN: u8 = u8::MAX;

static LEVEL: AtomicU8 = AtomicU8::new(UNKNOWN);
/// Where the log goes, once somebody has looked; never changed after that, and never freed.
static PLACE: AtomicPtr<Place> = AtomicPtr::new(null_mut());

enum Place {
    Stderr,
    /// A pipe that nobody reads.
    Nowhere,
    File(File),
}

struct File {
    /// A C string, absolute if that could be found out: the program may change its directory.
    path: Vec<u8>,
    dev: u64,
    inode: u64,
    fd: AtomicI32,
}

/// Whether anything may be logged.
#[inline(always)]
pub(crate) fn is_on() -> bool {
    LEVEL.load(Ordering::Relaxed) != 0
}

/// Logs one line, if the level is asked for.
#[cold]
#[inline(never)]
pub(crate) fn line(level: u8, text: Arguments<'_>) {
    if level > wanted() {
        return;
    }
    let mut line = Line {
        bytes: [0; 1024],
        len: 0,
    };
    // SAFETY: gettid has no arguments.
    let thread = unsafe { libc::gettid() };
    // A line that does not fit is cut.
    let _ = write!(line, "libpmemset[{}] <{level}> {text}", thread);
    line.bytes[line.len] = b'\n';
    let line = &line.bytes[..=line.len];
    let _uncancelled = sys::Uncancelled::new();
    match place() {
        Place::Stderr => put(libc::STDERR_FILENO, line),
        Place::Nowhere => {}
        Place::File(file) => file.put(line),
    }
}

struct Line {
    bytes: [u8; 1024],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let room = self.bytes.len() - 1 - self.len;
        let take = text.len().min(room);
        self.bytes[self.len..self.len + take].copy_from_slice(&text.as_bytes()[..take]);
        self.len += take;
        if take < text.len() {
            return Err(std::fmt::Error);
        }
        Ok(())
    }
}

/// The level that is asked for. Read from the environment once, or a few times when threads come at once.
fn wanted() -> u8 {
    match LEVEL.load(Ordering::Relaxed) {
        UNKNOWN => {
            let level = sys::secure_env(c"PMEMSET_LOG_LEVEL", |text| {
                std::str::from_utf8(text).ok()?.trim().parse::<u8>().ok()
            })
            .flatten()
            .map_or(0, |level| level.min(ALL));
            LEVEL.store(level, Ordering::Relaxed);
            level
        }
        level => level,
    }
}

fn place() -> &'static Place {
    // SAFETY: published below, and never freed.
    if let Some(place) = unsafe { PLACE.load(Ordering::Acquire).as_ref() } {
        return place;
    }
    let found = sys::secure_env(c"PMEMSET_LOG_FILE", find).unwrap_or(Place::Stderr);
    let Ok(found) = mem::try_box(found) else {
        return &Place::Nowhere;
    };
    let found = Box::into_raw(found);
    match PLACE.compare_exchange(null_mut(), found, Ordering::AcqRel, Ordering::Acquire) {
        // SAFETY: published, and never freed from now on.
        Ok(_) => unsafe { &*found },
        Err(other) => {
            // SAFETY: made above, and nobody has seen it.
            drop(unsafe { Box::from_raw(found) });
            // SAFETY: published, and never freed.
            unsafe { &*other }
        }
    }
}

/// The file with this name; one that ends in a dash gets the process number appended.
#[inline(never)]
fn find(name: &[u8]) -> Place {
    match File::new(name) {
        Ok(file) => Place::File(file),
        // A pipe that nobody reads, or a socket.
        Err(libc::ENXIO) => Place::Nowhere,
        Err(_) => Place::Stderr,
    }
}

/// Not waiting for a reader where the name is that of a pipe.
const HOW: i32 = libc::O_WRONLY | libc::O_APPEND | libc::O_NONBLOCK | libc::O_NOCTTY;

impl File {
    fn new(name: &[u8]) -> SysResult<File> {
        let mut path = Vec::new();
        path.try_reserve_exact(name.len() + 24)
            .map_err(|_| libc::ENOMEM)?;
        path.extend_from_slice(name);
        if name.last() == Some(&b'-') {
            let _ = std::io::Write::write_fmt(&mut path, format_args!("{}", std::process::id()));
        }
        path.push(0);
        let fd = open(&path, libc::O_CREAT)?;
        let facts = sys::file_facts(fd.as_raw_fd())?;
        Ok(File {
            path: name_of(&fd).unwrap_or(path),
            dev: facts.dev,
            inode: facts.inode,
            fd: fd.into_raw_fd().into(),
        })
    }

    fn is_open_as(&self, fd: RawFd) -> bool {
        sys::file_facts(fd).is_ok_and(|f| (f.dev, f.inode) == (self.dev, self.inode))
    }

    fn put(&self, line: &[u8]) {
        for _ in 0..2 {
            let fd = self.fd.load(Ordering::Acquire);
            if self.is_open_as(fd) {
                return put(fd, line);
            }
            // The program has closed it, and the number may be another file's by now: that is left alone.
            let Ok(again) = open(&self.path, 0) else {
                return;
            };
            if !self.is_open_as(again.as_raw_fd()) {
                return;
            }
            let new = again.as_raw_fd();
            let published = self
                .fd
                .compare_exchange(fd, new, Ordering::AcqRel, Ordering::Relaxed);
            if published.is_ok() {
                let _ = again.into_raw_fd();
            }
        }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: opened by `new`, and nobody has seen it: what is published is not dropped.
        drop(unsafe { OwnedFd::from_raw_fd(*self.fd.get_mut()) });
    }
}

/// Opens the log, above the descriptors that programs take for their input, output and errors.
fn open(path: &[u8], create: i32) -> SysResult<OwnedFd> {
    let path = CStr::from_bytes_until_nul(path).map_err(|_| libc::EINVAL)?;
    let fd = sys::open(path, HOW | create, 0o644)?;
    if fd.as_raw_fd() > libc::STDERR_FILENO {
        return Ok(fd);
    }
    // SAFETY: no pointers involved.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3) } {
        -1 => Err(sys::errno()),
        // SAFETY: a new descriptor that nobody else has.
        higher => Ok(unsafe { OwnedFd::from_raw_fd(higher) }),
    }
}

/// The absolute path of an open file, as a C string.
fn name_of(fd: &OwnedFd) -> Option<Vec<u8>> {
    let mut link = [0u8; 40];
    let mut rest = &mut link[..];
    std::io::Write::write_fmt(
        &mut rest,
        format_args!("/proc/self/fd/{}\0", fd.as_raw_fd()),
    )
    .ok()?;
    let mut path = Vec::new();
    path.try_reserve_exact(libc::PATH_MAX as usize).ok()?;
    path.resize(libc::PATH_MAX as usize, 0);
    let len = sys::read_link(CStr::from_bytes_until_nul(&link).ok()?, &mut path)
        .ok()?
        .len();
    path.truncate(len);
    path.push(0);
    (path[0] == b'/').then_some(path)
}

/// A log that cannot be written must not fail the call.
fn put(fd: RawFd, line: &[u8]) {
    let signals = Unsignalled::new();
    let put = sys::write_all(fd, line);
    signals.end(put.err());
}

/// Keeps from the program the signals that a write raises where nobody reads, and where a file may not grow.
struct Unsignalled {
    /// What the thread has blocked, and what waited for it.
    blocked: libc::sigset_t,
    waiting: libc::sigset_t,
}

impl Unsignalled {
    const SIGNALS: [(Errno, libc::c_int); 2] =
        [(libc::EPIPE, libc::SIGPIPE), (libc::EFBIG, libc::SIGXFSZ)];

    fn new() -> Self {
        // SAFETY: sets of our own, which are filled before they are used.
        unsafe {
            let mut both = std::mem::zeroed();
            let (mut blocked, mut waiting) = (std::mem::zeroed(), std::mem::zeroed());
            libc::sigemptyset(&mut both);
            for (_, signal) in Self::SIGNALS {
                libc::sigaddset(&mut both, signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, &both, &mut blocked);
            libc::sigpending(&mut waiting);
            Unsignalled { blocked, waiting }
        }
    }

    /// After a write that has failed so, or not.
    fn end(self, errno: Option<Errno>) {
        // SAFETY: sets of our own; with no time to wait for, what is waiting is taken and nothing else.
        unsafe {
            for (cause, signal) in Self::SIGNALS {
                if errno == Some(cause) && libc::sigismember(&self.waiting, signal) == 0 {
                    let mut one = std::mem::zeroed();
                    libc::sigemptyset(&mut one);
                    libc::sigaddset(&mut one, signal);
                    libc::sigtimedwait(&one, null_mut(), &std::mem::zeroed());
                }
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, &self.blocked, null_mut());
        }
    }
}
