//! Address to entry: an ordered index whose readers take no lock.
//!
//! It is a B+ tree over atomics. Writers are serialised by the set's lock and announce themselves in a [`Version`]; readers
//! look at the version before and after (and before every pointer that they follow), and begin again when it moved. Nodes
//! never go back to the allocator while the tree lives, so that a reader that is too late reads an old node and nothing
//! else. Readers allocate nothing and write nothing.
//!
//! The same tree, read under the set's lock with [`Locked`], serves the set's parts and the arena's free places.

use std::ptr::NonNull;

use crate::error::Result;
use crate::mem;
use crate::order;
use crate::sync::{AtomicUsize, Ordering, fence};

/// Entries of a node, so that three levels hold 59 000. A larger node takes longer to search, a smaller one makes for more
/// levels (make bench BENCH=parts).
const FANOUT: usize = if cfg!(loom) { 3 } else { 39 };

/// Stands for "no key" behind the last one of a node. No part begins there.
const NO_KEY: usize = usize::MAX;

/// A tree of 39-way nodes, a quarter full, has this height long after memory is full.
const MAX_HEIGHT: usize = 16;

/// The version that readers check: odd while a writer is at work.
#[derive(Default)]
pub(crate) struct Version(AtomicUsize);

impl Version {
    /// What a reader begins with; `None` while a writer is at work.
    #[inline]
    pub(crate) fn begin(&self) -> Option<Reading<'_>> {
        let seen = self.0.load(Ordering::Acquire);
        order::takes(self);
        (seen % 2 == 0).then_some(Reading {
            version: self,
            seen,
        })
    }

    /// Announces a writer. The caller holds the set's lock.
    pub(crate) fn write(&self) -> Writing<'_> {
        let seen = self.0.load(Ordering::Relaxed);
        self.0.store(seen.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        Writing {
            version: self,
            next: seen.wrapping_add(2),
        }
    }
}

/// A writer at work, until it is dropped.
pub(crate) struct Writing<'a> {
    version: &'a Version,
    next: usize,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        order::gives(self.version);
        self.version.0.store(self.next, Ordering::Release);
    }
}

impl Drop for Version {
    fn drop(&mut self) {
        order::forgets(self);
    }
}

/// Says whether what has been read so far belongs together.
pub(crate) trait Check {
    fn holds(&self) -> bool;
}

/// A reader without a lock.
#[derive(Clone, Copy)]
pub(crate) struct Reading<'a> {
    version: &'a Version,
    seen: usize,
}

impl Check for Reading<'_> {
    #[inline]
    fn holds(&self) -> bool {
        fence(Ordering::Acquire);
        self.version.0.load(Ordering::Relaxed) == self.seen
    }
}

/// A reader under the set's lock.
pub(crate) struct Locked;

impl Check for Locked {
    #[inline]
    fn holds(&self) -> bool {
        true
    }
}

/// The reader was overtaken by a writer: begin again.
#[derive(Debug)]
pub(crate) struct Overtaken;

#[repr(C, align(64))]
struct Node {
    len: AtomicUsize,
    /// Of a leaf, the keys. Of an inner node, no key of child i is below keys[i], none of child i - 1 above; keys[0] is 0,
    /// since whatever is below keys[1] belongs to child 0.
    keys: [AtomicUsize; FANOUT],
    /// Of a leaf, the values; of an inner node, the children.
    vals: [AtomicUsize; FANOUT],
}

impl Node {
    fn new() -> Self {
        Node {
            len: AtomicUsize::new(0),
            keys: std::array::from_fn(|_| AtomicUsize::new(NO_KEY)),
            vals: std::array::from_fn(|_| AtomicUsize::new(0)),
        }
    }

    #[inline]
    fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed).min(FANOUT)
    }

    #[inline]
    fn key(&self, i: usize) -> usize {
        self.keys[i].load(Ordering::Relaxed)
    }

    #[inline]
    fn val(&self, i: usize) -> usize {
        self.vals[i].load(Ordering::Relaxed)
    }

    fn set_len(&self, len: usize) {
        self.len.store(len, Ordering::Relaxed);
    }

    fn set(&self, i: usize, key: usize, val: usize) {
        self.keys[i].store(key, Ordering::Relaxed);
        self.vals[i].store(val, Ordering::Relaxed);
    }

    /// How many keys are not above `key`, which is not NO_KEY. Comparisons that do not depend on each other, without a
    /// branch: a binary search that guesses wrong half the time takes three times as long.
    #[inline]
    fn rank(&self, key: usize) -> usize {
        const STEP: usize = 8;
        let below = |i: usize| usize::from(self.key(i) <= key);
        if FANOUT < STEP {
            return (0..FANOUT).map(below).sum();
        }
        let block = STEP
            * (1..=FANOUT / STEP)
                .map(|i| below(i * STEP - 1))
                .sum::<usize>();
        block + (0..STEP - 1).map(|i| below(block + i)).sum::<usize>()
    }

    /// The child that `key` belongs to.
    #[inline]
    fn child(&self, key: usize) -> usize {
        // Only what a reader sees while a writer is at work can have the rank 0.
        self.rank(key).max(1) - 1
    }

    /// An inner node's first child has changed.
    fn first_child_changed(&self) {
        self.keys[0].store(0, Ordering::Relaxed);
    }

    fn insert_at(&self, at: usize, key: usize, val: usize) {
        let len = self.len();
        for i in (at..len).rev() {
            self.set(i + 1, self.key(i), self.val(i));
        }
        self.set(at, key, val);
        self.set_len(len + 1);
    }

    fn remove_at(&self, at: usize) {
        let len = self.len();
        for i in at + 1..len {
            self.set(i - 1, self.key(i), self.val(i));
        }
        self.set(len - 1, NO_KEY, 0);
        self.set_len(len - 1);
    }

    /// Moves the entries from `from` on to the end of `to`; the first of them under the key `first`.
    fn move_tail(&self, from: usize, to: &Node, first: Option<usize>) {
        let (len, base) = (self.len(), to.len());
        for i in from..len {
            let key = match first {
                Some(key) if i == from => key,
                _ => self.key(i),
            };
            to.set(base + i - from, key, self.val(i));
            self.set(i, NO_KEY, 0);
        }
        self.set_len(from);
        to.set_len(base + len - from);
    }
}

/// An ordered map from addresses to words. Writing needs the set's lock (`&mut self` where no reader goes without it).
pub(crate) struct Tree {
    root: AtomicUsize,
    /// Levels; 1 is a leaf alone.
    height: AtomicUsize,
    count: AtomicUsize,
    /// Nodes in use.
    nodes: AtomicUsize,
    spare: AtomicUsize,
    spares: AtomicUsize,
}

/// The way from the root to a leaf: each node and the child that was taken.
#[derive(Default)]
struct Path {
    nodes: [usize; MAX_HEIGHT],
    at: [u8; MAX_HEIGHT],
}

const _: () = assert!(FANOUT <= u8::MAX as usize);

impl Tree {
    pub(crate) fn new() -> Result<Self> {
        let root = mem::try_box(Node::new())?;
        Ok(Tree {
            root: AtomicUsize::new(Box::into_raw(root) as usize),
            height: AtomicUsize::new(1),
            count: AtomicUsize::new(0),
            nodes: AtomicUsize::new(1),
            spare: AtomicUsize::new(0),
            spares: AtomicUsize::new(0),
        })
    }

    /// How many entries there are. For writers.
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// The node at an address that was read from this tree.
    #[inline]
    fn node(&self, addr: usize) -> &Node {
        // SAFETY: every pointer that is followed was read from a node or the root while the version held (or under the
        // lock), so it is a node of this tree; nodes are freed with the tree only, and are all atomics.
        unsafe { &*(addr as *const Node) }
    }

    /// The entry with the greatest key that is not above `key`.
    #[inline]
    pub(crate) fn floor<C: Check>(
        &self,
        key: usize,
        check: &C,
    ) -> std::result::Result<Option<(usize, usize)>, Overtaken> {
        let key = key.min(NO_KEY - 1);
        let mut addr = self.root.load(Ordering::Relaxed);
        let mut level = self.height.load(Ordering::Relaxed);
        // The child to the left of the way down, where keys go on if the leaf has none low enough.
        let (mut left, mut left_level) = (0, 0);
        if !check.holds() {
            return Err(Overtaken);
        }
        while level > 1 {
            let node = self.node(addr);
            let at = node.child(key);
            addr = node.val(at);
            level -= 1;
            if at > 0 {
                left = node.val(at - 1);
                left_level = level;
            }
            if !check.holds() {
                return Err(Overtaken);
            }
        }
        let leaf = self.node(addr);
        let rank = leaf.rank(key);
        if rank > 0 {
            let entry = (leaf.key(rank - 1), leaf.val(rank - 1));
            return if check.holds() {
                Ok(Some(entry))
            } else {
                Err(Overtaken)
            };
        }
        if left == 0 {
            return if check.holds() {
                Ok(None)
            } else {
                Err(Overtaken)
            };
        }
        self.edge(left, left_level, false, check)
    }

    /// The entry with the smallest key above `key`.
    #[inline]
    pub(crate) fn above<C: Check>(
        &self,
        key: usize,
        check: &C,
    ) -> std::result::Result<Option<(usize, usize)>, Overtaken> {
        let key = key.min(NO_KEY - 1);
        let mut addr = self.root.load(Ordering::Relaxed);
        let mut level = self.height.load(Ordering::Relaxed);
        let (mut right, mut right_level) = (0, 0);
        if !check.holds() {
            return Err(Overtaken);
        }
        while level > 1 {
            let node = self.node(addr);
            let at = node.child(key);
            addr = node.val(at);
            level -= 1;
            if at + 1 < node.len() {
                right = node.val(at + 1);
                right_level = level;
            }
            if !check.holds() {
                return Err(Overtaken);
            }
        }
        let leaf = self.node(addr);
        let rank = leaf.rank(key);
        if rank < leaf.len() {
            let entry = (leaf.key(rank), leaf.val(rank));
            return if check.holds() {
                Ok(Some(entry))
            } else {
                Err(Overtaken)
            };
        }
        if right == 0 {
            return if check.holds() {
                Ok(None)
            } else {
                Err(Overtaken)
            };
        }
        self.edge(right, right_level, true, check)
    }

    /// The first or the last entry below a node.
    fn edge<C: Check>(
        &self,
        mut addr: usize,
        mut level: usize,
        first: bool,
        check: &C,
    ) -> std::result::Result<Option<(usize, usize)>, Overtaken> {
        loop {
            let node = self.node(addr);
            let at = if first { 0 } else { node.len().max(1) - 1 };
            let entry = (node.key(at), node.val(at));
            if !check.holds() {
                return Err(Overtaken);
            }
            if level == 1 {
                return Ok(Some(entry));
            }
            addr = entry.1;
            level -= 1;
        }
    }

    /// Makes sure that the next `inserts` insertions find the nodes that they may need.
    pub(crate) fn reserve(&self, inserts: usize) -> Result<()> {
        let height = self.height.load(Ordering::Relaxed);
        // Every insertion splits at most one node a level and adds a root. Many cannot all do that: a node splits no more than
        // twice before a quarter of its entries are new.
        let each = inserts * (height + 2);
        let nodes = self.nodes.load(Ordering::Relaxed);
        let all = 2 * nodes + 10 * inserts * (height + 1) / FANOUT + height + 2;
        while self.spares.load(Ordering::Relaxed) < each.min(all) {
            let node = Box::into_raw(mem::try_box(Node::new())?);
            self.put_aside(node as usize);
        }
        Ok(())
    }

    /// A node that is in use no more.
    fn give(&self, addr: usize) {
        let nodes = self.nodes.load(Ordering::Relaxed);
        self.nodes.store(nodes - 1, Ordering::Relaxed);
        self.put_aside(addr);
    }

    fn put_aside(&self, addr: usize) {
        let node = self.node(addr);
        for i in 0..node.len() {
            node.set(i, NO_KEY, 0);
        }
        node.set_len(0);
        node.set(0, NO_KEY, self.spare.load(Ordering::Relaxed));
        self.spare.store(addr, Ordering::Relaxed);
        self.spares
            .store(self.spares.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// A node that `reserve` has put aside.
    fn take(&self) -> usize {
        let addr = self.spare.load(Ordering::Relaxed);
        assert!(addr != 0, "insertion without reserve");
        let nodes = self.nodes.load(Ordering::Relaxed);
        self.nodes.store(nodes + 1, Ordering::Relaxed);
        self.spare.store(self.node(addr).val(0), Ordering::Relaxed);
        self.spares
            .store(self.spares.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
        addr
    }

    #[inline(always)]
    fn descend(&self, key: usize, path: &mut Path) -> usize {
        let height = self.height.load(Ordering::Relaxed);
        let mut addr = self.root.load(Ordering::Relaxed);
        for depth in 0..height - 1 {
            let at = self.node(addr).child(key);
            path.nodes[depth] = addr;
            path.at[depth] = at as u8;
            addr = self.node(addr).val(at);
        }
        path.nodes[height - 1] = addr;
        height
    }

    /// Inserts an entry whose key is not there yet. Needs `reserve` before, and a [`Writing`] where readers go unlocked.
    pub(crate) fn insert(&self, key: usize, val: usize) {
        let mut path = Path::default();
        let height = self.descend(key, &mut path);
        self.count.store(self.len() + 1, Ordering::Relaxed);
        let mut at = self.node(path.nodes[height - 1]).rank(key);
        let (mut key, mut val) = (key, val);
        for depth in (0..height).rev() {
            let node = self.node(path.nodes[depth]);
            if node.len() < FANOUT {
                return node.insert_at(at, key, val);
            }
            if at == FANOUT && depth > 0 {
                // Or else entries that come in falling order, behind a full node, would have a node each.
                let parent = (path.nodes[depth - 1], usize::from(path.at[depth - 1]) + 1);
                if self.put_in_front(parent, depth + 1 == height, key, val) {
                    return;
                }
            }
            // Entries that come in order leave full nodes behind.
            let split = match at {
                FANOUT => FANOUT,
                0 => 0,
                _ => FANOUT / 2,
            };
            let new = self.take();
            let right = self.node(new);
            node.move_tail(split, right, None);
            if at > split || split == FANOUT {
                right.insert_at(at - split, key, val);
            } else {
                node.insert_at(at, key, val);
            }
            (key, val) = (right.key(0), new);
            if depth + 1 < height {
                right.first_child_changed();
            }
            if depth > 0 {
                at = usize::from(path.at[depth - 1]) + 1;
            }
        }
        let root = self.take();
        let node = self.node(root);
        node.set(0, 0, self.root.load(Ordering::Relaxed));
        node.set(1, key, val);
        node.set_len(2);
        self.root.store(root, Ordering::Relaxed);
        self.height.store(height + 1, Ordering::Relaxed);
    }

    /// Makes an entry the first of a child, with a key below all that it has, if there is much room.
    fn put_in_front(
        &self,
        (parent, at): (usize, usize),
        leaves: bool,
        key: usize,
        val: usize,
    ) -> bool {
        let parent = self.node(parent);
        if at >= parent.len() {
            return false;
        }
        let child = self.node(parent.val(at));
        if child.len() >= FANOUT / 2 {
            return false;
        }
        child.insert_at(0, key, val);
        if !leaves {
            // What was first has been told from its neighbour by the parent only.
            child.keys[1].store(parent.key(at), Ordering::Relaxed);
            child.first_child_changed();
        }
        parent.keys[at].store(key, Ordering::Relaxed);
        true
    }

    /// Changes the value of an entry that is there.
    pub(crate) fn replace(&self, key: usize, val: usize) {
        self.rename(key, key, val);
    }

    /// Gives an entry that is there another key, in the same place of the order, and another value. Needs what an insertion
    /// needs.
    pub(crate) fn rename(&self, key: usize, new: usize, val: usize) {
        let height = self.height.load(Ordering::Relaxed);
        let mut addr = self.root.load(Ordering::Relaxed);
        // What the nodes above say of the leaf's keys.
        let (mut low, mut high) = (0, NO_KEY);
        for _ in 1..height {
            let node = self.node(addr);
            let at = node.child(key);
            if at > 0 {
                low = node.key(at);
            }
            if at + 1 < node.len() {
                high = node.key(at + 1);
            }
            addr = node.val(at);
        }
        if new < low || new >= high {
            self.remove(key);
            return self.insert(new, val);
        }
        let leaf = self.node(addr);
        let at = leaf.rank(key) - 1;
        debug_assert_eq!(leaf.key(at), key);
        debug_assert!(at + 1 == leaf.len() || new < leaf.key(at + 1));
        debug_assert!(at == 0 || new > leaf.key(at - 1));
        leaf.set(at, new, val);
    }

    /// Removes the entry of a key; its value, if it was there.
    pub(crate) fn remove(&self, key: usize) -> Option<usize> {
        let mut path = Path::default();
        let height = self.descend(key, &mut path);
        let leaf = self.node(path.nodes[height - 1]);
        let rank = leaf.rank(key);
        if rank == 0 || leaf.key(rank - 1) != key {
            return None;
        }
        let val = leaf.val(rank - 1);
        leaf.remove_at(rank - 1);
        self.count.store(self.len() - 1, Ordering::Relaxed);
        for depth in (1..height).rev() {
            let node = self.node(path.nodes[depth]);
            let parent = self.node(path.nodes[depth - 1]);
            let at = usize::from(path.at[depth - 1]);
            if node.len() == 0 {
                parent.remove_at(at);
                if at == 0 && parent.len() > 0 {
                    parent.first_child_changed();
                }
                self.give(path.nodes[depth]);
                continue;
            }
            if node.len() <= FANOUT / 2 {
                let leaves = depth + 1 == height;
                let merged = at + 1 < parent.len() && self.merge(parent, at + 1, leaves);
                if !merged && at > 0 {
                    self.merge(parent, at, leaves);
                }
            }
            break;
        }
        while self.height.load(Ordering::Relaxed) > 1 {
            let root = self.root.load(Ordering::Relaxed);
            if self.node(root).len() > 1 {
                break;
            }
            self.root.store(self.node(root).val(0), Ordering::Relaxed);
            self.height
                .store(self.height.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
            self.give(root);
        }
        Some(val)
    }

    /// Moves a child's entries to its left neighbour, if they leave some room there.
    fn merge(&self, parent: &Node, at: usize, leaves: bool) -> bool {
        let (left, right) = (parent.val(at - 1), parent.val(at));
        if self.node(left).len() + self.node(right).len() > FANOUT * 7 / 8 {
            return false;
        }
        // The first key of an inner node may be out of date; the parent's is not.
        let first = (!leaves).then(|| parent.key(at));
        self.node(right).move_tail(0, self.node(left), first);
        parent.remove_at(at);
        self.give(right);
        true
    }

    /// Every entry in order, under the lock, until `visit` says false.
    pub(crate) fn walk(&self, from: usize, mut visit: impl FnMut(usize, usize) -> bool) {
        let mut entry = match self.floor(from, &Locked) {
            Ok(Some(entry)) if entry.0 == from => Some(entry),
            _ => self.above(from, &Locked).unwrap_or(None),
        };
        while let Some((key, val)) = entry {
            if !visit(key, val) {
                return;
            }
            entry = self.above(key, &Locked).unwrap_or(None);
        }
    }

    fn free(&self, addr: usize, level: usize) {
        if level > 1 {
            let node = self.node(addr);
            for i in 0..node.len() {
                self.free(node.val(i), level - 1);
            }
        }
        // SAFETY: made by try_box, and unreachable from here on.
        drop(unsafe { Box::from_raw(addr as *mut Node) });
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.free(
            self.root.load(Ordering::Relaxed),
            self.height.load(Ordering::Relaxed),
        );
        while let Some(spare) = NonNull::new(self.spare.load(Ordering::Relaxed) as *mut Node) {
            let addr = self.take();
            debug_assert_eq!(addr, spare.as_ptr() as usize);
            self.free(addr, 1);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
