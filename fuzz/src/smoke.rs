//! `smoke SECONDS [SEED]`: sequences of random calls, the same ones every time for the same seed.

use std::time::{Duration, Instant};

fn main() {
    let number = |n: usize| std::env::args().nth(n).and_then(|a| a.parse::<u64>().ok());
    let limit = Duration::from_secs(number(1).unwrap_or(15));
    let first = number(2).unwrap_or(1);
    let begin = Instant::now();
    let (mut sequences, mut all) = (0, libpmemset_fuzz::Count::default());
    for seed in first.. {
        let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut data = vec![0; 300 + (seed % 7 * 500) as usize];
        for byte in &mut data {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            *byte = (x >> 32) as u8;
        }
        // Known before it runs, in case that it does not come back.
        libpmemset_fuzz::note(seed);
        all += libpmemset_fuzz::run(&data);
        sequences += 1;
        if begin.elapsed() >= limit {
            break;
        }
    }
    println!("{sequences} sequences: {all:?}");
    // A driver whose calls are all refused would find nothing.
    let enough = all.calls > 1000 && all.mapped * 100 > all.calls && all.failed * 20 > all.calls;
    assert!(
        enough && all.removed > 0 && all.second > 0,
        "too little was reached: {all:?}"
    );
}
