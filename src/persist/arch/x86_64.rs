//! x86-64: CLWB, CLFLUSHOPT or CLFLUSH; SSE2, AVX2 or AVX-512 stores, ordinary and streaming.
//!
//! Whole lines are written by loops in assembly: the compiler cannot replace them, AVX-512 needs
//! no intrinsics that the oldest supported compiler lacks, and no function depends on a target
//! feature that it was not compiled for. What comes before the first and after the last whole line
//! is written with words.

use super::generic::{
    blocks_down, blocks_up, copy_backward, copy_forward, fill_words, is_backward, up_to, word_of,
};
use super::{Did, Facts, Hints, Job, Sink, Stores, Wishes, WriteBack, lines_of, note};
use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};

/// Every x86-64 processor so far has lines of 64 bytes, and CLFLUSH works on those.
const LINE: usize = 64;
const LINE_LOG2: u32 = 6;

/// Large copies through the cache are cut into blocks this big, and each is written back while
/// it is still in the first-level cache.
const BLOCK: usize = 4096;

/// From how many bytes on streaming pays; `whole` if the range begins and ends at line boundaries.
///
/// Measured with benches/kernels.rs on an AMD EPYC of family 25 model 17 (Zen 4, 1 MiB of L2 per
/// core, 32 MiB of L3), two cores of a virtual machine, tmpfs, medians in ns with the fence:
///
/// | job | bytes | destination | cached | streamed |
/// | --- | --- | --- | --- | --- |
/// | write-back copy | 64 | cold, hot | 168, 172 | 151, 94 |
/// | | 128, 8 into a line | cold | 169 | 192 |
/// | | 256, 8 into a line | cold | 178 | 168 |
/// | | 4 Ki | cold, hot | 471, 413 | 290, 246 |
/// | | 16 Mi | cold, hot | 1 610 000, 1 143 000 | 881 000, 780 000 |
/// | fenced copy | 4 Ki | cold, hot | 187, 68 | 294, 256 |
/// | | 16 Ki | cold, hot | 929, 354 | 722, 746 |
/// | | 64 Ki | cold, hot | 4450, 1364 | 2660, 2680 |
/// | | 1 Mi | cold, hot | 57 300, 27 900 | 39 900, 40 500 |
/// | | 16 Mi | cold, hot | 1 274 000, 934 000 | 859 000, 722 000 |
/// | fenced fill | 64 Ki | cold, hot | 2540, 705 | 2720, 2660 |
/// | | 1 Mi | cold, hot | 41 600, 15 300 | 40 600, 39 600 |
/// | | 4 Mi | cold, hot | 157 000, 61 000 | 151 000, 153 000 |
/// | | 16 Mi | cold, hot | 738 000, 530 000 | 561 000, 506 000 |
///
/// Where lines have to be written back, streaming wins from the first whole line, unless lines
/// that are written in part outweigh the whole ones. Where they need not, the cache is as good as
/// memory, and a destination that is in it is faster: copies stream from where a cold destination
/// gains as much as a hot one loses, fills only where a hot one loses nothing.
#[inline(always)]
pub(super) fn streams_from(job: Job, whole: bool, sink: Sink) -> usize {
    match (sink, job) {
        (Sink::Plain, _) => usize::MAX,
        (Sink::WriteBack, _) => {
            if whole {
                LINE
            } else {
                4 * LINE
            }
        }
        (Sink::Fenced, Job::Copy) => 64 << 10,
        (Sink::Fenced, Job::Fill) => 8 << 20,
    }
}

/// Whether a range begins and ends at line boundaries.
#[inline(always)]
fn is_whole(dst: *mut u8, len: usize) -> bool {
    (dst as usize | len) % LINE == 0
}

fn has_leaf_7(bit: u32) -> bool {
    // SAFETY: every x86-64 processor has CPUID and leaf 0, which tells whether there is a leaf 7.
    #[allow(unused_unsafe, reason = "safe since Rust 1.94")]
    unsafe {
        __cpuid(0).eax >= 7 && __cpuid_count(7, 0).ebx & 1 << bit != 0
    }
}

pub(super) fn has_write_back(write_back: WriteBack) -> bool {
    match write_back {
        WriteBack::Clwb => has_leaf_7(24),
        WriteBack::Clflushopt => has_leaf_7(23),
        WriteBack::Clflush => true,
        _ => false,
    }
}

pub(super) fn has_stores(stores: Stores) -> bool {
    // These ask the operating system, too: it has to save the registers.
    match stores {
        Stores::Avx512 => std::is_x86_feature_detected!("avx512f"),
        Stores::Avx2 => std::is_x86_feature_detected!("avx2"),
        Stores::Sse2 => true,
        Stores::Words => false,
    }
}

pub(super) fn detect(wishes: &Wishes) -> Facts {
    let write_back = if !wishes.no_clwb && has_write_back(WriteBack::Clwb) {
        WriteBack::Clwb
    } else if !wishes.no_clflushopt && has_write_back(WriteBack::Clflushopt) {
        WriteBack::Clflushopt
    } else {
        WriteBack::Clflush
    };
    let stores = if has_stores(Stores::Avx512) {
        Stores::Avx512
    } else if has_stores(Stores::Avx2) {
        Stores::Avx2
    } else {
        Stores::Sse2
    };
    Facts::new(write_back, stores, true, LINE_LOG2)
}

#[inline(always)]
pub(super) fn fence() {
    // SAFETY: SFENCE touches no memory and no register. The block counts as touching all memory,
    // so that the compiler moves no access across it.
    unsafe { asm!("sfence", options(nostack, preserves_flags)) }
}

/// One instruction on each of `lines` lines.
macro_rules! each_line {
    ($at:ident, $lines:ident, $instruction:literal) => {
        let end = $at.wrapping_add($lines * LINE);
        let mut at = $at;
        while at != end {
            asm!($instruction, in(reg) at, options(nostack, preserves_flags));
            at = at.wrapping_add(LINE);
        }
    };
}

#[inline(always)]
pub(super) unsafe fn write_back(facts: Facts, addr: *const u8, len: usize) {
    let (at, lines) = lines_of(addr, len, LINE);
    note(Did::WriteBack, addr, len);
    if facts.write_back() as u8 == WriteBack::Clwb as u8 {
        // SAFETY: the lines hold bytes of the range, which is mapped; only CPUs with CLWB get here.
        unsafe {
            each_line!(at, lines, "clwb [{}]");
        }
    } else {
        // SAFETY: as above.
        unsafe { evict(facts, at, lines) }
    }
}

/// For processors without CLWB: out of line, to keep the callers small.
#[inline(never)]
unsafe fn evict(facts: Facts, at: *const u8, lines: usize) {
    // SAFETY: the lines are mapped, and the instruction is there.
    unsafe {
        if facts.write_back() as u8 == WriteBack::Clflushopt as u8 {
            each_line!(at, lines, "clflushopt [{}]");
        } else {
            each_line!(at, lines, "clflush [{}]");
        }
    }
}

/// A loop that copies whole lines, each read in full before it is written.
///
/// `up` starts at the first line and steps after each, `down` starts behind the last and steps
/// before each. Destinations are multiples of 64; sources may be anything.
///
/// A block that uses ymm registers ends with VZEROUPPER, so that SSE code after it is not slowed
/// down; that clears the upper halves of all sixteen, so all are given as clobbered. zmm16 and
/// above need none of this.
macro_rules! copy_loop {
    ($name:ident, [$($before:literal)*], [$($body:literal)*], [$($after:literal)*],
     [$($end:literal)*], [$($clobbered:tt)*]) => {
        #[inline(always)]
        unsafe fn $name(dst: *mut u8, src: *const u8, lines: usize) {
            // SAFETY: the caller gives at least one line, and that many lines can be read and
            // written, below the pointers or above them as the name tells. The instructions are
            // those that the caller found this processor to have.
            unsafe {
                asm!(
                    "2:",
                    $($before,)*
                    $($body,)*
                    $($after,)*
                    "dec {n}",
                    "jnz 2b",
                    $($end,)*
                    d = inout(reg) dst => _,
                    s = inout(reg) src => _,
                    n = inout(reg) lines => _,
                    $(out($clobbered) _,)*
                    options(nostack),
                );
            }
        }
    };
}

macro_rules! copy_loops {
    ($up:ident, $down:ident, $body:tt, $end:tt, $clobbered:tt) => {
        copy_loop!($up, [], $body, ["add {s}, 64" "add {d}, 64"], $end, $clobbered);
        copy_loop!($down, ["sub {s}, 64" "sub {d}, 64"], $body, [], $end, $clobbered);
    };
}

copy_loops!(
    sse2_copy_up,
    sse2_copy_down,
    ["movdqu xmm0, [{s}]" "movdqu xmm1, [{s} + 16]" "movdqu xmm2, [{s} + 32]"
     "movdqu xmm3, [{s} + 48]" "movdqa [{d}], xmm0" "movdqa [{d} + 16], xmm1"
     "movdqa [{d} + 32], xmm2" "movdqa [{d} + 48], xmm3"],
    [],
    ["xmm0" "xmm1" "xmm2" "xmm3"]
);
copy_loops!(
    sse2_stream_up,
    sse2_stream_down,
    ["movdqu xmm0, [{s}]" "movdqu xmm1, [{s} + 16]" "movdqu xmm2, [{s} + 32]"
     "movdqu xmm3, [{s} + 48]" "movntdq [{d}], xmm0" "movntdq [{d} + 16], xmm1"
     "movntdq [{d} + 32], xmm2" "movntdq [{d} + 48], xmm3"],
    [],
    ["xmm0" "xmm1" "xmm2" "xmm3"]
);
copy_loops!(
    avx2_copy_up,
    avx2_copy_down,
    ["vmovdqu ymm0, [{s}]" "vmovdqu ymm1, [{s} + 32]" "vmovdqa [{d}], ymm0"
     "vmovdqa [{d} + 32], ymm1"],
    ["vzeroupper"],
    ["xmm0" "xmm1" "xmm2" "xmm3" "xmm4" "xmm5" "xmm6" "xmm7" "xmm8" "xmm9" "xmm10" "xmm11"
     "xmm12" "xmm13" "xmm14" "xmm15"]
);
copy_loops!(
    avx2_stream_up,
    avx2_stream_down,
    ["vmovdqu ymm0, [{s}]" "vmovdqu ymm1, [{s} + 32]" "vmovntdq [{d}], ymm0"
     "vmovntdq [{d} + 32], ymm1"],
    ["vzeroupper"],
    ["xmm0" "xmm1" "xmm2" "xmm3" "xmm4" "xmm5" "xmm6" "xmm7" "xmm8" "xmm9" "xmm10" "xmm11"
     "xmm12" "xmm13" "xmm14" "xmm15"]
);
copy_loops!(
    avx512_copy_up,
    avx512_copy_down,
    ["vmovdqu64 zmm16, [{s}]" "vmovdqa64 [{d}], zmm16"],
    [],
    ["zmm16"]
);
copy_loops!(
    avx512_stream_up,
    avx512_stream_down,
    ["vmovdqu64 zmm16, [{s}]" "vmovntdq [{d}], zmm16"],
    [],
    ["zmm16"]
);

/// A loop that fills whole lines.
macro_rules! fill_loop {
    ($name:ident, [$($before:literal)*], [$($body:literal)*], [$($end:literal)*],
     [$($clobbered:tt)*]) => {
        #[inline(always)]
        unsafe fn $name(dst: *mut u8, word: u64, lines: usize) {
            // SAFETY: the caller gives at least one line, and that many lines can be written at
            // dst. The instructions are those that the caller found this processor to have.
            unsafe {
                asm!(
                    $($before,)*
                    "2:",
                    $($body,)*
                    "add {d}, 64",
                    "dec {n}",
                    "jnz 2b",
                    $($end,)*
                    d = inout(reg) dst => _,
                    n = inout(reg) lines => _,
                    w = in(reg) word,
                    $(out($clobbered) _,)*
                    options(nostack),
                );
            }
        }
    };
}

fill_loop!(
    sse2_fill,
    ["movq xmm0, {w}" "punpcklqdq xmm0, xmm0"],
    ["movdqa [{d}], xmm0" "movdqa [{d} + 16], xmm0" "movdqa [{d} + 32], xmm0"
     "movdqa [{d} + 48], xmm0"],
    [],
    ["xmm0"]
);
fill_loop!(
    sse2_stream_fill,
    ["movq xmm0, {w}" "punpcklqdq xmm0, xmm0"],
    ["movntdq [{d}], xmm0" "movntdq [{d} + 16], xmm0" "movntdq [{d} + 32], xmm0"
     "movntdq [{d} + 48], xmm0"],
    [],
    ["xmm0"]
);
fill_loop!(
    avx2_fill,
    ["vmovq xmm0, {w}" "vpbroadcastq ymm0, xmm0"],
    ["vmovdqa [{d}], ymm0" "vmovdqa [{d} + 32], ymm0"],
    ["vzeroupper"],
    ["xmm0" "xmm1" "xmm2" "xmm3" "xmm4" "xmm5" "xmm6" "xmm7" "xmm8" "xmm9" "xmm10" "xmm11"
     "xmm12" "xmm13" "xmm14" "xmm15"]
);
fill_loop!(
    avx2_stream_fill,
    ["vmovq xmm0, {w}" "vpbroadcastq ymm0, xmm0"],
    ["vmovntdq [{d}], ymm0" "vmovntdq [{d} + 32], ymm0"],
    ["vzeroupper"],
    ["xmm0" "xmm1" "xmm2" "xmm3" "xmm4" "xmm5" "xmm6" "xmm7" "xmm8" "xmm9" "xmm10" "xmm11"
     "xmm12" "xmm13" "xmm14" "xmm15"]
);
fill_loop!(
    avx512_fill,
    ["vpbroadcastq zmm16, {w}"],
    ["vmovdqa64 [{d}], zmm16"],
    [],
    ["zmm16"]
);
fill_loop!(
    avx512_stream_fill,
    ["vpbroadcastq zmm16, {w}"],
    ["vmovntdq [{d}], zmm16"],
    [],
    ["zmm16"]
);

/// A range cut at line boundaries: bytes before the first whole line, whole lines, bytes after.
#[inline(always)]
fn cut(dst: *mut u8, len: usize) -> (usize, usize, usize) {
    let head = up_to(dst, LINE).min(len);
    (head, (len - head) / LINE, (len - head) % LINE)
}

#[inline(always)]
const fn how(stream: bool) -> Did {
    if stream { Did::Stream } else { Did::Store }
}

#[inline(always)]
unsafe fn lines_up(facts: Facts, dst: *mut u8, src: *const u8, lines: usize, stream: bool) {
    note(how(stream), dst, lines * LINE);
    // SAFETY: as promised by the caller.
    unsafe {
        match (facts.stores(), stream) {
            (Stores::Avx512, true) => avx512_stream_up(dst, src, lines),
            (Stores::Avx512, false) => avx512_copy_up(dst, src, lines),
            (Stores::Avx2, true) => avx2_stream_up(dst, src, lines),
            (Stores::Avx2, false) => avx2_copy_up(dst, src, lines),
            (_, true) => sse2_stream_up(dst, src, lines),
            (_, false) => sse2_copy_up(dst, src, lines),
        }
    }
}

#[inline(always)]
unsafe fn lines_down(facts: Facts, dst: *mut u8, src: *const u8, lines: usize, stream: bool) {
    note(how(stream), dst.wrapping_sub(lines * LINE), lines * LINE);
    // SAFETY: as promised by the caller.
    unsafe {
        match (facts.stores(), stream) {
            (Stores::Avx512, true) => avx512_stream_down(dst, src, lines),
            (Stores::Avx512, false) => avx512_copy_down(dst, src, lines),
            (Stores::Avx2, true) => avx2_stream_down(dst, src, lines),
            (Stores::Avx2, false) => avx2_copy_down(dst, src, lines),
            (_, true) => sse2_stream_down(dst, src, lines),
            (_, false) => sse2_copy_down(dst, src, lines),
        }
    }
}

#[inline(always)]
unsafe fn lines_fill(facts: Facts, dst: *mut u8, byte: u8, lines: usize, stream: bool) {
    note(how(stream), dst, lines * LINE);
    let word = word_of(byte);
    // SAFETY: as promised by the caller.
    unsafe {
        match (facts.stores(), stream) {
            (Stores::Avx512, true) => avx512_stream_fill(dst, word, lines),
            (Stores::Avx512, false) => avx512_fill(dst, word, lines),
            (Stores::Avx2, true) => avx2_stream_fill(dst, word, lines),
            (Stores::Avx2, false) => avx2_fill(dst, word, lines),
            (_, true) => sse2_stream_fill(dst, word, lines),
            (_, false) => sse2_fill(dst, word, lines),
        }
    }
}

/// What comes before and after the whole lines, out of line to keep the callers small.
#[inline(never)]
unsafe fn end_up(dst: *mut u8, src: *const u8, len: usize) {
    // SAFETY: as promised by the caller.
    unsafe { copy_forward(dst, src, len) }
}

#[inline(never)]
unsafe fn end_down(dst: *mut u8, src: *const u8, len: usize) {
    // SAFETY: as promised by the caller.
    unsafe { copy_backward(dst, src, len) }
}

#[inline(never)]
unsafe fn end_fill(dst: *mut u8, byte: u8, len: usize) {
    // SAFETY: as promised by the caller.
    unsafe { fill_words(dst, byte, len) }
}

/// Copies a range upwards; its whole lines are streamed if `stream`.
#[inline(always)]
unsafe fn range_up(facts: Facts, dst: *mut u8, src: *const u8, len: usize, stream: bool) {
    let (head, lines, tail) = cut(dst, len);
    let body = lines * LINE;
    // SAFETY: head, body and tail make up the range.
    unsafe {
        if head != 0 {
            end_up(dst, src, head);
        }
        if lines != 0 {
            lines_up(facts, dst.add(head), src.add(head), lines, stream);
        }
        if tail != 0 {
            end_up(dst.add(head + body), src.add(head + body), tail);
        }
    }
}

/// Copies a range downwards.
#[inline(always)]
unsafe fn range_down(facts: Facts, dst: *mut u8, src: *const u8, len: usize, stream: bool) {
    let (head, lines, tail) = cut(dst, len);
    let end = head + lines * LINE;
    // SAFETY: head, body and tail make up the range.
    unsafe {
        if tail != 0 {
            end_down(dst.add(end), src.add(end), tail);
        }
        if lines != 0 {
            lines_down(facts, dst.add(end), src.add(end), lines, stream);
        }
        if head != 0 {
            end_down(dst, src, head);
        }
    }
}

#[inline(always)]
unsafe fn range_fill(facts: Facts, dst: *mut u8, byte: u8, len: usize, stream: bool) {
    let (head, lines, tail) = cut(dst, len);
    let body = lines * LINE;
    // SAFETY: head, body and tail make up the range.
    unsafe {
        if head != 0 {
            end_fill(dst, byte, head);
        }
        if lines != 0 {
            lines_fill(facts, dst.add(head), byte, lines, stream);
        }
        if tail != 0 {
            end_fill(dst.add(head + body), byte, tail);
        }
    }
}

/// Writes back the first and the last line of a streamed range where they are not whole: those
/// went through the cache.
#[inline(always)]
unsafe fn write_back_ends(facts: Facts, dst: *mut u8, len: usize) {
    let (head, _, tail) = cut(dst, len);
    // SAFETY: both ends lie in the range, which was just written.
    unsafe {
        if head != 0 {
            write_back(facts, dst, head);
        }
        if tail != 0 {
            write_back(facts, dst.add(len - tail), tail);
        }
    }
}

#[inline]
pub(super) unsafe fn copy(
    facts: Facts,
    dst: *mut u8,
    src: *const u8,
    len: usize,
    sink: Sink,
    hints: Hints,
) {
    let backward = is_backward(dst, src, len);
    let whole = is_whole(dst, len);
    // The common small jobs are done here: less than a line, or whole lines upwards.
    // SAFETY: as promised by the caller; there is a whole line where lines are copied.
    unsafe {
        if len < LINE {
            if backward {
                end_down(dst, src, len);
            } else {
                copy_forward(dst, src, len);
            }
            if sink == Sink::WriteBack {
                write_back(facts, dst, len);
            }
            return;
        }
        // Overlap makes no difference: a line is streamed only after the last read of it, and
        // streaming measured faster at every distance from 64 bytes on where nothing is cached
        // (1 MiB: 55 us against 63 us and more), 10 % slower where all is.
        let stream = facts.streams(Job::Copy, len, whole, sink, hints);
        if whole && !backward && (stream || sink != Sink::WriteBack) {
            lines_up(facts, dst, src, len / LINE, stream);
        } else {
            copy_ragged(facts, dst, src, len, sink, stream);
        }
    }
}

/// Any copy of at least a line.
#[inline(never)]
unsafe fn copy_ragged(
    facts: Facts,
    dst: *mut u8,
    src: *const u8,
    len: usize,
    sink: Sink,
    stream: bool,
) {
    let through = sink == Sink::WriteBack && !stream;
    // SAFETY: as promised by the caller; blocks and ends are parts of the range.
    unsafe {
        match (through, is_backward(dst, src, len)) {
            (true, false) => blocks_up(dst, len, BLOCK, |at, part| {
                range_up(facts, dst.add(at), src.add(at), part, false);
                write_back(facts, dst.add(at), part);
            }),
            (true, true) => blocks_down(dst, len, BLOCK, |at, part| {
                range_down(facts, dst.add(at), src.add(at), part, false);
                write_back(facts, dst.add(at), part);
            }),
            (false, false) => range_up(facts, dst, src, len, stream),
            (false, true) => range_down(facts, dst, src, len, stream),
        }
        if stream && sink == Sink::WriteBack {
            write_back_ends(facts, dst, len);
        }
    }
}

#[inline]
pub(super) unsafe fn fill(
    facts: Facts,
    dst: *mut u8,
    byte: u8,
    len: usize,
    sink: Sink,
    hints: Hints,
) {
    let whole = is_whole(dst, len);
    // SAFETY: as promised by the caller; there is a whole line where lines are filled.
    unsafe {
        if len < LINE {
            fill_words(dst, byte, len);
            if sink == Sink::WriteBack {
                write_back(facts, dst, len);
            }
            return;
        }
        let stream = facts.streams(Job::Fill, len, whole, sink, hints);
        if whole && (stream || sink != Sink::WriteBack) {
            lines_fill(facts, dst, byte, len / LINE, stream);
        } else {
            fill_ragged(facts, dst, byte, len, sink, stream);
        }
    }
}

/// Any fill of at least a line.
#[inline(never)]
unsafe fn fill_ragged(facts: Facts, dst: *mut u8, byte: u8, len: usize, sink: Sink, stream: bool) {
    // SAFETY: as promised by the caller; blocks and ends are parts of the range.
    unsafe {
        if sink == Sink::WriteBack && !stream {
            blocks_up(dst, len, BLOCK, |at, part| {
                range_fill(facts, dst.add(at), byte, part, false);
                write_back(facts, dst.add(at), part);
            });
        } else {
            range_fill(facts, dst, byte, len, stream);
            if sink == Sink::WriteBack {
                write_back_ends(facts, dst, len);
            }
        }
    }
}
