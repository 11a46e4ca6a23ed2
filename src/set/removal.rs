//! Removing part maps and parts.

use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use super::direct::{Uncounted, uncount};
use super::index::Locked;
use super::part_map::{Home, Slot};
use super::{Core, Inner, PartMap, Set};
use crate::arena::Lent;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::mem::{self, Shared};
use crate::pmem2::Map;
use crate::set::part::Mapped;
use crate::source::sds::Account;
use crate::sys;

impl Set {
    /// Removes a part map whose only reference is this one: syncs what has been flushed to it, unmaps it and frees its
    /// addresses. After a failure it is as it was before and the reference comes back.
    pub fn remove<'set>(
        &'set self,
        map: PartMap<'set>,
    ) -> std::result::Result<(), (PartMap<'set>, Error)> {
        match self.remove_slot(map.slot) {
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
        if self.core().tells_removals() {
            return self.remove_and_tell(What::Range(addr, len));
        }
        self.core().remove_range(addr, len)
    }

    /// Removes the part map in a slot, to which the caller holds the only reference.
    pub(crate) fn remove_slot(&self, slot: NonNull<Slot>) -> Result<()> {
        if self.core().tells_removals() {
            return self.remove_and_tell(What::Map(slot));
        }
        self.core().remove_map(slot)
    }

    /// A removal with observers, who are told with no lock held. What goes as a whole is claimed meanwhile: it is not found
    /// any more, nobody maps behind it or removes it, and it can be flushed to. After a failure the claims are taken back.
    fn remove_and_tell(&self, what: What) -> Result<()> {
        let core = self.core();
        if core.targets(what, false)?.is_empty() {
            return Ok(());
        }
        if let What::Range(addr, len) = what {
            self.tell(&Event::RemoveRange { addr, len });
        }
        let targets = core.targets(what, true)?;
        for t in targets.iter().filter(|t| t.whole) {
            self.tell(&Event::PartRemove {
                addr: t.lo,
                len: t.hi - t.lo,
                source: t.account.as_ref().map_or(0, |account| account.handle()),
            });
        }
        let uncounted = core.remove_targets(what, &targets)?;
        self.tell_uncounted(uncounted);
        Ok(())
    }
}

/// What a caller wants removed.
#[derive(Clone, Copy)]
enum What {
    /// The part map in a slot, to which it has the only reference.
    Map(NonNull<Slot>),
    /// So many bytes from an address on.
    Range(usize, usize),
}

impl What {
    fn held(self) -> Option<NonNull<Slot>> {
        match self {
            What::Map(slot) => Some(slot),
            What::Range(..) => None,
        }
    }
}

/// A part map that goes, or a range of parts of one.
struct Target {
    slot: NonNull<Slot>,
    lo: usize,
    hi: usize,
    whole: bool,
    generation: usize,
    /// The first part's.
    account: Option<Shared<Account>>,
}

/// What is to be removed.
struct Plan {
    /// Pieces of it which are in one piece of the arena each, and consist of parts and free places
    /// alone.
    spans: Vec<(usize, usize)>,
    /// How many runs of parts with nothing between them there are.
    runs: usize,
    /// Room for what observers will be told of the parts that count in the shutdown state of their source.
    uncounted: Uncounted,
}

impl Core {
    fn remove_map(&self, slot: NonNull<Slot>) -> Result<()> {
        loop {
            let mut inner = self.lock();
            // SAFETY: the caller's reference keeps the slot.
            let s = unsafe { slot.as_ref() };
            if !s.lives_in(self.home) {
                return Err(Error::PartNotFound);
            }
            let (lo, hi) = (s.start(), s.end());
            if self
                .remove_locked(&mut inner, &[(lo, hi)], Some(slot), false)?
                .is_some()
            {
                return Ok(());
            }
            drop(inner);
            self.sync_for_removal(lo, hi)?;
        }
    }

    /// The part maps, or parts of them, that are to go, once nothing of them waits to be synced. `claim`: those that go as a
    /// whole are claimed, all or, after a failure, none.
    fn targets(&self, what: What, claim: bool) -> Result<Vec<Target>> {
        loop {
            let inner = self.lock();
            let (lo, hi) = match what {
                What::Map(slot) => {
                    // SAFETY: the caller's reference keeps the slot.
                    let s = unsafe { slot.as_ref() };
                    if !s.lives_in(self.home) {
                        return Err(Error::PartNotFound);
                    }
                    (s.start(), s.end())
                }
                What::Range(_, 0) => return Ok(Vec::new()),
                What::Range(addr, len) => match touched(&inner, addr, addr.saturating_add(len)) {
                    Some(range) => range,
                    None => return Ok(Vec::new()),
                },
            };
            let mut targets = Vec::new();
            for slot in self.maps_in(lo, hi) {
                let allowed = usize::from(what.held() == Some(NonNull::from(slot)));
                let others = slot.references().saturating_sub(allowed);
                if slot.is_claimed() {
                    return Err(Error::PartMapBeingRemoved(slot.start()));
                }
                if others > 0 {
                    return Err(Error::PartMapInUse(slot.start(), others as u32));
                }
                let from = lo.max(slot.start());
                let to = hi.min(slot.end());
                let part = inner.part_from(from).ok_or(Error::PartNotFound)?;
                let target = Target {
                    slot: NonNull::from(slot),
                    lo: from,
                    hi: to,
                    whole: to - from == slot.size(),
                    generation: slot.generation(),
                    account: part.account.clone(),
                };
                mem::try_push(&mut targets, target)?;
            }
            if self.drains.is_busy(&*inner, lo, hi) {
                drop(inner);
                self.sync_for_removal(lo, hi)?;
                continue;
            }
            self.refuse_once(&inner, &[(lo, hi)])?;
            if claim {
                for (i, t) in targets.iter().enumerate().filter(|(_, t)| t.whole) {
                    // SAFETY: slots live as long as the set.
                    let claimed =
                        unsafe { t.slot.as_ref() }.claim(usize::from(what.held() == Some(t.slot)));
                    if let Err(e) = claimed {
                        unclaim(&targets[..i]);
                        return Err(e);
                    }
                }
            }
            return Ok(targets);
        }
    }

    /// Removes what has been claimed, and the parts of other part maps that go with it.
    fn remove_targets(&self, what: What, targets: &[Target]) -> Result<Uncounted> {
        let result = (|| {
            let mut ranges: Vec<(usize, usize)> = Vec::new();
            for t in targets {
                match ranges.last_mut() {
                    Some(last) if last.1 == t.lo => last.1 = t.hi,
                    _ => mem::try_push(&mut ranges, (t.lo, t.hi))?,
                }
            }
            loop {
                let mut inner = self.lock();
                for t in targets.iter().filter(|t| !t.whole) {
                    // SAFETY: slots live as long as the set.
                    let slot = unsafe { t.slot.as_ref() };
                    if !slot.lives_in(self.home) || slot.generation() != t.generation {
                        // Somebody else removes parts of it at the same time.
                        return Err(Error::PartMapBeingRemoved(t.lo));
                    }
                }
                if let Some(uncounted) =
                    self.remove_locked(&mut inner, &ranges, what.held(), true)?
                {
                    return Ok(uncounted);
                }
                drop(inner);
                for t in targets {
                    self.sync_for_removal(t.lo, t.hi)?;
                }
            }
        })();
        if result.is_err() {
            let _inner = self.lock();
            unclaim(targets);
        }
        result
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
            if self
                .remove_locked(&mut inner, &[(lo, hi)], None, false)?
                .is_some()
            {
                return Ok(());
            }
            drop(inner);
            self.sync_for_removal(lo, hi)?;
        }
    }

    /// Removes the parts of some ranges, whose ends are ends of parts. `held`: the part map to which the caller has a
    /// reference. `claimed`: part maps that go as a whole are claimed already. `None` when something there has to be synced
    /// first, without the lock.
    fn remove_locked(
        &self,
        inner: &mut Inner,
        ranges: &[(usize, usize)],
        held: Option<NonNull<Slot>>,
        claimed: bool,
    ) -> Result<Option<Uncounted>> {
        // Most often it is the one part map whose reference the caller has.
        let one = |slot: NonNull<Slot>| {
            // SAFETY: the caller's reference keeps the slot.
            let slot = unsafe { slot.as_ref() };
            (!claimed && *ranges == [(slot.start(), slot.end())]).then_some(slot)
        };
        let one = held.and_then(one);
        let others = match one {
            Some(_) => &[],
            None => ranges,
        };
        let slots = || {
            let touched = others
                .iter()
                .flat_map(|&(lo, hi)| self.maps_in(lo, hi).map(move |slot| (slot, lo, hi)))
                .filter(|(slot, lo, hi)| !claimed || slot.start() < *lo || slot.end() > *hi)
                .map(|(slot, ..)| slot);
            one.into_iter().chain(touched)
        };
        let busy = |inner: &Inner| {
            let any = |&(lo, hi): &(usize, usize)| self.drains.is_busy(inner, lo, hi);
            ranges.iter().any(any)
        };
        let mut plan = plan(inner, ranges, self.tells_removals())?;
        inner.arena.prepare(2 * plan.runs)?;
        // What goes as a whole needs nothing more.
        let splits = others
            .iter()
            .filter(|&&(lo, hi)| self.splits(lo, hi))
            .count();
        if splits > 0 {
            self.maps.reserve(2 * splits)?;
            // SAFETY: under the set's lock.
            unsafe { Home::reserve(self.home, splits)? };
        }

        let mut claims = 0;
        let mut result = Ok(true);
        for slot in slots() {
            if let Err(e) = slot.claim(usize::from(held == Some(NonNull::from(slot)))) {
                result = Err(e);
                break;
            }
            claims += 1;
        }
        if result.is_ok() {
            result = match busy(inner) {
                true => Ok(false),
                false => self.refuse_once(inner, ranges).map(|()| true),
            };
        }
        if matches!(result, Ok(true)) {
            let unmapped = match inner.arena.lent() {
                None => unmap(inner, &plan),
                Some(_) => unmap_lent(inner, ranges),
            };
            if let Err(e) = unmapped {
                result = Err(e);
            }
        }
        if !matches!(result, Ok(true)) {
            for slot in slots().take(claims) {
                slot.unclaim(false);
            }
            return result.map(|_| None);
        }
        for range in ranges {
            self.forget(inner, *range, &mut plan.uncounted);
        }
        Ok(Some(plan.uncounted))
    }

    /// Syncs what is marked in a range whose parts are to go. What is lost by that, or before, is no reason to stay marked:
    /// [`refuse_once`](Self::refuse_once) tells of it.
    fn sync_for_removal(&self, lo: usize, hi: usize) -> Result<()> {
        match self.sync_addresses(lo, hi) {
            Err(Error::NotDurable { .. }) => Ok(()),
            result => result,
        }
    }

    /// Fails, once, for parts of which something is lost: asked again, they go.
    fn refuse_once(&self, inner: &Inner, ranges: &[(usize, usize)]) -> Result<()> {
        let mut result = Ok(());
        for part in parts_of(inner, ranges).filter(|part| part.refuses()) {
            let (start, end) = (part.start, part.end());
            if let Some(e) = self.drains.first_lost(inner, start, end) {
                result = result.and(Err(e));
            }
            part.refuse();
            self.drains.tell(Some((start, end)), inner);
        }
        result
    }

    /// Whether a part map reaches beyond an end of the range.
    fn splits(&self, lo: usize, hi: usize) -> bool {
        let first = self.maps_in(lo, lo + 1).next();
        let last = self.maps_in(hi - 1, hi).next();
        first.is_some_and(|s| s.start() < lo) || last.is_some_and(|s| s.end() > hi)
    }

    /// The part maps that have an address in the range.
    fn maps_in(&self, lo: usize, hi: usize) -> impl Iterator<Item = &Slot> {
        let first = match self.maps.floor(lo, &Locked) {
            // SAFETY: slots live as long as the set.
            Ok(Some((_, slot))) => Some(unsafe { &*(slot as *const Slot) }),
            _ => None,
        };
        let mut first = first.filter(|s| s.contains(lo));
        let mut at = lo;
        std::iter::from_fn(move || {
            if at >= hi {
                return None;
            }
            let slot = match first.take() {
                Some(slot) => slot,
                None => {
                    let (start, slot) = self.maps.above(at - 1, &Locked).ok()??;
                    // SAFETY: slots live as long as the set.
                    (start < hi).then_some(unsafe { &*(slot as *const Slot) })?
                }
            };
            at = slot.end();
            Some(slot)
        })
    }

    /// Takes what has been unmapped out of all structures.
    fn forget(&self, inner: &mut Inner, (lo, hi): (usize, usize), told: &mut Uncounted) {
        let writing = self.version.write();
        let (mut role_is_free, mut done) = (false, false);
        while let Some(slot) = (!done).then(|| self.maps_in(lo, hi).next()).flatten() {
            let (start, end) = (slot.start(), slot.end());
            let this = NonNull::from(slot);
            done = end >= hi;
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
        let mut at = lo;
        while let Some(start) = first_part(inner, at, hi) {
            let Some(part) = inner.parts.remove(start) else {
                break;
            };
            // SAFETY: the tree's values are boxes, and this one is in it no more.
            let part = unsafe { Box::from_raw(part as *mut Mapped) };
            if let Some(uncounted) = uncount(&part) {
                if told.len() < told.capacity() {
                    told.push(uncounted);
                }
            }
            part.forget();
            part.file.removed();
            if part.unsettled.get() != usize::MAX {
                inner.settled(part.unsettled.get());
            }
            at = part.end();
        }
    }
}

fn first_part(inner: &Inner, lo: usize, hi: usize) -> Option<usize> {
    let part = parts_in(inner, lo, hi).next()?;
    Some(part.start)
}

/// The range of the parts that have a byte in `addr..end`.
fn touched(inner: &Inner, addr: usize, end: usize) -> Option<(usize, usize)> {
    let lo = first_part(inner, addr, end)?;
    let (start, last) = inner.parts.floor(end - 1, &Locked).ok()??;
    Some((lo, start + inner.mapped((start, last)).len))
}

/// Takes claims back.
fn unclaim(targets: &[Target]) {
    for t in targets.iter().filter(|t| t.whole) {
        // SAFETY: slots live as long as the set, which the caller has.
        unsafe { t.slot.as_ref() }.unclaim(false);
    }
}

fn plan(inner: &Inner, ranges: &[(usize, usize)], told: bool) -> Result<Plan> {
    let mut spans: Vec<(usize, usize)> = Vec::new();
    let (mut runs, mut counted) = (0, 0);
    for &(lo, hi) in ranges {
        let mut before = None;
        for part in parts_in(inner, lo, hi) {
            // What lies between two parts may be somebody else's by now.
            let arena = &inner.arena;
            let goes_on = before.is_some_and(|at| {
                arena.share_piece(at - 1, part.start) && arena.all_free(at, part.start)
            });
            runs += usize::from(!(goes_on && before == Some(part.start)));
            let end = part.start + part.len;
            before = Some(end);
            match spans.last_mut() {
                Some(span) if goes_on => span.1 = end,
                _ => mem::try_push(&mut spans, (part.start, end))?,
            }
            counted += usize::from(told && part.counted.load(Ordering::Relaxed) != 0);
        }
    }
    let mut uncounted = Vec::new();
    uncounted
        .try_reserve(counted)
        .map_err(|_| Error::OutOfMemory("list"))?;
    Ok(Plan {
        spans,
        runs,
        uncounted,
    })
}

/// Turns the spans back into reserved address space, all or, after a failure, none.
fn unmap(inner: &mut Inner, plan: &Plan) -> Result<()> {
    let no_room = |(lo, hi): (usize, usize), e| Error::NoRoom(hi - lo, e);
    if plan.spans.len() > 1 {
        // What can fail is splitting address ranges at the ends of a span, for lack of ranges. So split first: after
        // that every span is made of whole ranges.
        for (i, span) in plan.spans.iter().enumerate() {
            if let Err(e) = sys::split_off(span.0, span.1 - span.0) {
                undo_spans(inner, &plan.spans[..=i]);
                return Err(no_room(*span, e));
            }
        }
    }
    for (i, span) in plan.spans.iter().enumerate() {
        let around = inner.arena.around(span.0, span.1);
        let (lo, hi) = inner.arena.reserve_span(*span, around);
        // SAFETY: the parts are the set's own, mapped over its arena, with nobody holding a
        // reference; all else in the span and around it is free space of the arena.
        if unsafe { sys::reserve_over(lo, hi - lo) }.is_ok() {
            inner.arena.give_anew(around, (lo, hi));
            continue;
        }
        // At the limit of ranges, or of locked memory, the kernel refuses every mmap; it still
        // unmaps what is whole ranges.
        // SAFETY: as above.
        match unsafe { sys::try_unmap(span.0, span.1 - span.0) } {
            // SAFETY: all of it was the arena's until now.
            Ok(()) => unsafe { inner.arena.give_unmapped(span.0, span.1) },
            Err(e) if i == 0 => {
                if plan.spans.len() > 1 {
                    undo_spans(inner, &plan.spans);
                }
                return Err(no_room(*span, e));
            }
            // Not seen to happen after the split; the range stays mapped until the set goes, and is not used again.
            Err(_) => {}
        }
    }
    Ok(())
}

/// The first parts in a range that have nothing between them, from end to end.
fn next_run(inner: &Inner, lo: usize, hi: usize) -> Option<(usize, usize)> {
    let start = parts_in(inner, lo, hi).next()?.start;
    let mut end = start;
    for part in parts_in(inner, lo, hi) {
        if part.start != end {
            break;
        }
        end += part.len;
    }
    Some((start, end))
}

/// Takes the marks of spans back: those of the parts, since free space in them is marked always.
fn undo_spans(inner: &Inner, spans: &[(usize, usize)]) {
    for &(lo, hi) in spans {
        let mut at = lo;
        while let Some((start, end)) = next_run(inner, at, hi) {
            sys::split_undo(start, end - start);
            at = end;
        }
    }
}

/// Ends the mappings in lent space, all or, after a failure, none.
fn unmap_lent(inner: &mut Inner, ranges: &[(usize, usize)]) -> Result<()> {
    let Some(_alone) = inner.arena.lent().map(Lent::begin) else {
        return Ok(());
    };
    let count = parts_of(inner, ranges).count();
    inner.arena.reserve_left(count)?;
    // libpmem2 maps a placeholder over each. What can fail is splitting address ranges at the ends of a part, for lack of
    // ranges. So split first: every second part is marked, and after that each is made of whole ranges.
    if count > 1 {
        for (i, part) in parts_of(inner, ranges).step_by(2).enumerate() {
            if let Err(e) = sys::split_off(part.start, part.len) {
                let error = Error::NoRoom(part.len, e);
                undo_split(inner, ranges, i + 1);
                return Err(error);
            }
        }
    }
    for (i, part) in parts_of(inner, ranges).enumerate() {
        let mut map = part.lent.take();
        let deleted = Map::delete(&mut map);
        part.lent.set(map);
        match deleted {
            Err(e) if i == 0 => {
                if count > 1 {
                    undo_split(inner, ranges, count);
                }
                return Err(e);
            }
            _ => {}
        }
    }
    for &(lo, hi) in ranges {
        let mut at = lo;
        while let Some(part) = inner.part_from(at).filter(|p| p.start < hi) {
            at = part.start + part.len;
            // Not seen to happen after the split. libpmem2 knows it, so nothing is placed there; the set's end tries again.
            if let Some(map) = part.lent.take() {
                inner.arena.leave(map);
            }
        }
        inner.arena.give(lo, hi);
    }
    Ok(())
}

fn parts_in(inner: &Inner, lo: usize, hi: usize) -> impl Iterator<Item = &Mapped> {
    let mut at = lo;
    std::iter::from_fn(move || {
        let left = at < hi;
        let part = left.then(|| inner.part_from(at)).flatten()?;
        at = part.start + part.len;
        (part.start < hi).then_some(part)
    })
}

fn parts_of<'a>(
    inner: &'a Inner,
    ranges: &'a [(usize, usize)],
) -> impl Iterator<Item = &'a Mapped> {
    ranges.iter().flat_map(|r| parts_in(inner, r.0, r.1))
}

/// Takes the first marks back.
fn undo_split(inner: &Inner, ranges: &[(usize, usize)], marks: usize) {
    for part in parts_of(inner, ranges).step_by(2).take(marks) {
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
            let mut map = part.lent.take();
            let had = map.is_some();
            match Map::delete(&mut map) {
                Ok(()) => any |= had,
                Err(e) => result = Err(e),
            }
            part.lent.set(map);
        }
        // What failed for lack of address ranges may work now that there are fewer.
        if result.is_ok() || !any {
            return result;
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::granularity::Granularity;
    use crate::set::{Coalescing, Part};
    use crate::source::Source;

    /// A set with a run of four pages, each a part, and a part map of one page.
    fn set_with_two() -> (Set, (usize, usize), (usize, usize)) {
        let page = sys::page_size();
        let mut config = Config::new();
        config.set_required_granularity(Granularity::Page);
        let set = Set::new(&config).unwrap();
        let source = Source::temporary(c"/tmp").unwrap();
        let map = || set.map(&Part::new(&source, 0, page).unwrap()).unwrap();
        let one = map();
        set.set_coalescing(Coalescing::Full);
        let run = (map(), map(), map(), map()).3;
        assert_eq!(run.addr, one.addr);
        set.set_coalescing(Coalescing::None);
        let other = map();
        (set, (run.addr, run.len), (other.addr, other.len))
    }

    fn is_refused<T>(result: Result<T>) -> bool {
        matches!(result, Err(Error::PartMapBeingRemoved(_)))
    }

    /// What one removal has claimed, no other takes, whichever way it comes: it may be one that had looked whether to
    /// tell before the set's removals were told.
    #[test]
    fn no_removal_takes_what_another_has_claimed() {
        let (set, run, other) = set_with_two();
        let core = set.core();
        let page = sys::page_size();
        let slot = {
            let map = set.part_map(run.0).unwrap();
            map.slot
        };
        for what in [What::Range(run.0, run.1), What::Map(slot)] {
            let held = what.held().map(|_| set.part_map(run.0).unwrap());
            let targets = core.targets(what, true).unwrap();
            assert!(targets.len() == 1 && targets[0].whole);
            assert!(is_refused(core.remove_range(run.0, run.1)));
            assert!(is_refused(core.remove_range(run.0 + page, 1)));
            assert!(is_refused(core.remove_range(0, usize::MAX)));
            assert!(is_refused(core.remove_map(slot)));
            assert!(is_refused(core.targets(What::Range(run.0, 1), true)));
            assert!(is_refused(core.targets(What::Map(slot), true)));
            // Nor is the claim taken back by those that were refused.
            assert!(set.part_map(run.0).is_err());
            assert!(set.part_map(other.0).is_ok());
            unclaim(&targets);
            drop(held);
            assert_eq!(set.part_map(run.0).unwrap().extent().len, run.1);
        }
        set.remove_range(0, usize::MAX).unwrap();
        assert!(set.first().is_none());
    }

    /// A removal of which a part map loses parts only has not claimed that; somebody else may, while observers are told.
    #[test]
    fn parts_of_what_another_has_claimed_meanwhile_stay() {
        let (set, run, other) = set_with_two();
        let core = set.core();
        let (low, high) = (run.0.min(other.0), run.0.max(other.0));
        // All of the other one, and one end of the run.
        let what = match run.0 < other.0 {
            true => What::Range(run.0 + run.1 - 1, high + other.1 - run.0 - run.1 + 1),
            false => What::Range(low, run.0 - low + 1),
        };
        let mine = core.targets(what, true).unwrap();
        assert_eq!(mine.iter().filter(|t| t.whole).count(), 1);
        assert_eq!(mine.len(), 2);
        let theirs = core.targets(What::Range(run.0, run.1), true).unwrap();
        assert!(is_refused(core.remove_targets(what, &mine)));
        assert!(set.part_map(other.0).is_ok());
        core.remove_targets(What::Range(run.0, run.1), &theirs)
            .unwrap();
        assert!(set.part_map(run.0).is_err());
    }
}
