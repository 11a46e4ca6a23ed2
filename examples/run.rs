//! Maps files as one contiguous run, writes over a boundary, and says where the parts are.
//!
//! Run with `cargo run --example run -- FILE FILE...`; without files it works on temporary ones. Files that are too short
//! grow to a whole number of pages.

use std::ffi::CString;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pmemset::codes::{
    PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED, PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED,
};
use pmemset::{
    Coalescing, Config, Copying, Event, Flags, Granularity, Observer, Part, Set, Source,
};

const CREATE_AND_GROW: u64 =
    (PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED | PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED) as u64;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let drains = Arc::new(AtomicUsize::new(0));
    let counter = drains.clone();
    let mut config = Config::new();
    config
        .set_required_granularity(Granularity::Page)
        .set_observer(Observer::Closure(Arc::new(move |_, event| {
            if *event == Event::Drain {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        })));
    let set = Set::new(&config)?;
    set.set_coalescing(Coalescing::Full);

    let mut sources = Vec::new();
    for path in std::env::args_os().skip(1) {
        sources.push(Source::open_with(
            &CString::new(path.into_vec())?,
            CREATE_AND_GROW,
        )?);
    }
    while sources.len() < 3 {
        sources.push(Source::temporary(c"/tmp")?);
    }

    // 64 KiB is a multiple of every page size there is.
    let len = 64 << 10;
    let mut run = pmemset::Extent { addr: 0, len: 0 };
    for source in &sources {
        run = set.map(&Part::new(source, 0, len)?)?;
    }
    println!(
        "{} files in {} bytes at {:#x}",
        sources.len(),
        run.len,
        run.addr
    );

    let text = b"one write over the end of the first file, into the second";
    let dest = (run.addr + len - 9) as *mut u8;
    // SAFETY: the destination is inside the run that was just mapped.
    unsafe {
        set.copy(
            dest,
            Copying::Copy(text.as_ptr()),
            text.len(),
            Flags::default(),
        )?
    };
    println!(
        "written and durable, in {} drain",
        drains.load(Ordering::Relaxed)
    );

    // The last file goes; the others stay where they are.
    set.remove_range(run.addr + run.len - 1, 1)?;
    for map in set.part_maps() {
        println!(
            "part map: {} bytes at {:#x}",
            map.extent().len,
            map.extent().addr
        );
    }
    set.delete()?;
    Ok(())
}
