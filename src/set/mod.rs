//! Sets: placing parts, finding them by address, making stores to them durable, removing them.

mod direct;
pub(crate) mod index;
mod mapping;
pub(crate) mod part;
pub(crate) mod part_map;
mod removal;
mod store;

use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard};

use crate::arena::Arena;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::file::durability::{self, Filter};
use crate::granularity::Granularity;
use crate::mem::{self, lock};
use crate::order;
use crate::persist::dirty::DirtyMap as Log;
use crate::persist::drain::{self, Drains};
use crate::persist::range::FileRange;
use crate::sys;
use index::{Check, Locked, Tree, Version};
pub use mapping::Part;
use part::Mapped;
use part_map::{Home, Slot, Taken};
pub use store::{Copying, Flags};

/// Whether and how new parts join the part map of the part that was mapped before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Coalescing {
    /// Every part has a part map of its own.
    #[default]
    None = 0,
    /// A part is placed right behind the previous part map, and joins it, if there is room; else anywhere.
    Opportunistic = 1,
    /// A part is placed right behind the previous part map, or not at all.
    Full = 2,
}

impl Coalescing {
    /// The coalescing with this number in the C interface.
    pub fn from_raw(value: u32) -> Option<Self> {
        [
            Coalescing::None,
            Coalescing::Opportunistic,
            Coalescing::Full,
        ]
        .into_iter()
        .find(|c| *c as u32 == value)
    }
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first address.
    pub addr: usize,
    /// Bytes.
    pub len: usize,
}

/// How often a reader tries without the lock before it takes it.
const TRIES: usize = 100;

const NO_GRANULARITY: u8 = u8::MAX;

/// What a set is. Reached through [`Set`].
pub(crate) struct Core {
    config: Config,
    required: Granularity,
    coalescing: AtomicU8,
    /// That of the first part, or NO_GRANULARITY.
    granularity: AtomicU8,
    /// Every flush syncs, as PMEMSET_EAGER_FLUSH=1 asks.
    eager: bool,
    /// Finding: part maps by address, read without the lock.
    version: Version,
    maps: Tree,
    home: NonNull<Home>,
    /// Placing.
    inner: Mutex<Inner>,
    /// Persisting at PAGE granularity.
    drains: Drains,
    /// The files of which parts have been mapped.
    files: Filter,
    /// A part's file may have an entry or a size that is not durable yet: there are parts in `Inner::unsettled`.
    unsettled: AtomicBool,
    /// Sources have been mapped directly: removals are told.
    direct: AtomicBool,
    /// Failures of calls that could not return them, by thread.
    unreported: store::Unreported,
}

// SAFETY: what is not Sync by itself (the home of the part maps, raw pointers to parts and logs) is only changed under
// `inner`, and read by others as the modules that own it describe.
unsafe impl Send for Core {}
// SAFETY: as above.
unsafe impl Sync for Core {}

/// What the set's lock protects.
pub(crate) struct Inner {
    arena: Arena,
    /// Parts by address; the values are boxes of [`Mapped`].
    parts: Tree,
    /// The part map of the latest mapping.
    previous: Option<NonNull<Slot>>,
    /// Where parts were mapped whose files were unsettled. Each knows its place in this list.
    unsettled: Vec<usize>,
}

// SAFETY: the pointers are to objects of the set, which are only touched as `Core` describes.
unsafe impl Send for Inner {}

/// The set is locked, until this is dropped. The thread is not cancelled meanwhile.
pub(crate) struct Guard<'a> {
    // Dropped before the thread may be cancelled again.
    inner: MutexGuard<'a, Inner>,
    _uncancelled: sys::Uncancelled,
}

impl Deref for Guard<'_> {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.inner
    }
}

impl DerefMut for Guard<'_> {
    fn deref_mut(&mut self) -> &mut Inner {
        &mut self.inner
    }
}

impl Inner {
    fn mapped(&self, entry: (usize, usize)) -> &Mapped {
        // SAFETY: the tree's values are boxes of parts, freed when they leave it, under the lock that `self` stands for.
        unsafe { &*(entry.1 as *const Mapped) }
    }

    /// The first part that ends behind an address.
    fn part_from(&self, addr: usize) -> Option<&Mapped> {
        if let Ok(Some(entry)) = self.parts.floor(addr, &Locked) {
            let part = self.mapped(entry);
            if addr - part.start < part.len {
                return Some(part);
            }
        }
        let above = self.parts.above(addr, &Locked).unwrap_or(None);
        above.map(|entry| self.mapped(entry))
    }
}

impl Inner {
    /// The part that has an address.
    fn part_at(&self, addr: usize) -> Option<&Mapped> {
        self.part_from(addr).filter(|part| part.start <= addr)
    }

    /// Takes a part out of the list of those whose files were unsettled.
    fn settled(&mut self, place: usize) {
        self.unsettled.swap_remove(place);
        if let Some(start) = self.unsettled.get(place) {
            if let Some(moved) = self.part_at(*start) {
                moved.unsettled.set(place);
            }
        }
    }
}

impl drain::Parts for Inner {
    fn each_map(&self, visit: &mut dyn FnMut(&Log)) {
        self.arena.logs().for_each(visit);
    }

    fn catch_up(&self, map: &Log, lo: usize, hi: usize) {
        if durability::ledger().is_none_or(|ledger| !ledger.has_failures()) {
            return;
        }
        let mut at = lo;
        while at < hi {
            let Some((addr, _)) = map.first_marked(at, hi - at) else {
                return;
            };
            at = match self.part_at(addr) {
                Some(part) => {
                    part.catch_up();
                    part.end()
                }
                None => addr + sys::page_size(),
            };
        }
    }

    fn file_range(&self, map: &Log, addr: usize, end: usize) -> Option<FileRange> {
        Some(self.part_at(addr)?.file_range(map, addr, end))
    }

    fn lost_by(&self, addr: usize, errno: sys::Errno) {
        if let Some(part) = self.part_at(addr) {
            part.lost_by(errno);
        }
    }

    fn errno(&self, addr: usize) -> sys::Errno {
        self.part_at(addr).map_or(libc::EIO, Mapped::errno)
    }
}

/// A set: parts of sources mapped into one arena of addresses, and the one way in which stores to them become durable.
///
/// Every method may be called from any thread. Dropping a set syncs what has been flushed and unmaps everything; use
/// [`delete`](Set::delete) to hear whether that worked.
pub struct Set {
    core: NonNull<Core>,
}

// SAFETY: the core is Send and Sync, and owned.
unsafe impl Send for Set {}
// SAFETY: as above.
unsafe impl Sync for Set {}

impl Set {
    pub(crate) fn core(&self) -> &Core {
        // SAFETY: the core lives until the set is deleted.
        unsafe { self.core.as_ref() }
    }

    /// A set with nothing mapped.
    pub fn new(config: &Config) -> Result<Set> {
        let required = config
            .required_granularity()
            .ok_or(Error::GranularityNotSet)?;
        order::look();
        let maps = Tree::new()?;
        let parts = Tree::new()?;
        let arena = match config.reservation() {
            0 => Arena::new()?,
            // SAFETY: promised where it was set.
            reservation => unsafe { Arena::new_lent(reservation)? },
        };
        let home = Home::new()?;
        let core = mem::try_box(Core {
            config: config.clone(),
            required,
            coalescing: AtomicU8::new(Coalescing::None as u8),
            granularity: AtomicU8::new(NO_GRANULARITY),
            eager: sys::secure_env(c"PMEMSET_EAGER_FLUSH", |v| v == b"1").unwrap_or(false),
            version: Version::default(),
            maps,
            home,
            inner: Mutex::new(Inner {
                arena,
                parts,
                previous: None,
                unsettled: Vec::new(),
            }),
            drains: Drains::new(),
            files: Filter::default(),
            unsettled: AtomicBool::new(false),
            direct: AtomicBool::new(false),
            unreported: Default::default(),
        });
        match core {
            Ok(core) => Ok(Set {
                core: NonNull::from(Box::leak(core)),
            }),
            Err(e) => {
                // SAFETY: made above, and nobody has seen it.
                unsafe { Home::abandon(home) };
                Err(e)
            }
        }
    }

    /// Syncs what has been flushed, unmaps everything and frees the set. The result is that of the sync.
    pub fn delete(self) -> Result<()> {
        let mut this = ManuallyDrop::new(self);
        this.end()
    }

    fn end(&mut self) -> Result<()> {
        let mut result = self.core().sync_all();
        if self.core().direct.load(Ordering::Relaxed) {
            self.uncount_all();
            // An observer may have stored once more.
            result = result.and(self.core().sync_all());
        }
        // SAFETY: the set is the caller's alone: the box goes, and nobody uses what it has mapped any more.
        unsafe {
            let mut core = Box::from_raw(self.core.as_ptr());
            let home = core.home;
            let inner = core
                .inner
                .get_mut()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let unmapped = removal::unmap_lent_all(inner);
            inner.arena.release();
            inner.parts.walk(0, |_, part| {
                let part = Box::from_raw(part as *mut Mapped);
                part.file.removed();
                true
            });
            Home::abandon(home);
            result.and(unmapped)
        }
    }

    /// The set as a pointer for C, to be turned back by [`from_raw`](Self::from_raw).
    pub(crate) fn into_raw(self) -> NonNull<Core> {
        ManuallyDrop::new(self).core
    }

    /// The same, without giving the set away.
    pub(crate) fn as_raw(&self) -> NonNull<Core> {
        self.core
    }

    /// The set that a pointer stands for, lent.
    ///
    /// # Safety
    /// The pointer must come from [`into_raw`](Self::into_raw), and the set must not have been deleted.
    pub(crate) unsafe fn from_raw(core: NonNull<Core>) -> ManuallyDrop<Set> {
        ManuallyDrop::new(Set { core })
    }

    /// Sets how parts that are mapped from now on are placed.
    pub fn set_coalescing(&self, coalescing: Coalescing) {
        self.core()
            .coalescing
            .store(coalescing as u8, Ordering::Relaxed);
    }

    /// The set's store granularity: that of the first part that was mapped.
    pub fn granularity(&self) -> Result<Granularity> {
        Granularity::from_raw(u32::from(self.core().granularity.load(Ordering::Acquire)))
            .ok_or(Error::NoPartMapped)
    }

    /// The part map that contains an address. It cannot be removed while this reference is held.
    pub fn part_map(&self, addr: usize) -> Result<PartMap<'_>> {
        self.core().find(addr).map(PartMap::new)
    }

    /// The part map with the lowest address. None is found that has 2^28 references already, which
    /// [`part_map`](Self::part_map) returns as an error.
    pub fn first(&self) -> Option<PartMap<'_>> {
        let found = self.core().find_above(0).ok()?;
        found.map(PartMap::new)
    }

    /// The part map behind another in address order, as [`first`](Self::first) finds it.
    pub fn next(&self, current: &PartMap<'_>) -> Option<PartMap<'_>> {
        let found = self.core().find_above(current.extent().addr).ok()?;
        found.map(PartMap::new)
    }

    /// All part maps, in address order. Those that come and go meanwhile may be among them or not.
    pub fn part_maps(&self) -> impl Iterator<Item = PartMap<'_>> {
        let mut above = 0;
        std::iter::from_fn(move || {
            let map = PartMap::new(self.core().find_above(above).ok()??);
            above = map.extent().addr;
            Some(map)
        })
    }

    pub(crate) fn tell(&self, event: &Event) {
        self.core().config.observer().tell(self, event);
    }
}

impl Drop for Set {
    fn drop(&mut self) {
        // A destructor has nobody to tell; `delete` has.
        let _ = self.end();
    }
}

impl Core {
    pub(crate) fn lock(&self) -> Guard<'_> {
        let uncancelled = sys::Uncancelled::new();
        let inner = lock(&self.inner);
        order::takes(&self.version);
        Guard {
            inner,
            _uncancelled: uncancelled,
        }
    }

    /// Finds a part map and takes a reference to it, without the lock as long as that works.
    #[inline]
    pub(crate) fn find(&self, addr: usize) -> Result<NonNull<Slot>> {
        for _ in 0..TRIES {
            let Some(reading) = self.version.begin() else {
                std::hint::spin_loop();
                continue;
            };
            let Ok(entry) = self.maps.floor(addr, &reading) else {
                continue;
            };
            if let Some(found) = self.take(entry, addr, &reading) {
                return found;
            }
        }
        self.find_locked(addr)
    }

    /// `None`: begin again.
    #[inline]
    fn take(
        &self,
        entry: Option<(usize, usize)>,
        addr: usize,
        check: &impl Check,
    ) -> Option<Result<NonNull<Slot>>> {
        let not_found = || Some(Err(Error::PartMapNotFound(addr)));
        let Some(slot) = entry.and_then(|e| NonNull::new(e.1 as *mut Slot)) else {
            return not_found();
        };
        // SAFETY: slots live as long as the set, and longer.
        let s = unsafe { slot.as_ref() };
        let word = s.check_in();
        let inside = s.contains(addr);
        if !check.holds() {
            return None;
        }
        if !inside {
            return not_found();
        }
        match word.take() {
            Taken::Yes => Some(Ok(slot)),
            Taken::Changed | Taken::Claimed => None,
            Taken::Full => Some(Err(Error::TooManyReferences(s.start()))),
        }
    }

    #[cold]
    fn find_locked(&self, addr: usize) -> Result<NonNull<Slot>> {
        let _inner = self.lock();
        let entry = self.maps.floor(addr, &Locked).unwrap_or(None);
        self.take(entry, addr, &Locked)
            .unwrap_or(Err(Error::PartMapNotFound(addr)))
    }

    /// Finds the part map with the smallest address above `addr` and takes a reference. One to which
    /// none can be taken ends a walk: it must not be passed over.
    #[inline]
    pub(crate) fn find_above(&self, addr: usize) -> Result<Option<NonNull<Slot>>> {
        for _ in 0..TRIES {
            let Some(reading) = self.version.begin() else {
                std::hint::spin_loop();
                continue;
            };
            let Ok(entry) = self.maps.above(addr, &reading) else {
                continue;
            };
            let Some((start, _)) = entry else {
                return Ok(None);
            };
            if let Some(found) = self.take(entry, start, &reading) {
                return found.map(Some);
            }
        }
        let _inner = self.lock();
        let mut at = addr;
        loop {
            let entry = self.maps.above(at, &Locked).unwrap_or(None);
            let Some((start, _)) = entry else {
                return Ok(None);
            };
            // One that is being removed is passed over.
            if let Some(found) = self.take(entry, start, &Locked) {
                return found.map(Some);
            }
            at = start;
        }
    }

    /// The extent of the part map at an address and the log of flushes to it, without a reference.
    #[inline]
    pub(crate) fn extent_at(&self, addr: usize) -> Option<(Extent, Option<NonNull<Log>>)> {
        for _ in 0..TRIES {
            let Some(reading) = self.version.begin() else {
                std::hint::spin_loop();
                continue;
            };
            let Ok(entry) = self.maps.floor(addr, &reading) else {
                continue;
            };
            let found = extent_of(entry, addr);
            if reading.holds() {
                return found;
            }
        }
        let _inner = self.lock();
        extent_of(self.maps.floor(addr, &Locked).unwrap_or(None), addr)
    }
}

#[inline]
fn extent_of(entry: Option<(usize, usize)>, addr: usize) -> Option<(Extent, Option<NonNull<Log>>)> {
    let slot = NonNull::new(entry?.1 as *mut Slot)?;
    // SAFETY: the entry was read consistently, so it is a slot; slots live as long as the set.
    let s = unsafe { slot.as_ref() };
    s.contains(addr).then(|| {
        let extent = Extent {
            addr: s.start(),
            len: s.size(),
        };
        (extent, s.log())
    })
}

/// A reference to a part map. The part map stays mapped, where it is, while the reference is held; it may become longer.
pub struct PartMap<'set> {
    slot: NonNull<Slot>,
    set: PhantomData<&'set Set>,
}

// SAFETY: a slot is all atomics.
unsafe impl Send for PartMap<'_> {}
// SAFETY: as above.
unsafe impl Sync for PartMap<'_> {}

impl PartMap<'_> {
    fn new(slot: NonNull<Slot>) -> Self {
        PartMap {
            slot,
            set: PhantomData,
        }
    }

    fn slot(&self) -> &Slot {
        // SAFETY: this reference keeps the slot.
        unsafe { self.slot.as_ref() }
    }

    /// Where the part map is at this moment.
    pub fn extent(&self) -> Extent {
        Extent {
            addr: self.slot().start(),
            len: self.slot().size(),
        }
    }

    /// The first byte. Others may store to the same memory at the same time, in other processes even: use volatile or atomic
    /// access, or the set's copies, and never form a reference into it.
    pub fn as_ptr(&self) -> *mut u8 {
        self.extent().addr as *mut u8
    }
}

impl Drop for PartMap<'_> {
    fn drop(&mut self) {
        // SAFETY: this reference keeps the slot.
        unsafe { Slot::drop_reference(self.slot) };
    }
}
