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
    let end = base + arena.pieces[0].size;
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
    assert_eq!(is_reservation(a, 8 * page), Some(true));
    assert_eq!(is_reservation(a + page, page), Some(true));
    // SAFETY: reserved above.
    unsafe { sys::unmap(a + 4 * page, page) };
    assert_eq!(is_reservation(a, 8 * page), Some(false));
    let b = sys::map_zeroed(page).unwrap();
    assert_eq!(is_reservation(b, page), Some(false));
    // SAFETY: mapped above.
    unsafe {
        sys::unmap(b, page);
        sys::unmap(a, 8 * page);
    }
}

/// Runs a test in a process without other threads, who might map something where the test has
/// unmapped.
fn alone(test: fn()) {
    // SAFETY: the child has this thread only, and ends without returning.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            let done = std::panic::catch_unwind(test);
            libc::_exit(i32::from(done.is_err()));
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
        assert_eq!(status, 0);
    }
}

/// Memory of the program's, where nothing else is.
fn foreign(at: usize, len: usize) -> bool {
    sys::reserve_at(at, len).is_ok()
}

fn is_mapped(at: usize, len: usize) -> bool {
    // SAFETY: a range of nothing; what could be mapped goes again.
    sys::reserve_at(at, len)
        .map(|()| unsafe { sys::unmap(at, len) })
        .is_err()
}

#[test]
fn what_others_have_is_given_up_and_what_nobody_has_is_not() {
    alone(|| {
        let page = sys::page_size();
        let mut arena = Arena::new().unwrap();
        arena.prepare(8).unwrap();
        let base = arena.place(&wish(8 * page)).unwrap();
        let place = |n: usize| base + n * page;
        // Parts, with two pages free among them and all of the piece behind.
        arena.take(base, 8 * page);
        arena.give(place(2), place(4));
        // SAFETY: nothing is mapped there, and nobody uses it.
        unsafe { sys::try_unmap(base, 8 * page).unwrap() };
        // Somebody takes one free page and one that was not.
        assert!(foreign(place(3), page) && foreign(place(6), page));
        // SAFETY: the arena's until now.
        unsafe { arena.give_unmapped(base, place(8)) };
        assert!(arena.all_free(base, place(2)) && arena.is_free(place(1), &wish(page)));
        assert!(!arena.is_vacant(place(2)) && !arena.is_vacant(place(3)));
        assert!(!arena.all_free(place(1), place(5)) && !arena.is_vacant(place(6)));
        let size = arena.pieces[0].size;
        assert!(arena.all_free(place(8), base + size));
        for len in (1..40).chain([1000]) {
            arena.prepare(1).unwrap();
            let at = arena.place(&wish(len * page)).unwrap();
            assert!(at + len * page <= place(2) || at >= place(8), "{len}");
            arena.take(at, len * page);
        }
        // The one goes, and its place is had again when room is needed there; the other stays.
        // SAFETY: mapped above.
        unsafe { sys::unmap(place(3), page) };
        assert!(arena.regain(0, usize::MAX));
        assert!(arena.all_free(place(2), place(4)) && !arena.regain(0, usize::MAX));
        // SAFETY: nothing is mapped there.
        unsafe { arena.release() };
        assert!(is_mapped(place(6), page) && !is_mapped(base, 6 * page));
        assert!(!is_mapped(place(7), size - 7 * page));
        // SAFETY: mapped above.
        unsafe { sys::unmap(place(6), page) };
    });
}

#[test]
fn a_piece_that_lies_where_another_gave_up_is_apart_from_it() {
    alone(|| {
        let page = sys::page_size();
        let mut arena = Arena::new().unwrap();
        arena.prepare(8).unwrap();
        let base = arena.place(&wish(64 * page)).unwrap();
        let place = |n: usize| base + n * page;
        arena.take(base, 64 * page);
        // SAFETY: nothing is mapped there, and nobody uses it.
        unsafe { sys::try_unmap(place(8), 32 * page).unwrap() };
        assert!(foreign(place(39), page));
        // SAFETY: the arena's until now.
        unsafe { arena.give_unmapped(place(8), place(40)) };
        arena.give(base, place(8));
        arena.give(place(40), place(64));
        // A further piece happens to get the room in the middle.
        sys::reserve_at(place(8), 31 * page).unwrap();
        arena.pieces.push(Piece {
            base: place(8),
            size: 31 * page,
            reach: 31 * page,
            log: None,
        });
        RESERVED.fetch_add(31 * page, Ordering::Relaxed);
        PIECES.fetch_add(1, Ordering::Relaxed);
        arena.give(place(8), place(39));
        assert_eq!(arena.hole_at(place(8)), Some((place(8), 31 * page)));
        assert_eq!(arena.hole_at(place(7)), Some((base, 8 * page)));
        assert!(!arena.is_free(place(8), &wish(page)));
        assert!(arena.is_free(place(9), &wish(page)));
        assert!(!arena.share_piece(place(7), place(8)) && arena.share_piece(place(7), place(40)));
        let size = arena.pieces[0].size;
        // SAFETY: nothing is mapped there.
        unsafe { arena.release() };
        assert!(is_mapped(place(39), page) && !is_mapped(base, 39 * page));
        assert!(!is_mapped(place(40), size - 40 * page));
        // SAFETY: mapped above.
        unsafe { sys::unmap(place(39), page) };
    });
}

#[test]
fn a_freed_place_is_one_range_with_what_is_around_it_sooner_or_later() {
    let page = sys::page_size();
    let mut arena = Arena::new().unwrap();
    arena.prepare(8).unwrap();
    let base = arena.place(&wish(64 * page)).unwrap();
    arena.take(base, 64 * page);
    let free = |arena: &mut Arena, from: usize, to: usize| {
        let (from, to) = (base + from * page, base + to * page);
        arena.prepare(1).unwrap();
        let around = arena.around(from, to);
        // SAFETY: reserved by the arena.
        unsafe { sys::reserve_over(from, to - from).unwrap() };
        arena.give_anew(around, (from, to));
        let pages = |at: usize| at.wrapping_sub(base) / page;
        (pages(arena.shown.0), pages(arena.shown.1))
    };
    assert_eq!(free(&mut arena, 8, 10), (8, 10));
    assert_eq!(free(&mut arena, 10, 12), (8, 12), "next to it");
    assert_eq!(free(&mut arena, 6, 8), (6, 12), "on either side");
    arena.prepare(1).unwrap();
    arena.take(base + 6 * page, page);
    assert_eq!(arena.shown, (base + 7 * page, base + 12 * page));
    arena.take(base + 8 * page, page);
    assert_eq!(arena.shown, (base + 9 * page, base + 12 * page));
    arena.take(base + 11 * page, page);
    assert_eq!(arena.shown, (0, 0));
    assert_eq!(free(&mut arena, 20, 21), (20, 21));
    assert_eq!(free(&mut arena, 30, 31), (30, 31), "one range at most");
    free(&mut arena, 21, 22);
    assert_eq!(arena.shown, (0, 0), "not behind what is hidden already");
    // SAFETY: nothing is mapped there.
    unsafe { arena.release() };
}
