//! The processor's part of persistence: writing lines back, fencing, and copies and fills that go
//! through the cache or around it.
//!
//! Nothing here allocates, locks or panics, and no reference is ever formed into the memory that
//! is worked on: it is shared with other threads and other processes.
//!
//! **Stores.** Every aligned 8-byte unit that lies wholly inside the destination is written by one
//! store that covers it and is aligned to its own width (8, 16, 32 or 64 bytes), so no such store
//! crosses a cache line and no unit is ever seen half written. The bytes before the first and
//! after the last whole unit are written with naturally aligned stores of 4, 2 and 1 bytes.
//! Overlapping unaligned vector stores, the usual way to finish a copy, are not used: they would
//! write a unit in two pieces. Nor is libc's memcpy or `rep movsb`, which promise nothing about
//! the width of their stores.
//!
//! **What was chosen** is found out once and packed into one word ([`Facts`]), so that the hot
//! path is a relaxed load and predictable branches.

use std::ffi::CStr;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys;

#[cfg(all(target_arch = "aarch64", not(miri)))]
mod aarch64;
#[cfg(all(target_arch = "aarch64", not(miri)))]
use aarch64 as imp;

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod x86_64;
#[cfg(all(target_arch = "x86_64", not(miri)))]
use x86_64 as imp;

// The heads and tails of the other kernels come from here too, so it is always compiled; Miri,
// which knows no assembly, runs it whatever the processor is.
mod generic;
#[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
use generic as imp;

/// What the stores of a copy or fill have to reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sink {
    /// Ordinary stores and nothing else: something other than the processor makes them durable
    /// (PAGE granularity), or the caller wants no flush.
    Plain,
    /// Every line has to leave the cache: it is streamed past it, or stored and written back
    /// (CACHE_LINE granularity).
    WriteBack,
    /// The cache is inside the power-fail protected domain: stores need only be ordered (BYTE
    /// granularity). Large copies are streamed because that is faster.
    Fenced,
}

/// The memory flags that advise on the way of storing; other bits are ignored.
///
/// NONTEMPORAL and WC ask for streaming, TEMPORAL and WB for stores through the cache. When both
/// are asked for, streaming wins. They are hints: [`Sink::Plain`] never streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hints(pub u32);

impl Hints {
    /// No advice: the size decides.
    pub const NONE: Hints = Hints(0);
    /// The data will not be read soon.
    pub const NONTEMPORAL: Hints = Hints(1 << 1);
    /// The data will be read soon.
    pub const TEMPORAL: Hints = Hints(1 << 2);
    /// Write combining: stream.
    pub const WC: Hints = Hints(1 << 3);
    /// Write back: through the cache.
    pub const WB: Hints = Hints(1 << 4);

    #[inline(always)]
    const fn stream(self) -> bool {
        self.0 & (Self::NONTEMPORAL.0 | Self::WC.0) != 0
    }

    #[inline(always)]
    const fn cached(self) -> bool {
        self.0 & (Self::TEMPORAL.0 | Self::WB.0) != 0
    }
}

/// The instruction that writes a cache line back to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum WriteBack {
    /// This processor has none that this library knows: lines cannot be made durable from here,
    /// so granularity CACHE_LINE cannot be offered.
    None = 1,
    /// x86: writes back, may keep the line.
    Clwb = 2,
    /// x86: writes back and evicts, unordered among themselves.
    Clflushopt = 3,
    /// x86: writes back and evicts, one after the other.
    Clflush = 4,
    /// aarch64: cleans to the point of persistence.
    DcCvap = 5,
    /// aarch64: cleans to the point of coherency.
    DcCvac = 6,
}

/// The widest stores that copies and fills use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stores {
    /// 8-byte words (on aarch64, pairs of them).
    Words = 1,
    /// 16 bytes.
    Sse2 = 2,
    /// 32 bytes.
    Avx2 = 3,
    /// 64 bytes: a whole line.
    Avx512 = 4,
}

/// A copy reads and writes, a fill only writes: streaming pays from different sizes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "unused where nothing streams")]
enum Job {
    Copy,
    Fill,
}

/// What was found out about the processor and asked for by the environment, packed in a word.
///
/// Bits 0-3 write-back, 4-7 stores, 8 streaming allowed, 9 threshold given, 10-15 log2 of the line
/// size, 16-63 the threshold. Never 0: that stands for "not found out yet".
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Facts(u64);

const STREAMING: u64 = 1 << 8;
const THRESHOLD_GIVEN: u64 = 1 << 9;
const LINE_SHIFT: u32 = 10;
const THRESHOLD_SHIFT: u32 = 16;

impl Facts {
    const fn new(write_back: WriteBack, stores: Stores, streaming: bool, line_log2: u32) -> Facts {
        let streaming = if streaming { STREAMING } else { 0 };
        Facts(
            write_back as u64
                | (stores as u64) << 4
                | streaming
                | ((line_log2 & 63) as u64) << LINE_SHIFT,
        )
    }

    /// The instruction that writes lines back.
    #[inline(always)]
    pub const fn write_back(self) -> WriteBack {
        match self.0 & 15 {
            2 => WriteBack::Clwb,
            3 => WriteBack::Clflushopt,
            4 => WriteBack::Clflush,
            5 => WriteBack::DcCvap,
            6 => WriteBack::DcCvac,
            _ => WriteBack::None,
        }
    }

    /// The widest stores.
    #[inline(always)]
    pub const fn stores(self) -> Stores {
        match self.0 >> 4 & 15 {
            2 => Stores::Sse2,
            3 => Stores::Avx2,
            4 => Stores::Avx512,
            _ => Stores::Words,
        }
    }

    /// Whether stores may go past the cache (`PMEM_NO_MOVNT` is not set, and there are any).
    #[inline(always)]
    pub const fn streaming(self) -> bool {
        self.0 & STREAMING != 0
    }

    /// Bytes in a cache line.
    #[inline(always)]
    pub const fn line(self) -> usize {
        1 << (self.0 >> LINE_SHIFT & 63)
    }

    /// The size from which copies and fills stream, if the environment gave one
    /// (`PMEM_MOVNT_THRESHOLD`); otherwise the kernels' own figures hold.
    #[inline(always)]
    pub const fn threshold(self) -> Option<usize> {
        if self.0 & THRESHOLD_GIVEN != 0 {
            Some((self.0 >> THRESHOLD_SHIFT) as usize)
        } else {
            None
        }
    }

    /// The same with another write-back instruction; None if this processor lacks it.
    pub fn with_write_back(self, write_back: WriteBack) -> Option<Facts> {
        imp::has_write_back(write_back).then_some(Facts(self.0 & !15 | write_back as u64))
    }

    /// The same with other stores; None if this processor lacks them.
    pub fn with_stores(self, stores: Stores) -> Option<Facts> {
        imp::has_stores(stores).then_some(Facts(self.0 & !(15 << 4) | (stores as u64) << 4))
    }

    /// The same with the given threshold (at most 2^48 - 1).
    pub const fn with_threshold(self, bytes: usize) -> Facts {
        const MOST: u64 = u64::MAX >> THRESHOLD_SHIFT;
        let bytes = if bytes as u64 > MOST {
            MOST
        } else {
            bytes as u64
        };
        let rest = self.0 & ((1 << THRESHOLD_SHIFT) - 1);
        Facts(rest | THRESHOLD_GIVEN | bytes << THRESHOLD_SHIFT)
    }

    /// The same, never streaming.
    pub const fn without_streaming(self) -> Facts {
        Facts(self.0 & !STREAMING)
    }

    /// Whether a job of this size streams; `whole` if it begins and ends at line boundaries.
    #[inline(always)]
    #[allow(dead_code, reason = "unused where nothing streams")]
    fn streams(self, job: Job, len: usize, whole: bool, sink: Sink, hints: Hints) -> bool {
        if !self.streaming() || matches!(sink, Sink::Plain) {
            return false;
        }
        if hints.0 != 0 {
            if hints.stream() {
                return true;
            }
            if hints.cached() {
                return false;
            }
        }
        let from = match self.threshold() {
            Some(bytes) => bytes,
            None => imp::streams_from(job, whole, sink),
        };
        len >= from
    }
}

impl fmt::Debug for Facts {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Facts")
            .field("write_back", &self.write_back())
            .field("stores", &self.stores())
            .field("streaming", &self.streaming())
            .field("line", &self.line())
            .field("threshold", &self.threshold())
            .finish()
    }
}

static FACTS: AtomicU64 = AtomicU64::new(0);

/// What was chosen for this processor and environment; found out by the first call.
#[inline(always)]
pub fn facts() -> Facts {
    // Relaxed: the word is all there is to see, and finding it out twice gives the same word.
    match FACTS.load(Ordering::Relaxed) {
        0 => find_out(),
        raw => Facts(raw),
    }
}

/// Makes every later call use `facts`, for tests and measurements. They can only come from
/// [`facts`] and its `with_` methods, so nothing the processor lacks can be forced.
pub fn force(facts: Facts) {
    FACTS.store(facts.0, Ordering::Relaxed);
}

/// Looks at the processor and the environment again and forgets what was forced.
pub fn reset() -> Facts {
    find_out()
}

#[cold]
#[inline(never)]
fn find_out() -> Facts {
    let mut facts = imp::detect(&Wishes {
        no_clwb: is_one(c"PMEM_NO_CLWB"),
        no_clflushopt: is_one(c"PMEM_NO_CLFLUSHOPT"),
    });
    if is_one(c"PMEM_NO_MOVNT") {
        facts = facts.without_streaming();
    }
    if let Some(bytes) = sys::secure_env(c"PMEM_MOVNT_THRESHOLD", decimal).flatten() {
        facts = facts.with_threshold(bytes);
    }
    FACTS.store(facts.0, Ordering::Relaxed);
    facts
}

/// What the environment asks the detection to leave out.
#[allow(dead_code, reason = "an architecture reads only what it has")]
struct Wishes {
    no_clwb: bool,
    no_clflushopt: bool,
}

fn is_one(name: &CStr) -> bool {
    sys::secure_env(name, |value| value == b"1").unwrap_or(false)
}

/// A plain decimal number; anything else is ignored like a variable that is not set.
fn decimal(text: &[u8]) -> Option<usize> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0usize, |sum, &c| {
        let digit = c.is_ascii_digit().then(|| usize::from(c - b'0'))?;
        Some(sum.saturating_mul(10).saturating_add(digit))
    })
}

/// What a kernel did to a range, for the tests: a missing write-back changes no byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "an architecture does only what it can")]
enum Did {
    Store,
    Stream,
    WriteBack,
}

#[cfg(not(test))]
#[inline(always)]
fn note(_: Did, _: *const u8, _: usize) {}

#[cfg(test)]
use tests::note;

/// The first line and the number of lines that a range touches. A range that would run past the
/// end of the address space ends there, so that no loop over the lines wraps around.
#[inline(always)]
#[allow(dead_code, reason = "unused where no line can be written back")]
fn lines_of(addr: *const u8, len: usize, line: usize) -> (*const u8, usize) {
    if len == 0 {
        return (addr, 0);
    }
    let into = addr as usize & (line - 1);
    let last = (addr as usize).saturating_add(len - 1);
    let first = addr.wrapping_sub(into);
    (first, (last - first as usize) / line + 1)
}

/// Starts writing back every line that the range touches; [`fence`] waits for it.
///
/// # Safety
/// The range must be mapped readable.
#[inline]
pub unsafe fn write_back(addr: *const u8, len: usize) {
    // SAFETY: as promised by the caller.
    unsafe { imp::write_back(facts(), addr, len) }
}

/// Orders everything stored, streamed or written back before it ahead of what follows.
#[inline(always)]
pub fn fence() {
    imp::fence();
}

/// Writes back every line that the range touches and waits.
///
/// # Safety
/// The range must be mapped readable.
#[inline]
pub unsafe fn persist(addr: *const u8, len: usize) {
    // SAFETY: as promised by the caller.
    unsafe { imp::write_back(facts(), addr, len) };
    imp::fence();
}

/// Copies like memmove: the ranges may overlap.
///
/// There is no fence at the end. Streamed stores are not ordered by anything else, not even for
/// other threads, so the caller must [`fence`] before the copy is announced or taken as durable.
///
/// # Safety
/// `len` bytes must be readable at `src` and writable at `dst`.
#[inline]
pub unsafe fn copy(dst: *mut u8, src: *const u8, len: usize, sink: Sink, hints: Hints) {
    // SAFETY: as promised by the caller.
    unsafe { imp::copy(facts(), dst, src, len, sink, hints) }
}

/// Fills a range with a byte. As with [`copy`], the caller must [`fence`].
///
/// # Safety
/// `len` bytes must be writable at `dst`.
#[inline]
pub unsafe fn fill(dst: *mut u8, byte: u8, len: usize, sink: Sink, hints: Hints) {
    // SAFETY: as promised by the caller.
    unsafe { imp::fill(facts(), dst, byte, len, sink, hints) }
}

/// [`copy`] with chosen facts, for tests and measurements.
///
/// # Safety
/// As for [`copy`].
#[inline]
pub unsafe fn copy_with(
    facts: Facts,
    dst: *mut u8,
    src: *const u8,
    len: usize,
    sink: Sink,
    hints: Hints,
) {
    // SAFETY: as promised by the caller.
    unsafe { imp::copy(facts, dst, src, len, sink, hints) }
}

/// [`fill`] with chosen facts, for tests and measurements.
///
/// # Safety
/// As for [`fill`].
#[inline]
pub unsafe fn fill_with(
    facts: Facts,
    dst: *mut u8,
    byte: u8,
    len: usize,
    sink: Sink,
    hints: Hints,
) {
    // SAFETY: as promised by the caller.
    unsafe { imp::fill(facts, dst, byte, len, sink, hints) }
}

/// [`write_back`] with chosen facts, for tests and measurements.
///
/// # Safety
/// As for [`write_back`].
#[inline]
pub unsafe fn write_back_with(facts: Facts, addr: *const u8, len: usize) {
    // SAFETY: as promised by the caller.
    unsafe { imp::write_back(facts, addr, len) }
}

#[cfg(test)]
mod tests;
