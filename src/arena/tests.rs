//! Placing, growing and giving back.

use super::*;

fn wish(len: usize) -> Wish {
    Wish {
        len,
        offset: 0,
        align: 1,
        full: false,
        logged: true,
    }
}

#[test]
fn places_upwards_merges_and_uses_again() {
    let page = sys::page_size();
    let mut arena = Arena::new().unwrap();
    let mut at = Vec::new();
    for _ in 0..100 {
        arena.prepare(1).unwrap();
        let a = arena.place(&wish(page)).unwrap();
        arena.take(a, page);
        at.push(a);
    }
    assert!(at.windows(2).all(|w| w[1] == w[0] + page));
    assert!(!arena.is_free(at[50], &wish(page)));
    for i in [50, 52, 51, 99] {
        arena.prepare(1).unwrap();
        arena.give(at[i], at[i] + page);
    }
    assert!(arena.is_free(at[50], &wish(3 * page)));
    assert!(!arena.is_free(at[50], &wish(4 * page)));
    assert_eq!(
        arena.place(&wish(page)).unwrap(),
        at[99],
        "what was last is free again"
    );
    arena.prepare(1).unwrap();
    arena.give(at[0], at[99]);
    assert_eq!(arena.place(&wish(page)).unwrap(), at[0]);
    assert!(arena.log(at[0]).is_some());
    // SAFETY: nothing is mapped there.
    unsafe { arena.release() };
}

#[test]
fn many_small_places_fill_without_a_look_at_all_of_them() {
    const COUNT: usize = 60_000;
    let page = sys::page_size();
    let mut arena = Arena::new().unwrap();
    arena.prepare(1).unwrap();
    let base = arena.place(&wish(page)).unwrap();
    let end = arena.piece_end(base);
    arena.take(base, end - base);
    for i in 0..COUNT {
        arena.prepare(1).unwrap();
        arena.give(base + 2 * i * page, base + (2 * i + 1) * page);
    }
    // Whoever comes from the top finds each free place below the one before.
    arena.current = base;
    let began = std::time::Instant::now();
    let mut filled = std::collections::HashSet::new();
    for _ in 0..COUNT {
        arena.prepare(1).unwrap();
        let at = arena.place(&wish(page)).unwrap();
        assert!(at < base + 2 * COUNT * page && filled.insert(at));
        arena.take(at, page);
    }
    // With a look at all of them each time it is minutes.
    assert!(began.elapsed().as_secs() < 15);
    // A larger one among the small ones is found, and taken first.
    arena.prepare(2).unwrap();
    arena.give(base + 2 * page, base + 3 * page);
    arena.give(base + 1000 * page, base + 1020 * page);
    assert_eq!(arena.place(&wish(2 * page)).unwrap(), base + 1000 * page);
    assert_eq!(arena.pieces.len(), 1);
    // SAFETY: nothing is mapped there.
    unsafe { arena.release() };
}

#[test]
fn large_parts_are_aligned_to_large_pages() {
    let mut arena = Arena::new().unwrap();
    for (len, offset, modulus) in [
        (2 << 20, 4096 * 3, 2 << 20),
        (5 << 20, 2 << 20, 2 << 20),
        (3 * GIB, 4096, GIB),
    ] {
        let w = Wish {
            offset,
            ..wish(len)
        };
        arena.prepare(1).unwrap();
        let a = arena.place(&w).unwrap();
        assert_eq!(a as u64 % modulus as u64, offset % modulus as u64);
        arena.take(a, len);
    }
    // SAFETY: nothing is mapped there.
    unsafe { arena.release() };
}

#[test]
fn a_run_ends_with_its_piece() {
    let page = sys::page_size();
    let base = sys::reserve(16 * page, None).unwrap();
    let mut arena = Arena::new().unwrap();
    arena.prepare(3).unwrap();
    // Two reservations that happen to lie side by side.
    for at in [base, base + 8 * page] {
        let size = 8 * page;
        arena.pieces.push(Piece {
            base: at,
            size,
            reach: size,
            log: None,
        });
        arena.holes.insert(at, size);
        RESERVED.fetch_add(size, Ordering::Relaxed);
        PIECES.fetch_add(1, Ordering::Relaxed);
    }
    assert!(arena.is_free(base + 6 * page, &wish(2 * page)));
    assert!(!arena.is_free(base + 6 * page, &wish(3 * page)));
    assert!(!arena.is_free(base + 8 * page, &wish(page)));
    assert!(arena.is_free(base + 9 * page, &wish(page)));
    // SAFETY: reserved above, and nothing is mapped there.
    unsafe { arena.release() };
}

#[test]
fn large_parts_take_few_pieces() {
    let mut arena = Arena::new().unwrap();
    // More than this process may reserve ahead.
    for _ in 0..20_000 {
        arena.prepare(1).unwrap();
        let large = Wish {
            logged: false,
            ..wish(GIB)
        };
        let at = arena.place(&large).unwrap();
        arena.take(at, GIB);
    }
    assert!(arena.pieces.len() < 40, "{}", arena.pieces.len());
    // SAFETY: nothing is mapped there.
    unsafe { arena.release() };
}

#[test]
fn a_reservation_is_recognised_in_proc_maps() {
    let page = sys::page_size();
    let a = sys::reserve(8 * page, None).unwrap();
    assert!(is_reservation(a, 8 * page));
    assert!(is_reservation(a + page, page));
    // SAFETY: reserved above.
    unsafe { sys::unmap(a + 4 * page, page) };
    assert!(!is_reservation(a, 8 * page));
    let b = sys::map_zeroed(page).unwrap();
    assert!(!is_reservation(b, page));
    // SAFETY: mapped above.
    unsafe {
        sys::unmap(b, page);
        sys::unmap(a, 8 * page);
    }
}
