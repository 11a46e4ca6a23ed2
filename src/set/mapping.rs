//! Mapping parts into a set.

use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use super::index::Locked;
use super::part_map::Slot;
use super::{Coalescing, Core, Extent, Inner, NO_GRANULARITY, Set};
use crate::arena::{Lent, Wish};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::file::OpenFile;
use crate::granularity::Granularity;
use crate::mem::{self, Shared};
use crate::pmem2;
use crate::set::part::Mapped;
use crate::set::part_map::Home;
use crate::source::Source;
use crate::source::sds::{Account, Next};
use crate::sys;

/// A range of a source that can be mapped. It keeps what it needs of the source alive.
pub struct Part {
    file: Shared<OpenFile>,
    pub(super) account: Shared<Account>,
    /// The program's libpmem2 source, or 0.
    pmem2: usize,
    offset: usize,
    length: usize,
    /// Mapped by the rules of 1.12.
    direct: bool,
    /// What the source's shutdown state becomes when the part is mapped.
    pub(super) sds: Option<Box<Next>>,
}

impl Part {
    /// A part of `length` bytes at `offset`; a length of 0 is all from the offset to the source's end. Only that the source's
    /// file still exists is checked here; the rest when the part is mapped.
    pub fn new(source: &Source, offset: usize, length: usize) -> Result<Part> {
        let file = source.file().clone();
        file.check_exists()?;
        file.opened();
        Ok(Part {
            file,
            account: source.account().clone(),
            pmem2: source.pmem2(),
            offset,
            length,
            direct: false,
            sds: None,
        })
    }

    /// A part for a mapping by the rules of 1.12.
    pub(super) fn direct(source: &Source, offset: usize, length: usize) -> Part {
        let file = source.file().clone();
        file.opened();
        Part {
            file,
            account: source.account().clone(),
            pmem2: source.pmem2(),
            offset,
            length,
            direct: true,
            sds: None,
        }
    }

    fn grows(&self) -> bool {
        if self.direct {
            self.file.grows_directly()
        } else {
            self.file.grows()
        }
    }

    fn past_end(&self, length: usize, size: u64) -> Error {
        let (offset, size) = (self.offset, size as usize);
        if self.direct && !self.file.is_device() && !self.grows() {
            return Error::FileTooSmall(offset, length, size);
        }
        Error::PastEnd(offset, length, size)
    }

    /// Whether what the kernel publishes about the medium could be found; always, where it is no persistent memory.
    pub(crate) fn facts_are_known(&self) -> bool {
        match self.file.takes_map_sync() {
            Ok(true) => self.file.region().is_some(),
            _ => true,
        }
    }

    /// What an observer is shown as the part's libpmem2 source: the program's own, or one that is made now, or 0.
    fn pmem2_source(&self) -> usize {
        if self.pmem2 != 0 {
            return self.pmem2;
        }
        let made = self.file.pmem2_source();
        // The part is mapped whether or not there is memory for this.
        made.ok().flatten().map_or(0, |source| source.as_raw())
    }

    /// The length to map, and the size that the file must grow to for it, if it must.
    fn resolve(&self) -> Result<(usize, Option<u64>)> {
        const MOST: u64 = i64::MAX as u64;
        let (file, offset) = (&self.file, self.offset);
        if offset as u64 > MOST {
            return Err(Error::InvalidOffset(offset));
        }
        let align = file.alignment();
        let size = file.size()?;
        let mut length = self.length;
        if length == 0 {
            if size == 0 {
                return Err(if self.direct {
                    Error::LengthUnset
                } else {
                    Error::EmptySource
                });
            }
            if offset % align != 0 {
                return Err(Error::OffsetUnaligned(offset, align));
            }
            if offset as u64 >= size {
                return Err(self.past_end(0, size));
            }
            length = size as usize - offset;
        }
        let end = (offset as u64)
            .checked_add(length as u64)
            .filter(|end| *end <= MOST);
        if end.is_none() && self.grows() {
            return Err(Error::CannotGrow(
                offset.saturating_add(length),
                libc::EFBIG,
            ));
        }
        if length % align != 0 {
            return Err(Error::LengthUnaligned(length, align));
        }
        if offset % align != 0 {
            return Err(Error::OffsetUnaligned(offset, align));
        }
        match end {
            Some(end) if end <= size => Ok((length, None)),
            Some(end) if self.grows() => Ok((length, Some(end))),
            _ => Err(self.past_end(length, size)),
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.file.closed();
    }
}

impl Set {
    /// Maps a part. The result is the extent of the part map: with coalescing, that of the whole run that the part joined.
    /// After a failure the set is as it was before; a file that had to grow stays grown.
    pub fn map(&self, part: &Part) -> Result<Extent> {
        self.map_then(part, |_| ())
    }

    /// As [`map`](Self::map); `then` hears of the mapping before observers do.
    pub(crate) fn map_then(&self, part: &Part, then: impl FnOnce(Extent)) -> Result<Extent> {
        let extent = self.core().map(part)?;
        if part.sds.is_some() {
            if let Some(sds) = part.account.sds() {
                self.tell_sds(&part.account, &sds);
            }
        }
        then(extent);
        if self.core().config.observer().is_some() {
            self.tell(&Event::PartAdd {
                addr: extent.addr,
                len: extent.len,
                pmem2_source: part.pmem2_source(),
            });
        }
        Ok(extent)
    }
}

impl Core {
    fn map(&self, part: &Part) -> Result<Extent> {
        let (length, growth) = part.resolve()?;
        let granularity = part.file.granularity()?;
        if granularity > self.required {
            return Err(Error::GranularityTooCoarse(self.required, granularity));
        }
        self.check_granularity(granularity)?;
        if let Some(size) = growth {
            part.file.grow(size)?;
        }
        let mut inner = self.lock();
        self.check_granularity(granularity)?;
        self.map_locked(&mut inner, part, length, granularity)
    }

    fn check_granularity(&self, granularity: Granularity) -> Result<()> {
        match self.granularity.load(Ordering::Relaxed) {
            NO_GRANULARITY => Ok(()),
            set if set == granularity as u8 => Ok(()),
            set => Err(Error::GranularityMismatch(
                Granularity::from_raw(u32::from(set)).unwrap_or(granularity),
                granularity,
            )),
        }
    }

    /// The part map of the latest mapping, or, while that is being removed, the one that takes its place then.
    fn latest(&self, inner: &Inner) -> Option<&Slot> {
        // SAFETY: slots live as long as the set.
        let slot = |entry: (usize, usize)| unsafe { &*(entry.1 as *const Slot) };
        let previous = slot((0, inner.previous?.as_ptr() as usize));
        let mut found = Some(previous);
        while let Some(claimed) = found.filter(|s| s.is_claimed()) {
            let below = self.maps.floor(claimed.start() - 1, &Locked);
            found = below.unwrap_or(None).map(slot);
        }
        if found.is_none() {
            found = Some(previous);
            while let Some(claimed) = found.filter(|s| s.is_claimed()) {
                let above = self.maps.above(claimed.start(), &Locked);
                found = above.unwrap_or(None).map(slot);
            }
        }
        found
    }

    fn map_locked(
        &self,
        inner: &mut Inner,
        part: &Part,
        len: usize,
        granularity: Granularity,
    ) -> Result<Extent> {
        let file = &part.file;
        let coalescing = self.coalescing.load(Ordering::Relaxed);
        let wish = Wish {
            len,
            offset: part.offset as u64,
            align: file.alignment(),
            full: coalescing == Coalescing::Full as u8,
            logged: granularity == Granularity::Page,
        };
        // Everything that needs memory comes before the mapping.
        inner.parts.reserve(1)?;
        inner.arena.prepare(1)?;
        self.maps.reserve(1)?;
        // SAFETY: under the set's lock.
        unsafe { Home::reserve(self.home, 1)? };
        let mut mapped = mem::try_box(Mapped::new(len, wish.offset, file.clone()))?;
        let unsettled = file.inode().is_unsettled();
        if unsettled && inner.unsettled.try_reserve(1).is_err() {
            return Err(Error::OutOfMemory("part"));
        }

        let lent = inner.arena.lent().map(Lent::begin);
        let (at, joins) = match lent {
            None => {
                let place = self.place(inner, &wish, coalescing)?;
                inner.arena.prepare_log(place.0, &wish)?;
                // SAFETY: the place is free, and the lock keeps others from it.
                unsafe { map_own(inner, part, &wish, place.0)? };
                place
            }
            Some(_alone) => loop {
                inner.arena.reserve_left(1)?;
                let place = self.place(inner, &wish, coalescing)?;
                inner.arena.prepare_log(place.0, &wish)?;
                if let Some(map) = self.map_lent(inner, part, &wish, place.0, granularity)? {
                    mapped.lent.set(Some(map));
                    break place;
                }
            },
        };
        inner.arena.take(at, len);
        let log = inner.arena.log(at);
        if let Some(log) = log {
            // SAFETY: logs live as long as the set. What a racing flush left behind here is nobody's.
            unsafe { log.as_ref() }.forget(at, len);
        }
        mapped.start = at;
        mapped.map = log;
        mapped.account = Some(part.account.clone());
        if let Some(sds) = &part.sds {
            mapped.counted = part.account.counted(sds).into();
        }
        if unsettled {
            mapped.unsettled.set(inner.unsettled.len());
            inner.unsettled.push(at);
            self.unsettled.store(true, Ordering::Release);
        }
        self.files.add(file.id());
        file.added();
        inner.parts.insert(at, Box::into_raw(mapped) as usize);
        // Nothing fails from here on. Whoever finds the part map without the lock finds the set with a granularity.
        self.granularity.store(granularity as u8, Ordering::Release);
        let writing = self.version.write();
        let extent = match joins {
            Some(map) => {
                map.set_extent(map.start(), map.size() + len);
                inner.previous = Some(NonNull::from(map));
                Extent {
                    addr: map.start(),
                    len: map.size(),
                }
            }
            None => {
                // SAFETY: under the set's lock, within a write, after the reserve above.
                let slot = unsafe { Home::make(self.home, at, len, log) };
                self.maps.insert(at, slot.as_ptr() as usize);
                inner.previous = Some(slot);
                Extent { addr: at, len }
            }
        };
        drop(writing);
        Ok(extent)
    }

    /// Where a part goes, and the part map that it joins there.
    fn place<'set>(
        &'set self,
        inner: &mut Inner,
        wish: &Wish,
        coalescing: u8,
    ) -> Result<(usize, Option<&'set Slot>)> {
        if coalescing == Coalescing::None as u8 {
            return Ok((inner.arena.place(wish)?, None));
        }
        let behind = self.latest(inner).map(|map| (map, map.end()));
        let joins =
            behind.filter(|(_, end)| end % wish.align == 0 && inner.arena.make_free(*end, wish));
        match (joins, behind) {
            (Some((map, end)), _) => Ok((end, Some(map))),
            (None, Some((_, end))) if wish.full => Err(Error::CannotCoalesce(end, wish.len)),
            _ => Ok((inner.arena.place(wish)?, None)),
        }
    }

    /// Maps a part in lent space, through libpmem2. `None` when the program was faster there.
    fn map_lent(
        &self,
        inner: &mut Inner,
        part: &Part,
        wish: &Wish,
        at: usize,
        granularity: Granularity,
    ) -> Result<Option<pmem2::Map>> {
        const WHAT: &str = "a libpmem2 reservation";
        let lent = inner.arena.lent().ok_or(Error::Pmem2Missing(WHAT))?;
        // Not the program's own source: it may be gone, though its file is open.
        let source = part.file.pmem2_source()?;
        let source = source.ok_or(Error::Pmem2Missing(WHAT))?;
        let mut stuck = None;
        let mapped = lent.map(source, at, wish, granularity, self.required, &mut stuck);
        if let Some(map) = stuck {
            inner.arena.leave(map);
        }
        mapped
    }
}

/// Maps a part over address space of the set's own.
///
/// # Safety
/// The range must be a free place of the arena, under the set's lock.
unsafe fn map_own(inner: &mut Inner, part: &Part, wish: &Wish, at: usize) -> Result<()> {
    let file = &part.file;
    let sync = file.takes_map_sync()?;
    // SAFETY: the place is reserved by the arena, and the lock keeps others from it, as the caller promises.
    unsafe { sys::map_file(Some(at), wish.len, file.fd(), wish.offset, sync) }
        .map_err(|errno| {
            // SAFETY: as above.
            unsafe { inner.arena.recover(at, wish.len, errno) };
            file.cannot_map(wish.len, errno)
        })
        .map(drop)
}
