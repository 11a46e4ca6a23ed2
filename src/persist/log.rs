//! Which pages have been flushed and not yet synced: a bit for each page of a piece of address space.
//!
//! Recording sets bits and nothing else: no lock, no allocation, no system call. However much is recorded, the log stays
//! as large as it is and never drops or widens a range. Summary levels (a bit for each word below that is not zero) let a
//! drain find what is there without looking at the rest. The memory is the kernel's zero pages until it is written to.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use crate::error::Result;
use crate::sys;

/// Levels of bits: pages, and three of summaries. The last is searched word by word: 256 words for 16 TiB of 4 KiB pages.
const LEVELS: usize = 4;

/// Pages of a block of which is known whether its pages are cached apart. A folio of as many or more covers whole blocks, so that
/// one bit tells the truth about it; smaller ones cost a disk little more than a page (docs/performance.md).
const BLOCK: usize = 16;

/// What is known about a block is not believed one time in so many: it may have been busy then, or its pages have been evicted
/// and read again. A prime, so that drains of as many ranges each do not doubt the same one for ever.
const DOUBT: u32 = 61;

/// With more blocks than this, 2 GiB of small pages, a range keeps what was known of its place, and doubt mends it: to read
/// all their bits would take half a millisecond for 1 TiB.
const MOST_CLEARED: usize = 1 << 15;

pub(crate) struct Log {
    base: usize,
    page: usize,
    pages: usize,
    levels: [&'static [AtomicU64]; LEVELS],
    /// Pages whose last sync failed: they must be made dirty again before the next.
    lost: &'static [AtomicU64],
    any_lost: AtomicBool,
    /// Threads that take pages out and have not looked yet at how the syncs of their files fare.
    takers: AtomicUsize,
    /// Blocks whose pages the kernel has been asked to cache apart.
    apart: &'static [AtomicU64],
    any_apart: AtomicBool,
    asked: AtomicU32,
    memory: (usize, usize),
}

/// Pages are being taken out of a log, until this is dropped.
pub(crate) struct Taking<'a>(&'a AtomicUsize);

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn words(bits: usize) -> usize {
    bits.div_ceil(64)
}

/// The bits of `lo..hi` that are in the word `word`.
fn mask(word: usize, lo: usize, hi: usize) -> u64 {
    let from = lo.saturating_sub(word * 64);
    let to = (hi - word * 64).min(64);
    (!0 << from) & (!0 >> (64 - to))
}

impl Log {
    /// Bytes of address space that the log of so many bytes takes.
    pub(crate) fn footprint(size: usize) -> usize {
        let pages = size / sys::page_size();
        let mut total = words(pages) + words(pages.div_ceil(BLOCK));
        let mut bits = pages;
        for _ in 0..LEVELS {
            bits = words(bits);
            total += bits;
        }
        (total * 8).next_multiple_of(sys::page_size())
    }

    /// A log for the pages of `base..base + size`.
    pub(crate) fn new(base: usize, size: usize) -> sys::SysResult<Log> {
        let page = sys::page_size();
        let pages = size / page;
        let len = Log::footprint(size);
        let memory = sys::map_zeroed(len)?;
        let mut at = memory;
        let mut slice = |bits: usize| {
            let n = words(bits);
            // SAFETY: zeroed memory of our own, large enough for all of them by `footprint`, handed out once, and unmapped
            // when the log is dropped; the slices do not leave it.
            let s = unsafe { std::slice::from_raw_parts(at as *const AtomicU64, n) };
            at += n * 8;
            s
        };
        let mut bits = pages;
        let levels = std::array::from_fn(|_| {
            let level = slice(bits);
            bits = level.len();
            level
        });
        let lost = slice(pages);
        let apart = slice(pages.div_ceil(BLOCK));
        Ok(Log {
            base,
            page,
            pages,
            levels,
            lost,
            any_lost: AtomicBool::new(false),
            takers: AtomicUsize::new(0),
            apart,
            any_apart: AtomicBool::new(false),
            asked: AtomicU32::new(0),
            memory: (memory, len),
        })
    }

    /// The pages that `addr..addr + len` touches. The range must be inside.
    fn span(&self, addr: usize, len: usize) -> (usize, usize) {
        let lo = (addr - self.base) / self.page;
        let hi = (addr + len - self.base).div_ceil(self.page);
        debug_assert!(lo <= hi && hi <= self.pages);
        (lo, hi)
    }

    /// Records the pages of a range as flushed.
    pub(crate) fn record(&self, addr: usize, len: usize) {
        if len == 0 {
            return;
        }
        let (mut lo, mut hi) = self.span(addr, len);
        for (depth, level) in self.levels.iter().enumerate() {
            for (i, word) in level[lo / 64..words(hi)].iter().enumerate() {
                let bits = mask(lo / 64 + i, lo, hi);
                // The exchange at the lowest level orders the caller's stores before it; a summary that is set already
                // will be seen by whoever clears it, who then looks below again.
                if depth == 0 || word.load(Ordering::SeqCst) & bits != bits {
                    word.fetch_or(bits, Ordering::SeqCst);
                }
            }
            (lo, hi) = (lo / 64, words(hi));
        }
    }

    /// Whether nothing is recorded.
    pub(crate) fn is_empty(&self) -> bool {
        self.levels[LEVELS - 1]
            .iter()
            .all(|word| word.load(Ordering::SeqCst) == 0)
    }

    /// The first bit of a level that is set, from `from` on.
    fn find(&self, level: usize, from: usize) -> Option<usize> {
        let mut word = from / 64;
        let mut bits = self.levels[level].get(word)?.load(Ordering::SeqCst) & (!0 << (from % 64));
        loop {
            if bits != 0 {
                return Some(word * 64 + bits.trailing_zeros() as usize);
            }
            word = if level + 1 < LEVELS {
                self.find(level + 1, word + 1)?
            } else {
                word + 1
            };
            bits = self.levels[level].get(word)?.load(Ordering::SeqCst);
        }
    }

    /// Clears the summary of a word that has become zero, unless it is not zero any more.
    fn clear_summary(&self, word: usize) {
        let mut index = word;
        for level in 1..LEVELS {
            if self.levels[level - 1][index].load(Ordering::SeqCst) != 0 {
                return;
            }
            let (at, bit) = (index / 64, 1 << (index % 64));
            self.levels[level][at].fetch_and(!bit, Ordering::SeqCst);
            if self.levels[level - 1][index].load(Ordering::SeqCst) != 0 {
                // Recorded meanwhile, by somebody who may have seen the summary still set: set it again, all the way up.
                let mut index = index;
                for level in &self.levels[level..] {
                    level[index / 64].fetch_or(1 << (index % 64), Ordering::SeqCst);
                    index /= 64;
                }
                return;
            }
            index = at;
        }
    }

    /// Announces that pages will be taken out.
    pub(crate) fn taking(&self) -> Taking<'_> {
        self.takers.fetch_add(1, Ordering::SeqCst);
        Taking(&self.takers)
    }

    /// Whether [`has_recorded`](Self::has_recorded) may miss what somebody is just taking out.
    pub(crate) fn is_being_taken(&self) -> bool {
        self.takers.load(Ordering::SeqCst) > 0
    }

    /// Takes what is recorded in a range out of the log, as runs of pages (address, bytes) in order. When `visit` says
    /// false its run stays recorded, and so does all behind it. One thread at a time.
    pub(crate) fn take(
        &self,
        addr: usize,
        len: usize,
        mut visit: impl FnMut(usize, usize) -> bool,
    ) -> bool {
        let (lo, hi) = self.span(addr, len);
        let mut run = lo..lo;
        let mut flush = |run: std::ops::Range<usize>| {
            if run.is_empty() {
                return true;
            }
            let (at, len) = (self.base + run.start * self.page, run.len() * self.page);
            let ok = visit(at, len);
            if !ok {
                self.record(at, len);
            }
            ok
        };
        let mut from = lo;
        while let Some(page) = self.find(0, from).filter(|page| *page < hi) {
            let word = page / 64;
            let wanted = mask(word, page, hi.min(word * 64 + 64));
            let mut bits = self.levels[0][word].fetch_and(!wanted, Ordering::SeqCst) & wanted;
            if bits & wanted == 0 || self.levels[0][word].load(Ordering::SeqCst) == 0 {
                self.clear_summary(word);
            }
            while bits != 0 {
                let start = bits.trailing_zeros() as usize;
                let count = (!(bits >> start)).trailing_zeros().min(64) as usize;
                let first = word * 64 + start;
                bits &= !mask(0, start, start + count);
                if run.end == first && !run.is_empty() {
                    run.end = first + count;
                } else {
                    if !flush(run.clone()) {
                        self.record(self.base + first * self.page, count * self.page);
                        // What is left of this word goes back, too.
                        while bits != 0 {
                            let start = bits.trailing_zeros() as usize;
                            bits &= bits - 1;
                            self.record(self.base + (word * 64 + start) * self.page, self.page);
                        }
                        return false;
                    }
                    run = first..first + count;
                }
            }
            from = word * 64 + 64;
        }
        flush(run)
    }

    /// Whether anything in a range is recorded.
    pub(crate) fn has_recorded(&self, addr: usize, len: usize) -> bool {
        if self.is_empty() {
            return false;
        }
        let (lo, hi) = self.span(addr, len);
        let mut from = lo;
        while let Some(page) = self.find(0, from).filter(|page| *page < hi) {
            let word = page / 64;
            if self.levels[0][word].load(Ordering::SeqCst) & mask(word, page, hi) != 0 {
                return true;
            }
            from = word * 64 + 64;
        }
        false
    }

    /// Forgets what is recorded and known of a range.
    pub(crate) fn forget(&self, addr: usize, len: usize) {
        if !self.is_empty() {
            let _taking = self.taking();
            self.take(addr, len, |_, _| true);
        }
        self.found(addr, len);
        let (lo, hi) = self.blocks(addr, len);
        if self.any_apart.load(Ordering::Relaxed) && hi - lo <= MOST_CLEARED {
            for word in lo / 64..words(hi) {
                if self.apart[word].load(Ordering::Relaxed) != 0 {
                    self.apart[word].fetch_and(!mask(word, lo, hi), Ordering::Relaxed);
                }
            }
        }
    }

    fn blocks(&self, addr: usize, len: usize) -> (usize, usize) {
        let (lo, hi) = self.span(addr, len);
        (lo / BLOCK, hi.div_ceil(BLOCK))
    }

    /// Whether a range is so small that its pages should be cached apart from those around them, and are not known to be. They
    /// count as such from now on.
    pub(crate) fn set_apart(&self, addr: usize, len: usize) -> bool {
        if len >= BLOCK * self.page {
            return false;
        }
        self.any_apart.store(true, Ordering::Relaxed);
        let (lo, hi) = self.blocks(addr, len);
        let mut known = self.asked.fetch_add(1, Ordering::Relaxed) % DOUBT != 0;
        for word in lo / 64..words(hi) {
            let bits = mask(word, lo, hi);
            if self.apart[word].load(Ordering::Relaxed) & bits != bits {
                self.apart[word].fetch_or(bits, Ordering::Relaxed);
                known = false;
            }
        }
        !known
    }

    /// Puts a range back whose sync has failed.
    pub(crate) fn put_back(&self, addr: usize, len: usize) {
        self.lose(addr, len);
        self.record(addr, len);
    }

    /// Marks the pages of a range as lost, recorded or not.
    pub(crate) fn lose(&self, addr: usize, len: usize) {
        let (lo, hi) = self.span(addr, len);
        for word in lo / 64..words(hi) {
            self.lost[word].fetch_or(mask(word, lo, hi), Ordering::SeqCst);
        }
        self.any_lost.store(true, Ordering::SeqCst);
    }

    /// The runs of lost pages in a range, until `visit` says false; whether it never did.
    pub(crate) fn each_lost(
        &self,
        addr: usize,
        len: usize,
        mut visit: impl FnMut(usize, usize) -> bool,
    ) -> bool {
        if !self.any_lost.load(Ordering::SeqCst) {
            return true;
        }
        let (lo, hi) = self.span(addr, len);
        for word in lo / 64..words(hi) {
            let mut bits = self.lost[word].load(Ordering::SeqCst) & mask(word, lo, hi);
            while bits != 0 {
                let start = bits.trailing_zeros() as usize;
                let count = (!(bits >> start)).trailing_zeros().min(64) as usize;
                bits &= !mask(0, start, start + count);
                let first = word * 64 + start;
                if !visit(self.base + first * self.page, count * self.page) {
                    return false;
                }
            }
        }
        true
    }

    /// The pages of a range are lost no more.
    pub(crate) fn found(&self, addr: usize, len: usize) {
        if !self.any_lost.load(Ordering::SeqCst) {
            return;
        }
        let (lo, hi) = self.span(addr, len);
        for word in lo / 64..words(hi) {
            if self.lost[word].load(Ordering::SeqCst) != 0 {
                self.lost[word].fetch_and(!mask(word, lo, hi), Ordering::SeqCst);
            }
        }
    }

    /// The address range that the log is for.
    pub(crate) fn range(&self) -> (usize, usize) {
        (self.base, self.pages * self.page)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`; the slices into it go with the log.
        unsafe { sys::unmap(self.memory.0, self.memory.1) };
    }
}

/// A log on the heap.
pub(crate) fn new_boxed(base: usize, size: usize) -> Result<Box<Log>> {
    let log =
        Log::new(base, size).map_err(|e| crate::error::Error::NoRoom(Log::footprint(size), e))?;
    crate::mem::try_box(log)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(log: &Log, addr: usize, len: usize) -> Vec<(usize, usize)> {
        let mut runs = Vec::new();
        assert!(log.take(addr, len, |a, l| {
            runs.push((a, l));
            true
        }));
        runs
    }

    #[test]
    fn runs_come_back_merged_exact_and_once() {
        let p = sys::page_size();
        let base = 1 << 30;
        let size = 70_000 * p;
        let log = Log::new(base, size).unwrap();
        assert!(log.is_empty());
        log.record(base + 5, 1);
        log.record(base + p, p);
        log.record(base + 62 * p, 4 * p);
        log.record(base + 69_999 * p + 1, 1);
        log.record(base + 300 * p, 64 * 3 * p);
        assert_eq!(
            taken(&log, base, size),
            [
                (base, 2 * p),
                (base + 62 * p, 4 * p),
                (base + 300 * p, 192 * p),
                (base + 69_999 * p, p)
            ]
        );
        assert!(log.is_empty());
        assert_eq!(taken(&log, base, size), []);
    }

    #[test]
    fn a_range_is_taken_alone_and_a_refusal_keeps_everything() {
        let p = sys::page_size();
        let base = 1 << 30;
        let size = 1000 * p;
        let log = Log::new(base, size).unwrap();
        log.record(base, size);
        assert_eq!(taken(&log, base + 10 * p, 5 * p), [(base + 10 * p, 5 * p)]);
        assert!(!log.take(base, size, |a, _| a < base + 15 * p));
        assert_eq!(taken(&log, base, size), [(base + 15 * p, 985 * p)]);
        for i in (0..1000).step_by(2) {
            log.record(base + i * p, 1);
        }
        let mut n = 0;
        assert!(!log.take(base, size, |_, _| {
            n += 1;
            n < 100
        }));
        assert_eq!(taken(&log, base, size).len(), 500 - 99);
    }

    #[test]
    fn lost_pages() {
        let p = sys::page_size();
        let base = 1 << 30;
        let size = 1000 * p;
        let log = Log::new(base, size).unwrap();
        log.record(base + 3 * p, p);
        log.record(base + 100 * p, 2 * p);
        assert!(log.has_recorded(base + 64 * p, 900 * p));
        assert!(!log.has_recorded(base + 200 * p, p));
        log.lose(base + 100 * p, 2 * p);
        let mut lost = Vec::new();
        log.each_lost(base, size, |a, l| {
            lost.push((a, l));
            true
        });
        assert_eq!(lost, [(base + 100 * p, 2 * p)]);
        log.found(base, size);
        assert!(log.each_lost(base, size, |_, _| false));
    }

    #[test]
    fn blocks_are_set_apart_once() {
        let p = sys::page_size();
        let base = 1 << 30;
        let log = Log::new(base, 1000 * p).unwrap();
        assert!(log.set_apart(base + 17 * p, p));
        assert!(!log.set_apart(base + 31 * p, p));
        assert!(log.set_apart(base + 31 * p, 2 * p));
        assert!(!log.set_apart(base + 47 * p, p));
        assert!(!log.set_apart(base + 160 * p, BLOCK * p));
        assert!(log.set_apart(base + 999 * p, p));
        let again = (0..10 * DOUBT).filter(|_| log.set_apart(base + 17 * p, p));
        assert_eq!(again.count(), 10);
        log.forget(base + 16 * p, 16 * p);
        assert!(log.set_apart(base + 17 * p, p));
        assert!(!log.set_apart(base + 47 * p, p));
    }

    #[test]
    fn nothing_recorded_is_missed_while_others_take() {
        let p = sys::page_size();
        let base = 1 << 30;
        let size = 1 << 34;
        let log = &Log::new(base, size).unwrap();
        let taken = std::sync::Mutex::new(());
        let hits: Vec<AtomicU64> = (0..64).map(|_| AtomicU64::new(0)).collect();
        std::thread::scope(|s| {
            for t in 0..3usize {
                let (taken, hits) = (&taken, &hits);
                s.spawn(move || {
                    for i in 0..20_000u64 {
                        let slot = (i as usize * 7 + t * 5) % 64;
                        let addr = base + slot * (size / 64);
                        let before = hits[slot].load(Ordering::SeqCst);
                        log.record(addr, 1);
                        // Either this thread takes it or another has, since.
                        let _one = taken.lock().unwrap();
                        log.take(base, size, |a, l| {
                            assert_eq!(l, p);
                            hits[(a - base) / (size / 64)].fetch_add(1, Ordering::SeqCst);
                            true
                        });
                        assert!(hits[slot].load(Ordering::SeqCst) > before);
                    }
                });
            }
        });
    }
}
