//! The tree against the standard library's.

use super::*;
use std::collections::BTreeMap;

/// Numbers below what is asked for, the same for each seed.
fn random(mut x: u64) -> impl FnMut(usize) -> usize {
    move |n| {
        x = x
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (x >> 33) as usize % n
    }
}

fn check(tree: &Tree, model: &BTreeMap<usize, usize>, probes: impl Iterator<Item = usize>) {
    assert_eq!(tree.len(), model.len());
    for probe in probes {
        let want = model.range(..=probe).next_back().map(|(k, v)| (*k, *v));
        assert_eq!(tree.floor(probe, &Locked).unwrap(), want, "floor {probe}");
        let want = model.range(probe + 1..).next().map(|(k, v)| (*k, *v));
        assert_eq!(tree.above(probe, &Locked).unwrap(), want, "above {probe}");
    }
}

#[test]
fn random_operations_agree_with_a_btreemap() {
    for seed in 1..6u64 {
        let tree = Tree::new().unwrap();
        let mut model = BTreeMap::new();
        let mut next = random(seed);
        for step in 0..30_000 {
            let growing = (step / 5000) % 2 == 0;
            let key = next(8000) + 1;
            if next(10) < if growing { 8 } else { 1 } {
                if model.insert(key, step).is_none() {
                    tree.reserve(1).unwrap();
                    tree.insert(key, step);
                } else {
                    tree.replace(key, step);
                    let new = if next(2) == 0 { key + 1 } else { key - 1 };
                    if next(4) == 0 && new > 0 && !model.contains_key(&new) {
                        model.remove(&key);
                        model.insert(new, step + 1);
                        tree.reserve(1).unwrap();
                        tree.rename(key, new, step + 1);
                    }
                }
            } else {
                assert_eq!(tree.remove(key), model.remove(&key));
            }
            if step % 1500 == 0 {
                check(&tree, &model, 0..8003);
            }
        }
        while let Some((key, val)) = model.pop_last() {
            assert_eq!(tree.remove(key), Some(val));
        }
        check(&tree, &model, 0..10);
    }
}

/// What lies low goes first, then comes something lower: inner nodes lose their first children, and their first key is
/// above what follows.
#[test]
fn windows_that_move_agree_with_a_btreemap() {
    for seed in 1..20u64 {
        let tree = Tree::new().unwrap();
        let mut model = BTreeMap::new();
        let mut next = random(seed);
        for round in 0..60 {
            let base = 2 + next(1_000_000);
            let n = next(600);
            for i in 0..n {
                let key = base + 3 * if seed % 2 == 0 { i } else { n - i };
                if model.insert(key, round).is_none() {
                    tree.reserve(1).unwrap();
                    tree.insert(key, round);
                } else {
                    tree.replace(key, round);
                }
            }
            for _ in 0..next(700) {
                let gone = match next(3) {
                    0 => model.pop_last(),
                    _ => model.pop_first(),
                };
                let Some((key, val)) = gone else { break };
                assert_eq!(tree.remove(key), Some(val));
            }
            // The lowest go lower still, each as far as the one before it lets it.
            let keys: Vec<usize> = model.keys().copied().take(next(60)).collect();
            let mut low = 1 + next(3);
            for key in keys {
                if low >= key {
                    break;
                }
                model.remove(&key);
                model.insert(low, round);
                tree.reserve(1).unwrap();
                tree.rename(key, low, round);
                low += 1 + next(5);
            }
            let mut all = Vec::new();
            tree.walk(0, |key, val| {
                all.push((key, val));
                all.len() <= model.len()
            });
            let want: Vec<_> = model.iter().map(|(k, v)| (*k, *v)).collect();
            assert_eq!(all, want, "seed {seed}, round {round}");
            let probes: Vec<usize> = want.iter().flat_map(|e| [e.0 - 1, e.0, e.0 + 1]).collect();
            check(&tree, &model, probes.into_iter());
        }
    }
}

/// As many insertions as were reserved, at places of all kinds, find the nodes that they need, and have few to themselves.
#[test]
fn what_is_reserved_is_enough_and_not_much_more() {
    for seed in 1..9u64 {
        let tree = Tree::new().unwrap();
        let mut keys: std::collections::BTreeSet<usize> = Default::default();
        let mut next = random(seed);
        for round in 0..60 {
            let inserts = 1 + next([3, 100, 2000][round % 3]);
            let before = tree.spares.load(Ordering::Relaxed);
            tree.reserve(inserts).unwrap();
            let most = 2 * tree.nodes.load(Ordering::Relaxed) + 2 * inserts + 20;
            assert!(tree.spares.load(Ordering::Relaxed) <= most.max(before));
            let start = 1 + next(1 << 40);
            let step = 1 + next(1000);
            for i in 0..inserts {
                let key = match (seed as usize + round) % 4 {
                    0 => start + i * step,
                    1 => start + (inserts - i) * step,
                    2 => start + (i / 2) * step + (i % 2) * 500_000,
                    _ => 1 + next(1 << 40),
                };
                if keys.insert(key) {
                    tree.insert(key, round);
                }
            }
            for _ in 0..next(inserts) {
                let from = 1 + next(1 << 40);
                let Some(key) = keys.range(from..).next().copied() else {
                    continue;
                };
                keys.remove(&key);
                tree.remove(key);
            }
            let mut at = keys.iter();
            tree.walk(0, |key, _| {
                assert_eq!(Some(&key), at.next());
                true
            });
            assert_eq!(at.next(), None);
        }
        let nodes = tree.nodes.load(Ordering::Relaxed);
        assert!(nodes < 20 + keys.len() / 10, "{nodes} for {}", keys.len());
    }
}

#[test]
fn entries_in_order_fill_their_nodes() {
    for descending in [false, true] {
        let tree = Tree::new().unwrap();
        let mut made = 0;
        for i in 0..10_000usize {
            let before = tree.spares.load(Ordering::Relaxed);
            tree.reserve(1).unwrap();
            made += tree.spares.load(Ordering::Relaxed) - before;
            tree.insert(if descending { 20_000 - i } else { i + 1 }, i);
        }
        // 10 000 entries of 16 bytes in nodes of 512
        assert!(made < 10_000 / 31 * 11 / 10 + 20, "{made} nodes");
        let mut n = 0;
        tree.walk(0, |_, _| {
            n += 1;
            true
        });
        assert_eq!(n, 10_000);
    }
}
