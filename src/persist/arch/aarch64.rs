//! aarch64: lines are cleaned to the point of persistence (DC CVAP) where the processor has one,
//! else to the point of coherency (DC CVAC).
//!
//! Nothing streams: a non-temporal store pair is only advice to the cache, so its lines would have
//! to be cleaned all the same. The memory flags that ask for streaming change nothing here.

use super::generic::{
    blocks_down, blocks_up, copy_backward, copy_forward, fill_words, is_backward, up_to, word_of,
};
use super::{Did, Facts, Hints, Job, Sink, Stores, Wishes, WriteBack, lines_of, note};
use core::arch::asm;

/// Large copies are cut into blocks this big, and each is cleaned while it is still in the
/// first-level cache.
const BLOCK: usize = 4096;

/// What one turn of the copying loop moves: four pairs of words.
const TURN: usize = 64;

/// Linux sets this bit of AT_HWCAP where DC CVAP works in user space.
const HWCAP_DCPOP: u64 = 1 << 16;

pub(super) fn detect(_: &Wishes) -> Facts {
    let write_back = if has_write_back(WriteBack::DcCvap) {
        WriteBack::DcCvap
    } else {
        WriteBack::DcCvac
    };
    let ctr: u64;
    // SAFETY: reads a register that Linux lets user space read, or reads for it.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) ctr, options(nomem, nostack, preserves_flags)) };
    // DminLine: log2 of the words of 4 bytes in the smallest line.
    let line_log2 = (ctr >> 16 & 15) as u32 + 2;
    Facts::new(write_back, Stores::Words, false, line_log2)
}

pub(super) fn has_write_back(write_back: WriteBack) -> bool {
    match write_back {
        // SAFETY: no memory is involved.
        WriteBack::DcCvap => unsafe { libc::getauxval(libc::AT_HWCAP) & HWCAP_DCPOP != 0 },
        WriteBack::DcCvac => true,
        _ => false,
    }
}

pub(super) fn has_stores(stores: Stores) -> bool {
    stores == Stores::Words
}

#[inline(always)]
pub(super) fn streams_from(_: Job, _: bool, _: Sink) -> usize {
    usize::MAX
}

/// Only a DSB waits for the cleaning of lines to complete, and only one for both loads and stores;
/// the point of persistence may lie outside any shareability domain, so it is one for the full
/// system.
#[inline(always)]
pub(super) fn fence() {
    // SAFETY: only orders memory accesses. The block counts as touching all memory, so that the
    // compiler moves no access across it.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) }
}

#[inline(always)]
pub(super) unsafe fn write_back(facts: Facts, addr: *const u8, len: usize) {
    let line = facts.line();
    let (mut at, mut lines) = lines_of(addr, len, line);
    note(Did::WriteBack, addr, len);
    // A store and the cleaning of its line are in order without a barrier between them.
    if facts.write_back() as u8 == WriteBack::DcCvap as u8 {
        while lines != 0 {
            // SAFETY: the line holds bytes of the range, which is mapped. This is DC CVAP,
            // spelled so that assemblers for the base architecture take it.
            unsafe {
                asm!("sys #3, c7, c12, #1, {}", in(reg) at, options(nostack, preserves_flags));
            }
            at = at.wrapping_add(line);
            lines -= 1;
        }
    } else {
        while lines != 0 {
            // SAFETY: the line holds bytes of the range, which is mapped.
            unsafe { asm!("dc cvac, {}", in(reg) at, options(nostack, preserves_flags)) };
            at = at.wrapping_add(line);
            lines -= 1;
        }
    }
}

/// A loop over turns of 64 bytes, each read in full before it is written. Each word of a pair is
/// written whole where the destination is a multiple of 8.
macro_rules! copy_loop {
    ($name:ident, [$($before:literal)*], [$($after:literal)*]) => {
        unsafe fn $name(dst: *mut u8, src: *const u8, turns: usize) {
            // SAFETY: the caller gives at least one turn, and that many can be read and written,
            // above the pointers or below them as the name tells.
            unsafe {
                asm!(
                    "2:",
                    $($before,)*
                    "ldp {a}, {b}, [{s}]",
                    "ldp {c}, {e}, [{s}, #16]",
                    "ldp {f}, {g}, [{s}, #32]",
                    "ldp {h}, {i}, [{s}, #48]",
                    "stp {a}, {b}, [{d}]",
                    "stp {c}, {e}, [{d}, #16]",
                    "stp {f}, {g}, [{d}, #32]",
                    "stp {h}, {i}, [{d}, #48]",
                    $($after,)*
                    "sub {n}, {n}, #1",
                    "cbnz {n}, 2b",
                    d = inout(reg) dst => _,
                    s = inout(reg) src => _,
                    n = inout(reg) turns => _,
                    a = out(reg) _,
                    b = out(reg) _,
                    c = out(reg) _,
                    e = out(reg) _,
                    f = out(reg) _,
                    g = out(reg) _,
                    h = out(reg) _,
                    i = out(reg) _,
                    options(nostack, preserves_flags),
                );
            }
        }
    };
}

copy_loop!(turns_up, [], ["add {s}, {s}, #64" "add {d}, {d}, #64"]);
copy_loop!(turns_down, ["sub {s}, {s}, #64" "sub {d}, {d}, #64"], []);

unsafe fn turns_fill(dst: *mut u8, word: u64, turns: usize) {
    // SAFETY: the caller gives at least one turn, and that many can be written at dst.
    unsafe {
        asm!(
            "2:",
            "stp {w}, {w}, [{d}]",
            "stp {w}, {w}, [{d}, #16]",
            "stp {w}, {w}, [{d}, #32]",
            "stp {w}, {w}, [{d}, #48]",
            "add {d}, {d}, #64",
            "sub {n}, {n}, #1",
            "cbnz {n}, 2b",
            d = inout(reg) dst => _,
            n = inout(reg) turns => _,
            w = in(reg) word,
            options(nostack, preserves_flags),
        );
    }
}

/// A range cut where its words begin: bytes before, whole turns, bytes after.
#[inline(always)]
fn cut(dst: *mut u8, len: usize) -> (usize, usize, usize) {
    let head = up_to(dst, 8).min(len);
    (head, (len - head) / TURN, (len - head) % TURN)
}

unsafe fn range_up(dst: *mut u8, src: *const u8, len: usize) {
    let (head, turns, tail) = cut(dst, len);
    let end = head + turns * TURN;
    note(Did::Store, dst.wrapping_add(head), turns * TURN);
    // SAFETY: head, turns and tail make up the range.
    unsafe {
        copy_forward(dst, src, head);
        if turns != 0 {
            turns_up(dst.add(head), src.add(head), turns);
        }
        copy_forward(dst.add(end), src.add(end), tail);
    }
}

unsafe fn range_down(dst: *mut u8, src: *const u8, len: usize) {
    let (head, turns, tail) = cut(dst, len);
    let end = head + turns * TURN;
    note(Did::Store, dst.wrapping_add(head), turns * TURN);
    // SAFETY: head, turns and tail make up the range.
    unsafe {
        copy_backward(dst.add(end), src.add(end), tail);
        if turns != 0 {
            turns_down(dst.add(end), src.add(end), turns);
        }
        copy_backward(dst, src, head);
    }
}

unsafe fn range_fill(dst: *mut u8, byte: u8, len: usize) {
    let (head, turns, tail) = cut(dst, len);
    let end = head + turns * TURN;
    note(Did::Store, dst.wrapping_add(head), turns * TURN);
    // SAFETY: head, turns and tail make up the range.
    unsafe {
        fill_words(dst, byte, head);
        if turns != 0 {
            turns_fill(dst.add(head), word_of(byte), turns);
        }
        fill_words(dst.add(end), byte, tail);
    }
}

#[inline]
pub(super) unsafe fn copy(
    facts: Facts,
    dst: *mut u8,
    src: *const u8,
    len: usize,
    sink: Sink,
    _: Hints,
) {
    let backward = is_backward(dst, src, len);
    // SAFETY: as promised by the caller; blocks are parts of the range.
    unsafe {
        match (sink, backward) {
            (Sink::WriteBack, false) => blocks_up(dst, len, BLOCK, |at, part| {
                range_up(dst.add(at), src.add(at), part);
                write_back(facts, dst.add(at), part);
            }),
            (Sink::WriteBack, true) => blocks_down(dst, len, BLOCK, |at, part| {
                range_down(dst.add(at), src.add(at), part);
                write_back(facts, dst.add(at), part);
            }),
            (_, false) => range_up(dst, src, len),
            (_, true) => range_down(dst, src, len),
        }
    }
}

#[inline]
pub(super) unsafe fn fill(facts: Facts, dst: *mut u8, byte: u8, len: usize, sink: Sink, _: Hints) {
    // SAFETY: as promised by the caller; blocks are parts of the range.
    unsafe {
        if sink == Sink::WriteBack {
            blocks_up(dst, len, BLOCK, |at, part| {
                range_fill(dst.add(at), byte, part);
                write_back(facts, dst.add(at), part);
            });
        } else {
            range_fill(dst, byte, len);
        }
    }
}
