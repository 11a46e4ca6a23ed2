//! Mapping a source without making a part of it first, as the interface of 1.12 does, with what comes with it there: the
//! source's shutdown state, its bad blocks, and events before a removal.

use std::sync::atomic::Ordering;

use super::{Core, Extent, Part, Set};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::mem::Shared;
use crate::set::part::Mapped;
use crate::source::Source;
use crate::source::sds::{Account, Sds, State};

/// Parts that have gone and counted in the shutdown state of their source, and what is to be stored for it now.
pub(super) type Uncounted = Vec<(Shared<Account>, Sds)>;

impl Set {
    /// Maps `length` bytes at `offset` of a source; a length of 0 is all from the offset to the source's end. A file that is
    /// too short grows, unless it was opened not to. `report` is told the state of a source that has a shutdown state, and the
    /// word that was given with it. From the first call on the set tells what it removes, too.
    pub fn map_source(
        &self,
        source: &Source,
        offset: usize,
        length: usize,
        report: &mut dyn FnMut(State, usize),
    ) -> Result<Extent> {
        self.map_source_then(source, offset, length, report, |_| ())
    }

    /// Removals are told from now on.
    pub(crate) fn maps_directly(&self) {
        self.core().direct.store(true, Ordering::Relaxed);
    }

    /// As [`map_source`](Self::map_source); `then` hears of the mapping before observers do.
    pub(crate) fn map_source_then(
        &self,
        source: &Source,
        offset: usize,
        length: usize,
        report: &mut dyn FnMut(State, usize),
        then: impl FnOnce(Extent),
    ) -> Result<Extent> {
        self.maps_directly();
        let core = self.core();
        let mut part = Part::direct(source, offset, length);
        let acceptable = core.config.acceptable_states();
        part.sds = source
            .account()
            .shutdown_state(source.file(), acceptable, report)?;
        self.check_bad_blocks(source)?;
        self.map_then(&part, then)
    }

    fn check_bad_blocks(&self, source: &Source) -> Result<()> {
        let (file, account) = (source.file(), source.account());
        if !account.detects_badblocks.load(Ordering::Relaxed) {
            return Ok(());
        }
        let found = file.bad_blocks()?;
        if found.is_empty() {
            return Ok(());
        }
        let left = if self.core().config.observer().is_some() {
            for bad in &found {
                self.tell(&Event::BadBlock {
                    offset: bad.offset,
                    length: bad.length,
                    source: account.handle(),
                });
            }
            file.bad_blocks()?
        } else {
            found
        };
        if let Some(first) = left.first() {
            return Err(Error::BadBlocks(first.offset, first.length));
        }
        self.tell(&Event::BadBlocksCleared {
            source: account.handle(),
        });
        Ok(())
    }

    /// Tells what is to be stored for a source.
    pub(super) fn tell_sds(&self, account: &Account, sds: &Sds) {
        self.tell(&Event::SdsUpdate {
            sds: std::ptr::from_ref(sds) as usize,
            source: account.handle(),
        });
    }

    pub(super) fn tell_uncounted(&self, uncounted: Uncounted) {
        for (account, sds) in &uncounted {
            self.tell_sds(account, sds);
        }
    }

    /// Before the set ends: no part of it counts any more.
    pub(super) fn uncount_all(&self) {
        let mut at = 0;
        while let Some((end, account, sds)) = self.core().uncount_from(at) {
            self.tell_sds(&account, &sds);
            at = end;
        }
    }
}

impl Core {
    /// Whether observers hear of removals.
    pub(super) fn tells_removals(&self) -> bool {
        self.direct.load(Ordering::Relaxed) && self.config.observer().is_some()
    }

    /// The next part from an address on that counts does not any more.
    fn uncount_from(&self, mut at: usize) -> Option<(usize, Shared<Account>, Sds)> {
        let inner = self.lock();
        while let Some(part) = inner.part_from(at) {
            at = part.start + part.len;
            if let Some((account, sds)) = uncount(part) {
                return Some((at, account, sds));
            }
        }
        None
    }
}

/// A part that goes does not count any more; if it did, what is to be stored for its source.
pub(super) fn uncount(part: &Mapped) -> Option<(Shared<Account>, Sds)> {
    let account = part.account.as_ref()?;
    match part.counted.swap(0, Ordering::Relaxed) {
        0 => None,
        number => Some((account.clone(), account.uncounted(number)?)),
    }
}
