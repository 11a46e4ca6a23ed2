//! Address space that the program has lent: a libpmem2 reservation.
//!
//! libpmem2 knows what is mapped where in it, and maps and unmaps for us. Parts of this set, of other sets and mappings of
//! the program's own are side by side in it. libpmem2 looks for mappings without a lock, and between its own two tries to
//! map a file nobody may be at work in the same reservation; so everything that this library does with one reservation is
//! serialised, over all sets of the process.

use super::Wish;
use crate::error::{Error, Result};
use crate::fork::{ForkLock, Held};
use crate::granularity::Granularity;
use crate::pmem2::{Map, Reservation, Source};
use crate::sys;

static LOCKS: [ForkLock; 16] = [const { ForkLock::new() }; 16];

/// A reservation of the program's, in which this set places its parts.
pub(crate) struct Lent {
    reservation: Reservation,
    base: usize,
    size: usize,
}

/// At work in a reservation, alone.
pub(crate) struct AtWork {
    _one: Held<'static>,
}

impl Lent {
    /// # Safety
    /// As for [`Reservation::new`].
    pub(super) unsafe fn new(address: usize) -> Result<Lent> {
        // SAFETY: as the caller promises.
        let reservation = unsafe { Reservation::new(address)? };
        let (base, size) = reservation.extent();
        Ok(Lent {
            reservation,
            base,
            size,
        })
    }

    /// Where it was and how large when the set was made.
    pub(super) fn whole(&self) -> (usize, usize) {
        (self.base, self.size)
    }

    /// Keeps all others of this library out of the reservation.
    pub(crate) fn begin(&self) -> AtWork {
        // Objects on the heap are 16 bytes apart at least.
        let index = (self.reservation.as_raw() >> 4).wrapping_mul(0x9E37_79B9) >> 8;
        AtWork {
            _one: LOCKS[index % LOCKS.len()].lock(),
        }
    }

    /// The lowest place for a part in a range where this set has nothing.
    pub(super) fn fit(&self, start: usize, end: usize, wish: &Wish) -> Result<Option<usize>> {
        // The program may have made it smaller meanwhile.
        let (base, size) = self.reservation.extent();
        let (start, end) = (start.max(base), end.min(base + size));
        let align = wish.align.max(sys::page_size());
        let mut at = start;
        loop {
            let place = at.checked_next_multiple_of(align);
            match place.and_then(|p| p.checked_add(wish.len)) {
                Some(stop) if stop <= end => at = stop - wish.len,
                _ => return Ok(None),
            }
            match self.reservation.mapping_in(at, wish.len)? {
                None => return Ok(Some(at)),
                Some((addr, len)) => {
                    // Mappings of the program may end within a page.
                    let next = (addr + len).next_multiple_of(sys::page_size());
                    at = next.max(at + 1);
                }
            }
        }
    }

    /// Whether anything is mapped at an address, by whomever.
    pub(super) fn has_mapping(&self, addr: usize) -> bool {
        let _work = self.begin();
        let page = addr / sys::page_size() * sys::page_size();
        matches!(
            self.reservation.mapping_in(page, sys::page_size()),
            Ok(Some(_))
        )
    }

    /// Maps a range of a source at a place that is free. `None` when the program was faster there.
    /// `stuck`: for a mapping that is not what was asked for and cannot be ended now.
    pub(crate) fn map(
        &self,
        source: &Source,
        at: usize,
        wish: &Wish,
        granularity: Granularity,
        required: Granularity,
        stuck: &mut Option<Map>,
    ) -> Result<Option<Map>> {
        let (len, offset) = (wish.len, wish.offset);
        let Some(map) = self.reservation.map(source, at, len, offset, required)? else {
            return Ok(None);
        };
        let found = map.granularity();
        if found == Some(granularity) && map.extent() == (at, len) {
            return Ok(Some(map));
        }
        *stuck = Some(map);
        // It is the mismatch that is told: what cannot be ended stays in the reservation, out of
        // the way, for another try.
        match (Map::delete(stuck), found) {
            (_, Some(found)) if found != granularity => {
                Err(Error::GranularityMismatch(granularity, found))
            }
            (Err(e), _) => Err(e),
            (Ok(()), _) => Err(Error::CannotFit(len)),
        }
    }
}
