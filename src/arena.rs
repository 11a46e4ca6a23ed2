//! Address space: reserved in large pieces, handed out in places, given back. No files, no sets.
//!
//! A piece is reserved when the first part needs it, much larger than that part, and parts are placed in it upwards from
//! the start of the largest free place. So the part that was mapped last has room behind it, which is what coalescing
//! needs, and mapping is one system call over the reservation. A place that is freed joins the free places beside it.
//! Where only small places are left, the next one that is large enough is taken: looking for the largest every time would
//! make filling them quadratic.
//! A piece that has become too small for a run of parts grows in place; so that there is room for that, it is put well below
//! what is mapped already, since the kernel puts what comes next right there.
//!
//! What is reserved is left out of core dumps (MADV_DONTDUMP), once for a piece. A place that is
//! freed is reserved anew and is not, so that it is a range of the kernel's apart from its
//! neighbours; asking for it at every removal would be a third system call there. So one small
//! range of an arena may be without, at the start of the free place that it is in. It is where the
//! next part goes, most often.
//!
//! At the limits of the process a place can be lost for a while: what was mapped there is gone, and
//! it cannot be reserved again. Others may put their own memory there then, so it is no free place
//! any more, and nothing that this arena does reaches over it: a place is given up until it can be
//! reserved without replacing anything.
//!
//! Or the address space is [lent](lent::Lent) by the program: then it is one piece, filled from its start.

mod lent;

use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, Result};
use crate::mem;
use crate::persist::dirty::{self as log, DirtyMap as Log};
use crate::pmem2::Map;
use crate::set::index::{Locked, Tree};
use crate::sys;
pub(crate) use lent::Lent;

const GIB: usize = 1 << 30;
/// A set's first reservation, unless its parts are large or the address space is small.
const USUAL: usize = 64 * GIB;
/// The same where every part must lie behind the one before.
const USUAL_FULL: usize = 1024 * GIB;
/// Room for so many parts of the size of the one that needs the reservation.
const PARTS: usize = 16;
/// The largest free place is looked for when it serves at least one part for so many places that are looked at.
const WORTH: usize = 8;
/// A reservation is not made smaller than this for the sake of other sets.
const SMALL: usize = GIB / 16;
/// Free space that shows in core dumps: so much at most.
const SHOWN: usize = 1 << 20;
/// A further reservation of an arena is a quarter of those before it at least, so that there are few.
const QUARTER: usize = 4;

/// Address space that the arenas of this process have reserved, and in how many pieces.
static RESERVED: AtomicUsize = AtomicUsize::new(0);
static PIECES: AtomicUsize = AtomicUsize::new(0);

/// What a place must be like.
#[derive(Clone, Copy)]
pub(crate) struct Wish {
    pub len: usize,
    /// Offset into the file: the address is congruent to it.
    pub offset: u64,
    /// The medium's alignment.
    pub align: usize,
    /// Parts that must follow this one are expected.
    pub full: bool,
    /// Flushes to it are to be logged.
    pub logged: bool,
}

impl Wish {
    /// What addresses are congruent to the offset by, if there is room: large parts begin where
    /// large pages can map them.
    fn modulus(&self) -> usize {
        let wanted = match self.len {
            len if len >= 2 * GIB => GIB,
            len if len >= 2 << 20 => 2 << 20,
            _ => 1,
        };
        wanted.max(self.least_modulus())
    }

    /// The same by what there has to be.
    fn least_modulus(&self) -> usize {
        self.align.max(sys::page_size())
    }

    /// The first address from `addr` on that is congruent to the offset.
    fn fit(&self, addr: usize, modulus: usize) -> Option<usize> {
        let want = (self.offset % modulus as u64) as usize;
        let have = addr % modulus;
        addr.checked_add((want + modulus - have) % modulus)
    }
}

struct Piece {
    base: usize,
    size: usize,
    /// How large it may become: as far as its log goes.
    reach: usize,
    log: Option<Box<Log>>,
}

impl Piece {
    fn has(&self, addr: usize) -> bool {
        addr.wrapping_sub(self.base) < self.size
    }
}

/// A range that had to be given up.
#[derive(Clone, Copy)]
struct GivenUp {
    /// The start of the piece that it was part of. It may be part of a later one meanwhile.
    piece: usize,
    start: usize,
    len: usize,
    /// It may be this arena's still: there was no looking.
    unsure: bool,
}

/// The address space of one set.
pub(crate) struct Arena {
    pieces: Vec<Piece>,
    /// Free places: start and length.
    holes: Tree,
    /// The free place that parts are put into at present.
    current: usize,
    /// About the length of the largest free place: what was found when it was looked for last, or given back since.
    largest: usize,
    /// A range of free space that shows in the core dumps of debuggers.
    shown: (usize, usize),
    /// Ranges within the pieces that may be somebody else's.
    given_up: Vec<GivenUp>,
    leaked: bool,
    /// Whose address space it is, when it is the program's.
    lent: Option<Lent>,
    /// Mappings in it that could not be ended.
    left: Vec<Option<Map>>,
}

impl Arena {
    pub(crate) fn new() -> Result<Self> {
        Ok(Arena {
            pieces: Vec::new(),
            holes: Tree::new()?,
            current: 0,
            largest: 0,
            shown: (0, 0),
            given_up: Vec::new(),
            leaked: false,
            lent: None,
            left: Vec::new(),
        })
    }

    /// An arena in a libpmem2 reservation of the program's.
    ///
    /// # Safety
    /// As for [`Reservation::new`](crate::pmem2::Reservation::new), for the life of the arena.
    pub(crate) unsafe fn new_lent(reservation: usize) -> Result<Self> {
        // SAFETY: as the caller promises.
        let lent = unsafe { Lent::new(reservation)? };
        Ok(Arena {
            lent: Some(lent),
            ..Arena::new()?
        })
    }

    /// What the arena has been lent, if it is not the set's own.
    pub(crate) fn lent(&self) -> Option<&Lent> {
        self.lent.as_ref()
    }

    /// Makes room for mappings that may have to be [left](Self::leave).
    pub(crate) fn reserve_left(&mut self, count: usize) -> Result<()> {
        self.left
            .try_reserve(count)
            .map_err(|_| Error::OutOfMemory("removal"))
    }

    /// Keeps a mapping that could not be ended, for another try. After [`reserve_left`](Self::reserve_left).
    pub(crate) fn leave(&mut self, map: Map) {
        self.left.push(Some(map));
    }

    /// Tries to end what had to be left; whether any could be.
    pub(crate) fn end_left(&mut self) -> bool {
        let before = self.left.len();
        self.left.retain_mut(|map| Map::delete(map).is_err());
        self.left.len() < before
    }

    /// Makes sure that the next changes find the memory they need.
    pub(crate) fn prepare(&mut self, changes: usize) -> Result<()> {
        self.given_up
            .try_reserve(changes)
            .map_err(|_| Error::OutOfMemory("list"))?;
        self.holes.reserve(changes + 1)
    }

    /// A free place for a part. It stays free until [`take`](Self::take); in lent space as long as others keep out.
    pub(crate) fn place(&mut self, wish: &Wish) -> Result<usize> {
        if self.lent.is_some() {
            return self.place_lent(wish);
        }
        // Large pages are worth looking for, and no reason to fail.
        let (best, least) = (wish.modulus(), wish.least_modulus());
        match self.place_by(wish, best) {
            Err(_) if least < best => self.place_by(wish, least),
            result => result,
        }
    }

    fn place_by(&mut self, wish: &Wish, modulus: usize) -> Result<usize> {
        if let Some(at) = self.find(wish, modulus) {
            return Ok(at);
        }
        if self.regain(0, usize::MAX) {
            if let Some(at) = self.find(wish, modulus) {
                return Ok(at);
            }
        }
        self.grow(wish, modulus)
    }

    /// A free place in what is reserved.
    fn find(&mut self, wish: &Wish, modulus: usize) -> Option<usize> {
        if let Some((start, len)) = self.hole_at(self.current) {
            if let Some(at) = fits(start, len, wish, modulus) {
                return Some(at);
            }
        }
        let (start, at) = if self.largest / wish.len.max(1) >= self.holes.len() / WORTH {
            self.find_largest(wish, modulus)
        } else {
            self.find_next(wish, modulus)
        }?;
        self.current = start;
        Some(at)
    }

    /// The largest free place that has room for a part, and where in it the part goes.
    fn find_largest(&mut self, wish: &Wish, modulus: usize) -> Option<(usize, usize)> {
        let mut best = None;
        let mut most = 0;
        self.holes.walk(0, |start, len| {
            if len > most {
                if let Some(at) = fits(start, len, wish, modulus) {
                    best = Some((start, at));
                    most = len;
                }
            }
            true
        });
        self.largest = most;
        best
    }

    /// The first free place from the current one on that has room, or else from the start on.
    fn find_next(&self, wish: &Wish, modulus: usize) -> Option<(usize, usize)> {
        let mut found = None;
        for from in [self.current, 0] {
            self.holes.walk(from, |start, len| {
                found = fits(start, len, wish, modulus).map(|at| (start, at));
                found.is_none()
            });
            if found.is_some() {
                break;
            }
        }
        found
    }

    /// The first place in lent space.
    fn place_lent(&mut self, wish: &Wish) -> Result<usize> {
        self.use_lent(wish)?;
        let mut result = Err(Error::CannotFit(wish.len));
        if let Some(lent) = &self.lent {
            self.holes.walk(0, |start, len| {
                if len >= wish.len {
                    match lent.fit(start, start + len, wish) {
                        Ok(None) => {}
                        Ok(Some(at)) => result = Ok(at),
                        Err(e) => result = Err(e),
                    }
                }
                matches!(result, Err(Error::CannotFit(_)))
            });
        }
        result
    }

    /// Makes a piece of the lent space when the first part comes.
    fn use_lent(&mut self, wish: &Wish) -> Result<()> {
        let Some(lent) = self.lent.as_ref().filter(|_| self.pieces.is_empty()) else {
            return Ok(());
        };
        let (base, size) = lent.whole();
        if wish.len > size {
            return Err(Error::CannotFit(wish.len));
        }
        let log = match wish.logged {
            true => Some(log::new_boxed(base, size)?),
            false => None,
        };
        // One more than the part that comes will need.
        self.prepare(2)?;
        let piece = Piece {
            base,
            size,
            reach: size,
            log,
        };
        mem::try_push(&mut self.pieces, piece)?;
        self.holes.insert(base, size);
        Ok(())
    }

    /// Whether there is room for a part right behind what ends at `start`. A run of parts does not leave its piece: what is
    /// flushed to it goes to one log.
    pub(crate) fn is_free(&self, start: usize, wish: &Wish) -> bool {
        let free = self.share_piece(start - 1, start)
            && matches!(self.holes.floor(start, &Locked), Ok(Some((hole, size)))
            if start - hole < size && size - (start - hole) >= wish.len);
        match &self.lent {
            Some(lent) if free => {
                matches!(lent.fit(start, start + wish.len, wish), Ok(Some(at)) if at == start)
            }
            _ => free,
        }
    }

    /// The same, if need be after the piece has grown.
    pub(crate) fn make_free(&mut self, start: usize, wish: &Wish) -> bool {
        if self.is_free(start, wish)
            || self.regain(start, start.saturating_add(wish.len)) && self.is_free(start, wish)
        {
            return true;
        }
        let Some(piece) = self.pieces.iter_mut().rev().find(|p| p.has(start - 1)) else {
            return false;
        };
        let end = piece.base + piece.size;
        let free_up_to_end = start == end
            || matches!(self.holes.floor(start, &Locked), Ok(Some((hole, size)))
                if hole <= start && hole + size == end);
        let most = piece.reach - piece.size;
        let Some(missing) = wish.len.checked_sub(end - start).filter(|n| *n <= most) else {
            return false;
        };
        if self.lent.is_some() || !free_up_to_end || self.holes.reserve(2).is_err() {
            return false;
        }
        // Much at once, for the parts that follow; or just enough.
        let much = (piece.size / QUARTER).clamp(missing, most);
        for more in [much.next_multiple_of(sys::page_size()), missing] {
            // What another piece had to give up there does not become part of this one: it has a
            // log for it.
            let others = |g: &GivenUp| g.start < end + more && end < g.start + g.len;
            if !self.given_up.iter().any(others) && sys::reserve_at(end, more).is_ok() {
                piece.size += more;
                RESERVED.fetch_add(more, Ordering::Relaxed);
                self.give(end, end + more);
                return self.is_free(start, wish);
            }
        }
        false
    }

    /// Whether the address is in reserved space, and nothing is mapped there.
    pub(crate) fn is_vacant(&self, addr: usize) -> bool {
        match &self.lent {
            None => self
                .hole_at(addr)
                .is_some_and(|(hole, size)| addr - hole < size),
            Some(lent) => self.piece(addr).is_some() && !lent.has_mapping(addr),
        }
    }

    /// The free place with the greatest address that is not above this one.
    fn hole_at(&self, addr: usize) -> Option<(usize, usize)> {
        self.holes.floor(addr, &Locked).unwrap_or(None)
    }

    /// Whether all between two addresses of one piece is free.
    pub(crate) fn all_free(&self, start: usize, end: usize) -> bool {
        start == end
            || self
                .hole_at(start)
                .is_some_and(|(hole, size)| hole <= start && end <= hole + size)
    }

    fn piece(&self, addr: usize) -> Option<&Piece> {
        self.pieces.iter().rev().find(|p| p.has(addr))
    }

    /// The log of flushes to this address.
    pub(crate) fn log(&self, addr: usize) -> Option<NonNull<Log>> {
        self.piece(addr)?.log.as_deref().map(NonNull::from)
    }

    /// Makes sure that there is a log for a place where flushes are to be logged. There is none when the piece was reserved
    /// for a part that could not be mapped in the end, and flushes to that were not to be.
    pub(crate) fn prepare_log(&mut self, at: usize, wish: &Wish) -> Result<()> {
        let piece = self.pieces.iter_mut().rev().find(|p| p.has(at));
        if let Some(piece) = piece.filter(|p| wish.logged && p.log.is_none()) {
            piece.log = Some(log::new_boxed(piece.base, piece.reach)?);
        }
        Ok(())
    }

    pub(crate) fn logs(&self) -> impl Iterator<Item = &Log> {
        self.pieces.iter().filter_map(|p| p.log.as_deref())
    }

    /// The start of the piece that has this address.
    fn piece_base(&self, addr: usize) -> usize {
        self.piece(addr).map_or(addr, |p| p.base)
    }

    /// Whether one piece has both addresses.
    pub(crate) fn share_piece(&self, one: usize, other: usize) -> bool {
        self.piece_base(one) == self.piece_base(other)
    }

    /// Marks a free range as taken. After [`prepare`](Self::prepare).
    pub(crate) fn take(&mut self, start: usize, len: usize) {
        let Ok(Some((hole, size))) = self.holes.floor(start, &Locked) else {
            return;
        };
        let (end, hole_end) = (start + len, hole + size);
        debug_assert!(end <= hole_end);
        match (start > hole, end < hole_end) {
            (false, true) => self.holes.rename(hole, end, hole_end - end),
            (false, false) => drop(self.holes.remove(hole)),
            (true, after) => {
                self.holes.replace(hole, start - hole);
                if after {
                    self.holes.insert(end, hole_end - end);
                }
            }
        }
        if self.current == hole {
            self.current = end;
        }
        let (from, to) = self.shown;
        if start < to && from < end {
            self.shown = if end < to { (end, to) } else { (0, 0) };
            self.hide((from, start));
        }
    }

    /// Leaves a range of free space out of core dumps, if it is one, and its free place as a whole,
    /// in which a try at the limit of address ranges may have failed before.
    fn hide(&self, (from, to): (usize, usize)) {
        let hole = (from < to).then(|| self.hole_at(from)).flatten();
        if let Some((start, size)) = hole {
            sys::leave_out_of_dumps(start, size);
        }
    }

    /// The range that is worth reserving anew when `start..end` becomes free, a part of the free place `around`: with the
    /// free places beside it where that lets the kernel free whole page tables, unless parts are being put there at present.
    pub(crate) fn reserve_span(
        &self,
        (start, end): (usize, usize),
        around: (usize, usize),
    ) -> (usize, usize) {
        let table = sys::page_size() * (sys::page_size() / 8);
        let (lo, hi) = around;
        // Whether the page table of the addresses from `at` on maps nothing any more.
        let goes =
            |at: usize| at >= lo && at + table <= hi && !(at..=at + table).contains(&self.current);
        let (down, up) = (start / table * table, end.next_multiple_of(table));
        (
            if goes(down) { down } else { start },
            if goes(up - table) { up } else { end },
        )
    }

    /// The free place that a range would become part of.
    pub(crate) fn around(&self, start: usize, end: usize) -> (usize, usize) {
        let (mut lo, mut hi) = (start, end);
        if let Some((hole, size)) = self.hole_at(start) {
            if hole + size >= start && self.share_piece(hole, start) {
                lo = hole;
            }
        }
        if let Some((hole, size)) = self.hole_at(end) {
            if hole + size >= end && self.share_piece(hole, start) {
                hi = hi.max(hole + size);
            }
        }
        (lo, hi)
    }

    /// Marks a range as free again, whatever parts of it are free already. After [`prepare`](Self::prepare).
    pub(crate) fn give(&mut self, start: usize, end: usize) {
        self.give_all(self.around(start, end));
    }

    /// The same for a range that has no free places beside it.
    pub(crate) fn give_all(&mut self, (lo, hi): (usize, usize)) {
        let mut last = None;
        while let Ok(Some((hole, _))) = self.holes.floor(last.unwrap_or(hi) - 1, &Locked) {
            if hole < lo {
                break;
            }
            if hole == self.current {
                self.current = lo;
            }
            if let Some(last) = last.replace(hole) {
                self.holes.remove(last);
            }
            if hole == lo {
                break;
            }
        }
        match last {
            Some(hole) => self.holes.rename(hole, lo, hi - lo),
            None => self.holes.insert(lo, hi - lo),
        }
        self.largest = self.largest.max(hi - lo);
    }

    /// The same for a range of which `anew` has just been reserved again, over what was mapped
    /// there.
    pub(crate) fn give_anew(&mut self, around: (usize, usize), anew: (usize, usize)) {
        self.give_all(around);
        let (from, to) = self.shown;
        // Whatever is between the two would be a range of its own.
        let joins = from >= around.0 && to <= around.1 && from <= anew.1 && anew.0 <= to;
        if joins {
            self.shown = (from.min(anew.0), to.max(anew.1));
        } else {
            self.hide(self.shown);
            self.shown = anew;
        }
        if self.shown.0 > around.0 || self.shown.1 - self.shown.0 > SHOWN {
            self.hide(self.shown);
            self.shown = (0, 0);
        }
    }

    /// How much to ask for: generous, but within this process's means.
    fn next_size(&self, wish: &Wish, exact: usize) -> usize {
        let usual = if wish.full { USUAL_FULL } else { USUAL };
        let mut size = usual.max(exact.saturating_mul(PARTS));
        // All arenas together take at most an eighth of the address space, and each at most an eighth of what is left of
        // that. Then they take less and less: of 128 TiB a thousand pieces more take 6, and the last of them has 2 GiB.
        let budget = address_space() / 8;
        let left = budget.saturating_sub(RESERVED.load(Ordering::Relaxed));
        let later = budget / 8 / (PARTS + PIECES.load(Ordering::Relaxed));
        size = size.min((left / 8).max(later).max(SMALL));
        let own: usize = self.pieces.iter().map(|p| p.size).sum();
        size = size.max(own / QUARTER);
        let limit = sys::limit(libc::RLIMIT_AS);
        if limit != u64::MAX {
            size = size.min((limit.saturating_sub(used()) / 4) as usize);
        }
        size
    }

    /// Reserves a further piece that the part fits into.
    fn grow(&mut self, wish: &Wish, modulus: usize) -> Result<usize> {
        let no_room = |errno| Error::NoRoom(wish.len, errno);
        let page = sys::page_size();
        let exact = wish
            .len
            .checked_add(modulus - page)
            .and_then(|size| size.checked_next_multiple_of(page))
            .ok_or(no_room(libc::ENOMEM))?;
        self.pieces
            .try_reserve(1)
            .map_err(|_| Error::OutOfMemory("reservation"))?;
        self.prepare(1)?;
        // Room for so many parts like this one, and not for half a part more.
        let whole = |size: usize| size.max(exact) / exact * exact;
        let mut size = whole(self.next_size(wish, exact));
        let mut room = room_behind(size, wish);
        loop {
            match reserve_piece(size, room, wish.logged) {
                Ok(piece) => {
                    RESERVED.fetch_add(size, Ordering::Relaxed);
                    PIECES.fetch_add(1, Ordering::Relaxed);
                    let base = piece.base;
                    self.pieces.push(piece);
                    self.holes.insert(base, size);
                    self.current = base;
                    self.largest = self.largest.max(size);
                    return fits(base, size, wish, modulus).ok_or(no_room(libc::ENOMEM));
                }
                Err(_) if room > 0 => room = 0,
                Err(errno) if size <= exact => return Err(no_room(errno)),
                Err(_) => size = whole(size / 2),
            }
        }
    }

    /// Gives everything back.
    ///
    /// # Safety
    /// Nobody uses anything that was placed here any more.
    pub(crate) unsafe fn release(&mut self) {
        // Where there was no looking there may be now: a descriptor is free, say.
        self.given_up
            .retain(|g| !(g.unsure && is_reservation(g.start, g.len) == Some(true)));
        self.given_up.sort_unstable_by_key(|g| g.start);
        if self.lent.is_some() {
            self.pieces.clear();
        }
        for piece in self.pieces.drain(..) {
            RESERVED.fetch_sub(piece.size, Ordering::Relaxed);
            PIECES.fetch_sub(1, Ordering::Relaxed);
            if self.leaked {
                continue;
            }
            let whole = piece.base..piece.base + piece.size;
            let (mut at, end) = (whole.start, whole.end);
            let mut lost = self.given_up.iter().filter(|g| g.piece == piece.base);
            loop {
                let (start, len) = lost.next().map_or((end, 0), |g| (g.start, g.len));
                if start > at {
                    // SAFETY: reserved by reserve_piece, and not given up; what has been mapped
                    // over it goes, too, as the caller promises.
                    unsafe { sys::unmap(at, start - at) };
                }
                if start == end {
                    break;
                }
                at = start + len;
            }
        }
    }

    /// Looks after a free place over which a mapping failed: where it cannot be had again it is
    /// given up. Returns whether it is still ours.
    ///
    /// # Safety
    /// The range must be a free place of this arena.
    pub(crate) unsafe fn recover(&mut self, start: usize, len: usize, errno: sys::Errno) -> bool {
        // The kernel may have removed the reservation before it refused; then it is nobody's until it is ours again.
        if sys::reserve_at(start, len).is_ok() {
            return true;
        }
        // Something is there. When a limit or the descriptor was the reason the kernel refused
        // before it touched anything, and the reservation shows as one without access; otherwise it
        // may belong to whoever was faster.
        let untouched = matches!(
            errno,
            libc::ENOMEM | libc::EAGAIN | libc::EBADF | libc::EOVERFLOW
        );
        let ours = if untouched {
            is_reservation(start, len)
        } else {
            Some(false)
        };
        if ours == Some(true) {
            return true;
        }
        self.take(start, len);
        self.give_up(start, len, ours.is_none());
        false
    }

    /// Makes a range free that has been unmapped, with whatever free places are in it; what of it
    /// cannot be had is given up. After [`prepare`](Self::prepare) for as many changes as there are
    /// places in it, taken and free.
    ///
    /// # Safety
    /// The range must have been this arena's until it was unmapped.
    pub(crate) unsafe fn give_unmapped(&mut self, start: usize, end: usize) {
        if sys::reserve_at(start, end - start).is_ok() {
            return self.give(start, end);
        }
        // It is the limit still, or somebody was faster in some of it: place by place then.
        let mut at = start;
        while at < end {
            let (free, stop) = match self.hole_at(at) {
                Some((hole, size)) if at - hole < size => (true, hole + size),
                _ => (
                    false,
                    self.holes
                        .above(at, &Locked)
                        .unwrap_or(None)
                        .map_or(end, |h| h.0),
                ),
            };
            let len = stop.min(end) - at;
            match (sys::reserve_at(at, len).is_ok(), free) {
                (true, true) => {}
                (true, false) => self.give(at, at + len),
                (false, _) => {
                    if free {
                        self.take(at, len);
                    }
                    self.give_up(at, len, false);
                }
            }
            at += len;
        }
    }

    /// Notes down a range that was taken and may not be this arena's any more.
    fn give_up(&mut self, start: usize, len: usize, unsure: bool) {
        let range = GivenUp {
            piece: self.piece_base(start),
            start,
            len,
            unsure,
        };
        // Kept apart when the piece is given back; without memory to note it down, the piece stays behind.
        if mem::try_push(&mut self.given_up, range).is_err() {
            self.leaked = true;
        }
    }

    /// Makes what was given up between two addresses free where nobody has anything now; whether
    /// there was any.
    fn regain(&mut self, lo: usize, hi: usize) -> bool {
        let mut any = false;
        let mut at = 0;
        while let Some(&GivenUp { start, len, .. }) = self.given_up.get(at) {
            let wanted = start < hi && lo < start + len;
            if wanted && self.holes.reserve(2).is_ok() && sys::reserve_at(start, len).is_ok() {
                self.given_up.swap_remove(at);
                self.give(start, start + len);
                any = true;
            } else {
                at += 1;
            }
        }
        any
    }
}

fn fits(start: usize, len: usize, wish: &Wish, modulus: usize) -> Option<usize> {
    let at = wish.fit(start, modulus)?;
    (at - start < len && len - (at - start) >= wish.len).then_some(at)
}

/// Bytes that a program can address here: 2^47 on x86-64, 2^39 to 2^52 on others. Stacks are near the top of it.
fn address_space() -> usize {
    let on_stack = 0u8;
    let top = &raw const on_stack as usize;
    (usize::MAX >> top.leading_zeros()).clamp(1 << 39, 1 << 47)
}

/// Bytes of address space in use.
fn used() -> u64 {
    let mut buffer = [0; 64];
    sys::read_small(c"/proc/self/statm", &mut buffer)
        .ok()
        .and_then(|text| std::str::from_utf8(text).ok())
        .and_then(|text| text.split(' ').next()?.parse::<u64>().ok())
        .map_or(0, |pages| pages * sys::page_size() as u64)
}

/// How much space a piece is to have behind it, for growing. It is not reserved, but the log is made for it.
fn room_behind(size: usize, wish: &Wish) -> usize {
    let room = match wish.full {
        true => USUAL_FULL.max(size.saturating_mul(4)),
        false => USUAL_FULL,
    };
    // What was made for large parts has places for more of them, and space is not to be in pieces too small for one.
    let large = !wish.full && size > USUAL;
    if large || (wish.logged && counts_every_page()) {
        return 0;
    }
    room.min(address_space() / 32)
        .min(usize::try_from(sys::limit(libc::RLIMIT_AS)).unwrap_or(usize::MAX))
        .next_multiple_of(sys::page_size())
}

/// Whether the kernel counts memory of which nothing has been touched (vm.overcommit_memory=2), as a log is.
fn counts_every_page() -> bool {
    let mut buffer = [0; 8];
    matches!(
        sys::read_small(c"/proc/sys/vm/overcommit_memory", &mut buffer),
        Ok([b'2', ..])
    )
}

fn reserve_piece(size: usize, room: usize, logged: bool) -> sys::SysResult<Piece> {
    sys::unmap_refused();
    let mut base = sys::reserve(size, None)?;
    let mut reach = size;
    // SAFETY: reserved above, and nobody knows of it. Where the kernel does not take it back it
    // stays where it is.
    if room > 0 && unsafe { sys::try_unmap(base, size) }.is_ok() {
        base = sys::reserve(size, base.checked_sub(room))?;
        reach += room;
    }
    let log = if logged {
        match log::new_boxed(base, reach) {
            Ok(log) => Some(log),
            Err(e) => {
                // SAFETY: reserved above, and nobody knows of it.
                unsafe { sys::unmap(base, size) };
                return Err(e.errno().unwrap_or(libc::ENOMEM));
            }
        }
    } else {
        None
    };
    Ok(Piece {
        base,
        size,
        reach,
        log,
    })
}

/// Whether /proc/self/maps shows the range as private, anonymous and without access, all of it;
/// `None` where that cannot be read.
fn is_reservation(start: usize, len: usize) -> Option<bool> {
    let fd = sys::open(c"/proc/self/maps", libc::O_RDONLY, 0).ok()?;
    let (mut at, end) = (start, start + len);
    let mut buffer = [0u8; 4096];
    let mut have = 0;
    // Lines longer than the buffer can only be those of files: what does not fit is cut.
    loop {
        let n = sys::read(&fd, &mut buffer[have..]).ok()?;
        have += n;
        let mut from = 0;
        while let Some(newline) = buffer[from..have].iter().position(|b| *b == b'\n') {
            let line = &buffer[from..from + newline];
            from += newline + 1;
            if let Some((lo, hi, reserved)) = parse_maps_line(line) {
                if lo <= at && at < hi {
                    if !reserved {
                        return Some(false);
                    }
                    at = hi;
                    if at >= end {
                        return Some(true);
                    }
                }
            }
        }
        if from == 0 && have == buffer.len() {
            have = 0;
        } else {
            buffer.copy_within(from..have, 0);
            have -= from;
        }
        if n == 0 {
            return Some(false);
        }
    }
}

fn parse_maps_line(line: &[u8]) -> Option<(usize, usize, bool)> {
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let (lo, hi) = words.next()?.split_once('-')?;
    let (access, _, _, inode) = (words.next()?, words.next()?, words.next()?, words.next()?);
    Some((
        usize::from_str_radix(lo, 16).ok()?,
        usize::from_str_radix(hi, 16).ok()?,
        access == "---p" && inode == "0" && words.next().is_none(),
    ))
}

#[cfg(test)]
mod tests;
