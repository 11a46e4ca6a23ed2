//! Drains: what is in flight, who waits for it, and what each is told.
//!
//! A drain clears the marks of the [dirty map](super::dirty), turns them into [file ranges](super::range) and syncs those in
//! the way that suits the file system. What it took is *in flight* until then: every later drain waits for it, since a drain
//! returns when everything that was flushed before it is durable. Where the file system makes several ranges durable by one
//! commit, drains that meet on a file go together ([pacing](super::pacing)). Other files, and files on other file systems,
//! are synced side by side.
//!
//! What is lost is marked in the dirty map before its batch counts as done, and stays so until the program has flushed it
//! again. A drain returns the error of what was lost when it began, of the batches that it waits for, and of its own.
//!
//! Locks: the set's (which parts are where, and what is lost), then this module's, then a batch's. No system call that may
//! wait for a medium is made under any of them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::dirty::DirtyMap;
use super::pacing::{self, Pacing};
use super::range::{self, End, FileRange};
use crate::error::{Error, Result};
use crate::file::OpenFile;
use crate::mem::{Shared, lock, try_push};
use crate::sys;

/// Files of a batch that are told apart; with more it counts as having any.
const FILES: usize = 64;

/// So many batches at once are waited for one by one; what is beyond them shares a verdict.
const WATCHED: usize = 16;

/// File ranges that are synced together.
struct Batch {
    /// In the order in which batches were begun.
    number: u64,
    /// Drains that have put something into it.
    drains: AtomicU32,
    state: Mutex<BatchState>,
    /// 1 once there is a verdict.
    done: AtomicU32,
}

struct BatchState {
    ranges: Vec<FileRange>,
    /// How long its sync took.
    took: Duration,
    /// Extents (address, end) of the ranges, kept while they are being synced; when there are many, of their parts.
    extents: Extents,
    /// Extents of their parts.
    parts: Extents,
    /// There are many.
    by_part: bool,
    /// Which files they are of.
    files: Vec<usize>,
    /// When it was done: the drains that may join the queue, and those that are in it already.
    expected: u32,
    result: Result<()>,
    /// Extents of what did not become durable, when there was memory for a list.
    failed: Option<Extents>,
}

type Extents = Vec<(usize, usize)>;

fn overlaps(extents: &Extents, lo: usize, hi: usize) -> bool {
    extents.iter().any(|e| e.0 < hi && lo < e.1)
}

#[derive(Default)]
struct State {
    /// Queued and in flight.
    active: Vec<Shared<Batch>>,
    queued: Option<Shared<Batch>>,
    next: u64,
    /// The batch that was done last, and when.
    recent: Option<(Shared<Batch>, Instant)>,
    pacing: Pacing,
    /// The last failure and the number of its batch.
    last_failure: Option<(u64, Error)>,
}

/// The drains of a set.
pub(crate) struct Drains {
    state: Mutex<State>,
    /// How often losses have been reported that had not been before. A flush during which this changes takes nothing back.
    reports: AtomicU64,
}

/// The parts and dirty maps of a set, under its lock.
pub(crate) trait Parts {
    fn each_map(&self, visit: &mut dyn FnMut(&DirtyMap));
    /// What is marked between these addresses, and was flushed before a failure of its file, becomes lost.
    fn catch_up(&self, map: &DirtyMap, lo: usize, hi: usize);
    /// What of `addr..end` is in the part that has the first address.
    fn file_range(&self, map: &DirtyMap, addr: usize, end: usize) -> Option<FileRange>;
    /// Something of the part that has the address has been lost.
    fn lost_by(&self, addr: usize, errno: sys::Errno);
    /// How what is lost of the part that has the address was lost.
    fn errno(&self, addr: usize) -> sys::Errno;
}

/// What a drain has found when it began.
#[derive(Default)]
struct Begun {
    /// To be synced by itself.
    own: Vec<FileRange>,
    /// In the queue, and to be started at once.
    early: Vec<(Shared<OpenFile>, u64, usize)>,
    /// Some went to the queue.
    joins_queue: bool,
    starts_queue: bool,
    /// In flight before it, and concerned.
    watch: [Option<Shared<Batch>>; WATCHED],
    /// The number of the first of those for which there was no place.
    unwatched: Option<u64>,
}

impl Drains {
    pub(crate) fn new() -> Self {
        Drains {
            state: Mutex::default(),
            reports: AtomicU64::new(0),
        }
    }

    /// How often losses have been reported.
    pub(crate) fn reports(&self) -> u64 {
        self.reports.load(Ordering::SeqCst)
    }

    /// Makes durable whatever was flushed before, in a range of addresses or in all of them. `parts` locks the set.
    pub(crate) fn drain<P: Parts, G: std::ops::Deref<Target = P>>(
        &self,
        range: Option<(usize, usize)>,
        parts: impl Fn() -> G,
    ) -> Result<()> {
        let _uncancelled = sys::Uncancelled::new();
        let mut begun = Begun::default();
        let mut result = Ok(());
        let guard = parts();
        let mut state = lock(&self.state);
        state.watch(range, &mut begun);
        guard.each_map(&mut |map| {
            let Some((lo, hi)) = within(map, range) else {
                return;
            };
            if !map.is_clean() {
                guard.catch_up(map, lo, hi);
                map.clear(lo, hi - lo, |addr, len| {
                    let taken = take(&*guard, map, addr, len, &mut |r| {
                        if !state.must_queue(&r) {
                            return try_push(&mut begun.own, r);
                        }
                        begun.joins_queue = true;
                        let queue = state.queue(&mut begun.starts_queue)?;
                        if state.pacing.starts_early() {
                            // No more than a good turn.
                            let _ = try_push(&mut begun.early, (r.file.clone(), r.offset, r.len));
                        }
                        lock(&queue.state).push(r)
                    });
                    if let Err(e) = taken {
                        result = result.and(Err(e));
                    }
                });
            }
            if let Some(e) = first_lost(&*guard, map, lo, hi) {
                result = result.and(Err(e));
            }
        });
        let queue = begun.joins_queue.then(|| state.queued.clone()).flatten();
        if let Some(queue) = queue.as_ref().filter(|_| !begun.starts_queue) {
            queue.drains.fetch_add(1, Ordering::Relaxed);
        }
        let mut batch = None;
        if !begun.own.is_empty() {
            match state.register(&mut begun.own) {
                Ok(registered) => batch = Some(registered),
                Err(e) => {
                    // Nothing was tried: they are marked as they were.
                    begun.own.iter().for_each(|r| r.map().mark(r.addr, r.len));
                    result = result.and(Err(e));
                }
            }
        }
        drop(state);
        drop(guard);
        for (file, offset, len) in begun.early {
            if let Err(errno) = file.start(offset, len) {
                // It may not be reported again: it counts for all who have flushed to the file.
                file.begin(false).leave(Err(errno));
            }
        }
        if let Some(batch) = batch {
            self.run(&batch, &parts);
            result = result.and(batch.verdict(range));
        }
        if let Some(queue) = queue {
            match begun.starts_queue {
                true => self.run_queue(&queue, &parts),
                false => queue.wait(),
            }
            result = result.and(queue.verdict(range));
        }
        for batch in begun.watch.iter().flatten() {
            batch.wait();
            result = result.and(batch.verdict(range));
        }
        match begun.unwatched {
            Some(first) => result.and(self.wait_from(first)),
            None => result,
        }
    }

    /// The caller is about to return the error of a drain of a range of addresses, or of all of them: all that is lost there
    /// counts as reported, and a flush that begins after that takes it back.
    pub(crate) fn tell(&self, range: Option<(usize, usize)>, parts: &impl Parts) {
        let mut news = false;
        parts.each_map(&mut |map| {
            if let Some((lo, hi)) = within(map, range) {
                news |= map.tell(lo, hi - lo);
            }
        });
        if news {
            self.reports.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// The error of what is lost first in a range. Under the set's lock.
    pub(crate) fn first_lost(&self, parts: &impl Parts, lo: usize, hi: usize) -> Option<Error> {
        let mut found = None;
        parts.each_map(&mut |map| {
            if let Some((lo, hi)) = within(map, Some((lo, hi))).filter(|_| found.is_none()) {
                found = first_lost(parts, map, lo, hi);
            }
        });
        found
    }

    /// Whether anything in the range is marked in these maps or in flight. Under the set's lock.
    pub(crate) fn is_busy(&self, parts: &impl Parts, lo: usize, hi: usize) -> bool {
        let state = lock(&self.state);
        if state.active.iter().any(|b| lock(&b.state).concerns(lo, hi)) {
            return true;
        }
        let mut any = false;
        parts.each_map(&mut |map| {
            if let Some((lo, hi)) = within(map, Some((lo, hi))) {
                any |= map.is_marked(lo, hi - lo);
            }
        });
        any
    }

    /// Syncs a batch that is in flight and gives its verdict to all who wait for it.
    fn run<P: Parts, G: std::ops::Deref<Target = P>>(
        &self,
        batch: &Shared<Batch>,
        parts: &impl Fn() -> G,
    ) {
        let mut ranges = std::mem::take(&mut lock(&batch.state).ranges);
        let count = ranges.len() as u32;
        let began = Instant::now();
        let mut result = range::sync(&mut ranges);
        let took = began.elapsed();
        for r in ranges.iter_mut().filter(|r| r.end == End::Durable) {
            if r.file.inode().failures() > 0 && !is_written(r, parts) {
                r.end = End::Lost(r.file.inode().errno());
            }
        }
        let mut failed = Some(Vec::new());
        if ranges.iter().any(|r| r.end != End::Durable) {
            let guard = parts();
            for r in &ranges {
                let End::Lost(errno) = r.end else {
                    continue;
                };
                r.map().lose(r.addr, r.len);
                guard.lost_by(r.addr, errno);
                result = result.and(Err(r.not_durable(errno)));
                if let Some(list) = &mut failed {
                    if try_push(list, (r.addr, r.addr + r.len)).is_err() {
                        failed = None;
                    }
                }
            }
        }
        let mut state = lock(&self.state);
        state.active.retain(|b| !Shared::same(b, batch));
        // While nobody can begin to remove their parts: their files may be closed by this.
        drop(ranges);
        let queue = state.queued.as_ref();
        let queued = queue.map_or(0, |q| q.drains.load(Ordering::Relaxed));
        let mut b = lock(&batch.state);
        b.expected = queued + batch.drains.load(Ordering::Relaxed);
        b.took = took;
        b.result = result;
        b.failed = failed;
        if let Err(e) = result {
            state.last_failure = Some((batch.number, e));
        }
        drop(b);
        state.pacing.saw(count, took);
        state.recent = Some((batch.clone(), Instant::now()));
        drop(state);
        batch.done.store(1, Ordering::Release);
        sys::wake_all(&batch.done);
    }

    /// Waits until nothing of the queue's files is in flight that was before the queue began, then runs it.
    fn run_queue<P: Parts, G: std::ops::Deref<Target = P>>(
        &self,
        queue: &Shared<Batch>,
        parts: &impl Fn() -> G,
    ) {
        let mut state = lock(&self.state);
        let mut before = state.recent_group().cloned();
        loop {
            if let Some(before) = before.take() {
                let patience = state.pacing.patience();
                drop(state);
                let (expected, took) = {
                    let b = lock(&before.state);
                    (b.expected, b.took)
                };
                let missing = || expected.saturating_sub(queue.drains.load(Ordering::Relaxed));
                let came = pacing::gather(missing, took, patience);
                state = lock(&self.state);
                if let Some(came) = came {
                    state.pacing.learn(came);
                }
            }
            let Some(blocker) = state.blocker(queue) else {
                state.queued = None;
                break;
            };
            drop(state);
            // Its verdict is its own drain's, and that of the drains that were told to watch it.
            blocker.wait();
            before = Some(blocker);
            state = lock(&self.state);
        }
        drop(state);
        self.run(queue, parts);
    }

    /// Waits for all batches from a number on that are active now.
    fn wait_from(&self, first: u64) -> Result<()> {
        let upto = lock(&self.state).next;
        loop {
            let state = lock(&self.state);
            let next = state
                .active
                .iter()
                .find(|b| (first..upto).contains(&b.number));
            match next.cloned() {
                Some(batch) => {
                    drop(state);
                    batch.wait();
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

/// What of a map is in a range of addresses, or all of it.
fn within(map: &DirtyMap, range: Option<(usize, usize)>) -> Option<(usize, usize)> {
    let (base, size) = map.range();
    let (lo, hi) = range.map_or((base, base + size), |(lo, hi)| {
        (lo.max(base), hi.min(base + size))
    });
    (lo < hi).then_some((lo, hi))
}

/// Turns a run of pages whose marks have been cleared into file ranges. What no part has any more is forgotten. What `put` has
/// no memory for is marked again.
fn take(
    parts: &impl Parts,
    map: &DirtyMap,
    addr: usize,
    len: usize,
    put: &mut dyn FnMut(FileRange) -> Result<()>,
) -> Result<()> {
    let (mut at, end) = (addr, addr + len);
    let mut result = Ok(());
    while at < end {
        let Some(r) = parts.file_range(map, at, end) else {
            at += sys::page_size();
            continue;
        };
        let (addr, len) = (r.addr, r.len);
        if let Err(e) = put(r) {
            map.mark(addr, len);
            result = Err(e);
        }
        at = addr + len;
    }
    result
}

/// The error of what is lost first in a range.
fn first_lost(parts: &impl Parts, map: &DirtyMap, lo: usize, hi: usize) -> Option<Error> {
    let mut at = lo;
    while at < hi {
        let (addr, len) = map.first_lost(at, hi - at)?;
        if let Some(r) = parts.file_range(map, addr, addr + len) {
            return Some(r.not_durable(parts.errno(addr)));
        }
        // A flush that raced with the removal of its part has left it.
        at = addr + len;
    }
    None
}

/// Whether what of a range was made dirty again after a failure is on the medium now.
fn is_written<P: Parts, G: std::ops::Deref<Target = P>>(
    r: &FileRange,
    parts: &impl Fn() -> G,
) -> bool {
    let (mut at, end) = (r.addr, r.addr + r.len);
    loop {
        let guard = parts();
        let Some((addr, len)) = r.map().first_refreshed(at, end - at) else {
            return true;
        };
        drop(guard);
        if !range::is_written(&r.file, r.offset + (addr - r.addr) as u64, len) {
            return false;
        }
        at = addr + len;
        if at >= end {
            return true;
        }
    }
}

impl Batch {
    fn wait(&self) {
        while self.done.load(Ordering::Acquire) == 0 {
            sys::wait_while(&self.done, 0);
        }
    }

    /// What a drain of a range of addresses, or of all of them, is told once the batch is done.
    fn verdict(&self, range: Option<(usize, usize)>) -> Result<()> {
        let state = lock(&self.state);
        match (range, &state.failed) {
            (Some((lo, hi)), Some(failed)) if !overlaps(failed, lo, hi) => Ok(()),
            _ => state.result,
        }
    }
}

impl State {
    /// Notes what is in flight that a drain must wait for.
    fn watch(&self, range: Option<(usize, usize)>, begun: &mut Begun) {
        for batch in &self.active {
            if !range.is_none_or(|(lo, hi)| lock(&batch.state).concerns(lo, hi)) {
                continue;
            }
            match begun.watch.iter_mut().find(|w| w.is_none()) {
                Some(free) => *free = Some(batch.clone()),
                None => {
                    begun.unwatched.get_or_insert(batch.number);
                }
            }
        }
    }

    /// Whether a range is better synced together with others once what is in flight is through.
    fn must_queue(&self, r: &FileRange) -> bool {
        let file = [Shared::id(&r.file)];
        let shares = |b: &Shared<Batch>| lock(&b.state).shares_a_file(&file);
        (self.active.iter().any(shares) || self.recent_group().is_some_and(shares))
            && r.file.plan.commits_together()
    }

    /// The batch of several drains that was done a moment ago: the first of them to come back has the others right behind.
    fn recent_group(&self) -> Option<&Shared<Batch>> {
        let (batch, when) = self.recent.as_ref()?;
        let fresh = batch.drains.load(Ordering::Relaxed) > 1
            && when.elapsed() < self.pacing.reach(lock(&batch.state).took);
        fresh.then_some(batch)
    }

    /// What must be through before the queue goes: what was there before it and has some of its files. Others may keep
    /// coming.
    fn blocker(&self, queue: &Shared<Batch>) -> Option<Shared<Batch>> {
        let q = lock(&queue.state);
        self.active
            .iter()
            .filter(|b| b.number < queue.number)
            .find(|b| lock(&b.state).shares_a_file(&q.files))
            .cloned()
    }

    /// The queue, begun if there is none.
    fn queue(&mut self, starts: &mut bool) -> Result<Shared<Batch>> {
        if let Some(queue) = &self.queued {
            return Ok(queue.clone());
        }
        let queue = self.register(&mut Vec::new())?;
        self.queued = Some(queue.clone());
        *starts = true;
        Ok(queue)
    }

    /// Makes a batch of the ranges, which stay behind when there is no memory for it.
    fn register(&mut self, ranges: &mut Vec<FileRange>) -> Result<Shared<Batch>> {
        self.active
            .try_reserve(1)
            .map_err(|_| Error::OutOfMemory("drain"))?;
        let batch = Shared::try_new(Batch {
            number: self.next,
            drains: AtomicU32::new(1),
            state: Mutex::new(BatchState {
                ranges: Vec::new(),
                took: Duration::ZERO,
                extents: Vec::new(),
                parts: Vec::new(),
                by_part: false,
                files: Vec::new(),
                expected: 0,
                result: Ok(()),
                failed: None,
            }),
            done: AtomicU32::new(0),
        })?;
        {
            let mut b = lock(&batch.state);
            for r in ranges.iter() {
                b.note(r)?;
            }
            b.ranges = std::mem::take(ranges);
        }
        self.next += 1;
        self.active.push(batch.clone());
        Ok(batch)
    }
}

impl BatchState {
    fn push(&mut self, r: FileRange) -> Result<()> {
        self.note(&r)?;
        try_push(&mut self.ranges, r)
    }

    fn shares_a_file(&self, files: &[usize]) -> bool {
        let many = |files: &[usize]| files.len() > FILES;
        many(&self.files) || many(files) || self.files.iter().any(|f| files.contains(f))
    }

    /// Notes where a range is, and of which file.
    fn note(&mut self, r: &FileRange) -> Result<()> {
        let file = Shared::id(&r.file);
        if self.files.len() <= FILES && !self.files.contains(&file) {
            try_push(&mut self.files, file)?;
        }
        const FEW: usize = 64;
        if self.extents.len() < FEW {
            try_push(&mut self.extents, (r.addr, r.addr + r.len))?;
        } else {
            self.by_part = true;
        }
        if self.parts.last() != Some(&r.part) {
            try_push(&mut self.parts, r.part)?;
        }
        Ok(())
    }

    /// Whether a range of it may be in these addresses.
    fn concerns(&self, lo: usize, hi: usize) -> bool {
        overlaps(
            if self.by_part {
                &self.parts
            } else {
                &self.extents
            },
            lo,
            hi,
        )
    }
}
