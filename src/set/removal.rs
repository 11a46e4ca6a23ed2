//! Removing part maps and parts.

use std::ptr::NonNull;

use super::index::Locked;
use super::part_map::{Home, Slot};
use super::{Core, Inner, PartMap, Set};
use crate::arena::Lent;
use crate::error::{Error, Result};
use crate::mem;
use crate::pmem2::Map;
use crate::source::Mapped;
use crate::sys;

impl Set {
    /// Removes a part map whose only reference is this one: syncs what has been flushed to it, unmaps it and frees its
    /// addresses. After a failure it is as it was before and the reference comes back.
    pub fn remove<'set>(
        &'set self,
        map: PartMap<'set>,
    ) -> std::result::Result<(), (PartMap<'set>, Error)> {
        match self.core().remove_map(map.slot) {
            Ok(()) => {
                // The reference went with the part map.
                std::mem::forget(map);
                Ok(())
            }
            Err(e) => Err((map, e)),
        }
    }

    /// Removes every part that has a byte in the range, splitting part maps where needed: all of them, or, after a
    /// failure, none. A range that touches nothing is no failure.
    pub fn remove_range(&self, addr: usize, len: usize) -> Result<()> {
        self.core().remove_range(addr, len)
    }
}

/// What is to be removed.
struct Plan {
    /// From the first part's start to the last part's end.
    lo: usize,
    hi: usize,
    /// Pieces of that which are in one piece of the arena each.
    spans: Vec<(usize, usize)>,
}

impl Core {
    /// Removes the part map in a slot, to which the caller holds the only reference.
    pub(crate) fn remove_map(&self, slot: NonNull<Slot>) -> Result<()> {
        loop {
            let mut inner = self.lock();
            // SAFETY: the caller's reference keeps the slot.
            let s = unsafe { slot.as_ref() };
            if !s.lives_in(self.home) {
                return Err(Error::PartNotFound);
            }
            if s.references() != 1 {
                let others = (s.references() as u32).saturating_sub(1);
                return Err(Error::PartMapInUse(s.start(), others));
            }
            let (lo, hi) = (s.start(), s.end());
            if self.remove_locked(&mut inner, lo, hi, Some(slot))? {
                return Ok(());
            }
            drop(inner);
            self.sync_addresses(lo, hi)?;
        }
    }

    fn remove_range(&self, addr: usize, len: usize) -> Result<()> {
        let end = addr.saturating_add(len);
        if len == 0 {
            return Ok(());
        }
        loop {
            let mut inner = self.lock();
            let Some((lo, hi)) = touched(&inner, addr, end) else {
                return Ok(());
            };
            if self.remove_locked(&mut inner, lo, hi, None)? {
                return Ok(());
            }
            drop(inner);
            self.sync_addresses(lo, hi)?;
        }
    }

    /// Removes the parts of `lo..hi`, whose ends are ends of parts. `held`: the part map to which the caller has a
    /// reference. False when something there has to be synced first, without the lock.
    fn remove_locked(
        &self,
        inner: &mut Inner,
        lo: usize,
        hi: usize,
        held: Option<NonNull<Slot>>,
    ) -> Result<bool> {
        for slot in self.maps_in(lo, hi) {
            let held = held == Some(NonNull::from(slot));
            if slot.references() != usize::from(held) {
                return Err(Error::PartMapInUse(slot.start(), slot.references() as u32));
            }
        }
        if self.engine.is_busy(inner, lo, hi) {
            return Ok(false);
        }
        let plan = plan(inner, lo, hi)?;
        self.maps.reserve(2)?;
        inner.arena.prepare(plan.spans.len())?;
        // SAFETY: under the set's lock.
        unsafe { Home::reserve(self.home, 1)? };

        let mut claimed = lo;
        let mut result = Ok(true);
        for slot in self.maps_in(lo, hi) {
            if let Err(e) = slot.claim(usize::from(held == Some(NonNull::from(slot)))) {
                result = Err(e);
                break;
            }
            claimed = slot.end();
        }
        if result.is_ok() && self.engine.is_busy(inner, lo, hi) {
            result = Ok(false);
        }
        if matches!(result, Ok(true)) {
            let unmapped = match inner.arena.lent() {
                None => unmap(inner, &plan),
                Some(_) => unmap_lent(inner, lo, hi),
            };
            if let Err(e) = unmapped {
                result = Err(e);
            }
        }
        if !matches!(result, Ok(true)) {
            for slot in self.maps_in(lo, claimed) {
                slot.unclaim(false);
            }
            return result;
        }
        self.forget(inner, &plan);
        Ok(true)
    }

    /// The part maps that have an address in the range.
    fn maps_in(&self, lo: usize, hi: usize) -> impl Iterator<Item = &Slot> {
        let first = match self.maps.floor(lo, &Locked) {
            // SAFETY: slots live as long as the set.
            Ok(Some((_, slot))) => Some(unsafe { &*(slot as *const Slot) }),
            _ => None,
        };
        let mut at = match first.filter(|s| s.contains(lo)) {
            Some(s) => s.start() - 1,
            None => lo - 1,
        };
        std::iter::from_fn(move || {
            let (start, slot) = self.maps.above(at, &Locked).ok()??;
            if start >= hi {
                return None;
            }
            at = start;
            // SAFETY: slots live as long as the set.
            Some(unsafe { &*(slot as *const Slot) })
        })
    }

    /// Takes what has been unmapped out of all structures.
    fn forget(&self, inner: &mut Inner, plan: &Plan) {
        let (lo, hi) = (plan.lo, plan.hi);
        let writing = self.version.write();
        let mut role_is_free = false;
        while let Some(slot) = self.maps_in(lo, hi).next() {
            let (start, end) = (slot.start(), slot.end());
            let this = NonNull::from(slot);
            if start < lo {
                slot.set_extent(start, lo - start);
                if end > hi {
                    // SAFETY: under the set's lock, within a write, after a reserve.
                    let upper = unsafe { Home::make(self.home, hi, end - hi, slot.log()) };
                    self.maps.insert(hi, upper.as_ptr() as usize);
                }
                slot.unclaim(true);
                continue;
            }
            self.maps.remove(start);
            if end > hi {
                slot.set_extent(hi, end - hi);
                self.maps.insert(hi, this.as_ptr() as usize);
                slot.unclaim(true);
                break;
            }
            if inner.previous == Some(this) {
                role_is_free = true;
            }
            // SAFETY: under the set's lock; it is in the index no more.
            unsafe { Home::recycle(self.home, this) };
        }
        drop(writing);
        if role_is_free {
            let below = self.maps.floor(lo, &Locked).unwrap_or(None);
            let above = || self.maps.above(lo, &Locked).unwrap_or(None);
            inner.previous = below
                .or_else(above)
                .and_then(|(_, slot)| NonNull::new(slot as *mut Slot));
        }
        while let Some(start) = first_part(inner, lo, hi) {
            if let Some(part) = inner.parts.remove(start) {
                // SAFETY: the tree's values are boxes, and this one is in it no more.
                let part = unsafe { Box::from_raw(part as *mut Mapped) };
                part.file.removed(&part);
            }
        }
    }
}

fn first_part(inner: &Inner, lo: usize, hi: usize) -> Option<usize> {
    let part = inner.part_from(lo)?;
    (part.start < hi).then_some(part.start)
}

/// The range of the parts that have a byte in `addr..end`.
fn touched(inner: &Inner, addr: usize, end: usize) -> Option<(usize, usize)> {
    let lo = first_part(inner, addr, end)?;
    let (start, last) = inner.parts.floor(end - 1, &Locked).ok()??;
    Some((lo, start + inner.mapped((start, last)).len))
}

fn plan(inner: &Inner, lo: usize, hi: usize) -> Result<Plan> {
    let mut spans = Vec::new();
    let mut at = lo;
    while let Some(part) = inner.part_from(at).filter(|p| p.start < hi) {
        let limit = inner.arena.piece_end(part.start).min(hi);
        let (start, last) = inner
            .parts
            .floor(limit - 1, &Locked)
            .unwrap_or(None)
            .ok_or(Error::PartNotFound)?;
        let end = start + inner.mapped((start, last)).len;
        mem::try_push(&mut spans, (part.start, end))?;
        at = end;
    }
    Ok(Plan { lo, hi, spans })
}

/// Turns the spans back into reserved address space, all or, after a failure, none.
fn unmap(inner: &mut Inner, plan: &Plan) -> Result<()> {
    let no_room = |(lo, hi): (usize, usize), e| Error::NoRoom(hi - lo, e);
    if plan.spans.len() > 1 {
        // What can fail is splitting address ranges at the ends of a span, for lack of ranges. So split first: after
        // that every span is made of whole ranges.
        for (i, span) in plan.spans.iter().enumerate() {
            if let Err(e) = sys::split_off(span.0, span.1 - span.0) {
                for done in &plan.spans[..i] {
                    sys::split_undo(done.0, done.1 - done.0);
                }
                return Err(no_room(*span, e));
            }
        }
    }
    for (i, span) in plan.spans.iter().enumerate() {
        let (lo, hi) = inner.arena.reserve_span(span.0, span.1);
        // SAFETY: the parts are the set's own, mapped over its arena, with nobody holding a reference.
        match unsafe { sys::reserve_over(lo, hi - lo) } {
            Ok(()) => inner.arena.give(span.0, span.1),
            // At the limit of ranges the kernel refuses every mmap; it still unmaps what is whole ranges. What is gone
            // then is reserved again, unless somebody was faster.
            // SAFETY: as above.
            Err(libc::ENOMEM) if unsafe { sys::unmap(span.0, span.1 - span.0) } => {
                if sys::reserve_at(span.0, span.1 - span.0).is_ok() {
                    inner.arena.give(span.0, span.1);
                } else {
                    inner.arena.lost(span.0, span.1 - span.0);
                }
            }
            Err(e) if i == 0 => {
                for span in plan.spans.iter().filter(|_| plan.spans.len() > 1) {
                    sys::split_undo(span.0, span.1 - span.0);
                }
                return Err(no_room(*span, e));
            }
            // Not seen to happen after the split; the range stays mapped until the set goes, and is not used again.
            Err(_) => {}
        }
    }
    Ok(())
}

/// Ends the mappings in lent space, all or, after a failure, none.
fn unmap_lent(inner: &mut Inner, lo: usize, hi: usize) -> Result<()> {
    let Some(_alone) = inner.arena.lent().map(Lent::begin) else {
        return Ok(());
    };
    let count = parts_in(inner, lo, hi).count();
    inner.arena.reserve_left(count)?;
    // libpmem2 maps a placeholder over each. What can fail is splitting address ranges at the ends of a part, for lack of
    // ranges. So split first: every second part is marked, and after that each is made of whole ranges.
    if count > 1 {
        for part in parts_in(inner, lo, hi).step_by(2) {
            if let Err(e) = sys::split_off(part.start, part.len) {
                let error = Error::NoRoom(part.len, e);
                undo_split(inner, lo, part.start);
                return Err(error);
            }
        }
    }
    for (i, part) in parts_in(inner, lo, hi).enumerate() {
        let mut map = part.map.take();
        let deleted = Map::delete(&mut map);
        part.map.set(map);
        match deleted {
            Err(e) if i == 0 => {
                if count > 1 {
                    undo_split(inner, lo, hi);
                }
                return Err(e);
            }
            _ => {}
        }
    }
    let mut at = lo;
    while let Some(part) = inner.part_from(at).filter(|p| p.start < hi) {
        at = part.start + part.len;
        // Not seen to happen after the split. libpmem2 knows it, so nothing is placed there; the set's end tries again.
        if let Some(map) = part.map.take() {
            inner.arena.leave(map);
        }
    }
    inner.arena.give(lo, hi);
    Ok(())
}

fn parts_in(inner: &Inner, lo: usize, hi: usize) -> impl Iterator<Item = &Mapped> {
    let mut at = lo;
    std::iter::from_fn(move || {
        let part = inner.part_from(at).filter(|p| p.start < hi)?;
        at = part.start + part.len;
        Some(part)
    })
}

fn undo_split(inner: &Inner, lo: usize, hi: usize) {
    for part in parts_in(inner, lo, hi).step_by(2) {
        sys::split_undo(part.start, part.len);
    }
}

/// At the end of a set: ends all its mappings in lent space. Those that cannot be ended stay.
pub(super) fn unmap_lent_all(inner: &mut Inner) -> Result<()> {
    let Some(_alone) = inner.arena.lent().map(Lent::begin) else {
        return Ok(());
    };
    loop {
        let mut result = Ok(());
        let mut any = inner.arena.end_left();
        for part in parts_in(inner, 0, usize::MAX) {
            let mut map = part.map.take();
            let had = map.is_some();
            match Map::delete(&mut map) {
                Ok(()) => any |= had,
                Err(e) => result = Err(e),
            }
            part.map.set(map);
        }
        // What failed for lack of address ranges may work now that there are fewer.
        if result.is_ok() || !any {
            return result;
        }
    }
}
