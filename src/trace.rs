//! The log that `PMEMSET_LOG_LEVEL` and `PMEMSET_LOG_FILE` ask for. When there is none a call costs one load.

use std::ffi::CStr;
use std::fmt::{Arguments, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::sys;

/// Failed calls.
pub(crate) const ERRORS: u8 = 1;
/// Making, mapping, removing and deleting.
pub(crate) const BASIC: u8 = 2;
/// Every call.
pub(crate) const CALLS: u8 = 3;

const UNKNOWN: u8 = u8::MAX;
const MOST: u8 = 4;

static LEVEL: AtomicU8 = AtomicU8::new(UNKNOWN);
static FILE: OnceLock<Option<OwnedFd>> = OnceLock::new();

/// Whether anything may be logged.
#[inline(always)]
pub(crate) fn is_on() -> bool {
    LEVEL.load(Ordering::Relaxed) != 0
}

/// Logs one line, if the level is asked for.
#[cold]
pub(crate) fn line(level: u8, text: Arguments<'_>) {
    let mut wanted = LEVEL.load(Ordering::Relaxed);
    if wanted == UNKNOWN {
        wanted = read_environment();
    }
    if level > wanted {
        return;
    }
    let mut line = Line {
        bytes: [0; 512],
        len: 0,
    };
    // SAFETY: gettid has no arguments.
    let thread = unsafe { libc::gettid() };
    // A line that does not fit is cut.
    let _ = write!(line, "libpmemset[{}] <{level}> {text}", thread);
    line.bytes[line.len] = b'\n';
    let fd = FILE
        .get()
        .and_then(|f| f.as_ref())
        .map_or(libc::STDERR_FILENO, |f| f.as_raw_fd());
    // A log that cannot be written must not fail the call.
    let _ = sys::write_all(fd, &line.bytes[..=line.len]);
}

struct Line {
    bytes: [u8; 512],
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

fn read_environment() -> u8 {
    let level = sys::secure_env(c"PMEMSET_LOG_LEVEL", |text| {
        std::str::from_utf8(text).ok()?.trim().parse::<u8>().ok()
    })
    .flatten()
    .map_or(0, |level| level.min(MOST));
    if level > 0 {
        FILE.get_or_init(|| sys::secure_env(c"PMEMSET_LOG_FILE", open).flatten());
    }
    LEVEL.store(level, Ordering::Relaxed);
    level
}

/// Opens the file to log to; a name that ends in a dash gets the process number appended.
fn open(name: &[u8]) -> Option<OwnedFd> {
    let mut path = [0u8; libc::PATH_MAX as usize];
    path.get_mut(..name.len())?.copy_from_slice(name);
    if name.last() == Some(&b'-') {
        let mut room = &mut path[name.len()..];
        std::io::Write::write_fmt(&mut room, format_args!("{}", std::process::id())).ok()?;
    }
    let path = CStr::from_bytes_until_nul(&path).ok()?;
    sys::open(path, libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND, 0o644).ok()
}
