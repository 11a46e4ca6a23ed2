//! The persistence kernels beside bare loops of the same instructions, in one run.
//!
//! usage: cargo bench --bench kernels -- [DIR] [all] [hot] [unaligned]
//!
//! DIR holds the mapped file (default /dev/shm, which should be tmpfs). Each row is one job at one
//! size: the bare machine's better way (streamed, or libc's memcpy and memset with each line
//! written back), then ours, in nanoseconds: the median of interleaved rounds, the best round, and
//! the ratios of both. With `all`, the ways are listed one by one for every kind of
//! store, which is how the thresholds in the kernels were chosen. Destinations walk through 64 MiB,
//! so they are mostly not in the cache; with `hot` they are the same bytes over and over. With
//! `unaligned` they start 8 bytes into a line, which the bare streams cannot do.

use pmemset::persist::arch::{
    self, Facts, Hints, Sink, Stores, WriteBack, copy_with, fill_with, write_back_with,
};
use std::arch::asm;
use std::ffi::CString;
use std::time::Instant;

const FILE: usize = 64 << 20;
const BUFFER: usize = 16 << 20;
const LINE: usize = 64;
const SIZES: [usize; 8] = [8, 64, 256, 1 << 10, 4 << 10, 64 << 10, 1 << 20, 16 << 20];
const MORE: [usize; 16] = [
    8,
    64,
    128,
    256,
    512,
    1 << 10,
    2 << 10,
    4 << 10,
    16 << 10,
    64 << 10,
    256 << 10,
    512 << 10,
    1 << 20,
    2 << 20,
    4 << 20,
    16 << 20,
];

#[derive(Clone, Copy, PartialEq)]
enum Op {
    Persist,
    Copy,
    Fill,
}

/// The bare instructions. Nothing of the library is in here.
mod bare {
    use super::*;

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub unsafe fn write_back(kind: WriteBack, at: *const u8, len: usize) {
        let mut line = at as usize & !(LINE - 1);
        let end = at as usize + len;
        macro_rules! each {
            ($instruction:literal) => {
                while line < end {
                    // SAFETY: the line is mapped, and detection found the instruction.
                    unsafe { asm!($instruction, in(reg) line, options(nostack)) };
                    line += LINE;
                }
            };
        }
        match kind {
            WriteBack::Clwb => each!("clwb [{}]"),
            WriteBack::Clflushopt => each!("clflushopt [{}]"),
            _ => each!("clflush [{}]"),
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub fn fence() {
        // SAFETY: only orders memory accesses.
        unsafe { asm!("sfence", options(nostack)) };
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub unsafe fn stream_copy(wide: bool, dst: *mut u8, src: *const u8, len: usize) {
        let mut i = 0;
        while i < len {
            // SAFETY: both ranges are len bytes, a multiple of a line, and dst is aligned to one.
            unsafe {
                let (d, s) = (dst.add(i), src.add(i));
                if wide {
                    asm!("vmovdqu64 zmm16, [{s}]", "vmovntdq [{d}], zmm16",
                        s = in(reg) s, d = in(reg) d, out("zmm16") _, options(nostack));
                } else {
                    asm!("movdqu xmm0, [{s}]", "movdqu xmm1, [{s} + 16]",
                        "movdqu xmm2, [{s} + 32]", "movdqu xmm3, [{s} + 48]",
                        "movntdq [{d}], xmm0", "movntdq [{d} + 16], xmm1",
                        "movntdq [{d} + 32], xmm2", "movntdq [{d} + 48], xmm3",
                        s = in(reg) s, d = in(reg) d, out("xmm0") _, out("xmm1") _,
                        out("xmm2") _, out("xmm3") _, options(nostack));
                }
            }
            i += LINE;
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub unsafe fn stream_fill(wide: bool, dst: *mut u8, byte: u8, len: usize) {
        let word = u64::from_ne_bytes([byte; 8]);
        let mut i = 0;
        while i < len {
            // SAFETY: the range is len bytes, a multiple of a line, and dst is aligned to one.
            unsafe {
                let d = dst.add(i);
                if wide {
                    asm!("vpbroadcastq zmm16, {w}", "vmovntdq [{d}], zmm16",
                        w = in(reg) word, d = in(reg) d, out("zmm16") _, options(nostack));
                } else {
                    asm!("movnti [{d}], {w}", "movnti [{d} + 8], {w}", "movnti [{d} + 16], {w}",
                        "movnti [{d} + 24], {w}", "movnti [{d} + 32], {w}",
                        "movnti [{d} + 40], {w}", "movnti [{d} + 48], {w}",
                        "movnti [{d} + 56], {w}", w = in(reg) word, d = in(reg) d,
                        options(nostack));
                }
            }
            i += LINE;
        }
    }

    #[cfg(target_arch = "aarch64")]
    pub unsafe fn write_back(kind: WriteBack, at: *const u8, len: usize) {
        let step = arch::facts().line();
        let mut line = at as usize & !(step - 1);
        while line < at as usize + len {
            // SAFETY: the line is mapped, and detection found the instruction.
            unsafe {
                if kind == WriteBack::DcCvap {
                    asm!("sys #3, c7, c12, #1, {}", in(reg) line, options(nostack));
                } else {
                    asm!("dc cvac, {}", in(reg) line, options(nostack));
                }
            }
            line += step;
        }
    }

    #[cfg(target_arch = "aarch64")]
    pub fn fence() {
        // SAFETY: only orders memory accesses.
        unsafe { asm!("dsb sy", options(nostack)) };
    }
}

/// One way of doing a job.
#[derive(Clone, Copy)]
enum Way {
    BareStream,
    BareCached,
    Ours(Facts, Hints),
}

struct Place {
    dst: *mut u8,
    src: *const u8,
    hot: bool,
    into_line: usize,
}

/// Nanoseconds an operation takes, over a round of them.
fn round(place: &Place, op: Op, len: usize, sink: Sink, way: Way) -> f64 {
    let times = match len {
        0x100000.. => FILE / len - 1,
        0x10000.. => 512,
        _ => 8000,
    };
    let stride = len.next_multiple_of(LINE);
    let kind = arch::facts().write_back();
    #[cfg(target_arch = "x86_64")]
    let wide = arch::facts().stores() == Stores::Avx512;
    let start = Instant::now();
    for i in 0..times {
        let at = if place.hot {
            0
        } else {
            i * stride % (FILE - len - LINE + 1) / LINE * LINE
        };
        let at = at + place.into_line;
        let byte = i as u8;
        // SAFETY: at + len is inside the file's mapping, and the buffer is as long as any len.
        unsafe {
            let dst = place.dst.add(at);
            match way {
                #[cfg(target_arch = "x86_64")]
                Way::BareStream => {
                    match op {
                        Op::Persist => dst.write_volatile(byte),
                        Op::Copy => bare::stream_copy(wide, dst, place.src, len),
                        Op::Fill => bare::stream_fill(wide, dst, byte, len),
                    }
                    bare::fence();
                }
                #[cfg(not(target_arch = "x86_64"))]
                Way::BareStream => {}
                Way::BareCached => {
                    match op {
                        Op::Persist => dst.write_volatile(byte),
                        Op::Copy => {
                            libc::memcpy(dst.cast(), place.src.cast(), len);
                        }
                        Op::Fill => {
                            libc::memset(dst.cast(), byte.into(), len);
                        }
                    }
                    if sink == Sink::WriteBack {
                        bare::write_back(kind, dst, len);
                    }
                    bare::fence();
                }
                Way::Ours(facts, hints) => {
                    match op {
                        Op::Persist => {
                            dst.write_volatile(byte);
                            if sink == Sink::WriteBack {
                                write_back_with(facts, dst, len);
                            }
                        }
                        Op::Copy => copy_with(facts, dst, place.src, len, sink, hints),
                        Op::Fill => fill_with(facts, dst, byte, len, sink, hints),
                    }
                    arch::fence();
                }
            }
        }
    }
    start.elapsed().as_nanos() as f64 / times as f64
}

/// The median and the best of each way, over rounds in which all take their turn.
fn compare(place: &Place, op: Op, len: usize, sink: Sink, ways: &[Way]) -> Vec<(f64, f64)> {
    let rounds = if len >= 1 << 20 { 15 } else { 25 };
    let mut seen = vec![Vec::new(); ways.len()];
    for turn in 0..rounds {
        for k in 0..ways.len() {
            let k = (k + turn) % ways.len();
            seen[k].push(round(place, op, len, sink, ways[k]));
        }
    }
    seen.iter_mut()
        .map(|times| {
            times.sort_by(f64::total_cmp);
            (times[times.len() / 2], times[0])
        })
        .collect()
}

fn map(dir: &str) -> *mut u8 {
    let path = CString::new(format!("{dir}/kernels.{}", std::process::id())).expect("no NUL");
    // SAFETY: plain system calls; the mapping lives until the program ends.
    unsafe {
        let fd = libc::open(
            path.as_ptr(),
            libc::O_RDWR | libc::O_CREAT | libc::O_EXCL,
            0o600,
        );
        assert!(fd >= 0, "cannot create a file in {dir}");
        libc::unlink(path.as_ptr());
        assert_eq!(libc::posix_fallocate(fd, 0, FILE as libc::off_t), 0);
        let at = libc::mmap(
            std::ptr::null_mut(),
            FILE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            fd,
            0,
        );
        assert!(at != libc::MAP_FAILED, "cannot map");
        libc::close(fd);
        at.cast()
    }
}

fn name(op: Op) -> &'static str {
    match op {
        Op::Persist => "persist",
        Op::Copy => "copy",
        Op::Fill => "fill",
    }
}

fn main() {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    let all = words.iter().any(|w| w == "all");
    let hot = words.iter().any(|w| w == "hot");
    let into_line = if words.iter().any(|w| w == "unaligned") {
        8
    } else {
        0
    };
    let dir = words
        .iter()
        .find(|w| w.contains('/'))
        .map_or("/dev/shm", String::as_str);
    let layout = std::alloc::Layout::from_size_align(BUFFER, 4096).expect("a sound layout");
    // SAFETY: the layout is not empty.
    let src = unsafe { std::alloc::alloc(layout) };
    assert!(!src.is_null());
    let place = Place {
        dst: map(dir),
        src,
        hot,
        into_line,
    };
    // SAFETY: both ranges are as long as said.
    unsafe {
        std::ptr::write_bytes(src, 7, BUFFER);
        std::ptr::write_bytes(place.dst, 1, FILE);
    }
    let facts = arch::facts();
    println!("{facts:?}");
    if all {
        list(&place, facts);
    } else {
        table(&place, facts);
    }
}

fn table(place: &Place, facts: Facts) {
    println!(
        "{:<28} {:>11} {:>11} {:>6}   {:>11} {:>11} {:>6}",
        "", "bare median", "ours", "ratio", "bare best", "ours", "ratio"
    );
    for sink in [Sink::WriteBack, Sink::Fenced] {
        for op in [Op::Persist, Op::Copy, Op::Fill] {
            for len in SIZES {
                let mut ways = vec![Way::Ours(facts, Hints::NONE), Way::BareCached];
                let whole = len % LINE == 0 && place.into_line == 0;
                if op != Op::Persist && whole && cfg!(target_arch = "x86_64") {
                    ways.push(Way::BareStream);
                }
                let seen = compare(place, op, len, sink, &ways);
                let least = |pick: fn(&(f64, f64)) -> f64| {
                    seen[1..].iter().map(pick).fold(f64::INFINITY, f64::min)
                };
                let (median, best) = (least(|t| t.0), least(|t| t.1));
                println!(
                    "{:<28} {:>11.1} {:>11.1} {:>6.2}   {:>11.1} {:>11.1} {:>6.2}",
                    format!("{sink:?} {} {len}", name(op)),
                    median,
                    seen[0].0,
                    seen[0].0 / median,
                    best,
                    seen[0].1,
                    seen[0].1 / best
                );
            }
        }
    }
}

/// Every way at every size: medians, then bests.
fn list(place: &Place, facts: Facts) {
    let mut ways = vec![("libc", Way::BareCached)];
    if cfg!(target_arch = "x86_64") && place.into_line == 0 {
        ways.push(("bare stream", Way::BareStream));
    }
    for stores in [Stores::Words, Stores::Sse2, Stores::Avx2, Stores::Avx512] {
        let Some(facts) = facts.with_stores(stores) else {
            continue;
        };
        let (cached, stream) = match stores {
            Stores::Words => ("words", "words stream"),
            Stores::Sse2 => ("sse2", "sse2 stream"),
            Stores::Avx2 => ("avx2", "avx2 stream"),
            Stores::Avx512 => ("avx512", "avx512 stream"),
        };
        ways.push((cached, Way::Ours(facts, Hints::TEMPORAL)));
        ways.push((stream, Way::Ours(facts, Hints::NONTEMPORAL)));
    }
    for sink in [Sink::WriteBack, Sink::Fenced] {
        for op in [Op::Copy, Op::Fill] {
            println!("\n{sink:?} {}", name(op));
            print!("{:>9}", "");
            for (label, _) in &ways {
                print!(" {label:>21}");
            }
            println!();
            for len in MORE {
                let only: Vec<Way> = ways.iter().map(|w| w.1).collect();
                print!("{len:>9}");
                for (median, best) in compare(place, op, len, sink, &only) {
                    print!(" {median:>10.1} {best:>10.1}");
                }
                println!();
            }
        }
    }
}
