//! Running out of memory: every call of the C interface is made with its first, second, third... allocation failing (that
//! one, or that and all after it). It returns -ENOMEM and has changed nothing, or it works; nothing leaks, nothing aborts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::null_mut;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pmemset::codes::*;
use pmemset::{Coalescing, Config, Granularity, Part, Set, Source};

/// The program's allocator: counts what a thread has, and fails when it is told to.
struct Failing;

thread_local! {
    /// Allocations until one fails; negative: none.
    static LEFT: Cell<i64> = const { Cell::new(-1) };
    static AND_ALL_AFTER: Cell<bool> = const { Cell::new(false) };
    static REFUSED: Cell<u64> = const { Cell::new(0) };
    static MADE: Cell<u64> = const { Cell::new(0) };
    static LIVE: Cell<i64> = const { Cell::new(0) };
}

// SAFETY: the system's allocator does the work; null is an answer that an allocator may give. The thread-local variables
// have no destructors and need no allocation.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let left = LEFT.get();
        if left == 0 {
            REFUSED.set(REFUSED.get() + 1);
            if !AND_ALL_AFTER.get() {
                LEFT.set(-1);
            }
            return null_mut();
        }
        if left > 0 {
            LEFT.set(left - 1);
        }
        MADE.set(MADE.get() + 1);
        LIVE.set(LIVE.get() + 1);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get() - 1);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Failing = Failing;

/// When allocations fail.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// Allocations of a call that work, in the first try.
    first: i64,
    /// All fail after the first that does.
    all: bool,
}

const PLANS: [Plan; 8] = {
    let mut plans = [Plan {
        first: 0,
        all: false,
    }; 8];
    let mut i = 0;
    while i < plans.len() {
        plans[i].first = i as i64 / 2;
        plans[i].all = i % 2 == 1;
        i += 1;
    }
    plans
};

/// Makes one call while allocations fail; its result, and how many were refused.
fn under<T>(first: i64, all: bool, call: impl FnOnce() -> T) -> (T, u64) {
    REFUSED.set(0);
    AND_ALL_AFTER.set(all);
    LEFT.set(first);
    let result = call();
    LEFT.set(-1);
    (result, REFUSED.get())
}

/// A call that never needs memory.
fn without_memory<T>(call: impl FnOnce() -> T) -> T {
    let (result, refused) = under(0, true, call);
    assert_eq!(
        refused, 0,
        "a call that is to need no memory asked for some"
    );
    result
}

type Desc = Descriptor;

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
struct Descriptor {
    addr: *mut c_void,
    size: usize,
}

/// A pointer to an opaque object.
type Object = *mut c_void;

unsafe extern "C" {
    fn pmemset_config_new(cfg: *mut Object) -> c_int;
    fn pmemset_config_delete(cfg: *mut Object) -> c_int;
    fn pmemset_config_set_required_store_granularity(cfg: Object, g: c_int) -> c_int;
    fn pmemset_config_set_reservation(cfg: Object, rsv: Object);
    fn pmemset_config_set_event_callback(cfg: Object, callback: Object, arg: Object);
    fn pmemset_new(set: *mut Object, cfg: Object) -> c_int;
    fn pmemset_delete(set: *mut Object) -> c_int;
    fn pmemset_set_contiguous_part_coalescing(set: Object, value: c_int) -> c_int;
    fn pmemset_get_store_granularity(set: Object, g: *mut c_int) -> c_int;
    fn pmemset_source_from_file(src: *mut Object, file: *const c_char) -> c_int;
    fn pmemset_xsource_from_file(src: *mut Object, file: *const c_char, flags: c_uint) -> c_int;
    fn pmemset_source_from_temporary(src: *mut Object, dir: *const c_char) -> c_int;
    fn pmemset_source_from_pmem2(src: *mut Object, pmem2: Object) -> c_int;
    fn pmemset_source_delete(src: *mut Object) -> c_int;
    fn pmemset_part_new(
        part: *mut Object,
        set: Object,
        src: Object,
        offset: usize,
        length: usize,
    ) -> c_int;
    fn pmemset_part_delete(part: *mut Object) -> c_int;
    fn pmemset_part_map(part: *mut Object, extra: Object, desc: *mut Desc) -> c_int;
    fn pmemset_first_part_map(set: Object, pmap: *mut Object);
    fn pmemset_next_part_map(set: Object, cur: Object, next: *mut Object);
    fn pmemset_part_map_by_address(set: Object, pmap: *mut Object, addr: Object) -> c_int;
    fn pmemset_descriptor_part_map(pmap: Object) -> Desc;
    fn pmemset_part_map_drop(pmap: *mut Object);
    fn pmemset_remove_part_map(set: Object, part: *mut Object) -> c_int;
    fn pmemset_remove_range(set: Object, addr: Object, len: usize) -> c_int;
    fn pmemset_persist(set: Object, ptr: Object, size: usize) -> c_int;
    fn pmemset_flush(set: Object, ptr: Object, size: usize) -> c_int;
    fn pmemset_drain(set: Object) -> c_int;
    fn pmemset_deep_flush(set: Object, ptr: Object, size: usize) -> c_int;
    fn pmemset_memmove(
        set: Object,
        dest: Object,
        src: Object,
        len: usize,
        flags: c_uint,
    ) -> *mut c_void;
    fn pmemset_memcpy(
        set: Object,
        dest: Object,
        src: Object,
        len: usize,
        flags: c_uint,
    ) -> *mut c_void;
    fn pmemset_memset(
        set: Object,
        dest: Object,
        c: c_int,
        len: usize,
        flags: c_uint,
    ) -> *mut c_void;
    fn pmemset_err_to_errno(err: c_int) -> c_int;
    fn pmemset_errormsg() -> *const c_char;
    fn pmemset_perror(format: *const c_char, ...);
}

/// Tests that look at the process's descriptors and environment take turns.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn page() -> usize {
    // SAFETY: no pointers involved.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

fn message() -> String {
    // SAFETY: never NULL, and stable until this thread's next failure.
    let text = unsafe { CStr::from_ptr(pmemset_errormsg()) };
    text.to_string_lossy().into_owned()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd")
        .expect("descriptors")
        .count()
}

/// Bytes of address space.
fn address_space() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("statm");
    let pages: usize = statm.split(' ').next().unwrap().parse().expect("a number");
    pages * page()
}

fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("no NUL")
}

/// Descriptors of all part maps of a set, or of none, in order.
fn walk(set: Object) -> Vec<Desc> {
    let mut found = Vec::with_capacity(400);
    if set.is_null() {
        return found;
    }
    let mut at = null_mut();
    // SAFETY: a live set; every reference is given back.
    without_memory(|| unsafe {
        pmemset_first_part_map(set, &mut at);
        while !at.is_null() {
            assert!(found.len() < found.capacity());
            found.push(pmemset_descriptor_part_map(at));
            let mut next = null_mut();
            pmemset_next_part_map(set, at, &mut next);
            pmemset_part_map_drop(&mut at);
            at = next;
        }
    });
    found
}

/// One pass over everything that the library can do, each call made again until it has the memory that it needs.
struct Session {
    plan: Plan,
    set: Object,
    refused: u64,
    enomem: u64,
}

impl Session {
    /// Makes a call with less and less failing until it works.
    fn call(&mut self, what: &str, mut call: impl FnMut() -> c_int) {
        let (before, open) = (walk(self.set), descriptors());
        for n in self.plan.first.. {
            let (rc, refused) = under(n, self.plan.all, &mut call);
            self.refused += refused;
            if rc == 0 {
                return;
            }
            assert_eq!(rc, -libc::ENOMEM, "{what}, {n}: {}", message());
            assert!(refused > 0, "{what}, {n}: no allocation was refused");
            assert!(
                message().ends_with(": Cannot allocate memory"),
                "{}",
                message()
            );
            // SAFETY: no pointers involved.
            assert_eq!(unsafe { pmemset_err_to_errno(rc) }, libc::ENOMEM);
            assert_eq!(walk(self.set), before, "{what}, {n}: the set has changed");
            assert_eq!(descriptors(), open, "{what}, {n}: descriptors");
            self.enomem += 1;
            assert!(n < 1000, "{what}: there is always an allocation more");
        }
    }

    /// A call that makes an object, whose pointer is NULL until it has.
    fn make(&mut self, what: &str, mut call: impl FnMut(&mut Object) -> c_int) -> Object {
        let mut object: Object = null_mut();
        self.call(what, || {
            object = std::ptr::without_provenance_mut(1);
            let rc = call(&mut object);
            assert_eq!(rc != 0, object.is_null(), "{what}: pointer and result");
            rc
        });
        object
    }

    fn map(&mut self, source: Object, offset: usize, length: usize) -> Desc {
        let set = self.set;
        // SAFETY: live objects.
        let mut part = self.make("part_new", |out| unsafe {
            pmemset_part_new(out, set, source, offset, length)
        });
        let mut desc = Desc {
            addr: null_mut(),
            size: 0,
        };
        let old = part;
        self.call("part_map", || {
            assert_eq!(part, old, "a part that was not mapped stays");
            // SAFETY: live objects.
            unsafe { pmemset_part_map(&mut part, null_mut(), &mut desc) }
        });
        assert!(part.is_null() && desc.size >= length);
        desc
    }
}

fn session(plan: Plan, dir: &Path, granularity: Option<&str>) -> Session {
    let p = page();
    let mut s = Session {
        plan,
        set: null_mut(),
        refused: 0,
        enomem: 0,
    };
    // SAFETY: tests take turns, and no other thread looks at the environment meanwhile.
    unsafe {
        match granularity {
            Some(name) => std::env::set_var("PMEM2_FORCE_GRANULARITY", name),
            None => std::env::remove_var("PMEM2_FORCE_GRANULARITY"),
        }
    }
    let path = dir.join("file");
    std::fs::write(&path, vec![7; 512 * p]).expect("a file");
    let (file, made, parent) = (c(&path), c(&dir.join("made")), c(dir));
    let _ = std::fs::remove_file(dir.join("made"));

    // SAFETY: to the end of the function: live objects, C strings, and ranges in part maps.
    unsafe {
        let mut config = s.make("config_new", |out| pmemset_config_new(out));
        s.call("config_set", || {
            pmemset_config_set_reservation(config, null_mut());
            pmemset_config_set_event_callback(config, null_mut(), null_mut());
            pmemset_config_set_required_store_granularity(config, 2)
        });
        s.set = s.make("new", |out| pmemset_new(out, config));
        s.call("config_delete", || pmemset_config_delete(&mut config));
        let set = s.set;
        assert!(config.is_null());

        let mut whole = s.make("source_from_file", |out| {
            pmemset_source_from_file(out, file.as_ptr())
        });
        let flags = PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED | PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED;
        let mut grows = s.make("xsource_from_file", |out| {
            pmemset_xsource_from_file(out, made.as_ptr(), flags)
        });
        let mut unnamed = s.make("source_from_temporary", |out| {
            pmemset_source_from_temporary(out, parent.as_ptr())
        });
        let (rc, _) = under(0, true, || {
            let mut none: Object = null_mut();
            pmemset_source_from_pmem2(&mut none, null_mut())
        });
        assert_eq!(rc, PMEMSET_E_INVALID_PMEM2_SOURCE);

        // Enough parts for several levels of the index, of every coalescing.
        let run = s.map(unnamed, 0, 64 * p);
        for i in 0..100 {
            s.map(whole, i * p, p);
        }
        for coalescing in [1, 2] {
            s.call("set_contiguous_part_coalescing", || {
                pmemset_set_contiguous_part_coalescing(set, coalescing)
            });
            for i in 0..40 {
                s.map(grows, (i * 2 + coalescing as usize) * p, p);
            }
        }
        s.call("set_contiguous_part_coalescing", || {
            pmemset_set_contiguous_part_coalescing(set, 0)
        });
        let all = walk(set);
        assert_eq!(all.len(), 101);
        assert_eq!(
            all[100].size,
            81 * p,
            "the last joined all that were coalesced"
        );

        // Finding needs no memory.
        let mut found: Object = null_mut();
        without_memory(|| {
            for desc in &all {
                let last = desc.addr.byte_add(desc.size - 1);
                assert_eq!(pmemset_part_map_by_address(set, &mut found, last), 0);
                assert_eq!(pmemset_descriptor_part_map(found), *desc);
                pmemset_part_map_drop(&mut found);
            }
            let nothing = std::ptr::without_provenance_mut(1);
            let rc = pmemset_part_map_by_address(set, &mut found, nothing);
            assert_eq!(rc, PMEMSET_E_CANNOT_FIND_PART_MAP);
            let mut g = 9;
            assert_eq!(pmemset_get_store_granularity(set, &mut g), 0);
            assert!(g <= 2);
        });

        // Making durable: a failure says so, and what was flushed stays to be drained.
        for (i, desc) in all.iter().enumerate() {
            desc.addr.cast::<u8>().write_volatile(i as u8 | 0x80);
            assert_eq!(
                without_memory(|| pmemset_flush(set, desc.addr, 100)),
                0,
                "recording a flush"
            );
            if i % 10 == 0 {
                s.call("drain", || pmemset_drain(set));
            }
        }
        s.call("drain", || pmemset_drain(set));
        s.call("persist", || pmemset_persist(set, run.addr, 64 * p));
        s.call("deep_flush", || pmemset_deep_flush(set, run.addr, p));
        s.call("deep_flush", || {
            let lowest = std::ptr::without_provenance_mut(1);
            pmemset_deep_flush(set, lowest, usize::MAX)
        });
        let text = *b"copied without memory";
        let src: Object = text.as_ptr().cast_mut().cast();
        for flags in [0, 1, 32] {
            for n in plan.first..plan.first + 4 {
                for kind in 0..3 {
                    let dest = run.addr.byte_add(n as usize * 64 + kind * 4096);
                    under(n, plan.all, || match kind {
                        0 => pmemset_memcpy(set, dest, src, text.len(), flags),
                        1 => pmemset_memmove(set, dest, src, text.len(), flags),
                        _ => pmemset_memset(set, dest, 3, text.len(), flags),
                    });
                    if kind < 2 {
                        assert_eq!(*dest.cast::<[u8; 21]>(), text);
                    }
                    // What the copy could not return, the next drain does.
                    let (rc, _) = under(-1, false, || pmemset_drain(set));
                    assert!(rc == 0 || rc == -libc::ENOMEM, "{rc}: {}", message());
                    assert_eq!(pmemset_drain(set), 0, "once is enough");
                }
            }
        }

        // Removing: whole part maps, parts out of a run, across part maps; with flushes to be synced first.
        for i in (0..20).map(|i| i * 5) {
            let addr = all[i].addr;
            assert_eq!(pmemset_part_map_by_address(set, &mut found, addr), 0);
            assert_eq!(pmemset_flush(set, addr, 1), 0);
            let mut map = found;
            s.call("remove_part_map", || {
                assert_eq!(map, found);
                pmemset_remove_part_map(set, &mut map)
            });
            assert!(map.is_null());
        }
        for i in [60, 40, 20, 70] {
            let addr = all[100].addr.byte_add(i * p);
            assert_eq!(pmemset_flush(set, addr, 1), 0);
            s.call("remove_range", || pmemset_remove_range(set, addr, 1));
        }
        let rest = walk(set);
        assert_eq!(rest.len(), 101 - 20 + 4);
        let (from, to) = (rest[50].addr, rest[82].addr);
        assert_eq!(pmemset_flush(set, from, 1), 0);
        s.call("remove_range", || {
            pmemset_remove_range(set, from, to as usize - from as usize)
        });
        assert_eq!(walk(set).len(), 101 - 20 + 4 - 32);

        // The end, with something still to sync: what fails is said, and everything goes all the same.
        let left = walk(set)[0];
        assert_eq!(pmemset_flush(set, left.addr, left.size), 0);
        assert_eq!(pmemset_part_map_by_address(set, &mut found, left.addr), 0);
        let mut part: Object = null_mut();
        assert_eq!(pmemset_part_new(&mut part, set, whole, 0, p), 0);
        assert_eq!(without_memory(|| pmemset_part_delete(&mut part)), 0);
        without_memory(|| {
            assert_eq!(pmemset_source_delete(&mut whole), 0);
            assert_eq!(pmemset_source_delete(&mut grows), 0);
            assert_eq!(pmemset_source_delete(&mut unnamed), 0);
        });
        let (rc, refused) = under(plan.first, plan.all, || pmemset_delete(&mut s.set));
        assert!(
            rc == 0 || (rc == -libc::ENOMEM && refused > 0),
            "{rc}: {}",
            message()
        );
        assert!(s.set.is_null());
        without_memory(|| pmemset_part_map_drop(&mut found));
    }
    // What was stored is in the file: mappings are shared, whatever came of the syncs.
    let bytes = std::fs::read(&path).expect("the file");
    assert_eq!(bytes.len(), 512 * p);
    for i in 0..100 {
        assert_ne!(bytes[i * p], 7, "page {i}");
    }
    assert!(bytes[100 * p..].iter().all(|b| *b == 7));
    s
}

#[test]
fn every_call_under_failing_allocation() {
    let _turn = turn();
    let dir = tempfile::tempdir().expect("a directory");
    let (mut refused, mut enomem) = (0, 0);
    // Once without counting: what the process makes once and keeps.
    session(
        Plan {
            first: 1000,
            all: false,
        },
        dir.path(),
        None,
    );
    for granularity in [None, Some("CACHE_LINE"), Some("BYTE")] {
        for plan in PLANS {
            let (live, open, space) = (LIVE.get(), descriptors(), address_space());
            let s = session(plan, dir.path(), granularity);
            (refused, enomem) = (refused + s.refused, enomem + s.enomem);
            assert_eq!(LIVE.get(), live, "{plan:?} {granularity:?}: heap");
            assert_eq!(descriptors(), open, "{plan:?} {granularity:?}: descriptors");
            let grown = address_space().saturating_sub(space);
            assert!(grown < 64 << 20, "{plan:?}: {grown} bytes of address space");
        }
    }
    // SAFETY: as in `session`.
    unsafe { std::env::remove_var("PMEM2_FORCE_GRANULARITY") };
    // The test would prove nothing if the failures did not reach the library.
    assert!(enomem > 500, "{enomem} failures, {refused} refusals");
}

#[test]
fn messages_need_no_memory() {
    let _turn = turn();
    let mut out: Object = null_mut();
    // SAFETY: live objects and C strings; the descriptors are this test's own, and put back.
    unsafe {
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_WRONLY);
        let stderr = libc::dup(2);
        let rc = without_memory(|| pmemset_source_from_file(&mut out, c"/no/such/file".as_ptr()));
        assert_eq!(rc, PMEMSET_E_INVALID_SOURCE_PATH);
        libc::dup2(null, 2);
        without_memory(|| pmemset_perror(c"what %d".as_ptr(), 3 as c_int));
        libc::dup2(stderr, 2);
        libc::close(stderr);
        libc::close(null);
        assert!(message().contains("/no/such/file"));
        let rc = without_memory(|| pmemset_source_from_file(&mut out, std::ptr::null()));
        assert_eq!(rc, PMEMSET_E_INVALID_SOURCE_PATH);
        assert_eq!(message(), "file path cannot be empty");
    }
}

/// The same core, used from Rust.
#[test]
fn errors_of_the_rust_interface() {
    let _turn = turn();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("file");
    std::fs::write(&path, vec![1; 32 * page()]).expect("a file");
    let path = c(&path);
    fn retry<T>(mut call: impl FnMut() -> pmemset::Result<T>) -> T {
        for n in 0.. {
            let (result, refused) = under(n, false, &mut call);
            match result {
                Ok(value) => return value,
                Err(e) => assert!(e.code() == -libc::ENOMEM && refused > 0, "{e}"),
            }
        }
        unreachable!()
    }
    let live = LIVE.get();
    {
        let mut config = Config::new();
        config.set_required_granularity(Granularity::Page);
        let set = retry(|| Set::new(&config));
        let source = retry(|| Source::open(&path));
        set.set_coalescing(Coalescing::Full);
        for i in 0..32 {
            let part = retry(|| Part::new(&source, i * page(), page()));
            let extent = retry(|| set.map(&part));
            assert_eq!(extent.len, (i + 1) * page());
        }
        let run = without_memory(|| set.first().expect("a part map").extent());
        let mut map = Some(without_memory(|| {
            set.part_map(run.addr).expect("the part map")
        }));
        retry(|| {
            let held = map.take().expect("it came back");
            set.remove(held).map_err(|(held, e)| {
                map = Some(held);
                e
            })
        });
        drop(map);
        assert!(set.first().is_none());
        set.delete().expect("nothing to sync");
    }
    assert_eq!(LIVE.get(), live);
}

/// Threads that flush and drain one set, with memory that comes and goes.
#[test]
fn threads_that_run_out_of_memory() {
    let _turn = turn();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("file");
    let p = page();
    std::fs::write(&path, vec![0; 256 * p]).expect("a file");
    let mut config = Config::new();
    config.set_required_granularity(Granularity::Page);
    let set = Set::new(&config).expect("a set");
    let source = Source::open(&c(&path)).expect("a source");
    let whole = Part::new(&source, 0, 256 * p).expect("a part");
    let extent = set.map(&whole).expect("a part map");
    let rounds = 60u64;
    let outcomes: Vec<(u64, u64)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4u64)
            .map(|t| {
                let (set, source) = (&set, &source);
                scope.spawn(move || {
                    let (mut fine, mut failed) = (0, 0);
                    for round in 0..rounds {
                        let at = ((round * 37 + t * 64) % 256) as usize * p;
                        let addr = (extent.addr + at) as *mut u8;
                        // SAFETY: within the part map; threads have places of their own.
                        let (result, refused) =
                            under((round % 7) as i64, round % 2 == 0, || unsafe {
                                addr.add(t as usize).write_volatile(round as u8 | 1);
                                match round % 3 {
                                    0 => set.persist(addr, p),
                                    1 => set.flush(addr, 1).and_then(|()| set.drain()),
                                    _ => Part::new(source, at, p)
                                        .and_then(|part| set.map(&part))
                                        .and_then(|e| set.remove_range(e.addr, 1)),
                                }
                            });
                        match result {
                            Ok(()) => fine += 1,
                            // Another thread's drain may be the one that had no memory.
                            Err(e) => {
                                assert_eq!(e.code(), -libc::ENOMEM, "{e} after {refused}");
                                failed += 1;
                            }
                        }
                    }
                    (fine, failed)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|t| t.join().expect("no panic"))
            .collect()
    });
    for (fine, failed) in outcomes {
        assert!(fine > 0 && failed > 0, "{fine} fine, {failed} failed");
    }
    let _ = set.drain();
    set.drain().expect("there is memory now");
    // Parts that were mapped and could not be removed for lack of memory.
    for map in set.part_maps().map(|m| m.extent()).collect::<Vec<_>>() {
        set.remove_range(map.addr, map.len).expect("removal");
    }
    set.delete().expect("nothing is left to sync");
}
