//! Whether a file's directory entry and size are durable, as far as this library changed them: by file, in this process, also
//! when nobody has the file open any more.

use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::AtomicPtr;

use super::durability::{FileId, Growing, Ledger, Ticket, ledger, open_ledger};
use crate::error::Result;
use crate::fork::ForkLock;
use crate::mem::try_box;
use crate::sync::{AtomicUsize, Ordering::SeqCst};
use crate::sys::Errno;

/// Files whose new entry or size nobody has made durable yet are remembered without a source; so many at most.
const MOST_KEPT: usize = 1024;

static KEPT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

/// A file that this process has open, or of which it has something to make durable.
pub(crate) struct Inode {
    id: FileId,
    next: AtomicPtr<Inode>,
    /// [`InodeRef`]s. Changed under the chain's lock where it is 0 before or after.
    references: AtomicUsize,
    /// It is remembered without references, and counts in KEPT.
    kept: std::sync::atomic::AtomicBool,
    /// The directory entry may not be durable yet.
    new_entry: std::sync::atomic::AtomicBool,
    /// How often the library has made the file longer, and how many of these sizes are durable.
    growths: AtomicUsize,
    durable_growths: AtomicUsize,
}

struct Chain {
    lock: ForkLock,
    first: AtomicPtr<Inode>,
}

static CHAINS: [Chain; 64] = [const {
    Chain {
        lock: ForkLock::new(),
        first: AtomicPtr::new(std::ptr::null_mut()),
    }
}; 64];

/// A reference to what is known of a file.
pub(crate) struct InodeRef(NonNull<Inode>);

// SAFETY: all that changes in an inode is atomic.
unsafe impl Send for InodeRef {}
// SAFETY: as above.
unsafe impl Sync for InodeRef {}

impl Deref for InodeRef {
    type Target = Inode;
    fn deref(&self) -> &Inode {
        // SAFETY: this reference keeps the inode.
        unsafe { self.0.as_ref() }
    }
}

impl Chain {
    fn of(id: FileId) -> &'static Chain {
        &CHAINS[id.hash() as usize % CHAINS.len()]
    }

    /// The link that leads to the file's inode, or the last one. Under the lock.
    fn link(&self, found: impl Fn(&Inode) -> bool) -> &AtomicPtr<Inode> {
        let mut link = &self.first;
        // SAFETY: inodes in the chain are alive, under its lock.
        while let Some(inode) = unsafe { link.load(std::sync::atomic::Ordering::Relaxed).as_ref() }
        {
            if found(inode) {
                break;
            }
            link = &inode.next;
        }
        link
    }
}

impl Chain {
    /// Whether anything is known of a file.
    fn has(&self, id: FileId) -> bool {
        let _held = self.lock.lock();
        let link = self.link(|inode| inode.id == id);
        !link.load(std::sync::atomic::Ordering::Relaxed).is_null()
    }
}

impl Inode {
    /// Whether anything is known of a file.
    pub(super) fn is_known(id: FileId) -> bool {
        Chain::of(id).has(id)
    }

    /// What is known of a file.
    pub(crate) fn of(id: FileId) -> Result<InodeRef> {
        use std::sync::atomic::Ordering::Relaxed;
        open_ledger()?;
        let mut made = try_box(Inode {
            id,
            next: AtomicPtr::default(),
            references: AtomicUsize::new(1),
            kept: false.into(),
            new_entry: false.into(),
            growths: AtomicUsize::new(0),
            durable_growths: AtomicUsize::new(0),
        })?;
        let chain = Chain::of(id);
        let _held = chain.lock.lock();
        let link = chain.link(|inode| inode.id == id);
        if let Some(known) = NonNull::new(link.load(Relaxed)) {
            // SAFETY: as in `link`.
            unsafe { known.as_ref() }.references.fetch_add(1, SeqCst);
            return Ok(InodeRef(known));
        }
        *made.next.get_mut() = chain.first.load(Relaxed);
        let made = NonNull::from(Box::leak(made));
        let first = made.as_ptr();
        chain
            .first
            .store(first, std::sync::atomic::Ordering::Release);
        Ok(InodeRef(made))
    }

    pub(crate) fn id(&self) -> FileId {
        self.id
    }

    fn ledger(&self) -> &'static Ledger {
        match ledger() {
            Some(ledger) => ledger,
            // Opened before the first inode was made, and never closed.
            None => unreachable!(),
        }
    }

    /// How often syncs of the file have failed.
    #[inline]
    pub(crate) fn failures(&self) -> u64 {
        self.ledger().failures(self.id)
    }

    /// How they failed last.
    pub(crate) fn errno(&self) -> Errno {
        match self.ledger().errno(self.id) {
            0 => libc::EIO,
            errno => errno,
        }
    }

    /// Before the system calls of a sync. `alone`: no other sync of the file is to run at the same time. `opener`: the process
    /// that opened the file description, or 0.
    pub(super) fn begin(&self, alone: bool, opener: u64) -> Ticket<'static> {
        self.ledger().begin(self.id, alone, opener)
    }

    /// This process uses the file's record. Whether others that have come from the same forks may do so, too.
    pub(crate) fn join(&self) -> bool {
        self.ledger().join()
    }

    pub(crate) fn entry_may_be_new(&self) {
        self.new_entry.store(true, SeqCst);
    }

    pub(crate) fn has_new_entry(&self) -> bool {
        self.new_entry.load(SeqCst)
    }

    pub(crate) fn entry_is_durable(&self) {
        self.new_entry.store(false, SeqCst);
    }

    /// Keeps others from making the file longer, if they do not take too long.
    pub(crate) fn growing(&self) -> Option<Growing> {
        self.ledger().growing(self.id)
    }

    /// The file has been made longer.
    pub(crate) fn grown(&self) {
        self.growths.fetch_add(1, SeqCst);
    }

    /// To be asked before a sync that makes the size durable which the file has then.
    pub(crate) fn growths(&self) -> usize {
        self.growths.load(SeqCst)
    }

    pub(crate) fn size_is_durable(&self, growths: usize) {
        self.durable_growths.fetch_max(growths, SeqCst);
    }

    /// Whether the directory entry or the size may not be durable yet, because of this library.
    pub(crate) fn is_unsettled(&self) -> bool {
        self.has_new_entry() || self.durable_growths.load(SeqCst) < self.growths()
    }

    /// Whether there is no room to remember it once it is closed: then its entry is to be made durable before.
    pub(crate) fn must_settle(&self) -> bool {
        self.has_new_entry() && !self.kept.load(SeqCst) && KEPT.load(SeqCst) >= MOST_KEPT
    }
}

impl Clone for InodeRef {
    fn clone(&self) -> Self {
        self.references.fetch_add(1, SeqCst);
        InodeRef(self.0)
    }
}

impl Drop for InodeRef {
    fn drop(&mut self) {
        use std::sync::atomic::Ordering::Relaxed;
        let chain = Chain::of(self.id);
        let _held = chain.lock.lock();
        if self.references.fetch_sub(1, SeqCst) > 1 {
            return;
        }
        let kept = self.kept.load(SeqCst);
        if self.is_unsettled() {
            if !kept && KEPT.fetch_add(1, SeqCst) < MOST_KEPT {
                self.kept.store(true, SeqCst);
                return;
            }
            if kept {
                return;
            }
            KEPT.fetch_sub(1, SeqCst);
        } else if kept {
            KEPT.fetch_sub(1, SeqCst);
        }
        let this = self.0.as_ptr();
        let link = chain.link(|inode| std::ptr::eq(inode, this));
        link.store(
            self.next.load(Relaxed),
            std::sync::atomic::Ordering::Release,
        );
        // SAFETY: made by `of`, without references, and not in the chain any more.
        drop(unsafe { Box::from_raw(this) });
    }
}
