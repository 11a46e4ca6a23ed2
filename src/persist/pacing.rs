//! Group commit: how long a queue of drains waits to be joined, so that one commit serves more of them.
//!
//! While one batch of a file is in flight the drains that come queue, and before the queue goes it waits a moment for those
//! who have just been served, who are likely to come back with their next pages. A batch costs a disk 0.6 to 1.04 times what
//! as many threads pay that sync one page each, if all of them are in it; with half of them, 0.8 to 1.1 times; and when every
//! drain syncs at once and waits for those before it, 1.03 to 1.5 times (benches/batches.c).

use std::time::{Duration, Instant};

/// A queue waits for so many eighths of the time that the batch before it took, at most.
const MOST: u32 = 8;
/// When waiting has been in vain too often, one queue in so many tries again, for half a sync.
const TRY_AGAIN: u32 = 32;
/// A queue waits no longer than this in any case: those who come back do so sooner.
const LONGEST: Duration = Duration::from_millis(1);

/// When pages take a disk longer than this, each is started as soon as it is in the queue: then the disk has something to do
/// while the queue fills. With pages of 100 µs eight threads far apart took 0.92 times as long as without, in one run. Where
/// pages are cheap (20 µs) that would make a batch dearer (benches/batches.c).
const SLOW_PAGE: Duration = Duration::from_micros(80);

/// What has been learnt from the queues so far.
pub(super) struct Pacing {
    /// Pages have been slow.
    slow: bool,
    /// Eighths of a sync for which a queue waits to be joined: fewer when that was in vain.
    patience: u32,
    /// Queues that have not waited since patience ended.
    hurried: u32,
}

/// How many of those came that a queue has waited for.
pub(super) enum Came {
    All,
    Half,
    Few,
}

impl Default for Pacing {
    fn default() -> Self {
        Pacing {
            slow: false,
            patience: MOST / 2,
            hurried: 0,
        }
    }
}

impl Pacing {
    /// How long a sync that took so long is followed by those whom it has served.
    pub(super) fn reach(&self, took: Duration) -> Duration {
        took * self.patience / MOST
    }

    /// A batch of so many ranges took so long. Of a few, the flush of the disk would be the most.
    pub(super) fn saw(&mut self, ranges: u32, took: Duration) {
        self.slow = ranges >= 4 && took > SLOW_PAGE * ranges;
    }

    /// Whether what is queued is better started at once.
    pub(super) fn starts_early(&self) -> bool {
        self.slow
    }

    /// How patient to be this time.
    pub(super) fn patience(&mut self) -> u32 {
        if self.patience == 0 {
            self.hurried += 1;
            if self.hurried % TRY_AGAIN == 0 {
                return MOST / 2;
            }
        }
        self.patience
    }

    pub(super) fn learn(&mut self, came: Came) {
        match came {
            Came::All => self.patience = MOST,
            Came::Half => self.patience = self.patience.saturating_sub(1),
            Came::Few => self.patience /= 2,
        }
    }
}

/// Gives drains some time to join a queue, after a batch that took so long. `missing`: how many of them have not come.
/// `None` when it did not wait.
pub(super) fn gather(missing: impl Fn() -> u32, took: Duration, patience: u32) -> Option<Came> {
    let wanted = missing();
    if patience == 0 || wanted == 0 {
        return None;
    }
    let end = Instant::now() + (took * patience / MOST).min(LONGEST);
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
