//! What a set tells its observer.

use std::sync::Arc;

use crate::set::Set;

/// Something that happened on a set. Addresses and lengths are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the fields are the arguments of the calls")]
pub enum Event {
    /// Before a copy to ranges that do not overlap.
    Copy {
        src: usize,
        dest: usize,
        len: usize,
        flags: u32,
    },
    /// Before a copy to ranges that may overlap.
    Move {
        src: usize,
        dest: usize,
        len: usize,
        flags: u32,
    },
    /// Before a fill.
    Set {
        dest: usize,
        value: i32,
        len: usize,
        flags: u32,
    },
    /// Before the work of a flush or persist.
    Flush { addr: usize, len: usize },
    /// After the work of a drain or persist, or of a copy or fill that drains.
    Drain,
    /// After a mapping: the range of the part map, and the libpmem2 source where there is one (else 0).
    PartAdd {
        addr: usize,
        len: usize,
        pmem2_source: usize,
    },
    /// Before a range goes: what [`Set::remove_range`] was called with. This and the following are told only on a set into
    /// which a source has been mapped directly ([`Set::map_source`]).
    RemoveRange { addr: usize, len: usize },
    /// Before a part map goes: it is not found any more, but its memory is still mapped. Its first part's source as the C
    /// interface knows it, 0 if that is gone.
    PartRemove {
        addr: usize,
        len: usize,
        source: usize,
    },
    /// The shutdown state of a source has changed: the address of the [`Sds`](crate::Sds), valid during the call.
    SdsUpdate { sds: usize, source: usize },
    /// A range of the source cannot be read.
    BadBlock {
        offset: usize,
        length: usize,
        source: usize,
    },
    /// All bad blocks that were found in a source have been cleared.
    BadBlocksCleared { source: usize },
}

/// A closure that observes a set.
pub type ObserverFn = dyn Fn(&Set, &Event) + Send + Sync;

/// Who is told. It is called in the thread that caused the event, with no lock held: it may call the set.
#[derive(Clone, Default)]
pub enum Observer {
    /// Nobody.
    #[default]
    None,
    /// A closure.
    Closure(Arc<ObserverFn>),
    /// A function of another language with two words of its own.
    Foreign {
        /// What translates the event.
        adapter: fn(callback: usize, arg: usize, set: &Set, event: &Event),
        /// Handed to the adapter.
        callback: usize,
        /// Handed to the adapter.
        arg: usize,
    },
}

impl Observer {
    /// Whether anybody is told.
    pub fn is_some(&self) -> bool {
        !matches!(self, Observer::None)
    }

    pub(crate) fn tell(&self, set: &Set, event: &Event) {
        match self {
            Observer::None => {}
            Observer::Closure(f) => f(set, event),
            Observer::Foreign {
                adapter,
                callback,
                arg,
            } => adapter(*callback, *arg, set, event),
        }
    }
}
