//! PAGE granularity: flushes are recorded, drains make them durable, together.
//!
//! A flush sets bits in the [log](super::log) of the address space. A drain takes the bits out, turns them into segments of
//! files and syncs those in the way that suits the file system. What it took is *in flight* until then: every later drain
//! waits for it, since a drain returns when everything that was flushed before it is durable. While pages of a file are in
//! flight, drains with pages near to them wait and go together in one sync once the one before is through, where the file
//! system makes several ranges durable by one commit. Distant pages, different files, and files on other file systems are
//! synced side by side.
//!
//! Locks: the set's lock (which parts are where) before this module's; system calls are made under neither.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::mem::{Shared, lock};
use crate::persist::log::Log;
use crate::source::{Mapped, OpenFile, SyncPlan};
use crate::sys::{self, Errno};

/// Pages of a file closer than this (in bytes) to some that are in flight are synced together with their like. Eight pages
/// 64 KiB apart cost a disk a quarter to a half of what eight threads pay that sync one each; eight pages 8 MiB apart cost
/// the same either way, and then it is better not to wait (benches/drains.c).
const NEAR: usize = 512 << 10;

/// So many batches at once are waited for one by one; what is beyond them shares a verdict.
const WATCHED: usize = 16;

/// A range of one file that is to become durable.
struct Segment {
    addr: usize,
    len: usize,
    offset: u64,
    file: Shared<OpenFile>,
    log: NonNull<Log>,
    failed: Errno,
}

// SAFETY: the log is shared like a reference; a set's logs live until the set ends, and no drain outlives its set.
unsafe impl Send for Segment {}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waits until what is in flight near to it is through; the drain that began it will run it.
    Queued,
    InFlight,
    Done,
}

/// Segments that are synced together.
struct Batch {
    /// Drains that have put something into it.
    drains: AtomicU32,
    state: Mutex<BatchState>,
    done: Condvar,
}

struct BatchState {
    number: u64,
    phase: Phase,
    segments: Vec<Segment>,
    /// How long its sync took.
    took: Duration,
    /// Extents (address, end) of the segments, kept while they are being synced; one for all when there are many.
    extents: Vec<(usize, usize)>,
    result: Result<()>,
}

#[derive(Default)]
struct State {
    /// Queued and in flight.
    active: Vec<Shared<Batch>>,
    queued: Option<Shared<Batch>>,
    next: u64,
    /// The batch that was done last, and when.
    recent: Option<(Shared<Batch>, Instant)>,
    /// Eighths of a sync for which a queue waits to be joined: fewer when that was in vain.
    patience: u32,
    /// The last failure and the number of its batch.
    last_failure: Option<(u64, Error)>,
}

/// What a set has recorded and has in flight.
pub(crate) struct Engine {
    state: Mutex<State>,
}

/// The parts and logs of a set, under its lock.
pub(crate) trait Parts {
    fn each_log(&self, visit: &mut dyn FnMut(&Log));
    /// The part that has the address.
    fn part(&self, addr: usize) -> Option<&Mapped>;
}

impl Engine {
    pub(crate) fn new() -> Self {
        Engine {
            state: Mutex::new(State {
                patience: 4,
                ..State::default()
            }),
        }
    }

    /// Makes durable whatever was flushed before, in a range of addresses or in all of them. `parts` locks the set.
    pub(crate) fn drain<P: Parts, G: std::ops::Deref<Target = P>>(
        &self,
        range: Option<(usize, usize)>,
        parts: impl Fn() -> G,
    ) -> Result<()> {
        let guard = parts();
        let mut state = lock(&self.state);
        let mut result = Ok(());
        let mut own: Vec<Segment> = Vec::new();
        let mut starts_queue = false;
        let mut joins_queue = false;
        let mut watch: [Option<Shared<Batch>>; WATCHED] = Default::default();
        let mut unwatched = None;
        for (i, batch) in state.active.iter().enumerate() {
            let concerns = range.is_none_or(|(lo, hi)| {
                lock(&batch.state)
                    .extents
                    .iter()
                    .any(|e| e.0 < hi && lo < e.1)
            });
            if !concerns {
                continue;
            }
            match watch.iter_mut().find(|w| w.is_none()) {
                Some(free) => *free = Some(batch.clone()),
                None => {
                    unwatched.get_or_insert(lock(&state.active[i].state).number);
                }
            }
        }
        guard.each_log(&mut |log| {
            let (base, size) = log.range();
            let (mut lo, mut hi) = (base, base + size);
            if let Some((from, to)) = range {
                lo = lo.max(from);
                hi = hi.min(to);
            }
            if lo >= hi || log.is_empty() {
                return;
            }
            log.take(lo, hi - lo, |addr, len| {
                let sorted = sort_out(&*guard, log, addr, len, &mut |segment| {
                    if must_queue(&state, &segment) {
                        joins_queue = true;
                        let queue = queue_of(&mut state, &mut starts_queue)?;
                        return push_queued(&mut lock(&queue.state), segment);
                    }
                    crate::mem::try_push(&mut own, segment)
                });
                if let Err(e) = sorted {
                    result = Err(e);
                }
                true
            });
        });
        // What joined a queue that others began is waited for like the rest.
        let queue = state.queued.clone();
        if let Some(queue) = &queue {
            if joins_queue && !starts_queue {
                queue.drains.fetch_add(1, Ordering::Relaxed);
            }
            if !starts_queue && !watch.iter().flatten().any(|w| Shared::same(w, queue)) {
                if let Some(free) = watch.iter_mut().find(|w| w.is_none()) {
                    *free = Some(queue.clone());
                }
            }
        }
        let batch = if own.is_empty() {
            None
        } else {
            match register(&mut state, &mut own, Phase::InFlight) {
                Ok(batch) => Some(batch),
                Err(e) => {
                    own.iter().for_each(Segment::back);
                    result = Err(e);
                    None
                }
            }
        };
        drop(state);
        drop(guard);
        if let Some(batch) = batch {
            result = result.and(self.run(&batch));
        }
        if starts_queue {
            if let Some(queue) = queue {
                result = result.and(self.run_queue(&queue));
            }
        }
        for batch in watch.iter().flatten() {
            result = result.and(wait(batch));
        }
        match unwatched {
            Some(first) => result.and(self.wait_from(first)),
            None => result,
        }
    }

    /// Whether anything in the range is recorded in these logs or in flight. Under the set's lock.
    pub(crate) fn is_busy(&self, parts: &impl Parts, lo: usize, hi: usize) -> bool {
        let state = lock(&self.state);
        if state
            .active
            .iter()
            .any(|b| lock(&b.state).extents.iter().any(|e| e.0 < hi && lo < e.1))
        {
            return true;
        }
        let mut any = false;
        parts.each_log(&mut |log| {
            let (base, size) = log.range();
            let (from, to) = (lo.max(base), hi.min(base + size));
            any |= from < to && log.has_recorded(from, to - from);
        });
        any
    }

    /// Syncs a batch that is in flight and gives its verdict to all who wait for it.
    fn run(&self, batch: &Shared<Batch>) -> Result<()> {
        let mut segments = std::mem::take(&mut lock(&batch.state).segments);
        let began = Instant::now();
        let result = sync(&mut segments);
        let took = began.elapsed();
        for segment in segments.iter().filter(|s| s.failed != 0) {
            segment.lost();
        }
        let mut state = lock(&self.state);
        state.active.retain(|b| !Shared::same(b, batch));
        drop(segments);
        let mut b = lock(&batch.state);
        b.phase = Phase::Done;
        b.took = took;
        b.result = result;
        if let Err(e) = result {
            state.last_failure = Some((b.number, e));
        }
        drop(b);
        state.recent = Some((batch.clone(), Instant::now()));
        drop(state);
        batch.done.notify_all();
        result
    }

    /// Waits until nothing near to the queue is in flight, then runs it.
    fn run_queue(&self, queue: &Shared<Batch>) -> Result<()> {
        let mut state = lock(&self.state);
        let mut before = state.recent_group().cloned();
        loop {
            let patience = state.patience;
            drop(state);
            if let Some(worth_it) = before.and_then(|b| self.let_join(queue, &b, patience)) {
                lock(&self.state).patience = match worth_it {
                    true => 6,
                    false => (patience / 2).max(1),
                };
            }
            state = lock(&self.state);
            let blocker = {
                let q = lock(&queue.state);
                state
                    .active
                    .iter()
                    .find(|b| !Shared::same(b, queue) && lock(&b.state).is_near(&q.extents))
                    .cloned()
            };
            let Some(blocker) = blocker else {
                lock(&queue.state).phase = Phase::InFlight;
                state.queued = None;
                break;
            };
            drop(state);
            // Its verdict is its own drain's, and that of the drains that were told to watch it.
            let _ = wait(&blocker);
            before = Some(blocker);
            state = lock(&self.state);
        }
        drop(state);
        self.run(queue)
    }

    /// The drains that waited for a batch are likely to come back with the next pages at once. Gives them a moment to join
    /// the queue, short beside the sync that this saves; whether they did, if there were any to wait for.
    fn let_join(&self, queue: &Batch, before: &Batch, patience: u32) -> Option<bool> {
        let expected = before.drains.load(Ordering::Relaxed);
        let took = lock(&before.state).took;
        let mut joined = queue.drains.load(Ordering::Relaxed);
        if joined > expected {
            return None;
        }
        let mut now = Instant::now();
        let end = now + took * patience / 8;
        // As long as they keep coming.
        let mut until = now + took / 4;
        while joined <= expected && now < until.min(end) {
            std::thread::yield_now();
            now = Instant::now();
            let seen = queue.drains.load(Ordering::Relaxed);
            if seen > joined {
                joined = seen;
                until = now + took / 8;
            }
        }
        Some(joined * 2 > expected + 1)
    }

    /// Waits for all batches from a number on that are active now.
    fn wait_from(&self, first: u64) -> Result<()> {
        let upto = lock(&self.state).next;
        loop {
            let state = lock(&self.state);
            let next = state
                .active
                .iter()
                .find(|b| (first..upto).contains(&lock(&b.state).number))
                .cloned();
            match next {
                Some(batch) => {
                    drop(state);
                    let _ = wait(&batch);
                }
                None => {
                    return match state.last_failure {
                        Some((number, e)) if number >= first => Err(e),
                        _ => Ok(()),
                    };
                }
            }
        }
    }
}

fn wait(batch: &Shared<Batch>) -> Result<()> {
    let mut b: MutexGuard<'_, BatchState> = lock(&batch.state);
    while b.phase != Phase::Done {
        b = batch.done.wait(b).unwrap_or_else(PoisonError::into_inner);
    }
    b.result
}

/// Turns a run of recorded pages into segments. What no part has any more is forgotten; a part whose loss has not been
/// reported to this set yet keeps its pages, and the report is the error.
fn sort_out(
    parts: &impl Parts,
    log: &Log,
    addr: usize,
    len: usize,
    put: &mut dyn FnMut(Segment) -> Result<()>,
) -> Result<()> {
    let (mut at, end) = (addr, addr + len);
    let mut result = Ok(());
    while at < end {
        let Some(part) = parts.part(at) else {
            at += sys::page_size();
            continue;
        };
        let stop = end.min(part.start + part.len);
        let owed = part.owed.swap(0, Ordering::AcqRel);
        if owed != 0 {
            log.record(at, stop - at);
            result = Err(Error::NotDurable(at, stop - at, owed));
        } else {
            let put_result = put(Segment {
                addr: at,
                len: stop - at,
                offset: part.offset + (at - part.start) as u64,
                file: part.file.clone(),
                log: NonNull::from(log),
                failed: 0,
            });
            if let Err(e) = put_result {
                log.record(at, stop - at);
                result = Err(e);
            }
        }
        at = stop;
    }
    result
}

/// Whether a segment is better synced together with others once what is in flight is through.
fn must_queue(state: &State, segment: &Segment) -> bool {
    let extent = [(segment.addr, segment.addr + segment.len)];
    let near = |b: &Shared<Batch>| lock(&b.state).is_near(&extent);
    (state.active.iter().any(near) || state.recent_group().is_some_and(near))
        && segment.file.commits_together()
}

impl State {
    /// The batch of several drains that was done a moment ago: the first of them to come back has the others right behind.
    fn recent_group(&self) -> Option<&Shared<Batch>> {
        let (batch, when) = self.recent.as_ref()?;
        let fresh = batch.drains.load(Ordering::Relaxed) > 1
            && when.elapsed() < lock(&batch.state).took * self.patience / 8;
        fresh.then_some(batch)
    }
}

/// The queue, begun if there is none.
fn queue_of(state: &mut State, starts: &mut bool) -> Result<Shared<Batch>> {
    if let Some(queue) = &state.queued {
        return Ok(queue.clone());
    }
    let queue = register(state, &mut Vec::new(), Phase::Queued)?;
    state.queued = Some(queue.clone());
    *starts = true;
    Ok(queue)
}

fn push_queued(queue: &mut BatchState, segment: Segment) -> Result<()> {
    queue.note(&segment)?;
    crate::mem::try_push(&mut queue.segments, segment)
}

impl BatchState {
    fn is_near(&self, extents: &[(usize, usize)]) -> bool {
        self.extents.iter().any(|a| {
            extents
                .iter()
                .any(|b| a.0 < b.1.saturating_add(NEAR) && b.0 < a.1.saturating_add(NEAR))
        })
    }

    /// Notes where a segment is.
    fn note(&mut self, segment: &Segment) -> Result<()> {
        add_extent(
            &mut self.extents,
            (segment.addr, segment.addr + segment.len),
        )
    }
}

/// Extents of a batch: exact while they are few.
fn add_extent(extents: &mut Vec<(usize, usize)>, new: (usize, usize)) -> Result<()> {
    const FEW: usize = 64;
    if extents.len() < FEW {
        return crate::mem::try_push(extents, new);
    }
    let lo = extents.iter().map(|e| e.0).fold(new.0, usize::min);
    let hi = extents.iter().map(|e| e.1).fold(new.1, usize::max);
    extents.clear();
    extents.extend(std::iter::repeat_n((lo, hi), FEW));
    Ok(())
}

/// Makes a batch of the segments, which stay behind when there is no memory for it.
fn register(state: &mut State, segments: &mut Vec<Segment>, phase: Phase) -> Result<Shared<Batch>> {
    state
        .active
        .try_reserve(1)
        .map_err(|_| Error::OutOfMemory("drain"))?;
    let batch = Shared::try_new(Batch {
        drains: AtomicU32::new(1),
        state: Mutex::new(BatchState {
            number: state.next,
            phase,
            segments: Vec::new(),
            took: Duration::ZERO,
            extents: Vec::new(),
            result: Ok(()),
        }),
        done: Condvar::new(),
    })?;
    {
        let mut b = lock(&batch.state);
        for segment in segments.iter() {
            b.note(segment)?;
        }
        b.segments = std::mem::take(segments);
    }
    state.next += 1;
    state.active.push(batch.clone());
    Ok(batch)
}

impl Segment {
    fn log(&self) -> &Log {
        // SAFETY: a set's logs live until the set ends, and no drain outlives its set.
        unsafe { self.log.as_ref() }
    }

    fn continues(&self, next: &Segment) -> bool {
        self.addr + self.len == next.addr
            && self.offset + self.len as u64 == next.offset
            && Shared::same(&self.file, &next.file)
            && self.log == next.log
    }

    /// Recorded as it was.
    fn back(&self) {
        self.log().record(self.addr, self.len);
    }

    /// Recorded, and to be made dirty before it is synced again.
    fn lost(&self) {
        self.log().put_back(self.addr, self.len);
    }
}

/// Makes segments durable; those that could not be are marked. The first failure is the error.
fn sync(segments: &mut Vec<Segment>) -> Result<()> {
    segments.sort_unstable_by_key(|s| (Shared::id(&s.file), s.offset, s.addr));
    segments.dedup_by(|next, s| {
        let joins = s.continues(next);
        if joins {
            s.len += next.len;
        }
        joins
    });
    let mut result = Ok(());
    // Start everything, of all files, before waiting for anything.
    if segments.len() > 1 {
        for s in segments.iter_mut() {
            redirty(s);
        }
        for s in segments.iter_mut().filter(|s| s.failed == 0) {
            let started = s.file.with_plan(|plan, fd| match plan {
                SyncPlan::Each => Ok(()),
                _ => sys::start_writeback(fd, s.offset, s.len),
            });
            if let Err(errno) = started {
                if !unsupported(errno) {
                    s.failed = errno;
                }
            }
        }
    } else if let Some(s) = segments.first_mut() {
        redirty(s);
    }
    for group in segments.chunk_by_mut(|a, b| Shared::same(&a.file, &b.file)) {
        sync_file(group);
        for s in group.iter().filter(|s| s.failed != 0) {
            result = result.and(Err(Error::NotDurable(s.addr, s.len, s.failed)));
        }
    }
    result
}

/// Pages whose last sync failed count as clean in the kernel: a sync would find nothing to do and succeed.
fn redirty(s: &mut Segment) {
    let mut failed = 0;
    // SAFETY: a set's logs live until the set ends, and no drain outlives its set.
    let log = unsafe { s.log.as_ref() };
    log.each_lost(s.addr, s.len, |addr, len| {
        match sys::make_dirty(addr, len) {
            Ok(()) => true,
            Err(errno) => {
                failed = errno;
                false
            }
        }
    });
    if failed != 0 {
        s.failed = match s.file.syncs().last_errno() {
            0 => failed,
            errno => errno,
        };
    }
}

fn unsupported(errno: Errno) -> bool {
    matches!(
        errno,
        libc::ENOSYS | libc::EINVAL | libc::ESPIPE | libc::EOPNOTSUPP | libc::EBADF
    )
}

/// Syncs the segments of one file and marks all of them when the file's syncs have failed.
fn sync_file(group: &mut [Segment]) {
    let Some(file) = group.first().map(|s| s.file.clone()) else {
        return;
    };
    let Ok(ticket) = file.syncs().begin() else {
        for s in group.iter_mut().filter(|s| s.failed == 0) {
            s.failed = libc::ENOMEM;
        }
        return;
    };
    let mut failure = group
        .iter()
        .map(|s| s.failed)
        .find(|e| *e != 0)
        .map_or(Ok(()), Err);
    if group.len() > 1 && failure.is_ok() {
        failure = file.with_plan(|plan, fd| match plan {
            SyncPlan::Commit => finish_and_commit(group, fd),
            _ => sync_each(group),
        });
    } else {
        failure = failure.and(sync_each(group));
    }
    if failure.is_ok() {
        failure = file.settle_entry();
    }
    match file.syncs().end(ticket, failure) {
        Err(errno) => {
            for s in group.iter_mut() {
                s.failed = errno;
            }
        }
        Ok(()) => {
            for s in group.iter_mut() {
                verify(s);
            }
        }
    }
}

/// Pages that were lost once and have been synced again without a complaint: where the first write was to have allocated
/// their blocks, the file system may count the blocks as unwritten for ever and give back zeroes for what is in them. Then
/// they are not durable, whatever the sync said; and so when that cannot be found out.
fn verify(s: &mut Segment) {
    let mut failed = 0;
    // SAFETY: a set's logs live until the set ends, and no drain outlives its set.
    let log = unsafe { s.log.as_ref() };
    let durable = log.each_lost(s.addr, s.len, |addr, len| {
        let offset = s.offset + (addr - s.addr) as u64;
        let written = s
            .file
            .with_fd(|fd| fd.map(|fd| sys::blocks_are_written(fd, offset, len)));
        match written {
            Some(Some(true) | None) => true,
            Some(Some(false)) | None => {
                failed = s.file.syncs().last_errno();
                false
            }
        }
    });
    if durable {
        log.found(s.addr, s.len);
    } else {
        s.failed = failed;
    }
}

fn finish_and_commit(group: &[Segment], fd: std::os::fd::RawFd) -> sys::SysResult<()> {
    for s in group {
        match sys::finish_writeback(fd, s.offset, s.len) {
            Err(errno) if unsupported(errno) => return sync_each(group),
            result => result?,
        }
    }
    match group.first() {
        Some(s) => sys::sync_range(s.addr, sys::page_size()),
        None => Ok(()),
    }
}

fn sync_each(group: &[Segment]) -> sys::SysResult<()> {
    let mut result = Ok(());
    for s in group {
        // All of them, even after a failure: others may be healthy, and the kernel forgets what it has reported.
        result = result.and(sys::sync_range(s.addr, s.len));
    }
    result
}
