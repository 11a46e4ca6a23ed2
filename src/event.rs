//! What a set tells its observer.

use std::fmt;
use std::sync::Arc;

use crate::set::Set;
use crate::sys;
use crate::trace;

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

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Event::Copy {
                src,
                dest,
                len,
                flags,
            } => write!(f, "COPY {src:#x} to {dest:#x}, {len} bytes, {flags:#x}"),
            Event::Move {
                src,
                dest,
                len,
                flags,
            } => write!(f, "MOVE {src:#x} to {dest:#x}, {len} bytes, {flags:#x}"),
            Event::Set {
                dest,
                value,
                len,
                flags,
            } => write!(f, "SET {dest:#x} to {value}, {len} bytes, {flags:#x}"),
            Event::Flush { addr, len } => write!(f, "FLUSH {addr:#x}, {len} bytes"),
            Event::Drain => f.write_str("DRAIN"),
            Event::PartAdd { addr, len, .. } => write!(f, "PART_ADD {addr:#x}, {len} bytes"),
            Event::RemoveRange { addr, len } => write!(f, "REMOVE_RANGE {addr:#x}, {len} bytes"),
            Event::PartRemove { addr, len, source } => {
                write!(f, "PART_REMOVE {addr:#x}, {len} bytes, source {source:#x}")
            }
            Event::SdsUpdate { source, .. } => write!(f, "SDS_UPDATE source {source:#x}"),
            Event::BadBlock {
                offset,
                length,
                source,
            } => write!(
                f,
                "BADBLOCK {length} bytes at offset {offset}, source {source:#x}"
            ),
            Event::BadBlocksCleared { source } => {
                write!(f, "BADBLOCKS_CLEARED source {source:#x}")
            }
        }
    }
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
        if self.is_some() && trace::is_on() {
            trace::line(
                trace::ALL,
                format_args!("event on {:p}: {event}", set.as_raw()),
            );
        }
        if !self.is_some() {
            return;
        }
        // Not while it is told, either: calls that do not wait for anything themselves are not kept from it until here.
        let _uncancelled = sys::Uncancelled::new();
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
