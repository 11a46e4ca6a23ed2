//! The bytes are a sequence of calls; see the library of this crate.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    libpmemset_fuzz::run(data);
});

#[cfg(not(fuzzing))]
fn main() {
    for path in std::env::args_os().skip(1) {
        let data = std::fs::read(&path).expect("an input");
        println!(
            "{}: {:?}",
            path.to_string_lossy(),
            libpmemset_fuzz::run(&data)
        );
    }
}
