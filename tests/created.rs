//! Files that the library creates, where persisting is no sync: nothing of them stays behind in the set.

use std::ffi::CString;

use pmemset::codes::{PMEMSET_SOURCE_FILE_CREATE_ALWAYS, PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED};
use pmemset::{Config, Granularity, Part, Set, Source};

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn a_removed_part_keeps_no_file_open() {
    // SAFETY: the only test of this program, before it has any other thread that reads the environment.
    unsafe { std::env::set_var("PMEM2_FORCE_GRANULARITY", "CACHE_LINE") };
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::new();
    config.set_required_granularity(Granularity::Page);
    let set = Set::new(&config).unwrap();
    let flags = PMEMSET_SOURCE_FILE_CREATE_ALWAYS | PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED;
    let cycle = |i: usize, persist: bool| {
        let path = dir.path().join(i.to_string()).into_os_string();
        let path = CString::new(path.into_string().unwrap()).unwrap();
        let source = Source::open_with(&path, flags.into()).unwrap();
        let extent = set.map(&Part::new(&source, 0, 65536).unwrap()).unwrap();
        drop(source);
        if persist {
            // SAFETY: the range is mapped.
            unsafe { set.persist(extent.addr as *const u8, 1).unwrap() };
        }
        set.remove_range(extent.addr, 1).unwrap();
    };
    cycle(0, false);
    let before = descriptors();
    for i in 1..50 {
        cycle(i, i % 2 == 0);
    }
    for i in 50..100 {
        cycle(i, false);
    }
    assert_eq!(descriptors(), before);
}
