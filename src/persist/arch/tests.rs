//! Every kernel against a simple model.

use super::*;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

type Copy = unsafe fn(Facts, *mut u8, *const u8, usize, Sink, Hints);
type Fill = unsafe fn(Facts, *mut u8, u8, usize, Sink, Hints);

const SINKS: [Sink; 3] = [Sink::Plain, Sink::WriteBack, Sink::Fenced];

/// Every way of storing that this processor has.
fn ways() -> Vec<(Copy, Fill, Facts, Sink, Hints)> {
    let mut ways: Vec<(Copy, Fill, Facts, Sink, Hints)> = vec![(
        generic::copy,
        generic::fill,
        generic::detect(&Wishes {
            no_clwb: false,
            no_clflushopt: false,
        }),
        Sink::Plain,
        Hints::NONE,
    )];
    for stores in [Stores::Words, Stores::Sse2, Stores::Avx2, Stores::Avx512] {
        let Some(facts) = facts().with_stores(stores) else {
            continue;
        };
        for sink in SINKS {
            ways.push((imp::copy, imp::fill, facts, sink, Hints::TEMPORAL));
            if sink != Sink::Plain {
                ways.push((imp::copy, imp::fill, facts, sink, Hints::NONTEMPORAL));
            }
        }
    }
    for write_back in [WriteBack::Clflushopt, WriteBack::Clflush, WriteBack::DcCvac] {
        if let Some(facts) = facts().with_write_back(write_back) {
            ways.push((imp::copy, imp::fill, facts, Sink::WriteBack, Hints::WB));
            ways.push((imp::copy, imp::fill, facts, Sink::WriteBack, Hints::WC));
        }
    }
    ways
}

/// Bytes that start at a line, with room to try every alignment.
struct Room(Vec<u8>);

impl Room {
    fn new(len: usize) -> Room {
        Room(vec![0; len + 64])
    }

    fn at(&mut self) -> *mut u8 {
        let start = self.0.as_mut_ptr();
        start.wrapping_add(generic::up_to(start, 64))
    }

    fn set(&mut self, bytes: &[u8]) {
        let at = self.at();
        assert!(bytes.len() + 64 <= self.0.len());
        // SAFETY: checked above.
        unsafe { at.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }

    fn get(&mut self, len: usize) -> &[u8] {
        let at = self.at();
        assert!(len + 64 <= self.0.len());
        // SAFETY: checked above; the slice borrows the room.
        unsafe { std::slice::from_raw_parts(at, len) }
    }
}

/// Bytes of which no neighbours in 251 are alike.
fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| ((i + seed) * 7 % 251) as u8).collect()
}

fn sizes(most: usize) -> impl Iterator<Item = usize> {
    (0..=most).step_by(if cfg!(miri) { 37 } else { 1 })
}

#[test]
fn copies_every_size_at_every_alignment() {
    let src_bytes = pattern(400, 3);
    let blank = vec![0xee; 400];
    let mut src = Room::new(400);
    let mut dst = Room::new(400);
    src.set(&src_bytes);
    for (copy, _, facts, sink, hints) in ways() {
        for into in sizes(63) {
            for len in sizes(264) {
                let from = (into * 5 + len) % 67;
                dst.set(&blank);
                // SAFETY: 63 + 264 and 66 + 264 are less than the 400 bytes of either room.
                unsafe {
                    copy(
                        facts,
                        dst.at().add(into),
                        src.at().add(from),
                        len,
                        sink,
                        hints,
                    );
                }
                fence();
                let mut wanted = blank.clone();
                wanted[into..into + len].copy_from_slice(&src_bytes[from..from + len]);
                assert!(
                    dst.get(400) == wanted,
                    "{facts:?} {sink:?} {hints:?} into {into} from {from} len {len}"
                );
            }
        }
    }
}

#[test]
fn fills_every_size_at_every_alignment() {
    let blank = vec![0xee; 400];
    let mut dst = Room::new(400);
    for (_, fill, facts, sink, hints) in ways() {
        for into in sizes(63) {
            for len in sizes(264) {
                let byte = (into + len) as u8;
                dst.set(&blank);
                // SAFETY: 63 + 264 is less than the 400 bytes of the room.
                unsafe { fill(facts, dst.at().add(into), byte, len, sink, hints) };
                fence();
                let mut wanted = blank.clone();
                wanted[into..into + len].fill(byte);
                assert!(
                    dst.get(400) == wanted,
                    "{facts:?} {sink:?} {hints:?} into {into} len {len}"
                );
            }
        }
    }
}

#[test]
fn overlapping_copies_are_moves() {
    let bytes = pattern(800, 1);
    let mut room = Room::new(800);
    for (copy, _, facts, sink, hints) in ways() {
        for from in (200..264).step_by(if cfg!(miri) { 29 } else { 3 }) {
            for shift in (-140isize..=140).step_by(if cfg!(miri) { 56 } else { 1 }) {
                let into = (from as isize + shift) as usize;
                for len in [1, 3, 8, 15, 31, 63, 64, 65, 100, 128, 177, 200, 256, 300] {
                    room.set(&bytes);
                    let at = room.at();
                    // SAFETY: 264 + 140 + 300 is less than the 800 bytes of the room.
                    unsafe { copy(facts, at.add(into), at.add(from), len, sink, hints) };
                    fence();
                    let mut wanted = bytes.clone();
                    wanted.copy_within(from..from + len, into);
                    assert!(
                        room.get(800) == wanted,
                        "{facts:?} {sink:?} {hints:?} from {from} into {into} len {len}"
                    );
                }
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "slow, and the generic kernels treat no size apart")]
fn large_copies_and_fills() {
    const MOST: usize = 200_000;
    let bytes = pattern(MOST, 9);
    let mut room = Room::new(MOST);
    let lens = [4095, 4096, 4097, 8192, 12_345, 65_535, 65_536, 70_001];
    let mut all = ways();
    for sink in SINKS {
        all.push((imp::copy, imp::fill, facts(), sink, Hints::NONE));
        let low = facts().with_threshold(100);
        all.push((imp::copy, imp::fill, low, sink, Hints::NONE));
    }
    for (copy, fill, facts, sink, hints) in all {
        for len in lens {
            for (from, into) in [
                (70_100, 0),
                (0, 70_104),
                (100, 0),
                (0, 100),
                (64, 128),
                (3, 1030),
                (2051, 8),
                (5, 4101),
                (100_000, 100_000),
            ] {
                room.set(&bytes);
                let at = room.at();
                // SAFETY: 100 000 + 70 001 is less than the room's bytes.
                unsafe { copy(facts, at.add(into), at.add(from), len, sink, hints) };
                fence();
                let mut wanted = bytes.clone();
                wanted.copy_within(from..from + len, into);
                assert!(
                    room.get(MOST) == wanted,
                    "{facts:?} {sink:?} {hints:?} from {from} into {into} len {len}"
                );
            }
            for into in [0, 8, 77, 4090] {
                room.set(&bytes);
                // SAFETY: 4090 + 70 001 is less than the room's bytes.
                unsafe { fill(facts, room.at().add(into), 0x5a, len, sink, hints) };
                fence();
                let mut wanted = bytes.clone();
                wanted[into..into + len].fill(0x5a);
                assert!(
                    room.get(MOST) == wanted,
                    "{facts:?} {sink:?} {hints:?} fill into {into} len {len}"
                );
            }
        }
    }
}

thread_local! {
    static DONE: std::cell::RefCell<Option<Vec<(Did, usize, usize)>>> =
        const { std::cell::RefCell::new(None) };
}

/// Writes down what a kernel does, if this thread wants to know.
pub(super) fn note(did: Did, at: *const u8, len: usize) {
    DONE.with_borrow_mut(|done| {
        if let Some(done) = done {
            done.push((did, at as usize, len));
        }
    });
}

/// What a kernel does in `work`.
fn done_by(work: impl FnOnce()) -> Vec<(Did, usize, usize)> {
    DONE.set(Some(Vec::new()));
    work();
    DONE.take().expect("the list is there")
}

/// Checks that all of a range was stored, and that every line of it left the cache after the
/// last store to it, or that none did where none has to.
fn check_lines(done: &[(Did, usize, usize)], at: usize, len: usize, sink: Sink, what: &str) {
    let line = facts().line();
    let mut stored = vec![false; len];
    let mut dirty = std::collections::HashSet::new();
    let mut written_back = 0;
    for &(did, from, bytes) in done {
        if bytes == 0 {
            continue;
        }
        let lines = from / line..=(from + bytes - 1) / line;
        match did {
            Did::Store => dirty.extend(lines),
            Did::Stream => {
                assert!(
                    from % line == 0 && bytes % line == 0,
                    "part of a line {what}"
                );
                assert_ne!(sink, Sink::Plain, "{what}");
            }
            Did::WriteBack => {
                written_back += 1;
                for line in lines {
                    dirty.remove(&line);
                }
            }
        }
        if did != Did::WriteBack {
            assert!(from >= at && from + bytes <= at + len, "outside {what}");
            stored[from - at..from - at + bytes].fill(true);
        }
    }
    assert!(stored.iter().all(|&is| is), "not stored {what}");
    if sink == Sink::WriteBack {
        assert!(dirty.is_empty(), "left in the cache {what}");
    } else {
        assert_eq!(written_back, 0, "{what}");
    }
}

#[test]
#[cfg_attr(miri, ignore = "slow, and the generic kernels write nothing back")]
fn every_line_leaves_the_cache() {
    let mut all = ways();
    for sink in SINKS {
        all.push((imp::copy, imp::fill, facts(), sink, Hints::NONE));
    }
    let mut room = Room::new(20_000);
    let at = room.at();
    for (copy, fill, facts, sink, hints) in all {
        if sink == Sink::WriteBack && facts.write_back() == WriteBack::None {
            continue;
        }
        for into in [0, 1, 8, 56, 63, 4000] {
            for len in sizes(200).chain([256, 300, 4096, 4160, 9000]) {
                let what = format!("{facts:?} {sink:?} {hints:?} into {into} len {len}");
                let dst = at.wrapping_add(into);
                // From behind, from before with an overlap, and in place.
                for from in [into + 5, into.saturating_sub(40), into] {
                    let src = at.wrapping_add(from);
                    // SAFETY: 4000 + 5 + 9000 is less than the room's bytes.
                    let done = done_by(|| unsafe { copy(facts, dst, src, len, sink, hints) });
                    check_lines(&done, dst as usize, len, sink, &what);
                }
                // SAFETY: as above.
                let done = done_by(|| unsafe { fill(facts, dst, 1, len, sink, hints) });
                check_lines(&done, dst as usize, len, sink, &what);
            }
        }
    }
}

/// Memory with nothing mapped before it or after it.
#[cfg(not(miri))]
struct Island {
    all: *mut u8,
    page: usize,
}

#[cfg(not(miri))]
impl Island {
    fn new() -> Island {
        // SAFETY: plain system calls on a fresh mapping.
        unsafe {
            let page = libc::sysconf(libc::_SC_PAGESIZE) as usize;
            let all = libc::mmap(
                std::ptr::null_mut(),
                3 * page,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            assert!(all != libc::MAP_FAILED);
            let all: *mut u8 = all.cast();
            let middle = all.add(page);
            let access = libc::PROT_READ | libc::PROT_WRITE;
            assert_eq!(libc::mprotect(middle.cast(), page, access), 0);
            Island { all, page }
        }
    }

    fn start(&self) -> *mut u8 {
        self.all.wrapping_add(self.page)
    }

    fn end(&self) -> *mut u8 {
        self.all.wrapping_add(2 * self.page)
    }
}

#[cfg(not(miri))]
impl Drop for Island {
    fn drop(&mut self) {
        // SAFETY: the mapping is this island's own.
        unsafe { libc::munmap(self.all.cast(), 3 * self.page) };
    }
}

#[test]
#[cfg(not(miri))]
fn nothing_outside_the_range_is_touched() {
    // What is outside is not mapped: a byte too far is a crash.
    let (src, dst) = (Island::new(), Island::new());
    for (copy, fill, facts, sink, hints) in ways() {
        for len in 0..=264 {
            // SAFETY: len bytes at either edge of the islands.
            unsafe {
                let (s, d) = (src.end().sub(len), dst.end().sub(len));
                copy(facts, d, s, len, sink, hints);
                copy(facts, d, src.start(), len, sink, hints);
                copy(facts, dst.start(), s, len, sink, hints);
                copy(facts, dst.start(), src.start(), len, sink, hints);
                copy(facts, d.sub(1), d, len, sink, hints);
                fill(facts, d, 1, len, sink, hints);
                fill(facts, dst.start(), 1, len, sink, hints);
                write_back_with(super::facts(), d, len);
                write_back_with(super::facts(), dst.start(), len);
                persist(d, len);
            }
        }
        // SAFETY: the whole island.
        unsafe {
            copy(facts, dst.start(), src.start(), dst.page, sink, hints);
            copy(
                facts,
                dst.start().add(8),
                dst.start(),
                dst.page - 8,
                sink,
                hints,
            );
            persist(dst.start(), dst.page);
        }
    }
}

/// Looks at every aligned word of a range while `write` turns it from one byte value into
/// another, and tells whether a word that mixed them was seen.
fn is_torn(at: *mut u8, len: usize, time: Duration, write: &(dyn Fn(u8) + Sync)) -> bool {
    struct Words(*const u64, usize);
    // SAFETY: the words outlive the scope below and are only read, by volatile loads.
    unsafe impl Sync for Words {}
    let skip = generic::up_to(at, 8).min(len);
    let words = Words(at.wrapping_add(skip).cast(), (len - skip) / 8);
    let (words, torn, stop) = (&words, &AtomicBool::new(false), &AtomicBool::new(false));
    write(0);
    fence();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                for i in 0..words.1 {
                    // SAFETY: inside the range, and aligned.
                    let word = unsafe { words.0.add(i).read_volatile() };
                    if word != generic::word_of(word as u8) {
                        torn.store(true, Ordering::Relaxed);
                        return;
                    }
                }
            }
        });
        let start = Instant::now();
        while start.elapsed() < time && !torn.load(Ordering::Relaxed) {
            for byte in 0..=255 {
                write(byte);
            }
            fence();
        }
        stop.store(true, Ordering::Relaxed);
    });
    torn.load(Ordering::Relaxed)
}

/// For the closures below, which only one thread runs.
#[derive(Clone, Copy)]
struct Shared(*mut u8);
// SAFETY: only the kernels under test write there, from one thread.
unsafe impl Sync for Shared {}
impl Shared {
    fn at(&self, i: usize) -> *mut u8 {
        self.0.wrapping_add(i)
    }
}

#[test]
#[cfg_attr(miri, ignore = "races on purpose")]
fn aligned_words_are_never_torn() {
    const SHAPES: [(usize, usize); 8] = [
        (0, 8),
        (56, 16),
        (0, 64),
        (8, 120),
        (60, 21),
        (3, 200),
        (37, 333),
        (61, 9000),
    ];
    let mut sources = Room::new(256 * 64);
    let all: Vec<u8> = (0..=255u8).flat_map(|byte| [byte; 64]).collect();
    sources.set(&all);
    let mut room = Room::new(10_000);
    let mut long = Room::new(2 * 10_000);
    for (copy, fill, facts, sink, hints) in ways() {
        for (into, len) in SHAPES {
            let dst = Shared(room.at().wrapping_add(into));
            let what = format!("{facts:?} {sink:?} {hints:?} into {into} len {len}");
            let time = Duration::from_millis(10);
            let by_fill = |byte: u8| {
                // SAFETY: 61 + 9000 is less than the 10 000 bytes of the room.
                unsafe { fill(facts, dst.at(0), byte, len, sink, hints) };
            };
            assert!(!is_torn(dst.0, len, time, &by_fill), "fill {what}");
            let src = Shared(if len <= 50 { sources.at() } else { long.at() });
            let by_copy = |byte: u8| {
                // SAFETY: short sources are 64 bytes for each byte value, from 5 on; long
                // ones are set here, and 5 + 9000 is less than their room.
                unsafe {
                    if len <= 50 {
                        let from = src.at(64 * usize::from(byte) + 5);
                        copy(facts, dst.at(0), from, len, sink, hints);
                    } else {
                        src.at(5).write_bytes(byte, len);
                        copy(facts, dst.at(0), src.at(5), len, sink, hints);
                    }
                }
            };
            assert!(!is_torn(dst.0, len, time, &by_copy), "copy {what}");
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "races on purpose")]
fn the_observer_sees_torn_words() {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return;
    }
    let mut room = Room::new(64);
    let dst = Shared(room.at());
    let by_bytes = |byte: u8| {
        for i in 0..64 {
            // SAFETY: inside the room.
            unsafe { dst.at(i).write_volatile(byte) };
        }
    };
    assert!(is_torn(dst.0, 64, Duration::from_secs(20), &by_bytes));
}

#[test]
fn lines_cover_the_range_and_never_wrap() {
    let at = |addr: usize, len| {
        let (first, lines) = lines_of(std::ptr::without_provenance(addr), len, 64);
        (first as usize, lines)
    };
    assert_eq!(at(100, 0), (100, 0));
    assert_eq!(at(0, 1), (0, 1));
    assert_eq!(at(63, 1), (0, 1));
    assert_eq!(at(63, 2), (0, 2));
    assert_eq!(at(64, 64), (64, 1));
    assert_eq!(at(65, 64), (64, 2));
    assert_eq!(at(usize::MAX, usize::MAX), (usize::MAX - 63, 1));
    assert_eq!(at(usize::MAX - 64, 1000), (usize::MAX - 127, 2));
    assert_eq!(at(0, usize::MAX), (0, 1 << 58));
}

#[test]
fn facts_keep_what_they_are_given() {
    let facts = Facts::new(WriteBack::Clflushopt, Stores::Avx2, true, 7);
    assert_eq!(facts.write_back(), WriteBack::Clflushopt);
    assert_eq!(facts.stores(), Stores::Avx2);
    assert_eq!(facts.line(), 128);
    assert!(facts.streaming());
    assert_eq!(facts.threshold(), None);
    let facts = facts.with_threshold(12_345).without_streaming();
    assert_eq!(facts.threshold(), Some(12_345));
    assert!(!facts.streaming());
    assert_eq!(facts.line(), 128);
    assert_eq!(facts.write_back(), WriteBack::Clflushopt);
    assert_eq!(facts.with_threshold(0).threshold(), Some(0));
    assert_eq!(
        facts.with_threshold(usize::MAX).threshold(),
        Some((1 << 48) - 1)
    );
}

#[test]
fn threshold_and_hints_decide() {
    let on = Facts::new(WriteBack::Clwb, Stores::Sse2, true, 6).with_threshold(1000);
    let stream = |facts: Facts, len, sink, hints| {
        let copy = facts.streams(Job::Copy, len, true, sink, hints);
        assert_eq!(copy, facts.streams(Job::Fill, len, true, sink, hints));
        copy
    };
    for sink in [Sink::WriteBack, Sink::Fenced] {
        assert!(!stream(on, 999, sink, Hints::NONE));
        assert!(stream(on, 1000, sink, Hints::NONE));
        assert!(stream(on, 64, sink, Hints::WC));
        assert!(stream(on, 64, sink, Hints::NONTEMPORAL));
        assert!(!stream(on, 1 << 30, sink, Hints::WB));
        assert!(!stream(on, 1 << 30, sink, Hints::TEMPORAL));
        assert!(stream(on, 64, sink, Hints(Hints::WB.0 | Hints::WC.0)));
        assert!(stream(on, 1000, sink, Hints(1 | 1 << 5)));
        assert!(!stream(on.without_streaming(), 1 << 30, sink, Hints::WC));
    }
    assert!(!stream(on, 1 << 30, Sink::Plain, Hints::WC));
}

#[test]
fn only_decimal_numbers_are_thresholds() {
    assert_eq!(decimal(b"0"), Some(0));
    assert_eq!(decimal(b"262144"), Some(262_144));
    assert_eq!(decimal(b"99999999999999999999999"), Some(usize::MAX));
    for bad in [&b""[..], b"-1", b"1k", b" 1", b"0x10"] {
        assert_eq!(decimal(bad), None);
    }
}

/// What another process finds out with the given variables set, as `Debug` prints it.
#[cfg(all(target_arch = "x86_64", not(miri)))]
fn found_with(variables: &[(&str, &str)]) -> String {
    let (_, here) = module_path!().split_once("::").expect("a crate");
    let print_facts = format!("{here}::print_facts");
    let out = std::process::Command::new(std::env::current_exe().expect("a path"))
        .args(["--exact", &print_facts])
        .args(["--ignored", "--nocapture", "--test-threads=1"])
        .env_remove("PMEM_NO_CLWB")
        .env_remove("PMEM_NO_CLFLUSHOPT")
        .env_remove("PMEM_NO_MOVNT")
        .env_remove("PMEM_MOVNT_THRESHOLD")
        .envs(variables.iter().copied())
        .output()
        .expect("the test runs itself");
    let text = String::from_utf8(out.stdout).expect("text");
    let start = text.find("Facts {").expect("the facts");
    let end = start + text[start..].find('}').expect("the end") + 1;
    text[start..end].to_string()
}

#[test]
#[ignore = "for the test below, in a process of its own"]
fn print_facts() {
    println!("{:?}", facts());
}

// Only where the test can start itself, which it cannot under an emulator of one program.
#[test]
#[cfg(all(target_arch = "x86_64", not(miri)))]
fn the_environment_is_heard() {
    let plain = found_with(&[]);
    assert!(plain.contains("threshold: None"), "{plain}");
    let given = found_with(&[("PMEM_MOVNT_THRESHOLD", "4096")]);
    assert!(given.contains("threshold: Some(4096)"), "{given}");
    assert_eq!(found_with(&[("PMEM_MOVNT_THRESHOLD", "much")]), plain);
    assert_eq!(
        found_with(&[("PMEM_NO_MOVNT", "0"), ("PMEM_NO_CLWB", "yes")]),
        plain
    );
    let kept = found_with(&[("PMEM_NO_MOVNT", "1")]);
    assert!(kept.contains("streaming: false"), "{kept}");
    let no_clwb = found_with(&[("PMEM_NO_CLWB", "1")]);
    assert!(!no_clwb.contains("Clwb"), "{no_clwb}");
    let next = if imp::has_write_back(WriteBack::Clflushopt) {
        "Clflushopt"
    } else {
        "Clflush,"
    };
    assert!(no_clwb.contains(next), "{no_clwb}");
    let oldest = found_with(&[("PMEM_NO_CLWB", "1"), ("PMEM_NO_CLFLUSHOPT", "1")]);
    assert!(oldest.contains("write_back: Clflush,"), "{oldest}");
}
