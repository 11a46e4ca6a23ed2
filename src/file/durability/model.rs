//! The model check of the ledger: who is told of a failure that the kernel reports once. Run by tests/loom.sh.

use std::sync::Arc;

use loom::sync::atomic::AtomicBool;
use loom::thread;

use super::*;

const FILE: FileId = FileId { dev: 1, inode: 2 };
const OTHER: FileId = FileId { dev: 1, inode: 3 };

fn zeros<const N: usize>() -> [AtomicU64; N] {
    std::array::from_fn(|_| AtomicU64::new(0))
}

impl Ledger {
    fn model() -> Ledger {
        Ledger {
            epoch: AtomicU64::new(0),
            filter: zeros(),
            unlisted: AtomicU64::new(0),
            unlisted_errno: AtomicU32::new(0),
            unknown: AtomicU32::new(0),
            inherited: zeros(),
            tokens: AtomicU32::new(0),
            listed: AtomicU32::new(0),
            first: AtomicU64::new(0),
            shared: AtomicU32::new(0),
            failed: std::array::from_fn(|_| Failed::default()),
            buckets: std::array::from_fn(|_| Bucket::default()),
            growing: zeros(),
        }
    }
}

/// An exchange: loom puts no order between a mere store and the exchanges of others.
fn set(flag: &AtomicBool) {
    flag.swap(true, SeqCst);
}

/// How a sync goes about its end.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Right,
    /// Looks at the count without waiting for syncs that may have been given its report.
    PlantedNoWait,
    /// Is under way no more before its failure counts.
    PlantedCountsLate,
}

/// One page of a file, as the kernel and a set know it.
struct World {
    ledger: Ledger,
    /// A report that nobody has asked for.
    report: AtomicBool,
    dirty: AtomicBool,
    on_disk: AtomicBool,
}

impl World {
    fn new() -> Arc<World> {
        Arc::new(World {
            ledger: Ledger::model(),
            report: AtomicBool::new(false),
            dirty: AtomicBool::new(false),
            on_disk: AtomicBool::new(false),
        })
    }

    /// msync: what is dirty goes to the disk, or is lost; whoever asks first is given the report.
    fn msync(&self, loses: bool) -> SysResult<()> {
        if self.dirty.swap(false, SeqCst) {
            match loses {
                true => set(&self.report),
                false => set(&self.on_disk),
            }
        }
        match self.report.swap(false, SeqCst) {
            true => Err(libc::EIO),
            false => Ok(()),
        }
    }

    fn sync(&self, since: u64, loses: bool, how: End) -> SysResult<()> {
        let ticket = self.ledger.begin(FILE, false, 0);
        let result = self.msync(loses);
        end(ticket, result, since, how)
    }
}

fn end(mut ticket: Ticket<'_>, result: SysResult<()>, since: u64, how: End) -> SysResult<()> {
    if how == End::Right {
        return ticket.end(result, since);
    }
    let (ledger, file) = (ticket.ledger, ticket.file);
    if how == End::PlantedCountsLate {
        ticket.leave(Ok(()));
        ledger.wait_for_all(ticket.bucket, file, |_, _| true);
        if let Err(errno) = result {
            ledger.fail(file, errno);
        }
    } else {
        ticket.leave(result);
    }
    match ledger.failures(file) == since {
        true => result,
        false => Err(libc::EIO),
    }
}

/// As many changes of thread as the model check of references looks at.
fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    if builder.preemption_bound.is_none() {
        builder.preemption_bound = Some(2);
    }
    builder.check(model);
}

/// Two drains took pages that the kernel has lost already; it reports that once. Both are told.
fn reported_once(how: End) {
    check(move || {
        let world = World::new();
        set(&world.report);
        let other = world.clone();
        let t = thread::spawn(move || other.sync(0, false, how));
        let mine = world.sync(0, false, how);
        let others = t.join().unwrap();
        assert!(mine.is_err() && others.is_err(), "somebody was not told");
    });
}

#[test]
fn loom_reported_once_and_told_to_all() {
    reported_once(End::Right);
}

#[test]
#[should_panic(expected = "somebody was not told")]
fn loom_planted_no_wait_for_others() {
    reported_once(End::PlantedNoWait);
}

#[test]
#[should_panic(expected = "somebody was not told")]
fn loom_planted_counts_too_late() {
    reported_once(End::PlantedCountsLate);
}

/// Files that share a bucket are not waited for, nor told of each other's failures.
#[test]
fn loom_another_file() {
    check(|| {
        let world = World::new();
        let other = world.clone();
        let t = thread::spawn(move || {
            let ticket = other.ledger.begin(OTHER, false, 0);
            assert!(ticket.end(Err(libc::ENOSPC), 0).is_err());
        });
        assert!(world.sync(0, false, End::Right).is_ok());
        t.join().unwrap();
        assert_eq!(world.ledger.failures(FILE), 0);
        assert_eq!(world.ledger.failures(OTHER), 1);
    });
}

/// More files than there is room for: the failures of those that are not listed count for all.
#[test]
fn loom_more_files_than_places() {
    check(|| {
        let ledger = Ledger::model();
        for inode in 0..FAILED as u64 {
            ledger.fail(FileId { dev: 9, inode }, libc::EIO);
        }
        assert_eq!(ledger.failures(FILE), 0);
        ledger.fail(OTHER, libc::ENOSPC);
        assert_eq!(ledger.failures(FILE), 1);
        assert_eq!(ledger.errno(FILE), libc::ENOSPC);
        assert!(ledger.may_have_failed(&{
            let files = Filter(zeros());
            files.add(FILE);
            files
        }));
    });
}
