//! Making stores durable: flush, drain, persist, deep flush, and copies and fills that do it on the way.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Core, Set};
use crate::codes;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::file::durability;
use crate::granularity::Granularity;
use crate::mem::{self, Shared, lock};
use crate::persist::arch::{self, Hints, Sink};
use crate::persist::dirty::{DirtyMap, PageSet};
use crate::persist::redirty;
use crate::source::device;
use crate::{sync, sys};

/// `PMEMSET_F_MEM_*` bits. Unknown ones are ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u32);

impl Flags {
    fn has(self, bit: u32) -> bool {
        self.0 & bit != 0
    }

    /// The caller drains later.
    fn no_drain(self) -> bool {
        self.has(codes::PMEMSET_F_MEM_NODRAIN | codes::PMEMSET_F_MEM_NOFLUSH)
    }
}

/// A copy or fill. What it overlaps it handles as memmove does.
#[derive(Clone, Copy, Debug)]
pub enum Copying {
    /// Told to observers as a copy.
    Copy(*const u8),
    /// Told to observers as a move.
    Move(*const u8),
    /// A fill with the low byte.
    Fill(i32),
}

impl Set {
    /// Begins to make a range durable; [`drain`](Self::drain) ends it.
    ///
    /// At PAGE granularity the range is recorded and nothing is written until a drain of the set, by any thread, the
    /// removal of its part or the deletion of the set.
    ///
    /// # Safety
    /// At CACHE_LINE granularity the range must be mapped, by whomever.
    pub unsafe fn flush(&self, addr: *const u8, len: usize) -> Result<()> {
        let granularity = self.granularity()?;
        let core = self.core();
        if core.is_observed() {
            self.tell(&Event::Flush {
                addr: addr as usize,
                len,
            });
        }
        // SAFETY: as the caller promises.
        unsafe { core.flush(granularity, addr, len) }
    }

    /// Makes durable what was flushed before: at PAGE granularity by whichever thread, else by this one.
    ///
    /// What a failed sync has lost makes this fail until it has been flushed again, by a call that began after this has
    /// failed: only the program knows what it stored there. Everything else becomes durable all the same.
    pub fn drain(&self) -> Result<()> {
        let granularity = self.granularity()?;
        let core = self.core();
        core.drain(granularity)?;
        if core.is_observed() {
            self.tell(&Event::Drain);
        }
        Ok(())
    }

    /// Flush and drain.
    ///
    /// # Safety
    /// As for [`flush`](Self::flush).
    #[inline]
    pub unsafe fn persist(&self, addr: *const u8, len: usize) -> Result<()> {
        let core = self.core();
        let plain = !core.is_observed() && !core.unsettled.load(Ordering::Relaxed);
        match self.granularity()? {
            Granularity::CacheLine if plain && !core.unreported.any() => {
                // SAFETY: as the caller promises.
                unsafe { arch::persist(addr, len) };
                Ok(())
            }
            Granularity::Byte if plain && !core.unreported.any() => {
                arch::fence();
                Ok(())
            }
            // SAFETY: as the caller promises.
            granularity => unsafe { self.persist_slowly(granularity, addr, len) },
        }
    }

    /// # Safety
    /// As for [`flush`](Self::flush).
    unsafe fn persist_slowly(
        &self,
        granularity: Granularity,
        addr: *const u8,
        len: usize,
    ) -> Result<()> {
        let core = self.core();
        if core.is_observed() {
            self.tell(&Event::Flush {
                addr: addr as usize,
                len,
            });
        }
        // SAFETY: as the caller promises.
        let flushed = unsafe { core.flush(granularity, addr, len) };
        core.drain(granularity)?;
        flushed?;
        if core.is_observed() {
            self.tell(&Event::Drain);
        }
        Ok(())
    }

    /// Copies or fills, and makes that durable unless the flags say that the caller will.
    ///
    /// An aligned 8-byte word in the destination is never stored in smaller pieces.
    ///
    /// # Safety
    /// The destination must be valid for stores, the source of a copy for loads, of `len` bytes.
    #[inline]
    pub unsafe fn copy(
        &self,
        dest: *mut u8,
        what: Copying,
        len: usize,
        flags: Flags,
    ) -> Result<()> {
        // SAFETY: as the caller promises.
        let done = unsafe { self.copy_untold(dest, what, len, flags) };
        match done {
            Err(Error::NotDurable { .. }) => self.core().tell(None),
            Err(_) => {}
            Ok(()) => return Ok(()),
        }
        self.core().unreported.take();
        done
    }

    /// The same for callers that cannot be told of a failure: it comes back from this thread's next drain of the set.
    ///
    /// # Safety
    /// As for [`copy`](Self::copy).
    #[inline]
    pub(crate) unsafe fn copy_untold(
        &self,
        dest: *mut u8,
        what: Copying,
        len: usize,
        flags: Flags,
    ) -> Result<()> {
        let core = self.core();
        let granularity = self.granularity()?;
        if core.is_observed() {
            self.tell_copy(dest, what, len, flags);
        }
        let sink = match granularity {
            _ if flags.has(codes::PMEMSET_F_MEM_NOFLUSH) => Sink::Plain,
            Granularity::Page => Sink::Plain,
            Granularity::CacheLine => Sink::WriteBack,
            Granularity::Byte => Sink::Fenced,
        };
        // SAFETY: as the caller promises.
        unsafe {
            match what {
                Copying::Copy(src) | Copying::Move(src) => {
                    arch::copy(dest, src, len, sink, Hints(flags.0));
                }
                Copying::Fill(value) => arch::fill(dest, value as u8, len, sink, Hints(flags.0)),
            }
        }
        if granularity == Granularity::Page {
            // SAFETY: the range has just been stored to.
            let done = unsafe { core.flush(granularity, dest, len) }.and_then(|()| {
                if flags.no_drain() {
                    Ok(())
                } else {
                    core.drain_page(None)
                }
            });
            if let Err(e) = done {
                core.unreported.keep(e);
                return Err(e);
            }
        } else if !flags.no_drain() {
            arch::fence();
            if core.unsettled.load(Ordering::Relaxed) {
                if let Err(e) = core.settle() {
                    core.unreported.keep(e);
                    return Err(e);
                }
            }
        }
        if core.is_observed() && !flags.has(codes::PMEMSET_F_MEM_NODRAIN) {
            self.tell(&Event::Drain);
        }
        Ok(())
    }

    #[cold]
    fn tell_copy(&self, dest: *mut u8, what: Copying, len: usize, flags: Flags) {
        let (dest, flags) = (dest as usize, flags.0);
        self.tell(&match what {
            Copying::Copy(src) => Event::Copy {
                src: src as usize,
                dest,
                len,
                flags,
            },
            Copying::Move(src) => Event::Move {
                src: src as usize,
                dest,
                len,
                flags,
            },
            Copying::Fill(value) => Event::Set {
                dest,
                value,
                len,
                flags,
            },
        });
    }

    /// Makes a range durable beyond the platform's own buffers, where it has any: through the control of the
    /// persistent-memory region, else by a sync. What of the range is outside the set is left alone.
    pub fn deep_flush(&self, addr: usize, len: usize) -> Result<()> {
        let core = self.core();
        match self.granularity() {
            // With nothing mapped every range is outside.
            Err(Error::NoPartMapped) => Ok(()),
            Err(e) => Err(e),
            Ok(Granularity::Page) => core.deep_flush_page(addr, len),
            Ok(granularity) => core.deep_flush_direct(granularity, addr, len),
        }
    }
}

impl Core {
    #[inline]
    fn is_observed(&self) -> bool {
        self.config.observer().is_some()
    }

    /// # Safety
    /// At CACHE_LINE granularity the range must be mapped.
    #[inline]
    unsafe fn flush(&self, granularity: Granularity, addr: *const u8, len: usize) -> Result<()> {
        match granularity {
            Granularity::Byte => Ok(()),
            Granularity::CacheLine => {
                // SAFETY: as the caller promises.
                unsafe { arch::write_back(addr, len) };
                Ok(())
            }
            Granularity::Page => self.flush_page(addr as usize, len),
        }
    }

    fn drain(&self, granularity: Granularity) -> Result<()> {
        let result = if granularity == Granularity::Page {
            self.drain_and_tell(None)
        } else {
            arch::fence();
            if self.unsettled.load(Ordering::Relaxed) {
                self.settle()
            } else {
                Ok(())
            }
        };
        match self.unreported.take() {
            Some(e) => result.and(Err(e)),
            None => result,
        }
    }

    /// Marks a range; what is outside the set's part maps is synced at once.
    fn flush_page(&self, addr: usize, len: usize) -> Result<()> {
        let Some(end) = addr.checked_add(len) else {
            return Err(Error::NotMapped(addr, len));
        };
        let mut at = addr;
        let mut result = Ok(());
        while at < end {
            match self.extent_at(at) {
                Some((extent, Some(map))) => {
                    let stop = end.min(extent.addr + extent.len);
                    // SAFETY: maps live as long as the set.
                    self.mark(unsafe { map.as_ref() }, at, stop - at);
                    at = stop;
                }
                _ => {
                    let stop = self.start_above(at).min(end);
                    result = result.and(self.sync_outside(at, stop));
                    at = stop;
                }
            }
        }
        if self.eager {
            return result.and(self.drain_and_tell(Some((addr, end))));
        }
        result
    }

    /// Whether a file may have failed of which the set has had parts.
    #[inline]
    fn may_have_failed(&self) -> bool {
        durability::ledger().is_some_and(|ledger| ledger.may_have_failed(&self.files))
    }

    /// Marks a range as flushed.
    #[inline]
    fn mark(&self, map: &DirtyMap, addr: usize, len: usize) {
        if !self.may_have_failed() {
            map.mark(addr, len);
            // Whoever counts a failure looks at what is marked after that: either it finds these marks, or this finds the
            // failure.
            if !self.may_have_failed() {
                return;
            }
        }
        self.mark_after_failure(map, addr, len);
    }

    /// Marks a range where files have failed: pages that the kernel counts as clean after a lost write are made dirty again,
    /// so that what memory holds now is what the next drain writes.
    #[cold]
    fn mark_after_failure(&self, map: &DirtyMap, addr: usize, len: usize) {
        let _uncancelled = sys::Uncancelled::new();
        let reports = self.drains.reports();
        let (mut at, end) = (addr, addr + len);
        while at < end {
            let inner = self.lock();
            let Some(part) = inner.part_at(at) else {
                at += sys::page_size();
                continue;
            };
            let page = sys::page_size();
            let from = at / page * page;
            let stop = end.next_multiple_of(page).min(part.end());
            let stop = stop.min(from + PageSet::PAGES * page);
            part.catch_up();
            let stale = match part.has_failed() {
                true => map.stale(from, stop - from),
                false => PageSet::default(),
            };
            if stale.is_empty() {
                map.mark(from, stop - from);
                at = stop;
                continue;
            }
            let (file, seen) = (part.file.clone(), part.seen());
            let offset = part.offset + (from - part.start) as u64;
            let lost = map.lost_pages(from, stop - from);
            // What has been reported since this flush began is not taken back by it.
            let told = match self.drains.reports() == reports {
                true => map.told_pages(from, stop - from),
                false => PageSet::default(),
            };
            drop(inner);
            file.take_known_reports_at(from);
            let made = redirty::pages(&file, (from, offset, stop - from), &stale, &lost);
            let inner = self.lock();
            if let Some(part) = inner.part_at(from).filter(|p| Shared::same(&p.file, &file)) {
                part.catch_up();
                let runs = |set: PageSet, visit: &dyn Fn(usize, usize)| {
                    set.runs()
                        .for_each(|(first, pages)| visit(from + first * page, pages * page));
                };
                match made {
                    Ok(made) if part.seen() == seen => {
                        runs(told, &|addr, len| map.take_back(addr, len));
                        runs(made, &|addr, len| map.refreshed(addr, len));
                        map.mark(from, stop - from);
                    }
                    // No page of a file that lost its disk can be made dirty any more; or it failed once more meanwhile, and
                    // nobody knows what of this was dirty by then.
                    _ => {
                        runs(stale, &|addr, len| map.lose(addr, len));
                        part.lost_by(part.file.inode().errno());
                    }
                }
            }
            at = stop;
        }
    }

    fn start_above(&self, addr: usize) -> usize {
        let _inner = self.lock();
        let above = self.maps.above(addr, &super::Locked).unwrap_or(None);
        above.map_or(usize::MAX, |(start, _)| start)
    }

    fn sync_outside(&self, addr: usize, end: usize) -> Result<()> {
        let page = sys::page_size();
        let start = addr / page * page;
        // Reserved address space is nobody's memory, though the kernel would not mind.
        if self.lock().arena.is_vacant(addr) {
            return Err(Error::NotMapped(addr, end - addr));
        }
        durability::sync_unknown(start, end - start).map_err(|errno| match errno {
            libc::ENOMEM => Error::NotMapped(addr, end - addr),
            errno => Error::OutsideNotDurable(addr, end - addr, errno),
        })
    }

    /// A drain whose error the program gets: what is lost counts as reported.
    fn drain_and_tell(&self, range: Option<(usize, usize)>) -> Result<()> {
        let result = self.drain_page(range);
        if let Err(Error::NotDurable { .. }) = result {
            self.tell(range);
        }
        result
    }

    #[cold]
    fn tell(&self, range: Option<(usize, usize)>) {
        let inner = self.lock();
        self.drains.tell(range, &*inner);
    }

    fn drain_page(&self, range: Option<(usize, usize)>) -> Result<()> {
        let drained = self.drains.drain(range, || self.lock());
        match range {
            // Also when something is lost: that concerns no other file's entry.
            None if self.unsettled.load(Ordering::Relaxed) => drained.and(self.settle()),
            _ => drained,
        }
    }

    /// Makes durable what is marked in a range of addresses.
    pub(super) fn sync_addresses(&self, lo: usize, hi: usize) -> Result<()> {
        self.drain_page(Some((lo, hi)))
    }

    /// Makes durable all that is marked.
    pub(super) fn sync_all(&self) -> Result<()> {
        match self.granularity.load(Ordering::Relaxed) {
            g if g == Granularity::Page as u8 => self.drain_page(None),
            _ => Ok(()),
        }
    }

    /// Makes the entries and sizes durable of files that the library has created or made longer, where persisting has not
    /// synced anything of them.
    #[cold]
    fn settle(&self) -> Result<()> {
        let _uncancelled = sys::Uncancelled::new();
        // The lock keeps the parts mapped meanwhile.
        let mut inner = self.lock();
        let mut result = Ok(());
        let mut place = inner.unsettled.len();
        while place > 0 {
            place -= 1;
            let Some(part) = inner.part_at(inner.unsettled[place]) else {
                inner.unsettled.swap_remove(place);
                continue;
            };
            if part.file.inode().is_unsettled() {
                let synced = part
                    .file
                    .sync_part((part.start, part.offset, sys::page_size()));
                if let Err(errno) = synced {
                    let what = "make durable the directory entry and the size of";
                    // The others are settled all the same.
                    result = result.and(Err(Error::SystemAt(what, part.file.name, errno)));
                    continue;
                }
            }
            part.unsettled.set(usize::MAX);
            inner.settled(place);
        }
        if inner.unsettled.is_empty() {
            self.unsettled.store(false, Ordering::Release);
        }
        result
    }

    fn deep_flush_page(&self, addr: usize, len: usize) -> Result<()> {
        let end = addr.saturating_add(len);
        let mut at = addr;
        while at < end {
            match self.extent_at(at) {
                Some((extent, Some(map))) => {
                    let stop = end.min(extent.addr + extent.len);
                    // SAFETY: maps live as long as the set.
                    self.mark(unsafe { map.as_ref() }, at, stop - at);
                    at = stop;
                }
                _ => at = self.start_above(at),
            }
        }
        self.drain_and_tell(Some((addr, end)))
            .map_err(|e| match e.errno() {
                Some(libc::ENOMEM) => e,
                errno => Error::DeepFlush(addr, errno.unwrap_or(libc::EIO)),
            })
    }

    fn deep_flush_direct(&self, granularity: Granularity, addr: usize, len: usize) -> Result<()> {
        let end = addr.saturating_add(len);
        let failed = |errno| Error::DeepFlush(addr, errno);
        let _uncancelled = sys::Uncancelled::new();
        // The lock keeps the parts mapped meanwhile.
        let inner = self.lock();
        let mut at = addr;
        while let Some(part) = inner.part_from(at).filter(|p| p.start < end) {
            let (lo, hi) = (part.start.max(addr), end.min(part.start + part.len));
            if granularity == Granularity::CacheLine {
                // SAFETY: within a part that is mapped.
                unsafe { arch::write_back(lo as *const u8, hi - lo) };
            }
            arch::fence();
            let region = if part.file.takes_map_sync().unwrap_or(false) {
                part.file.region()
            } else {
                None
            };
            let done = match region {
                Some(region) => device::deep_flush_region(region).map_err(failed)?,
                None if part.file.is_device() => return Err(failed(libc::ENODEV)),
                None => false,
            };
            // A device has nothing but the control of its region; for a file there is the file
            // system.
            if !done && !part.file.is_device() {
                let page = sys::page_size();
                let start = lo / page * page;
                let offset = part.offset + (start - part.start) as u64;
                part.file
                    .sync_part((start, offset, hi - start))
                    .map_err(|errno| match errno {
                        libc::ENOMEM => Error::OutOfMemory("deep flush"),
                        errno => failed(errno),
                    })?;
            }
            at = part.start + part.len;
        }
        Ok(())
    }
}

/// Failures that a call could not return, for the next drain of the thread that made it.
#[derive(Default)]
pub(crate) struct Unreported {
    /// Bits of the threads that have some.
    threads: AtomicU64,
    list: Mutex<Pending>,
}

#[derive(Default)]
struct Pending {
    failures: Vec<Failure>,
    /// When there was no memory for the list: whoever drains next.
    anybody: Option<Error>,
}

struct Failure {
    /// A number that the thread has to itself.
    thread: usize,
    /// The kernel's, which tells whether there is still a thread.
    task: u32,
    error: Error,
}

/// With so many failures it is looked whether their threads still are: those that have ended will never ask.
const MANY: usize = 64;

impl Unreported {
    /// Whether the calling thread may have one.
    #[inline]
    fn any(&self) -> bool {
        let threads = self.threads.load(Ordering::Relaxed);
        threads != 0 && threads >> (sync::thread_number() % 64) & 1 != 0
    }

    #[cold]
    fn keep(&self, error: Error) {
        let thread = sync::thread_number();
        let mut list = lock(&self.list);
        if list.failures.len() >= MANY {
            list.failures.retain(|f| sys::has_thread(f.task));
        }
        let task = sys::thread_task();
        if list.failures.iter().all(|f| f.thread != thread) {
            let failure = Failure {
                thread,
                task,
                error,
            };
            if mem::try_push(&mut list.failures, failure).is_err() {
                list.anybody = Some(error);
            }
        }
        list.publish(&self.threads);
    }

    fn take(&self) -> Option<Error> {
        if !self.any() {
            return None;
        }
        let me = sync::thread_number();
        let mut list = lock(&self.list);
        let found = match list.failures.iter().position(|f| f.thread == me) {
            Some(at) => Some(list.failures.swap_remove(at).error),
            None => list.anybody.take(),
        };
        list.publish(&self.threads);
        found
    }
}

impl Pending {
    fn publish(&self, threads: &AtomicU64) {
        let bits = self.failures.iter().map(|f| 1 << (f.thread % 64));
        let all = if self.anybody.is_some() { u64::MAX } else { 0 };
        threads.store(bits.fold(all, |a, b| a | b), Ordering::Relaxed);
    }
}
