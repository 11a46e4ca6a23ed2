//! What is remembered of a file's durability: by file, (device, inode), and not by source or descriptor.
//!
//! The kernel reports a lost write once for each time a file was opened, to whichever sync asks first, marks the page clean and
//! may drop it. So whoever hears of a failure has to remember it for all others: other sources and sets, descriptors that are
//! opened later, and the processes that a fork has given the same open file. This is the place:
//!
//! - [`Ledger`], in memory that a process shares with its children: which files have failed, how often, and which syncs are
//!   under way in all of these processes.
//! - [`Ticket`], a sync under way. Every call that makes the kernel hand a report out needs one.
//! - [`Inode`] (src/file/inode.rs), in this process: whether the directory entry and the size are durable, as far as this library changed them.
//!
//! The verdict on a sync (see `end`): the number of the file's failures is the same as when the pages were taken out of the
//! dirty map, and no sync of the file is still under way that began before this one ended, since that may have been given
//! the report. The set's part of it, which pages are lost, is in [`dirty`](crate::persist::dirty).

use std::sync::atomic::AtomicPtr;
use std::time::{Duration, Instant};

use super::inode::Inode;
use crate::error::{Error, Result};
use crate::fork;
use crate::sync::{AtomicU32, AtomicU64, Ordering::SeqCst};
use crate::sys::{self, Errno, SysResult};

/// Which file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId {
    pub dev: u64,
    pub inode: u64,
}

impl FileId {
    pub(super) fn hash(self) -> u64 {
        // Multiplication by odd constants spreads neighbouring numbers over the upper bits.
        let mixed = self.inode.wrapping_mul(0x9E37_79B9_7F4A_7C15)
            ^ self.dev.wrapping_mul(0xC2B2_AE3D_27D4_EB4F);
        mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32
    }
}

/// Which file a range belongs to of which nobody knows.
const UNKNOWN: FileId = FileId { dev: 0, inode: 0 };

/// Files that have failed and are told apart. With more, a failure counts for every file: the careful way.
const FAILED: usize = if cfg!(loom) { 2 } else { 1024 };
/// Places for them: four times as many, so that a file is found, or not, in one or two looks.
const PLACES: usize = 4 * FAILED;
/// Bits of the filter that says which files cannot have failed.
pub(crate) const FILTER: usize = 4;
/// Syncs under way are in buckets by file. In a bucket that is full one waits for a free place.
const BUCKETS: usize = if cfg!(loom) { 1 } else { 128 };
const FLIGHTS: usize = if cfg!(loom) { 3 } else { 32 };

/// A sync of another process is waited for so long. After that nobody can say what it was told, and its file counts as failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// So often it is looked at whether that process still is.
const LOOK: Duration = Duration::from_millis(20);

/// A file that has failed. It is never taken out.
#[derive(Default)]
struct Failed {
    /// 0 free, 1 being filled in, 2 in use.
    state: AtomicU32,
    errno: AtomicU32,
    dev: AtomicU64,
    inode: AtomicU64,
    failures: AtomicU64,
}

/// A place for a sync under way.
#[derive(Default)]
struct Flight {
    /// The process that has the place; 0 when it is free.
    process: AtomicU64,
    /// The number of the ticket, and whether somebody waits for its end; 0 when none is under way.
    ticket: AtomicU32,
    /// The process that opened the file description; 0 when that is not known. Only those who share it with the process can
    /// have missed a report that this one was given.
    opener: AtomicU64,
    /// It has its turn after those of the file that began before it.
    alone: AtomicU32,
    dev: AtomicU64,
    inode: AtomicU64,
}

const WAITED_FOR: u32 = 1;

#[derive(Default)]
struct Bucket {
    /// Syncs under way in it; what a process that was killed has left counts as well.
    count: AtomicU32,
    next_ticket: AtomicU32,
    flights: [Flight; FLIGHTS],
}

/// What processes that have come from each other by forks know together. All zero at first.
pub(crate) struct Ledger {
    /// Failures of all files.
    epoch: AtomicU64,
    /// Bits of the files that have failed.
    filter: [AtomicU64; FILTER],
    /// Failures of files that there was no room to list: they count for every file.
    unlisted: AtomicU64,
    unlisted_errno: AtomicU32,
    /// Syncs under way of files that are not known.
    unknown: AtomicU32,
    /// Bits of processes whose openings others have inherited and use.
    inherited: [AtomicU64; FILTER],
    /// Numbers that have been given to processes.
    tokens: AtomicU32,
    /// The first process that used it, and whether others have since.
    first: AtomicU64,
    shared: AtomicU32,
    /// How many of the places are in use.
    listed: AtomicU32,
    failed: [Failed; PLACES],
    buckets: [Bucket; BUCKETS],
    /// The processes that make files longer, by file.
    growing: [AtomicU64; GROWING],
}

const GROWING: usize = 16;

/// Others of these processes are kept from making the file longer, until this is dropped.
pub(crate) struct Growing {
    holder: &'static AtomicU64,
    _uncancelled: sys::Uncancelled,
}

impl Drop for Growing {
    fn drop(&mut self) {
        self.holder.store(0, SeqCst);
    }
}

/// The bits of files in the filter.
#[derive(Default)]
pub(crate) struct Filter([AtomicU64; FILTER]);

impl Filter {
    pub(crate) fn add(&self, file: FileId) {
        let (word, bit) = filter_bit(file);
        self.0[word].fetch_or(bit, SeqCst);
    }
}

fn filter_bit(file: FileId) -> (usize, u64) {
    let hash = file.hash();
    ((hash >> 6) as usize % FILTER, 1 << (hash & 63))
}

fn process_bit(process: u64) -> (usize, u64) {
    filter_bit(FileId {
        dev: 0,
        inode: process,
    })
}

impl Ledger {
    /// Whether any of these files may have failed; cheap while none of all has.
    #[inline]
    pub(crate) fn may_have_failed(&self, files: &Filter) -> bool {
        self.has_failures()
            && (0..FILTER).any(|i| self.filter[i].load(SeqCst) & files.0[i].load(SeqCst) != 0)
    }

    /// Whether any file has failed.
    #[inline]
    pub(crate) fn has_failures(&self) -> bool {
        self.epoch.load(SeqCst) != 0
    }

    /// How often syncs of the file have failed.
    pub(crate) fn failures(&self, file: FileId) -> u64 {
        if !self.has_failures() {
            return 0;
        }
        let listed: u64 = self.listed(file).map(|f| f.failures.load(SeqCst)).sum();
        listed + self.unlisted.load(SeqCst)
    }

    /// The errno of the file's last failure; 0 if there was none.
    pub(super) fn errno(&self, file: FileId) -> Errno {
        let listed = self.listed(file).map(|f| f.errno.load(SeqCst)).last();
        match listed.unwrap_or(0) {
            0 => self.unlisted_errno.load(SeqCst) as Errno,
            errno => errno as Errno,
        }
    }

    fn places(file: FileId) -> impl Iterator<Item = usize> {
        let first = file.hash() as usize;
        (0..PLACES).map(move |i| (first + i) % PLACES)
    }

    /// Where a file is listed; more than once if several processes listed it at the same time.
    fn listed(&self, file: FileId) -> impl Iterator<Item = &Failed> {
        Self::places(file)
            .map(|i| &self.failed[i])
            .take_while(|f| f.state.load(SeqCst) != 0)
            .filter(move |f| f.is(file))
    }

    /// Counts a failure. It is seen by all whose sync ends after the caller's.
    fn fail(&self, file: FileId, errno: Errno) {
        let count = |f: &Failed| {
            f.errno.store(errno as u32, SeqCst);
            f.failures.fetch_add(1, SeqCst);
        };
        // Before it counts: whoever knows the count is to find that flushes need more than a mark.
        let (word, bit) = filter_bit(file);
        self.filter[word].fetch_or(bit, SeqCst);
        self.epoch.fetch_add(1, SeqCst);
        for f in Self::places(file).map(|i| &self.failed[i]) {
            if f.is(file) {
                return count(f);
            }
            if f.state.load(SeqCst) == 0 && self.listed.load(SeqCst) as usize >= FAILED {
                break;
            }
            if f.state.compare_exchange(0, 1, SeqCst, SeqCst).is_ok() {
                self.listed.fetch_add(1, SeqCst);
                f.dev.store(file.dev, SeqCst);
                f.inode.store(file.inode, SeqCst);
                count(f);
                return f.state.store(2, SeqCst);
            }
        }
        self.fail_all(errno);
    }

    /// Counts a failure of a file that is not known.
    fn fail_all(&self, errno: Errno) {
        self.filter.iter().for_each(|word| {
            word.fetch_or(u64::MAX, SeqCst);
        });
        self.epoch.fetch_add(1, SeqCst);
        self.unlisted_errno.store(errno as u32, SeqCst);
        self.unlisted.fetch_add(1, SeqCst);
    }

    /// A number, not 0, that no other of these processes gets.
    pub(crate) fn next_token(&self) -> u32 {
        1 + (self.tokens.fetch_add(1, SeqCst) & (u32::MAX >> 2))
    }

    /// Waits until no other thread makes the file longer, here or in another process that may have the same open file. One that
    /// was stopped is waited for a tenth of a second.
    pub(super) fn growing(&'static self, file: FileId) -> Option<Growing> {
        let uncancelled = sys::Uncancelled::new();
        let word = &self.growing[file.hash() as usize % GROWING];
        let me = fork::process();
        for _ in 0..1000 {
            let holder = word.load(SeqCst);
            let free = holder == 0 || (holder != me && fork::is_gone(holder));
            if free && word.compare_exchange(holder, me, SeqCst, SeqCst).is_ok() {
                return Some(Growing {
                    holder: word,
                    _uncancelled: uncancelled,
                });
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        None
    }

    /// This process uses what others may have from the same forks. Whether there are any such that do.
    pub(crate) fn join(&self) -> bool {
        let me = fork::process();
        let first = self.first.load(SeqCst);
        if first != me
            && (first != 0 || self.first.compare_exchange(0, me, SeqCst, SeqCst).is_err())
        {
            self.shared.store(1, SeqCst);
        }
        self.shared.load(SeqCst) != 0
    }

    /// Before the system calls of a sync. `alone`: no other sync of the file is to run at the same time; whoever began before
    /// this one is waited for. `opener`: the process that opened the file description, or 0.
    pub(crate) fn begin(&self, file: FileId, alone: bool, opener: u64) -> Ticket<'_> {
        let uncancelled = sys::Uncancelled::new();
        let bucket = &self.buckets[file.hash() as usize % BUCKETS];
        let me = fork::process();
        self.join();
        if opener != 0 && opener != me {
            let (word, bit) = process_bit(opener);
            self.inherited[word].fetch_or(bit, SeqCst);
        }
        bucket.count.fetch_add(1, SeqCst);
        let turn = bucket.next_ticket.fetch_add(1, SeqCst);
        // Never 0, which says that none is under way; the lowest bit is WAITED_FOR's.
        let number = turn << 1 | 1 << 31;
        let mut wait = crate::sync::Wait::default();
        let flight = 'found: loop {
            for i in 0..FLIGHTS {
                let flight = &bucket.flights[(turn as usize + i) % FLIGHTS];
                if flight
                    .process
                    .compare_exchange(0, me, SeqCst, SeqCst)
                    .is_ok()
                {
                    break 'found flight;
                }
                self.end_if_gone(bucket, flight);
            }
            wait.a_moment();
        };
        flight.opener.store(opener, SeqCst);
        flight.alone.store(alone.into(), SeqCst);
        flight.dev.store(file.dev, SeqCst);
        flight.inode.store(file.inode, SeqCst);
        flight.ticket.store(number, SeqCst);
        if alone {
            self.wait_for(bucket, file, |_, other| before(other, number));
        }
        Ticket {
            ledger: self,
            bucket,
            flight,
            number,
            alone,
            file,
            ended: false,
            _uncancelled: uncancelled,
        }
    }

    /// Whether another process than the one that syncs may have missed a report that this one was given: if they share the open
    /// file description.
    fn concerns_others(&self, flight: &Flight, process: u64) -> bool {
        let opener = flight.opener.load(SeqCst);
        let (word, bit) = process_bit(opener);
        opener != process || self.inherited[word].load(SeqCst) & bit != 0
    }

    /// A process that was killed in the middle of a sync may have been given a report that it cannot pass on.
    fn end_if_gone(&self, bucket: &Bucket, flight: &Flight) {
        let process = flight.process.load(SeqCst);
        if process != 0 && process != fork::process() && fork::is_gone(process) {
            self.end_for(bucket, flight, process);
        }
    }

    /// Ends what another process has begun and will not end.
    fn end_for(&self, bucket: &Bucket, flight: &Flight, process: u64) {
        let me = fork::process();
        if flight
            .process
            .compare_exchange(process, me, SeqCst, SeqCst)
            .is_err()
        {
            return;
        }
        let ticket = flight.ticket.load(SeqCst);
        match flight.file() {
            _ if ticket == 0 || !self.concerns_others(flight, process) => {}
            UNKNOWN => self.fail_all(libc::EIO),
            file => self.fail(file, libc::EIO),
        }
        flight.end(ticket);
        flight.process.store(0, SeqCst);
        bucket.count.fetch_sub(1, SeqCst);
    }

    /// Waits until no sync of the file is under way that is now, nor any of which nobody knows the file.
    fn wait_for_all(&self, bucket: &Bucket, file: FileId, which: impl Fn(&Flight, u32) -> bool) {
        self.wait_for(bucket, file, which);
        if self.unknown.load(SeqCst) != 0 {
            let bucket = &self.buckets[UNKNOWN.hash() as usize % BUCKETS];
            self.wait_for(bucket, UNKNOWN, |_, _| true);
        }
    }

    /// Waits for those of the file's syncs that are under way now.
    fn wait_for(&self, bucket: &Bucket, file: FileId, which: impl Fn(&Flight, u32) -> bool) {
        if bucket.count.load(SeqCst) == 0 {
            return;
        }
        // All are noted first: whoever begins while one is waited for is not waited for as well.
        let under_way: [u32; FLIGHTS] = std::array::from_fn(|i| {
            let flight = &bucket.flights[i];
            let ticket = flight.ticket.load(SeqCst) & !WAITED_FOR;
            if ticket == 0 || flight.file() != file || !which(flight, ticket) {
                return 0;
            }
            let process = flight.process.load(SeqCst);
            let missed = process == fork::process() || self.concerns_others(flight, process);
            if missed { ticket } else { 0 }
        });
        for (flight, ticket) in bucket.flights.iter().zip(under_way) {
            if ticket != 0 {
                self.wait_for_end(bucket, flight, ticket);
            }
        }
    }

    fn wait_for_end(&self, bucket: &Bucket, flight: &Flight, ticket: u32) {
        let mut since = None;
        loop {
            let now = flight.ticket.load(SeqCst);
            if now & !WAITED_FOR != ticket {
                return;
            }
            let process = flight.process.load(SeqCst);
            if process != 0 && process != fork::process() {
                let since = *since.get_or_insert_with(Instant::now);
                if since.elapsed() > PATIENCE {
                    return self.end_for(bucket, flight, process);
                }
                self.end_if_gone(bucket, flight);
            }
            flight.wait(now);
        }
    }
}

/// Whether a ticket was begun before another of the same bucket.
fn before(ticket: u32, other: u32) -> bool {
    let distance = (other >> 1).wrapping_sub(ticket >> 1) << 2;
    distance != 0 && distance < 1 << 31
}

impl Failed {
    fn is(&self, file: FileId) -> bool {
        let mut wait = crate::sync::Wait::default();
        // A process may have been killed between two stores: then the place is lost, and not for long waited for.
        for _ in 0..100 {
            if self.state.load(SeqCst) != 1 {
                break;
            }
            wait.a_moment();
        }
        self.state.load(SeqCst) == 2
            && self.dev.load(SeqCst) == file.dev
            && self.inode.load(SeqCst) == file.inode
    }
}

impl Flight {
    fn file(&self) -> FileId {
        FileId {
            dev: self.dev.load(SeqCst),
            inode: self.inode.load(SeqCst),
        }
    }

    /// Ends it, if it is still this one.
    fn end(&self, ticket: u32) -> bool {
        let mut held = ticket;
        while let Err(now) = self.ticket.compare_exchange(held, 0, SeqCst, SeqCst) {
            if now & !WAITED_FOR != ticket & !WAITED_FOR {
                return false;
            }
            held = now;
        }
        if held & WAITED_FOR != 0 {
            #[cfg(not(loom))]
            sys::wake_all_shared(&self.ticket);
        }
        true
    }

    fn wait(&self, held: u32) {
        #[cfg(loom)]
        {
            let _ = held;
            loom::thread::yield_now();
        }
        #[cfg(not(loom))]
        {
            let waited = held | WAITED_FOR;
            let marked = held == waited
                || self
                    .ticket
                    .compare_exchange(held, waited, SeqCst, SeqCst)
                    .is_ok();
            if marked {
                sys::wait_while_shared(&self.ticket, waited, LOOK);
            }
        }
    }
}

/// A sync of a file under way. Calls that hand out the kernel's reports ask for one, so that none is lost.
pub(crate) struct Ticket<'a> {
    ledger: &'a Ledger,
    bucket: &'a Bucket,
    flight: &'a Flight,
    number: u32,
    alone: bool,
    file: FileId,
    ended: bool,
    _uncancelled: sys::Uncancelled,
}

impl sys::HearsReports for Ticket<'_> {}

impl Ticket<'_> {
    /// After the system calls of a sync, with their result. `since`: how many of the file's syncs had failed when its pages
    /// were taken out of the dirty map.
    ///
    /// The verdict is `Ok` when none has failed since: neither this one nor, of those that ran at the same time and may have
    /// been given the report that concerns it, any other.
    pub(crate) fn end(mut self, result: SysResult<()>, since: u64) -> SysResult<()> {
        self.leave(result);
        // Those that wait for their turn after this one began theirs when it had ended.
        let (alone, number) = (self.alone, self.number);
        self.ledger
            .wait_for_all(self.bucket, self.file, |flight, other| {
                !(alone && flight.alone.load(SeqCst) != 0 && before(number, other))
            });
        if self.ledger.failures(self.file) == since {
            return result;
        }
        Err(match result {
            Err(errno) => errno,
            Ok(()) => self.ledger.errno(self.file),
        })
    }

    /// Ends it without a verdict, for calls whose reports are about nothing that is awaited.
    pub(crate) fn leave(&mut self, result: SysResult<()>) {
        if let Err(errno) = result {
            self.ledger.fail(self.file, errno);
        }
        self.ended = true;
        // Unless another process has lost its patience with it.
        if self.flight.end(self.number) {
            self.flight.process.store(0, SeqCst);
            self.bucket.count.fetch_sub(1, SeqCst);
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        // Given up without a verdict: whatever was reported to it is not known.
        if !self.ended {
            self.leave(Err(libc::EIO));
        }
    }
}

/// The ledger that this process shares with its relatives.
#[cfg(not(loom))]
#[inline]
pub(crate) fn ledger() -> Option<&'static Ledger> {
    let ledger = LEDGER.load(std::sync::atomic::Ordering::Acquire);
    // SAFETY: set once, to memory that stays mapped for ever; all of it is atomic, and zero is a value of each.
    unsafe { ledger.as_ref() }
}

#[cfg(not(loom))]
static LEDGER: AtomicPtr<Ledger> = AtomicPtr::new(std::ptr::null_mut());

/// Models make ledgers of their own.
#[cfg(loom)]
pub(crate) fn ledger() -> Option<&'static Ledger> {
    None
}

#[cfg(loom)]
pub(crate) fn open_ledger() -> Result<&'static Ledger> {
    Err(Error::OutOfMemory("ledger"))
}

/// The same. It is made when the library is loaded, so that whatever this process shares with children it also shares with them
/// what becomes of that; or later, if there was no memory then.
#[cfg(not(loom))]
pub(crate) fn open_ledger() -> Result<&'static Ledger> {
    use std::sync::atomic::Ordering;
    if let Some(ledger) = ledger() {
        return Ok(ledger);
    }
    let made = sys::map_shared(size_of::<Ledger>())
        .map_err(|e| Error::System("map memory to be shared with children", e))?;
    let first = LEDGER.compare_exchange(
        std::ptr::null_mut(),
        made as *mut Ledger,
        Ordering::AcqRel,
        Ordering::Acquire,
    );
    let ledger = match first {
        Ok(_) => made as *mut Ledger,
        Err(theirs) => {
            // SAFETY: mapped above, and nobody has seen it.
            unsafe { sys::unmap(made, size_of::<Ledger>()) };
            theirs
        }
    };
    // SAFETY: as in `ledger`.
    Ok(unsafe { &*ledger })
}

#[cfg(not(any(loom, miri)))]
#[used]
#[unsafe(link_section = ".init_array")]
static OPEN_LEDGER: extern "C" fn() = {
    extern "C" fn open() {
        let _ = open_ledger();
    }
    open
};

/// Syncs a range of which nobody knows the file. Its failure is told to the caller, and it may have been about any file of
/// which reports are awaited: so it counts for the file that is mapped there, or if that cannot be found out for all.
pub(crate) fn sync_unknown(addr: usize, len: usize) -> SysResult<()> {
    let Ok(ledger) = open_ledger() else {
        return Err(libc::ENOMEM);
    };
    ledger.unknown.fetch_add(1, SeqCst);
    let mut ticket = ledger.begin(UNKNOWN, false, 0);
    let result = sys::sync_range(&ticket, addr, len);
    if let Err(errno) = result {
        // What is not mapped has not been synced.
        if errno != libc::ENOMEM {
            let file = sys::file_mapped_at(addr).map(|(dev, inode)| FileId { dev, inode });
            match file.filter(|id| Inode::is_known(*id)) {
                Some(file) => ledger.fail(file, errno),
                None => ledger.fail_all(errno),
            }
        }
    }
    ticket.leave(Ok(()));
    ledger.unknown.fetch_sub(1, SeqCst);
    result
}

#[cfg(all(test, loom))]
mod model;
