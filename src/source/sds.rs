//! Shutdown state: whether a device may have lost data that was in use.
//!
//! A device counts the times when it lost power before it had written everything (its unsafe shutdown count, USC). A program
//! stores, for each source, the device's identity and count and how many mappings it has ([`Sds`]); the next time it compares.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::OpenFile;
use super::region::Region;
use crate::error::{Error, Result};
use crate::mem::{self, lock};

/// Bytes of a device's identity at most.
const ID_LEN: usize = 512;

/// What a program stores for a source. Laid out as `struct pmemset_sds` of the C interface.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sds {
    id: [u8; ID_LEN + 1],
    /// The device's count when the data was last known to be whole.
    pub usc: u64,
    /// Mappings.
    pub refcount: i32,
}

impl Default for Sds {
    fn default() -> Self {
        Sds {
            id: [0; ID_LEN + 1],
            usc: 0,
            refcount: 0,
        }
    }
}

impl std::fmt::Debug for Sds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sds")
            .field("id", &String::from_utf8_lossy(self.id()))
            .field("usc", &self.usc)
            .field("refcount", &self.refcount)
            .finish()
    }
}

impl Sds {
    /// The device's identity, as the kernel prints that of its DIMMs.
    pub fn id(&self) -> &[u8] {
        let len = self.id.iter().position(|b| *b == 0);
        &self.id[..len.unwrap_or(self.id.len())]
    }

    /// Another identity, which must not be longer than one can be.
    pub(super) fn set_id(&mut self, id: &[u8]) {
        self.id = [0; ID_LEN + 1];
        self.append_id(id);
    }

    /// Appends to the identity; false when there is no room.
    pub(super) fn append_id(&mut self, more: &[u8]) -> bool {
        let len = self.id().len();
        if len + more.len() > ID_LEN {
            return false;
        }
        self.id[len..len + more.len()].copy_from_slice(more);
        true
    }
}

/// What is known about a part's data. The values are those of the C interface of 1.12.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum State {
    /// It cannot be known: the state was stored for another device.
    Indeterminate = 1,
    /// Nothing is known to be wrong.
    Ok = 2,
    /// Nothing is known to be wrong, and this process has the source mapped already.
    OkButAlreadyOpen = 4,
    /// It was in use when the program stopped; the device lost nothing.
    OkButInterrupted = 8,
    /// The device may have lost data that was in use.
    Corrupted = 16,
}

impl State {
    pub(crate) const ALL: u64 = 31;

    fn name(self) -> &'static str {
        match self {
            State::Indeterminate => "INDETERMINATE",
            State::Ok => "OK",
            State::OkButAlreadyOpen => "OK_BUT_ALREADY_OPEN",
            State::OkButInterrupted => "OK_BUT_INTERRUPTED",
            State::Corrupted => "CORRUPTED",
        }
    }
}

/// The shutdown state that a source was given, and the word that came with it.
pub(crate) struct Kept {
    sds: Sds,
    report: usize,
    /// Mappings of this process that count.
    here: usize,
}

/// Compares what was stored with what the device says: the part's state, and what is to be stored from now on.
fn compare(stored: &Sds, device: &Sds, mapped_here: bool) -> (State, Sds) {
    let in_use = stored.refcount > 0;
    let taken_over = Sds {
        refcount: 0,
        ..*device
    };
    match (stored.id() == device.id(), stored.usc == device.usc) {
        (false, _) if in_use => (State::Indeterminate, *stored),
        (true, false) if in_use => (State::Corrupted, *stored),
        (true, true) if in_use && mapped_here => (State::OkButAlreadyOpen, *stored),
        (true, true) if in_use => (State::OkButInterrupted, *stored),
        _ => (State::Ok, taken_over),
    }
}

/// What is known of one source, beyond its file. Parts that are mapped keep it.
#[derive(Default)]
pub(crate) struct Account {
    /// The address by which the C interface knows the source, while it does.
    handle: AtomicUsize,
    /// Direct mappings look for bad blocks.
    pub detects_badblocks: AtomicBool,
    shutdown: Mutex<Option<Box<Kept>>>,
}

impl Account {
    pub(crate) fn handle(&self) -> usize {
        self.handle.load(Ordering::Relaxed)
    }

    pub(super) fn set_handle(&self, handle: usize) {
        self.handle.store(handle, Ordering::Relaxed);
    }

    pub(super) fn set_sds(&self, sds: &Sds, report: usize) -> Result<()> {
        let mut kept = lock(&self.shutdown);
        if kept.is_some() {
            return Err(Error::SdsAlreadySet);
        }
        *kept = Some(mem::try_box(Kept {
            sds: *sds,
            report,
            here: 0,
        })?);
        Ok(())
    }

    /// Looks at the device, for a source that has a shutdown state. `report` hears of the part's state and of the word that
    /// was given with the shutdown state. Returns what will be stored once the source is mapped.
    pub(crate) fn shutdown_state(
        &self,
        file: &OpenFile,
        acceptable: u64,
        report: &mut dyn FnMut(State, usize),
    ) -> Result<Option<Box<Sds>>> {
        let Some(stored) = self.sds() else {
            return Ok(None);
        };
        let device = file.region_of_device(super::region::SYS).map_or(
            Err(Error::SdsUnsupported("it is not in persistent memory")),
            |region| region.shutdown_facts(stored.id()),
        )?;
        // What is stored and what is mapped change together.
        let (state, next, word) = match &*lock(&self.shutdown) {
            Some(kept) => {
                let (state, next) = compare(&kept.sds, &device, kept.here > 0 || file.is_mapped());
                (state, next, kept.report)
            }
            None => return Ok(None),
        };
        report(state, word);
        if state as u64 & acceptable == 0 {
            return Err(Error::UndesirableState(state.name(), acceptable));
        }
        Ok(Some(mem::try_box(next)?))
    }

    /// One mapping more, by a call that [`shutdown_state`](Self::shutdown_state) answered with `next`.
    pub(crate) fn counted(&self, next: &Sds) {
        if let Some(kept) = &mut *lock(&self.shutdown) {
            let refcount = kept.sds.refcount.max(0).saturating_add(1);
            kept.sds = Sds { refcount, ..*next };
            kept.here += 1;
        }
    }

    /// One mapping less; what is to be stored now.
    pub(crate) fn uncounted(&self) -> Sds {
        match &mut *lock(&self.shutdown) {
            Some(kept) => {
                kept.sds.refcount = (kept.sds.refcount - 1).max(0);
                kept.here = kept.here.saturating_sub(1);
                kept.sds
            }
            None => Sds::default(),
        }
    }

    /// What is to be stored.
    pub(crate) fn sds(&self) -> Option<Sds> {
        lock(&self.shutdown).as_ref().map(|kept| kept.sds)
    }
}

impl OpenFile {
    pub(super) fn region_of_device(&self, root: &'static str) -> Option<Region> {
        match self.kind {
            super::file::Kind::DeviceDax(_) => Region::of(root, self.facts.rdev, true),
            super::file::Kind::File => Region::of(root, self.facts.dev, false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sds(id: &str, usc: u64, refcount: i32) -> Sds {
        let mut sds = Sds {
            usc,
            refcount,
            ..Sds::default()
        };
        assert!(sds.append_id(id.as_bytes()));
        sds
    }

    #[test]
    fn every_state() {
        use State::*;
        let device = sds("8680-aa", 7, 0);
        for (stored, here, state, refcount, usc) in [
            (sds("", 0, 0), false, Ok, 0, 7),
            (sds("other", 9, 0), false, Ok, 0, 7),
            (sds("other", 7, 1), false, Indeterminate, 1, 7),
            (sds("", 0, 3), true, Indeterminate, 3, 0),
            (sds("8680-aa", 6, 0), false, Ok, 0, 7),
            (sds("8680-aa", 8, 0), true, Ok, 0, 7),
            (sds("8680-aa", 6, 1), false, Corrupted, 1, 6),
            (sds("8680-aa", 6, 1), true, Corrupted, 1, 6),
            (sds("8680-aa", 7, 0), true, Ok, 0, 7),
            (sds("8680-aa", 7, 1), true, OkButAlreadyOpen, 1, 7),
            (sds("8680-aa", 7, 1), false, OkButInterrupted, 1, 7),
            (sds("8680-aa", 6, -5), false, Ok, 0, 7),
            (sds("8680-aab", 7, 1), false, Indeterminate, 1, 7),
            (sds("8680-a", 7, 1), false, Indeterminate, 1, 7),
        ] {
            let (found, next) = compare(&stored, &device, here);
            assert_eq!(found, state, "{stored:?}");
            assert_eq!((next.refcount, next.usc), (refcount, usc), "{stored:?}");
            if state == Ok {
                assert_eq!(next.id(), device.id());
            } else {
                assert_eq!(next, stored);
            }
        }
    }

    #[test]
    fn an_identity_without_an_end() {
        let full = Sds {
            id: [b'x'; ID_LEN + 1],
            ..Sds::default()
        };
        assert_eq!(full.id().len(), ID_LEN + 1);
        let mut device = Sds::default();
        assert!(device.append_id(&[b'x'; ID_LEN]));
        assert!(!device.append_id(b"x"));
        assert_ne!(full.id(), device.id());
    }
}
