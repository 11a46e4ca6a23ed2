//! The dirty bitmap: which pages have been flushed and not yet synced, and which were lost by a sync that failed.
//!
//! A flush marks pages, and nothing else: no lock, no allocation, no system call. However much is marked, the map stays as
//! large as it is and never drops or widens a range. Summary levels (a bit for each word below that is not zero) let a
//! drain find the runs without looking at the rest. The memory is the kernel's zero pages until it is written to.
//!
//! Two further bitmaps say what failed syncs have made of a page. They are only changed under the set's lock:
//!
//! | lost | known | the page |
//! | --- | --- | --- |
//! | 0 | 0 | nothing is known of it |
//! | 1 | 0 | was flushed and is lost; no call has reported that yet |
//! | 1 | 1 | the same, and it has been reported: a flush that begins now takes it back |
//! | 0 | 1 | was made dirty again by a flush, after its file's last failure |

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

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

fn words(bits: usize) -> usize {
    bits.div_ceil(64)
}

/// The bits of `lo..hi` that are in the word `word`.
fn mask(word: usize, lo: usize, hi: usize) -> u64 {
    let from = lo.saturating_sub(word * 64);
    let to = (hi - word * 64).min(64);
    (!0 << from) & (!0 >> (64 - to))
}

/// Calls `visit` with each run of ones of a word, as bit numbers.
fn each_run(word: usize, mut bits: u64, mut visit: impl FnMut(usize, usize)) {
    while bits != 0 {
        let start = bits.trailing_zeros() as usize;
        let count = (!(bits >> start)).trailing_zeros().min(64) as usize;
        bits &= !mask(0, start, start + count);
        visit(word * 64 + start, word * 64 + start + count);
    }
}

/// Joins runs that touch, and hands them on.
struct Joined<V: FnMut(usize, usize)> {
    run: std::ops::Range<usize>,
    visit: V,
}

impl<V: FnMut(usize, usize)> Joined<V> {
    fn add(&mut self, lo: usize, hi: usize) {
        if self.run.end != lo || self.run.is_empty() {
            self.end();
            self.run = lo..hi;
        } else {
            self.run.end = hi;
        }
    }

    fn end(&mut self) {
        if !self.run.is_empty() {
            (self.visit)(self.run.start, self.run.end);
            self.run = 0..0;
        }
    }
}

/// Some of 512 pages.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct PageSet([u64; PageSet::PAGES / 64]);

impl PageSet {
    pub(crate) const PAGES: usize = 512;

    pub(crate) fn add(&mut self, page: usize) {
        self.0[page / 64] |= 1 << (page % 64);
    }

    pub(crate) fn has(&self, page: usize) -> bool {
        self.0[page / 64] >> (page % 64) & 1 != 0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// The runs (first page, pages) of what is in it.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (usize, usize)> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let first = (at..Self::PAGES).find(|page| self.has(*page))?;
            let len = (first..Self::PAGES).take_while(|p| self.has(*p)).count();
            at = first + len;
            Some((first, len))
        })
    }
}

/// Bits with summaries above them.
struct Bitmap {
    levels: [&'static [AtomicU64]; LEVELS],
}

impl Bitmap {
    /// Words that so many bits take.
    fn footprint(mut bits: usize) -> usize {
        let mut total = 0;
        for _ in 0..LEVELS {
            bits = words(bits);
            total += bits;
        }
        total
    }

    fn new(mut bits: usize, slice: &mut dyn FnMut(usize) -> &'static [AtomicU64]) -> Bitmap {
        Bitmap {
            levels: std::array::from_fn(|_| {
                let level = slice(bits);
                bits = level.len();
                level
            }),
        }
    }

    fn set(&self, mut lo: usize, mut hi: usize) {
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

    fn is_empty(&self) -> bool {
        let zero = |word: &AtomicU64| word.load(Ordering::SeqCst) == 0;
        self.levels[LEVELS - 1].iter().all(zero)
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
                // Set meanwhile, by somebody who may have seen the summary still set: set it again, all the way up.
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

    /// The words of a range that are not zero, with the bits of the range that are set in them.
    fn each_word(&self, lo: usize, hi: usize, mut visit: impl FnMut(usize, u64) -> bool) {
        let mut from = lo;
        while let Some(bit) = self.find(0, from).filter(|bit| *bit < hi) {
            let word = bit / 64;
            let bits = self.levels[0][word].load(Ordering::SeqCst) & mask(word, lo, hi);
            if !visit(word, bits) {
                return;
            }
            from = word * 64 + 64;
        }
    }

    /// Clears these bits of a word; those that were set.
    fn take_word(&self, word: usize, bits: u64) -> u64 {
        let taken = self.levels[0][word].fetch_and(!bits, Ordering::SeqCst) & bits;
        if self.levels[0][word].load(Ordering::SeqCst) == 0 {
            self.clear_summary(word);
        }
        taken
    }

    /// Clears a range, and visits the runs that were set, in order.
    fn take(&self, lo: usize, hi: usize, visit: impl FnMut(usize, usize)) {
        let mut joined = Joined { run: 0..0, visit };
        self.each_word(lo, hi, |word, bits| {
            each_run(word, self.take_word(word, bits), |a, b| joined.add(a, b));
            true
        });
        joined.end();
    }

    fn any(&self, lo: usize, hi: usize) -> bool {
        self.first_run(lo, hi).is_some()
    }

    /// The first run of ones in a range.
    fn first_run(&self, lo: usize, hi: usize) -> Option<(usize, usize)> {
        let first = self.find(0, lo).filter(|bit| *bit < hi)?;
        let mut end = first + 1;
        while end < hi {
            let word = end / 64;
            let zeros = !self.levels[0][word].load(Ordering::SeqCst) & (!0 << (end % 64));
            if zeros != 0 {
                end = word * 64 + zeros.trailing_zeros() as usize;
                break;
            }
            end = word * 64 + 64;
        }
        Some((first, end.min(hi)))
    }
}

/// What a set has recorded of the pages of a piece of address space.
pub(crate) struct DirtyMap {
    base: usize,
    page: usize,
    pages: usize,
    dirty: Bitmap,
    lost: Bitmap,
    known: Bitmap,
    /// Blocks whose pages the kernel has been asked to cache apart.
    apart: &'static [AtomicU64],
    any_apart: AtomicBool,
    asked: AtomicU32,
    memory: (usize, usize),
}

impl DirtyMap {
    /// Bytes of address space that the map of so many bytes takes.
    pub(crate) fn footprint(size: usize) -> usize {
        let pages = size / sys::page_size();
        let total = 3 * Bitmap::footprint(pages) + words(pages.div_ceil(BLOCK));
        (total * 8).next_multiple_of(sys::page_size())
    }

    /// A map for the pages of `base..base + size`.
    pub(crate) fn new(base: usize, size: usize) -> sys::SysResult<DirtyMap> {
        let page = sys::page_size();
        let pages = size / page;
        let len = DirtyMap::footprint(size);
        let memory = sys::map_zeroed(len)?;
        let mut at = memory;
        let mut slice = |bits: usize| {
            let n = words(bits);
            // SAFETY: zeroed memory of our own, large enough for all of them by `footprint`, handed out once, and unmapped
            // when the map is dropped; the slices do not leave it.
            let s: &'static [AtomicU64] =
                unsafe { std::slice::from_raw_parts(at as *const AtomicU64, n) };
            at += n * 8;
            s
        };
        Ok(DirtyMap {
            base,
            page,
            pages,
            dirty: Bitmap::new(pages, &mut slice),
            lost: Bitmap::new(pages, &mut slice),
            known: Bitmap::new(pages, &mut slice),
            apart: slice(pages.div_ceil(BLOCK)),
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

    fn bytes(&self, (lo, hi): (usize, usize)) -> (usize, usize) {
        (self.base + lo * self.page, (hi - lo) * self.page)
    }

    /// The address range that the map is for: the first address, and bytes.
    pub(crate) fn range(&self) -> (usize, usize) {
        self.bytes((0, self.pages))
    }

    // ---- flushed, and not synced yet -----------------------------------------------------------------------------

    /// Marks the pages of a range as flushed. Needs no lock.
    pub(crate) fn mark(&self, addr: usize, len: usize) {
        if len > 0 {
            let (lo, hi) = self.span(addr, len);
            self.dirty.set(lo, hi);
        }
    }

    /// Whether nothing is marked.
    pub(crate) fn is_clean(&self) -> bool {
        self.dirty.is_empty()
    }

    /// Clears the marks of a range, and visits its runs (address, bytes) in order. One thread at a time.
    pub(crate) fn clear(&self, addr: usize, len: usize, mut visit: impl FnMut(usize, usize)) {
        let (lo, hi) = self.span(addr, len);
        self.dirty.take(lo, hi, |lo, hi| {
            let (addr, len) = self.bytes((lo, hi));
            visit(addr, len);
        });
    }

    /// The first run of marked pages in a range (address, bytes).
    pub(crate) fn first_marked(&self, addr: usize, len: usize) -> Option<(usize, usize)> {
        let (lo, hi) = self.span(addr, len);
        Some(self.bytes(self.dirty.first_run(lo, hi)?))
    }

    /// Whether any page of a range is marked.
    pub(crate) fn is_marked(&self, addr: usize, len: usize) -> bool {
        let (lo, hi) = self.span(addr, len);
        !self.dirty.is_empty() && self.dirty.any(lo, hi)
    }

    // ---- lost ----------------------------------------------------------------------------------------------------

    /// The pages of a range are lost, and nobody has been told.
    pub(crate) fn lose(&self, addr: usize, len: usize) {
        let (lo, hi) = self.span(addr, len);
        self.lost.set(lo, hi);
        self.known.take(lo, hi, |_, _| ());
    }

    /// A sync of the file behind a range has failed: what is marked is lost, and what was made dirty again before may not be
    /// dirty any more. The work is in proportion to these. Returns whether anything was lost.
    pub(crate) fn lose_marked(&self, addr: usize, len: usize) -> bool {
        let (lo, hi) = self.span(addr, len);
        self.known.each_word(lo, hi, |word, bits| {
            let lost = self.lost.levels[0][word].load(Ordering::SeqCst);
            self.known.take_word(word, bits & !lost);
            true
        });
        let mut any = false;
        self.dirty.take(lo, hi, |lo, hi| {
            any = true;
            self.lost.set(lo, hi);
            self.known.take(lo, hi, |_, _| ());
        });
        any
    }

    /// The first run of lost pages in a range (address, bytes).
    pub(crate) fn first_lost(&self, addr: usize, len: usize) -> Option<(usize, usize)> {
        if self.lost.is_empty() {
            return None;
        }
        let (lo, hi) = self.span(addr, len);
        Some(self.bytes(self.lost.first_run(lo, hi)?))
    }

    /// The losses in a range have been reported. Returns whether that is news of any page.
    pub(crate) fn tell(&self, addr: usize, len: usize) -> bool {
        let (lo, hi) = self.span(addr, len);
        let mut news = false;
        self.lost.each_word(lo, hi, |word, bits| {
            let new = bits & !self.known.levels[0][word].load(Ordering::SeqCst);
            each_run(word, new, |a, b| self.known.set(a, b));
            news |= new != 0;
            true
        });
        news
    }

    /// Which pages of a range, no more than a [`PageSet`] has room for, a flush must make dirty again, since their file has failed:
    /// all but those that a flush has made dirty since then.
    pub(crate) fn stale(&self, addr: usize, len: usize) -> PageSet {
        self.page_set(addr, len, |known, lost| !known | lost)
    }

    /// Which pages of a range are lost and have been reported.
    pub(crate) fn told_pages(&self, addr: usize, len: usize) -> PageSet {
        self.page_set(addr, len, |known, lost| known & lost)
    }

    /// Which pages of a range are lost.
    pub(crate) fn lost_pages(&self, addr: usize, len: usize) -> PageSet {
        self.page_set(addr, len, |_, lost| lost)
    }

    fn page_set(&self, addr: usize, len: usize, which: impl Fn(u64, u64) -> u64) -> PageSet {
        let (lo, hi) = self.span(addr, len);
        let mut found = PageSet::default();
        for word in lo / 64..words(hi) {
            let load = |map: &Bitmap| map.levels[0][word].load(Ordering::SeqCst);
            let bits = which(load(&self.known), load(&self.lost)) & mask(word, lo, hi);
            each_run(word, bits, |a, b| {
                (a..b).for_each(|page| found.add(page - lo))
            });
        }
        found
    }

    /// A flush that began after the losses in a range had been reported takes them back.
    pub(crate) fn take_back(&self, addr: usize, len: usize) {
        let (lo, hi) = self.span(addr, len);
        self.lost.each_word(lo, hi, |word, bits| {
            let told = bits & self.known.levels[0][word].load(Ordering::SeqCst);
            self.lost.take_word(word, told);
            self.known.take_word(word, told);
            true
        });
    }

    /// The pages of a range have been made dirty again; not what is lost and has not been reported.
    pub(crate) fn refreshed(&self, addr: usize, len: usize) {
        let (lo, hi) = self.span(addr, len);
        for word in lo / 64..words(hi) {
            let lost = self.lost.levels[0][word].load(Ordering::SeqCst);
            each_run(word, mask(word, lo, hi) & !lost, |a, b| {
                self.known.set(a, b)
            });
        }
    }

    /// The first run of pages (address, bytes) in a range that were made dirty again.
    pub(crate) fn first_refreshed(&self, addr: usize, len: usize) -> Option<(usize, usize)> {
        let (lo, hi) = self.span(addr, len);
        let mut found = None;
        self.known.each_word(lo, hi, |word, bits| {
            let fresh = bits & !self.lost.levels[0][word].load(Ordering::SeqCst);
            each_run(word, fresh, |a, b| {
                found.get_or_insert((a, b));
            });
            found.is_none()
        });
        found.map(|run| self.bytes(run))
    }

    /// Forgets all that is marked and known of a range.
    pub(crate) fn forget(&self, addr: usize, len: usize) {
        let (lo, hi) = self.span(addr, len);
        for map in [&self.dirty, &self.lost, &self.known] {
            if !map.is_empty() {
                map.take(lo, hi, |_, _| ());
            }
        }
        let (lo, hi) = self.blocks(addr, len);
        if self.any_apart.load(Ordering::Relaxed) && hi - lo <= MOST_CLEARED {
            for word in lo / 64..words(hi) {
                if self.apart[word].load(Ordering::Relaxed) != 0 {
                    self.apart[word].fetch_and(!mask(word, lo, hi), Ordering::Relaxed);
                }
            }
        }
    }

    // ---- split folios --------------------------------------------------------------------------------------------

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
}

impl Drop for DirtyMap {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`; the slices into it go with the map.
        unsafe { sys::unmap(self.memory.0, self.memory.1) };
    }
}

/// A map on the heap.
pub(crate) fn new_boxed(base: usize, size: usize) -> Result<Box<DirtyMap>> {
    let map = DirtyMap::new(base, size)
        .map_err(|e| crate::error::Error::NoRoom(DirtyMap::footprint(size), e))?;
    crate::mem::try_box(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(map: &DirtyMap, addr: usize, len: usize) -> Vec<(usize, usize)> {
        let mut runs = Vec::new();
        map.clear(addr, len, |a, l| runs.push((a, l)));
        runs
    }

    #[test]
    fn runs_come_back_merged_exact_and_once() {
        let p = sys::page_size();
        let base = 1 << 30;
        let size = 70_000 * p;
        let map = DirtyMap::new(base, size).unwrap();
        assert!(map.is_clean());
        map.mark(base + 5, 1);
        map.mark(base + p, p);
        map.mark(base + 62 * p, 4 * p);
        map.mark(base + 69_999 * p + 1, 1);
        map.mark(base + 300 * p, 64 * 3 * p);
        assert_eq!(
            taken(&map, base, size),
            [
                (base, 2 * p),
                (base + 62 * p, 4 * p),
                (base + 300 * p, 192 * p),
                (base + 69_999 * p, p)
            ]
        );
        assert!(map.is_clean());
        assert_eq!(taken(&map, base, size), []);
    }

    #[test]
    fn a_range_is_cleared_alone() {
        let p = sys::page_size();
        let base = 1 << 30;
        let size = 1000 * p;
        let map = DirtyMap::new(base, size).unwrap();
        map.mark(base, size);
        assert_eq!(taken(&map, base + 10 * p, 5 * p), [(base + 10 * p, 5 * p)]);
        assert_eq!(
            taken(&map, base, size),
            [(base, 10 * p), (base + 15 * p, 985 * p)]
        );
        for i in (0..1000).step_by(2) {
            map.mark(base + i * p, 1);
        }
        assert_eq!(taken(&map, base, size).len(), 500);
    }

    /// The life of a page: flushed, lost, reported, flushed again, lost again.
    #[test]
    fn lost_pages() {
        let p = sys::page_size();
        let base = 1 << 30;
        let size = 70_000 * p;
        let map = DirtyMap::new(base, size).unwrap();
        map.mark(base + 3 * p, p);
        map.mark(base + 100 * p, 2 * p);
        assert!(map.is_marked(base + 64 * p, 900 * p));
        assert!(!map.is_marked(base + 200 * p, p));
        assert_eq!(map.first_lost(base, size), None);
        assert!(!map.lose_marked(base + 200 * p, 500 * p));
        assert!(map.lose_marked(base + 64 * p, 60_000 * p));
        assert!(map.is_marked(base, size) && !map.is_marked(base + 4 * p, size - 4 * p));
        assert_eq!(map.first_lost(base, size), Some((base + 100 * p, 2 * p)));
        assert_eq!(map.first_lost(base + 101 * p, p), Some((base + 101 * p, p)));
        // Not reported yet: a flush takes nothing back.
        map.refreshed(base + 100 * p, 4 * p);
        map.take_back(base + 100 * p, 4 * p);
        assert_eq!(map.first_lost(base, size), Some((base + 100 * p, 2 * p)));
        assert_eq!(
            map.first_refreshed(base, size),
            Some((base + 102 * p, 2 * p))
        );
        // Reported, once.
        assert!(map.tell(base, size));
        assert!(!map.tell(base, size));
        map.take_back(base + 101 * p, p);
        assert_eq!(map.first_lost(base, size), Some((base + 100 * p, p)));
        let runs = |set: PageSet| set.runs().collect::<Vec<_>>();
        assert_eq!(runs(map.stale(base + 100 * p, 4 * p)), [(0, 2)]);
        assert_eq!(runs(map.lost_pages(base + 99 * p, 4 * p)), [(1, 1)]);
        map.refreshed(base + 101 * p, p);
        assert_eq!(runs(map.stale(base + 101 * p, 5 * p)), [(3, 2)]);
        assert!(map.stale(base + 101 * p, 3 * p).is_empty());
        // The next failure: what was made dirty again may be clean, what is lost stays so and has been reported.
        assert!(map.lose_marked(base, size));
        assert_eq!(map.first_refreshed(base, size), None);
        assert_eq!(map.first_lost(base, size), Some((base + 3 * p, p)));
        map.take_back(base, size);
        assert_eq!(map.first_lost(base, size), Some((base + 3 * p, p)));
        map.forget(base, size);
        assert_eq!(map.first_lost(base, size), None);
        assert_eq!(runs(map.stale(base, 500 * p)), [(0, 500)]);
    }

    #[test]
    fn blocks_are_set_apart_once() {
        let p = sys::page_size();
        let base = 1 << 30;
        let map = DirtyMap::new(base, 1000 * p).unwrap();
        assert!(map.set_apart(base + 17 * p, p));
        assert!(!map.set_apart(base + 31 * p, p));
        assert!(map.set_apart(base + 31 * p, 2 * p));
        assert!(!map.set_apart(base + 47 * p, p));
        assert!(!map.set_apart(base + 160 * p, BLOCK * p));
        assert!(map.set_apart(base + 999 * p, p));
        let again = (0..10 * DOUBT).filter(|_| map.set_apart(base + 17 * p, p));
        assert_eq!(again.count(), 10);
        map.forget(base + 16 * p, 16 * p);
        assert!(map.set_apart(base + 17 * p, p));
        assert!(!map.set_apart(base + 47 * p, p));
    }

    #[test]
    fn nothing_recorded_is_missed_while_others_take() {
        let p = sys::page_size();
        let base = 1 << 30;
        let size = 1 << 34;
        let map = &DirtyMap::new(base, size).unwrap();
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
                        map.mark(addr, 1);
                        // Either this thread takes it or another has, since.
                        let _one = taken.lock().unwrap();
                        map.clear(base, size, |a, l| {
                            assert_eq!(l, p);
                            hits[(a - base) / (size / 64)].fetch_add(1, Ordering::SeqCst);
                        });
                        assert!(hits[slot].load(Ordering::SeqCst) > before);
                    }
                });
            }
        });
    }
}
