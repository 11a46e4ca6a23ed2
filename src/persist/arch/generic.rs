//! Copies and fills with 8-byte words: all there is on a processor without kernels of its own,
//! and the heads and tails of those that have them.
//!
//! Stores are volatile: the compiler must neither turn a loop into a call of memcpy nor merge or
//! split stores.

#![allow(
    dead_code,
    reason = "where a processor has kernels of its own, only the pieces are used"
)]

use super::{Did, Facts, Hints, Job, Sink, Stores, Wishes, WriteBack, note};
use core::sync::atomic::{Ordering, compiler_fence};

/// Nothing is known about this processor. The line size is only a guess for the alignment of
/// allocations; nothing is written back.
pub(super) fn detect(_: &Wishes) -> Facts {
    Facts::new(WriteBack::None, Stores::Words, false, 6)
}

pub(super) fn has_write_back(write_back: WriteBack) -> bool {
    write_back == WriteBack::None
}

pub(super) fn has_stores(stores: Stores) -> bool {
    stores == Stores::Words
}

#[inline(always)]
pub(super) fn streams_from(_: Job, _: bool, _: Sink) -> usize {
    usize::MAX
}

/// No instruction is known, so only the compiler is kept from holding stores back.
#[inline(always)]
pub(super) unsafe fn write_back(_: Facts, _: *const u8, _: usize) {
    compiler_fence(Ordering::SeqCst);
}

#[inline(always)]
pub(super) fn fence() {
    // Volatile stores are no part of Rust's memory model for threads, so the compiler is told
    // apart from the processor.
    compiler_fence(Ordering::SeqCst);
    core::sync::atomic::fence(Ordering::SeqCst);
}

pub(super) unsafe fn copy(_: Facts, dst: *mut u8, src: *const u8, len: usize, _: Sink, _: Hints) {
    // SAFETY: as promised by the caller.
    unsafe {
        if is_backward(dst, src, len) {
            copy_backward(dst, src, len);
        } else {
            copy_forward(dst, src, len);
        }
    }
}

pub(super) unsafe fn fill(_: Facts, dst: *mut u8, byte: u8, len: usize, _: Sink, _: Hints) {
    // SAFETY: as promised by the caller.
    unsafe { fill_words(dst, byte, len) }
}

/// Whether a copy has to run from the end to the start: the destination begins inside the source.
#[inline(always)]
pub(super) fn is_backward(dst: *mut u8, src: *const u8, len: usize) -> bool {
    (dst as usize).wrapping_sub(src as usize) < len
}

/// Bytes from `at` to the next multiple of `unit`, a power of two.
#[inline(always)]
pub(super) fn up_to(at: *const u8, unit: usize) -> usize {
    (at as usize).wrapping_neg() & (unit - 1)
}

/// Calls `each` with the offset and length of every part of a range that lies in one block (a
/// power of two), upwards.
#[inline(always)]
pub(super) fn blocks_up(
    dst: *mut u8,
    len: usize,
    block: usize,
    mut each: impl FnMut(usize, usize),
) {
    let mut done = 0;
    while done < len {
        let to_next = block - ((dst as usize).wrapping_add(done) & (block - 1));
        let part = to_next.min(len - done);
        each(done, part);
        done += part;
    }
}

/// The same, downwards.
#[inline(always)]
pub(super) fn blocks_down(
    dst: *mut u8,
    len: usize,
    block: usize,
    mut each: impl FnMut(usize, usize),
) {
    let mut left = len;
    while left > 0 {
        // From the start of the block that the last byte is in.
        let into = ((dst as usize).wrapping_add(left - 1) & (block - 1)) + 1;
        let part = into.min(left);
        left -= part;
        each(left, part);
    }
}

/// Copies one `T` that is aligned at the destination, read before it is written.
#[inline(always)]
unsafe fn move_one<T: Copy>(dst: *mut u8, src: *const u8) {
    // SAFETY: the caller has checked that T fits into both ranges and is aligned at dst.
    unsafe {
        dst.cast::<T>()
            .write_volatile(src.cast::<T>().read_unaligned())
    }
}

/// Copies a part of one aligned unit, upwards. The start or the end of it is a multiple of 8, so
/// powers of two that rise with the one and fall towards the other are naturally aligned.
#[inline(always)]
unsafe fn copy_part_up(mut dst: *mut u8, mut src: *const u8, mut len: usize) {
    while len > 0 {
        let step = natural(dst as usize, len);
        // SAFETY: step bytes are left in both ranges, and dst is a multiple of step.
        unsafe {
            match step {
                4 => move_one::<u32>(dst, src),
                2 => move_one::<u16>(dst, src),
                _ => move_one::<u8>(dst, src),
            }
            dst = dst.add(step);
            src = src.add(step);
        }
        len -= step;
    }
}

/// Copies a part of one aligned unit, downwards from `dst + len`.
#[inline(always)]
unsafe fn copy_part_down(dst: *mut u8, src: *const u8, mut len: usize) {
    while len > 0 {
        let step = natural(dst as usize + len, len);
        len -= step;
        // SAFETY: len + step bytes were left in both ranges; dst + len is a multiple of step,
        // because dst + len + step is.
        unsafe {
            match step {
                4 => move_one::<u32>(dst.add(len), src.add(len)),
                2 => move_one::<u16>(dst.add(len), src.add(len)),
                _ => move_one::<u8>(dst.add(len), src.add(len)),
            }
        }
    }
}

/// The widest of 4, 2 and 1 that divides `at` and is at most `len`.
#[inline(always)]
fn natural(at: usize, len: usize) -> usize {
    if at % 4 == 0 && len >= 4 {
        4
    } else if at % 2 == 0 && len >= 2 {
        2
    } else {
        1
    }
}

/// Copies from the start to the end.
#[inline(always)]
pub(super) unsafe fn copy_forward(mut dst: *mut u8, mut src: *const u8, mut len: usize) {
    note(Did::Store, dst, len);
    // SAFETY: every step stays inside what is left of the two ranges, and words are stored only
    // where dst is a multiple of 8.
    unsafe {
        let head = up_to(dst, 8);
        if head != 0 {
            let head = head.min(len);
            copy_part_up(dst, src, head);
            dst = dst.add(head);
            src = src.add(head);
            len -= head;
        }
        while len >= 8 {
            move_one::<u64>(dst, src);
            dst = dst.add(8);
            src = src.add(8);
            len -= 8;
        }
        copy_part_up(dst, src, len);
    }
}

/// Copies from the end to the start.
#[inline(always)]
pub(super) unsafe fn copy_backward(dst: *mut u8, src: *const u8, mut len: usize) {
    note(Did::Store, dst, len);
    // SAFETY: as in copy_forward, with len as the distance still to go.
    unsafe {
        let tail = (dst as usize).wrapping_add(len) % 8;
        if tail != 0 {
            let tail = tail.min(len);
            len -= tail;
            copy_part_down(dst.add(len), src.add(len), tail);
        }
        while len >= 8 {
            len -= 8;
            move_one::<u64>(dst.add(len), src.add(len));
        }
        copy_part_down(dst, src, len);
    }
}

/// Eight times the byte.
#[inline(always)]
pub(super) const fn word_of(byte: u8) -> u64 {
    byte as u64 * 0x0101_0101_0101_0101
}

#[inline(always)]
unsafe fn fill_part(mut dst: *mut u8, word: u64, mut len: usize) {
    while len > 0 {
        let step = natural(dst as usize, len);
        // SAFETY: step bytes are left, and dst is a multiple of step.
        unsafe {
            match step {
                4 => dst.cast::<u32>().write_volatile(word as u32),
                2 => dst.cast::<u16>().write_volatile(word as u16),
                _ => dst.write_volatile(word as u8),
            }
            dst = dst.add(step);
        }
        len -= step;
    }
}

/// Fills with words.
#[inline(always)]
pub(super) unsafe fn fill_words(mut dst: *mut u8, byte: u8, mut len: usize) {
    note(Did::Store, dst, len);
    let word = word_of(byte);
    // SAFETY: every step stays inside what is left of the range, and words are stored only where
    // dst is a multiple of 8.
    unsafe {
        let head = up_to(dst, 8);
        if head != 0 {
            let head = head.min(len);
            fill_part(dst, word, head);
            dst = dst.add(head);
            len -= head;
        }
        while len >= 8 {
            dst.cast::<u64>().write_volatile(word);
            dst = dst.add(8);
            len -= 8;
        }
        fill_part(dst, word, len);
    }
}
