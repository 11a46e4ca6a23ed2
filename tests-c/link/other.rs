// A Rust library that knows nothing of ours, with the same standard library inside: it starts a
// thread, and a panic unwinds in it and is caught, so that it needs its own unwinding tables where
// the linker has merged two libraries.
#![crate_type = "staticlib"]

use std::collections::BTreeMap;
use std::panic;

/// The number of different letters of `times` words, or 1000 more for what did not unwind.
#[unsafe(no_mangle)]
pub extern "C" fn other_letters(times: u32) -> u32 {
    panic::set_hook(Box::new(|_| {}));
    let counted = std::thread::spawn(move || {
        let mut seen = BTreeMap::new();
        for n in 0..times {
            for letter in format!("word {n}").chars().filter(char::is_ascii_alphabetic) {
                *seen.entry(letter).or_insert(0) += 1;
            }
        }
        seen.len() as u32
    });
    let unwound = panic::catch_unwind(|| {
        let guard = String::from("dropped on the way");
        assert!(times == 0, "{guard}");
    });
    counted.join().unwrap_or(1000) + if unwound.is_err() { 0 } else { 1000 }
}
