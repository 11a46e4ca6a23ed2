//! PAGE granularity: flushes are recorded, drains make them durable, together.
//!
//! A flush sets bits in the [log](super::log) of the address space. A drain takes the bits out, turns them into segments of
//! files and syncs those in the way that suits the file system. What it took is *in flight* until then: every later drain
//! waits for it, since a drain returns when everything that was flushed before it is durable. Where the file system makes
//! several ranges durable by one commit, drains that meet on a file go together: while one batch of it is in flight the
//! others queue, and before the queue goes it waits a moment for those who have just been served, who are likely to come
//! back with their next pages. Other files, and files on other file systems, are synced side by side.
//!
//! Locks: the set's lock (which parts are where) before this module's; system calls are made under neither.

use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::mem::{Shared, lock};
use crate::persist::log::Log;
use crate::persist::segment::{self, Segment};
use crate::source::{Mapped, OpenFile};
use crate::sys;

// Why queues wait: a batch costs a disk 0.6 to 1.04 times what as many threads pay that sync one page each, if all of them are
// in it; with half of them, 0.8 to 1.1 times; and when every drain syncs at once and waits for those before it, 1.03 to 1.5
// times (benches/batches.c).

/// A queue waits for so many eighths of the time that the batch before it took, at most.
const PATIENCE: u32 = 8;
/// When waiting has been in vain too often, one queue in so many tries again, for half a sync.
const TRY_AGAIN: u32 = 32;

/// A queue waits no longer than this in any case: those who come back do so sooner.
const LONGEST_WAIT: Duration = Duration::from_millis(1);

/// When pages take a disk longer than this, each is started as soon as it is in the queue: then the disk has something to do
/// while the queue fills (a batch of eight costs 1.01 instead of 1.04 times what eight threads pay, with pages of 200 µs).
/// Where pages are cheap (20 µs) that would make a batch dearer, 1.4 instead of 0.8 times (benches/batches.c).
const SLOW_PAGE: Duration = Duration::from_micros(80);

/// Files of a batch that are told apart; with more it counts as having any.
const FILES: usize = 64;

/// So many batches at once are waited for one by one; what is beyond them shares a verdict.
const WATCHED: usize = 16;

/// Segments that are synced together.
struct Batch {
    /// Drains that have put something into it.
    drains: AtomicU32,
    state: Mutex<BatchState>,
    /// 1 once there is a verdict.
    done: AtomicU32,
}

struct BatchState {
    number: u64,
    segments: Vec<Segment>,
    /// How long its sync took.
    took: Duration,
    /// Extents (address, end) of the segments, kept while they are being synced; when there are many, of their parts.
    extents: Vec<(usize, usize)>,
    /// There are many.
    by_part: bool,
    /// Extents of their parts.
    parts: Vec<(usize, usize)>,
    /// Which files they are of.
    files: Vec<usize>,
    /// When it was done: the drains that may join the queue, and those that are in it already.
    expected: u32,
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
    /// Queues that have not waited since patience ended.
    hurried: u32,
    /// Pages have been slow.
    slow: bool,
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
                patience: PATIENCE / 2,
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
        let _uncancelled = sys::Uncancelled::new();
        let guard = parts();
        let mut state = lock(&self.state);
        let mut result = Ok(());
        let mut own: Vec<Segment> = Vec::new();
        let mut early: Vec<(Shared<OpenFile>, u64, usize)> = Vec::new();
        let mut starts_queue = false;
        let mut joins_queue = false;
        let mut watch: [Option<Shared<Batch>>; WATCHED] = Default::default();
        let mut unwatched = None;
        for (i, batch) in state.active.iter().enumerate() {
            let concerns = range.is_none_or(|(lo, hi)| lock(&batch.state).concerns(lo, hi));
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
            let _taking = log.taking();
            log.take(lo, hi - lo, |addr, len| {
                let sorted = sort_out(&*guard, log, addr, len, &mut |segment| {
                    if must_queue(&state, &segment) {
                        joins_queue = true;
                        let queue = queue_of(&mut state, &mut starts_queue)?;
                        if state.slow {
                            let range = (segment.file.clone(), segment.offset, segment.len);
                            // No more than a good turn.
                            let _ = crate::mem::try_push(&mut early, range);
                        }
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
        let queue = joins_queue.then(|| state.queued.clone()).flatten();
        if let Some(queue) = queue.as_ref().filter(|_| !starts_queue) {
            queue.drains.fetch_add(1, Ordering::Relaxed);
        }
        let batch = if own.is_empty() {
            None
        } else {
            match register(&mut state, &mut own) {
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
        for (file, offset, len) in early {
            // What fails here is started again, or fails again, with the queue.
            let _ = segment::start(&file, |fd| sys::start_writeback(fd, offset, len));
        }
        if let Some(batch) = batch {
            result = result.and(self.run(&batch));
        }
        if let Some(queue) = queue {
            result = result.and(match starts_queue {
                true => self.run_queue(&queue),
                false => wait(&queue),
            });
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
        if state.active.iter().any(|b| lock(&b.state).concerns(lo, hi)) {
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
        let pages = segments.len() as u32;
        let began = Instant::now();
        let result = segment::sync(&mut segments);
        let took = began.elapsed();
        for segment in segments.iter().filter(|s| s.failed != 0) {
            segment.lost();
        }
        let mut state = lock(&self.state);
        state.active.retain(|b| !Shared::same(b, batch));
        drop(segments);
        let queue = state.queued.as_ref();
        let queued = queue.map_or(0, |q| q.drains.load(Ordering::Relaxed));
        let mut b = lock(&batch.state);
        b.expected = queued + batch.drains.load(Ordering::Relaxed);
        b.took = took;
        b.result = result;
        if let Err(e) = result {
            state.last_failure = Some((b.number, e));
        }
        drop(b);
        // Of a few pages the flush of the disk would be the most.
        state.slow = pages >= 4 && took > SLOW_PAGE * pages;
        state.recent = Some((batch.clone(), Instant::now()));
        drop(state);
        batch.done.store(1, Ordering::Release);
        sys::wake_all(&batch.done);
        result
    }

    /// Waits until nothing of the queue's files is in flight, then runs it.
    fn run_queue(&self, queue: &Shared<Batch>) -> Result<()> {
        let mut state = lock(&self.state);
        let mut before = state.recent_group().cloned();
        loop {
            if let Some(before) = before.take() {
                let patience = state.patience();
                drop(state);
                let came = gather(queue, &before, patience);
                state = lock(&self.state);
                match came {
                    None => {}
                    Some(Came::All) => state.patience = PATIENCE,
                    Some(Came::Half) => state.patience = state.patience.saturating_sub(1),
                    Some(Came::Few) => state.patience /= 2,
                }
            }
            let Some(blocker) = state.blocker(queue) else {
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

/// How many of those came that a queue has waited for.
enum Came {
    All,
    Half,
    Few,
}

/// Gives the drains that `before` was for some time to join the queue with the next pages. `None` when it did not wait.
fn gather(queue: &Batch, before: &Batch, patience: u32) -> Option<Came> {
    let (expected, took) = {
        let b = lock(&before.state);
        (b.expected, b.took)
    };
    let missing = || expected.saturating_sub(queue.drains.load(Ordering::Relaxed));
    let wanted = missing();
    if patience == 0 || wanted == 0 {
        return None;
    }
    let end = Instant::now() + (took * patience / PATIENCE).min(LONGEST_WAIT);
    // Asleep this would take longer to wake than all of them take to come.
    while missing() > 0 && Instant::now() < end {
        std::thread::yield_now();
    }
    Some(match missing() {
        0 => Came::All,
        few if few * 2 <= wanted => Came::Half,
        _ => Came::Few,
    })
}

fn wait(batch: &Shared<Batch>) -> Result<()> {
    while batch.done.load(Ordering::Acquire) == 0 {
        sys::wait_while(&batch.done, 0);
    }
    lock(&batch.state).result
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
        // In this order: a failure after the first look shows when the sync ends, one before it is owed.
        let failures = part.file.syncs().failures();
        let owed = part.owed.swap(0, Ordering::AcqRel);
        if owed != 0 {
            log.record(at, stop - at);
            result = Err(Error::NotDurable(at, stop - at, owed));
        } else {
            let put_result = put(Segment {
                addr: at,
                len: stop - at,
                offset: part.offset + (at - part.start) as u64,
                part: (part.start, part.start + part.len),
                file: part.file.clone(),
                log: NonNull::from(log),
                failures,
                failed: 0,
                ticket: None,
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
    let file = [Shared::id(&segment.file)];
    let shares = |b: &Shared<Batch>| lock(&b.state).shares_a_file(&file);
    (state.active.iter().any(shares) || state.recent_group().is_some_and(shares))
        && segment.file.commits_together()
}

impl State {
    /// The batch of several drains that was done a moment ago: the first of them to come back has the others right behind.
    fn recent_group(&self) -> Option<&Shared<Batch>> {
        let (batch, when) = self.recent.as_ref()?;
        let fresh = batch.drains.load(Ordering::Relaxed) > 1
            && when.elapsed() < lock(&batch.state).took * self.patience / PATIENCE;
        fresh.then_some(batch)
    }

    /// What must be through before the queue goes.
    fn blocker(&self, queue: &Shared<Batch>) -> Option<Shared<Batch>> {
        let q = lock(&queue.state);
        self.active
            .iter()
            .find(|b| !Shared::same(b, queue) && lock(&b.state).shares_a_file(&q.files))
            .cloned()
    }

    /// How long to wait this time.
    fn patience(&mut self) -> u32 {
        if self.patience == 0 {
            self.hurried += 1;
            if self.hurried % TRY_AGAIN == 0 {
                return PATIENCE / 2;
            }
        }
        self.patience
    }
}

/// The queue, begun if there is none.
fn queue_of(state: &mut State, starts: &mut bool) -> Result<Shared<Batch>> {
    if let Some(queue) = &state.queued {
        return Ok(queue.clone());
    }
    let queue = register(state, &mut Vec::new())?;
    state.queued = Some(queue.clone());
    *starts = true;
    Ok(queue)
}

fn push_queued(queue: &mut BatchState, segment: Segment) -> Result<()> {
    queue.note(&segment)?;
    crate::mem::try_push(&mut queue.segments, segment)
}

impl BatchState {
    fn shares_a_file(&self, files: &[usize]) -> bool {
        let many = |files: &[usize]| files.len() > FILES;
        many(&self.files) || many(files) || self.files.iter().any(|f| files.contains(f))
    }

    /// Notes where a segment is, and of which file.
    fn note(&mut self, segment: &Segment) -> Result<()> {
        let file = Shared::id(&segment.file);
        if self.files.len() <= FILES && !self.files.contains(&file) {
            crate::mem::try_push(&mut self.files, file)?;
        }
        const FEW: usize = 64;
        if self.extents.len() < FEW {
            let extent = (segment.addr, segment.addr + segment.len);
            crate::mem::try_push(&mut self.extents, extent)?;
        } else {
            self.by_part = true;
        }
        if self.parts.last() != Some(&segment.part) {
            crate::mem::try_push(&mut self.parts, segment.part)?;
        }
        Ok(())
    }

    /// Whether a segment may be in the range.
    fn concerns(&self, lo: usize, hi: usize) -> bool {
        let extents = match self.by_part {
            true => &self.parts,
            false => &self.extents,
        };
        extents.iter().any(|e| e.0 < hi && lo < e.1)
    }
}

/// Makes a batch of the segments, which stay behind when there is no memory for it.
fn register(state: &mut State, segments: &mut Vec<Segment>) -> Result<Shared<Batch>> {
    state
        .active
        .try_reserve(1)
        .map_err(|_| Error::OutOfMemory("drain"))?;
    let batch = Shared::try_new(Batch {
        drains: AtomicU32::new(1),
        state: Mutex::new(BatchState {
            number: state.next,
            segments: Vec::new(),
            took: Duration::ZERO,
            extents: Vec::new(),
            by_part: false,
            parts: Vec::new(),
            files: Vec::new(),
            expected: 0,
            result: Ok(()),
        }),
        done: AtomicU32::new(0),
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
