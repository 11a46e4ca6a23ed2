//! Turns bytes into calls of the C interface: in any order, with NULL wherever a pointer goes, with flags, offsets, lengths
//! and values that mean nothing. What a caller must promise is kept (objects that live, memory that is mapped); the rest is
//! random. Nothing may crash, every result must be one that the interface has, and what the calls say must agree.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::ops::AddAssign;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, Ordering};

// For its symbols.
use pmemset as _;

#[macro_use]
mod must;
mod second;

type Object = *mut c_void;

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
struct Descriptor {
    addr: Object,
    size: usize,
}

#[repr(C)]
struct Extras {
    sds_in: *const c_void,
    sds_out: Object,
    state: *mut c_int,
}

type Callback = Option<unsafe extern "C" fn(Object, Object, Object) -> c_int>;

unsafe extern "C" {
    fn pmemset_config_new(cfg: *mut Object) -> c_int;
    fn pmemset_config_delete(cfg: *mut Object) -> c_int;
    fn pmemset_config_set_required_store_granularity(cfg: Object, g: c_int) -> c_int;
    fn pmemset_config_set_reservation(cfg: Object, rsv: Object);
    fn pmemset_config_set_event_callback(cfg: Object, callback: Callback, arg: Object);
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
    fn pmemset_part_map(part: *mut Object, extra: *mut Extras, desc: *mut Descriptor) -> c_int;
    fn pmemset_first_part_map(set: Object, pmap: *mut Object);
    fn pmemset_next_part_map(set: Object, cur: Object, next: *mut Object);
    fn pmemset_part_map_by_address(set: Object, pmap: *mut Object, addr: Object) -> c_int;
    fn pmemset_descriptor_part_map(pmap: Object) -> Descriptor;
    fn pmemset_part_map_drop(pmap: *mut Object);
    fn pmemset_remove_part_map(set: Object, part: *mut Object) -> c_int;
    fn pmemset_remove_range(set: Object, addr: Object, len: usize) -> c_int;
    fn pmemset_persist(set: Object, ptr: Object, size: usize) -> c_int;
    fn pmemset_flush(set: Object, ptr: Object, size: usize) -> c_int;
    fn pmemset_drain(set: Object) -> c_int;
    fn pmemset_deep_flush(set: Object, ptr: Object, size: usize) -> c_int;
    fn pmemset_memmove(set: Object, d: Object, s: Object, len: usize, flags: c_uint) -> Object;
    fn pmemset_memcpy(set: Object, d: Object, s: Object, len: usize, flags: c_uint) -> Object;
    fn pmemset_memset(set: Object, d: Object, c: c_int, len: usize, flags: c_uint) -> Object;
    fn pmemset_err_to_errno(err: c_int) -> c_int;
    fn pmemset_errormsg() -> *const c_char;
}

const USE_AFTER_DROP: c_int = -200022;
const CANNOT_FIND: c_int = -200013;
const PART_REMOVE: c_int = 8;

/// What a run came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    pub calls: u64,
    pub failed: u64,
    pub mapped: u64,
    /// Of these, by the second dialect.
    pub second: u64,
    pub found: u64,
    pub removed: u64,
    pub events: u64,
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Count) {
        self.calls += other.calls;
        self.failed += other.failed;
        self.mapped += other.mapped;
        self.second += other.second;
        self.found += other.found;
        self.removed += other.removed;
        self.events += other.events;
    }
}

static SEED: AtomicU64 = AtomicU64::new(0);
static EVENTS: AtomicU64 = AtomicU64::new(0);

/// Which sequence runs, for the message of one that fails.
pub fn note(seed: u64) {
    SEED.store(seed, Ordering::Relaxed);
}

unsafe extern "C" fn observe(set: Object, ctx: Object, arg: Object) -> c_int {
    must!(!set.is_null() && !ctx.is_null() && arg.is_null(), "event");
    EVENTS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the library's context begins with the event's type.
    let kind = unsafe { *ctx.cast::<c_int>() };
    must!((0..=11).contains(&kind), "event {kind}");
    if kind == PART_REMOVE {
        // SAFETY: behind the type is where that part map begins; the set may be asked here.
        unsafe {
            let addr = *ctx.byte_add(8).cast::<Object>();
            let mut map = null_mut();
            let rc = pmemset_part_map_by_address(set, &mut map, addr);
            must!(rc == CANNOT_FIND, "a part map that goes: {rc}");
        }
    }
    kind - 3
}

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> usize {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                usize::from(*first)
            }
            None => 0,
        }
    }

    fn word(&mut self) -> usize {
        (0..8).fold(0, |word, _| word << 8 | self.byte())
    }

    /// One in so many.
    fn rarely(&mut self, n: usize) -> bool {
        self.byte() % n == n - 1
    }

    /// A number that is often sensible and sometimes anything.
    fn size(&mut self, page: usize) -> usize {
        match self.byte() % 12 {
            0..6 => self.byte() % 7 * page,
            6 | 7 => 0,
            8 => self.byte(),
            9 => self.byte() % 8 * page + self.byte(),
            10 => usize::MAX - self.byte() * 511,
            _ => self.word(),
        }
    }
}

/// A set and what belongs to it. References stay until they are dropped, even when the set goes.
#[derive(Default)]
struct Space {
    set: Option<Object>,
    /// Parts that are not mapped, and references (the pointer, and the address it was found by).
    parts: Vec<Object>,
    held: Vec<(Object, usize)>,
}

impl Space {
    fn set(&self) -> Object {
        self.set.unwrap_or(null_mut())
    }
}

struct World<'a> {
    bytes: Bytes<'a>,
    page: usize,
    paths: Vec<CString>,
    configs: Vec<Object>,
    map_configs: Vec<Object>,
    sources: Vec<Object>,
    spaces: [Space; 2],
    /// References that have outlived their sets.
    orphans: Vec<Object>,
    /// Files made to be emptied.
    emptied: usize,
    count: Count,
    buffer: Vec<u8>,
}

/// Runs the calls that the bytes stand for.
pub fn run(data: &[u8]) -> Count {
    let dir = std::env::temp_dir().join(format!("pmemset-fuzz-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("a directory for files");
    // SAFETY: no pointers but to the structure; a file that would be larger is refused, and no signal comes.
    let page = unsafe {
        let limit = libc::rlimit {
            rlim_cur: 64 << 20,
            rlim_max: libc::RLIM_INFINITY,
        };
        libc::setrlimit(libc::RLIMIT_FSIZE, &limit);
        libc::sysconf(libc::_SC_PAGESIZE) as usize
    };
    for (name, pages, odd) in [
        ("one", 1, 0),
        ("some", 8, 0),
        ("many", 64, 0),
        ("odd", 3, 77),
        ("empty", 0, 0),
    ] {
        std::fs::write(dir.join(name), vec![1; pages * page + odd]).expect("a file");
    }
    let at = |name: &str| CString::new(dir.join(name).to_str().expect("a path")).expect("a path");
    let mut paths: Vec<CString> = ["one", "some", "many", "odd", "empty", "new", "none/new", ""]
        .map(at)
        .into();
    paths.push(c"/dev/null".into());
    let mut world = World {
        bytes: Bytes(data),
        page,
        paths,
        configs: Vec::new(),
        map_configs: Vec::new(),
        sources: Vec::new(),
        spaces: Default::default(),
        orphans: Vec::new(),
        emptied: 0,
        count: Count::default(),
        buffer: vec![7; 40 * page],
    };
    let events = EVENTS.load(Ordering::Relaxed);
    // A config and two sources to begin with, so that short inputs get somewhere.
    world.start();
    while !world.bytes.0.is_empty() {
        world.step();
    }
    world.end();
    let _ = std::fs::remove_dir_all(&dir);
    world.count.events = EVENTS.load(Ordering::Relaxed) - events;
    world.count
}

/// A random element, by the next byte; NULL where there is none, and now and then all the same.
fn pick(bytes: &mut Bytes<'_>, objects: &[Object]) -> Object {
    let n = bytes.byte();
    if n > 248 {
        return null_mut();
    }
    n.checked_rem(objects.len())
        .map_or(null_mut(), |i| objects[i])
}

impl World<'_> {
    /// Looks at a result. `null`: an argument was NULL that must not be.
    fn result(&mut self, what: &str, rc: c_int, null: bool) -> bool {
        self.count.calls += 1;
        let valid = rc == 0 || (-200038..=-200000).contains(&rc) || (-4095..0).contains(&rc);
        must!(valid, "{what} = {rc}");
        must!(!null || rc != 0, "{what} took NULL");
        // SAFETY: never NULL, and a C string.
        let message = unsafe { std::ffi::CStr::from_ptr(pmemset_errormsg()) };
        // SAFETY: no pointers.
        let errno = unsafe { pmemset_err_to_errno(rc) };
        must!((rc == 0) == (errno == 0), "{what} = {rc}, errno {errno}");
        if rc != 0 {
            self.count.failed += 1;
            must!(!message.is_empty(), "{what} = {rc} without a message");
        }
        rc == 0
    }

    fn start(&mut self) {
        // SAFETY: pointers to pointers, C strings, a config that lives.
        unsafe {
            let mut object = null_mut();
            must!(pmemset_config_new(&mut object) == 0, "config_new");
            must!(
                pmemset_config_set_required_store_granularity(object, 2) == 0,
                "config"
            );
            pmemset_config_set_event_callback(object, Some(observe), null_mut());
            self.configs.push(object);
            for space in &mut self.spaces {
                must!(pmemset_new(&mut object, self.configs[0]) == 0, "new");
                space.set = Some(object);
            }
            for path in [1, 2] {
                must!(
                    pmemset_source_from_file(&mut object, self.paths[path].as_ptr()) == 0,
                    "source"
                );
                self.sources.push(object);
            }
        }
    }

    /// An address: in a part map, near one, or anywhere.
    fn address(&mut self, which: usize) -> usize {
        let kind = self.bytes.byte();
        if kind > 250 {
            return 0;
        }
        if kind > 240 {
            return self.bytes.word();
        }
        let maps = self.walk(which);
        let Some(map) = (self.bytes.byte()).checked_rem(maps.len()).map(|i| maps[i]) else {
            return self.page * (1 + kind);
        };
        let start = map.addr as usize;
        match kind % 6 {
            0 => start,
            1 => start - 1,
            2 => start + map.size,
            3 => start + map.size - 1,
            _ => start + (self.bytes.byte() << 8 | self.bytes.byte()) % map.size,
        }
    }

    /// All part maps of a set; they are in order and apart.
    fn walk(&mut self, which: usize) -> Vec<Descriptor> {
        let set = self.spaces[which].set();
        let mut maps: Vec<Descriptor> = Vec::new();
        if set.is_null() {
            return maps;
        }
        // SAFETY: a set that lives; references are given back.
        unsafe {
            let (mut at, mut next) = (null_mut(), null_mut());
            pmemset_first_part_map(set, &mut at);
            while !at.is_null() {
                let map = pmemset_descriptor_part_map(at);
                let last = maps.last().map_or(0, |m| m.addr as usize + m.size);
                must!(
                    map.addr as usize >= last && map.size > 0,
                    "walk: {map:?} after {last:#x}"
                );
                maps.push(map);
                pmemset_next_part_map(set, at, &mut next);
                pmemset_part_map_drop(&mut at);
                must!(at.is_null(), "drop");
                at = next;
            }
        }
        maps
    }

    fn step(&mut self) {
        let which = self.bytes.byte() % 2;
        let set = match self.bytes.rarely(40) {
            true => null_mut(),
            false => self.spaces[which].set(),
        };
        // SAFETY: to the end of the function: what is handed over is NULL, or lives; memory to store to is in part maps.
        unsafe {
            match self.bytes.byte() % 64 {
                0 => self.config(),
                1 => self.new_set(which),
                2..6 => self.source(),
                6 => {
                    if let Some(i) = self.bytes.byte().checked_rem(self.sources.len()) {
                        let mut source = self.sources.swap_remove(i);
                        let rc = pmemset_source_delete(&mut source);
                        must!(
                            self.result("source_delete", rc, false) && source.is_null(),
                            ""
                        );
                    }
                }
                7..14 => self.part_new(which, set),
                14..26 => self.part_map(which),
                26 => {
                    if let Some(mut part) = self.spaces[which].parts.pop() {
                        let rc = pmemset_part_delete(&mut part);
                        must!(self.result("part_delete", rc, false) && part.is_null(), "");
                    }
                }
                27 | 28 => {
                    let value = self.bytes.byte() as c_int % 6 - 1;
                    let rc = pmemset_set_contiguous_part_coalescing(set, value);
                    let fine = self.result("coalescing", rc, set.is_null());
                    must!(
                        set.is_null() || fine == (0..3).contains(&value),
                        "coalescing {value} = {rc}"
                    );
                }
                29..35 => self.find(which, set),
                35 | 36 => {
                    if let Some(i) = self.bytes.byte().checked_rem(self.spaces[which].held.len()) {
                        let (mut map, _) = self.spaces[which].held.swap_remove(i);
                        pmemset_part_map_drop(&mut map);
                        must!(map.is_null(), "drop");
                    }
                }
                37..40 => self.remove_map(which, set),
                40..44 => self.remove_range(which, set),
                44..48 => self.durable(which, set),
                48..53 => self.copy(which, set),
                53 => {
                    let mut g = -1;
                    let null = self.bytes.rarely(9);
                    let rc =
                        pmemset_get_store_granularity(set, if null { null_mut() } else { &mut g });
                    if self.result("get_store_granularity", rc, null || set.is_null()) {
                        must!(g == 2, "granularity {g}");
                    }
                }
                54 => self.nulls(),
                55 => self.delete_set(which),
                56..61 => self.second(which, set),
                _ => {
                    let rc = pmemset_drain(set);
                    self.result("drain", rc, set.is_null());
                }
            }
        }
    }

    unsafe fn config(&mut self) {
        let mut config = null_mut();
        // SAFETY: as in `step`.
        unsafe {
            let rc = pmemset_config_new(&mut config);
            must!(
                self.result("config_new", rc, false) && !config.is_null(),
                ""
            );
            let g = self.bytes.byte() as c_int % 6 - 1;
            let rc = pmemset_config_set_required_store_granularity(config, g);
            must!(
                self.result("granularity", rc, false) == (0..3).contains(&g),
                "{g} = {rc}"
            );
            pmemset_config_set_reservation(config, null_mut());
            if self.bytes.rarely(2) {
                pmemset_config_set_event_callback(config, Some(observe), null_mut());
            }
        }
        self.configs.push(config);
        if self.configs.len() > 4 {
            let mut old = self.configs.swap_remove(1);
            // SAFETY: as in `step`.
            must!(
                unsafe { pmemset_config_delete(&mut old) } == 0 && old.is_null(),
                "config_delete"
            );
        }
    }

    unsafe fn new_set(&mut self, which: usize) {
        if self.spaces[which].set.is_some() {
            return;
        }
        let config = pick(&mut self.bytes, &self.configs);
        let mut set = std::ptr::without_provenance_mut(1);
        // SAFETY: as in `step`.
        let rc = unsafe { pmemset_new(&mut set, config) };
        let fine = self.result("new", rc, config.is_null());
        must!(fine != set.is_null(), "new = {rc}, {set:p}");
        self.spaces[which].set = fine.then_some(set);
    }

    unsafe fn source(&mut self) {
        let mut source = std::ptr::without_provenance_mut(1);
        let i = self.bytes.byte() % (self.paths.len() + 1);
        let fresh;
        let mut path = self.paths.get(i).map_or(std::ptr::null(), |p| p.as_ptr());
        let kind = self.bytes.byte();
        // SAFETY: as in `step`.
        let rc = unsafe {
            match kind % 8 {
                0..3 => pmemset_source_from_file(&mut source, path),
                3..7 => {
                    // Unknown bits now and then.
                    let flags = match kind / 8 {
                        n if n > 28 => self.bytes.word() as c_uint,
                        n => n as c_uint % 8,
                    };
                    if flags < 8 && flags & 1 != 0 && !path.is_null() {
                        // Emptied by this call, and so it must not be mapped: a new one every time.
                        self.emptied += 1;
                        let name = format!("{}{}", self.paths[5].to_string_lossy(), self.emptied);
                        fresh = CString::new(name).expect("a path");
                        path = fresh.as_ptr();
                    }
                    pmemset_xsource_from_file(&mut source, path, flags)
                }
                _ => pmemset_source_from_temporary(&mut source, path),
            }
        };
        let fine = self.result("source", rc, path.is_null());
        must!(fine != source.is_null(), "source = {rc}, {source:p}");
        if fine {
            self.sources.push(source);
        }
        if self.sources.len() > 12 {
            let mut old = self.sources.swap_remove(2);
            // SAFETY: as in `step`.
            must!(
                unsafe { pmemset_source_delete(&mut old) } == 0,
                "source_delete"
            );
        }
    }

    unsafe fn part_new(&mut self, which: usize, set: Object) {
        let source = pick(&mut self.bytes, &self.sources);
        let (offset, length) = (self.bytes.size(self.page), self.bytes.size(self.page));
        let mut part = std::ptr::without_provenance_mut(1);
        // SAFETY: as in `step`.
        let rc = unsafe { pmemset_part_new(&mut part, set, source, offset, length) };
        let fine = self.result("part_new", rc, set.is_null() || source.is_null());
        must!(fine != part.is_null(), "part_new = {rc}, {part:p}");
        if fine {
            self.spaces[which].parts.push(part);
        }
    }

    unsafe fn part_map(&mut self, which: usize) {
        if self.spaces[which].parts.is_empty() {
            // SAFETY: as in `step`.
            unsafe { self.part_new(which, self.spaces[which].set()) };
        }
        let parts = &mut self.spaces[which].parts;
        let Some(i) = self.bytes.byte().checked_rem(parts.len()) else {
            return;
        };
        let mut part = parts.swap_remove(i);
        let old = part;
        let mut state = -1;
        let none = Descriptor {
            addr: null_mut(),
            size: 0,
        };
        let mut desc = none;
        let mut extras = Extras {
            sds_in: std::ptr::null(),
            sds_out: null_mut(),
            state: if i % 2 == 0 { &mut state } else { null_mut() },
        };
        let (no_extra, no_desc) = (self.bytes.rarely(4), self.bytes.rarely(4));
        let before = self.walk(which);
        // SAFETY: as in `step`.
        let rc = unsafe {
            pmemset_part_map(
                &mut part,
                if no_extra { null_mut() } else { &mut extras },
                if no_desc { null_mut() } else { &mut desc },
            )
        };
        let fine = self.result("part_map", rc, false);
        let after = self.walk(which);
        if fine {
            self.count.mapped += 1;
            must!(part.is_null(), "a mapped part is gone");
            must!(
                no_desc || after.contains(&desc),
                "{desc:?} is not in {after:?}"
            );
            let bytes = |maps: &[Descriptor]| maps.iter().map(|m| m.size).sum::<usize>();
            must!(bytes(&after) > bytes(&before), "nothing was mapped");
            must!((-1..=3).contains(&state), "state {state}");
        } else {
            must!(part == old, "a part that was not mapped stays");
            must!(before == after, "{rc}: {before:?} became {after:?}");
            match self.bytes.rarely(2) {
                true => self.spaces[which].parts.push(part),
                // SAFETY: as in `step`.
                false => must!(
                    unsafe { pmemset_part_delete(&mut part) } == 0,
                    "part_delete"
                ),
            }
        }
    }

    unsafe fn find(&mut self, which: usize, set: Object) {
        let addr = self.address(which);
        let maps = self.walk(which);
        let inside = maps
            .iter()
            .find(|m| addr.wrapping_sub(m.addr as usize) < m.size);
        let (mut map, mut again) = (std::ptr::without_provenance_mut(1), null_mut());
        // SAFETY: as in `step`.
        unsafe {
            let rc = pmemset_part_map_by_address(set, &mut map, addr as Object);
            let fine = self.result("by_address", rc, set.is_null() || addr == 0);
            must!(fine != map.is_null(), "by_address = {rc}, {map:p}");
            if set.is_null() || addr == 0 {
                return;
            }
            must!(fine == inside.is_some(), "{addr:#x} = {rc}, {maps:?}");
            must!(fine || rc == CANNOT_FIND, "{addr:#x} = {rc}");
            if !fine {
                return;
            }
            self.count.found += 1;
            must!(
                inside == Some(&pmemset_descriptor_part_map(map)),
                "{addr:#x}"
            );
            // One part map is one pointer.
            must!(
                pmemset_part_map_by_address(set, &mut again, inside.unwrap().addr) == 0,
                "again"
            );
            must!(again == map, "{again:p} and {map:p}");
            pmemset_part_map_drop(&mut again);
            if self.bytes.rarely(3) && self.spaces[which].held.len() < 20 {
                self.spaces[which].held.push((map, addr));
            } else {
                pmemset_part_map_drop(&mut map);
            }
        }
    }

    unsafe fn remove_map(&mut self, which: usize, set: Object) {
        let addr = self.address(which);
        let other = self.spaces[1 - which].set();
        let mut map = null_mut();
        // SAFETY: as in `step`.
        unsafe {
            if set.is_null() || pmemset_part_map_by_address(set, &mut map, addr as Object) != 0 {
                return;
            }
            let old = map;
            if !other.is_null() && self.bytes.rarely(8) {
                let rc = pmemset_remove_part_map(other, &mut map);
                self.result("remove from another set", rc, false);
                must!(rc == -200016 && map == old, "another set's: {rc}");
            }
            let held = self.spaces[which]
                .held
                .iter()
                .filter(|h| h.0 == map)
                .count();
            let rc = pmemset_remove_part_map(set, &mut map);
            let fine = self.result("remove_part_map", rc, false);
            must!(
                fine == (held == 0) && fine == map.is_null(),
                "remove = {rc}, {held} held"
            );
            if fine {
                self.count.removed += 1;
            } else {
                must!(rc == USE_AFTER_DROP && map == old, "remove = {rc}");
                pmemset_part_map_drop(&mut map);
            }
        }
    }

    unsafe fn remove_range(&mut self, which: usize, set: Object) {
        let (addr, len) = (self.address(which), self.bytes.size(self.page));
        let before = self.walk(which);
        let held: Vec<_> = self.spaces[which].held.clone();
        // SAFETY: as in `step`.
        unsafe {
            let rc = pmemset_remove_range(set, addr as Object, len);
            let fine = self.result("remove_range", rc, set.is_null() || (addr == 0 && len > 0));
            let after = self.walk(which);
            if !fine {
                must!(before == after, "{rc}: {before:?} became {after:?}");
                return;
            }
            self.count.removed += u64::from(before != after);
            let end = addr.saturating_add(len);
            for m in &after {
                let start = m.addr as usize;
                must!(
                    len == 0 || start >= end || addr >= start + m.size,
                    "{m:?} is left"
                );
            }
            // What is referenced is where it was.
            for (map, addr) in held {
                let desc = pmemset_descriptor_part_map(map);
                must!(
                    addr.wrapping_sub(desc.addr as usize) < desc.size,
                    "{desc:?}"
                );
            }
        }
    }

    unsafe fn durable(&mut self, which: usize, set: Object) {
        let addr = self.address(which) as Object;
        let mut len = self.bytes.size(self.page);
        let kind = self.bytes.byte() % 3;
        // What the program has mapped elsewhere is synced as well, which may take long: not all of the address space.
        if kind < 2 {
            len %= 1 << 30;
        }
        // SAFETY: as in `step`; at PAGE granularity no range needs to be mapped.
        let rc = unsafe {
            match kind {
                0 => pmemset_flush(set, addr, len),
                1 => pmemset_persist(set, addr, len),
                _ => pmemset_deep_flush(set, addr, len),
            }
        };
        self.result("flush", rc, set.is_null() || (addr.is_null() && len > 0));
    }

    unsafe fn copy(&mut self, which: usize, set: Object) {
        let maps = self.walk(which);
        let Some(map) = self.bytes.byte().checked_rem(maps.len()).map(|i| maps[i]) else {
            return;
        };
        let at = (self.bytes.byte() << 8 | self.bytes.byte()) % map.size;
        let len = (self.bytes.byte() * self.bytes.byte()) % (map.size - at + 1);
        let len = len.min(self.buffer.len());
        let flags = match self.bytes.rarely(10) {
            true => self.bytes.word() as c_uint,
            false => self.bytes.byte() as c_uint % 64,
        };
        // SAFETY: as in `step`: both ranges are in the part map or the buffer, or there is nothing to copy to or from.
        unsafe {
            let dest = match self.bytes.rarely(30) {
                true => null_mut(),
                false => map.addr.byte_add(at),
            };
            let src = match self.bytes.byte() % 16 {
                0 => null_mut(),
                1..4 => map.addr,
                _ => self.buffer.as_mut_ptr().cast(),
            };
            self.count.calls += 1;
            let got = match self.bytes.byte() % 3 {
                0 => pmemset_memcpy(
                    set,
                    dest,
                    if src == map.addr { null_mut() } else { src },
                    len,
                    flags,
                ),
                1 => pmemset_memmove(set, dest, src, len, flags),
                _ => pmemset_memset(set, dest, flags as c_int, len, flags),
            };
            must!(got == dest, "{got:p} is not {dest:p}");
        }
    }

    /// NULL for each pointer that must not be.
    unsafe fn nulls(&mut self) {
        let mut object: Object = null_mut();
        // SAFETY: as in `step`.
        unsafe {
            let null: *mut Object = null_mut();
            let path = self.paths[0].as_ptr();
            let codes = [
                pmemset_config_new(null),
                pmemset_config_delete(null),
                pmemset_config_set_required_store_granularity(null_mut(), 1),
                pmemset_new(null, self.configs[0]),
                pmemset_delete(null),
                pmemset_source_from_file(null, path),
                pmemset_xsource_from_file(null, path, 0),
                pmemset_source_from_temporary(null, path),
                pmemset_source_delete(null),
                pmemset_part_new(null, null_mut(), null_mut(), 0, 0),
                pmemset_part_delete(null),
                pmemset_part_map(null, null_mut(), null_mut()),
                pmemset_part_map(&mut object, null_mut(), null_mut()),
                pmemset_part_map_by_address(null_mut(), null, null_mut()),
                pmemset_remove_part_map(null_mut(), null),
                pmemset_remove_part_map(self.spaces[0].set(), &mut object),
                pmemset_get_store_granularity(null_mut(), null_mut()),
            ];
            for (i, rc) in codes.into_iter().enumerate() {
                must!(rc == -libc::EINVAL, "call {i} with NULL = {rc}");
            }
            self.result("calls with NULL", -libc::EINVAL, true);
            let rc = pmemset_source_from_pmem2(&mut object, null_mut());
            must!(rc == -200002, "from_pmem2(NULL) = {rc}");
            pmemset_config_set_reservation(null_mut(), null_mut());
            pmemset_config_set_event_callback(null_mut(), None, null_mut());
            pmemset_first_part_map(null_mut(), null);
            pmemset_first_part_map(null_mut(), &mut object);
            pmemset_next_part_map(self.spaces[0].set(), null_mut(), &mut object);
            must!(object.is_null(), "a part map out of nothing");
            pmemset_part_map_drop(null);
            pmemset_part_map_drop(&mut object);
            must!(
                pmemset_descriptor_part_map(null_mut()).size == 0,
                "NULL has a size"
            );
            // What is NULL already is deleted already.
            must!(pmemset_delete(&mut object) == 0, "delete");
            must!(pmemset_part_delete(&mut object) == 0, "part_delete");
            must!(pmemset_source_delete(&mut object) == 0, "source_delete");
            must!(pmemset_config_delete(&mut object) == 0, "config_delete");
        }
    }

    /// Deletes a set, its parts before it; references may stay.
    unsafe fn delete_set(&mut self, which: usize) {
        let space = std::mem::take(&mut self.spaces[which]);
        // SAFETY: as in `step`.
        unsafe {
            let mut set = space.set();
            for mut part in space.parts {
                must!(pmemset_part_delete(&mut part) == 0, "part_delete");
            }
            self.orphans.extend(space.held.iter().map(|h| h.0));
            let rc = pmemset_delete(&mut set);
            must!(
                self.result("delete", rc, false) && set.is_null(),
                "delete = {rc}"
            );
            if self.bytes.rarely(2) {
                for mut map in self.orphans.drain(..) {
                    pmemset_part_map_drop(&mut map);
                }
            }
        }
    }

    fn end(&mut self) {
        // SAFETY: everything here lives until now.
        unsafe {
            for which in 0..2 {
                self.delete_set(which);
            }
            for mut map in self.orphans.drain(..) {
                pmemset_part_map_drop(&mut map);
            }
            for mut source in self.sources.drain(..) {
                must!(pmemset_source_delete(&mut source) == 0, "source_delete");
            }
            self.end_second();
            for mut config in self.configs.drain(..) {
                must!(pmemset_config_delete(&mut config) == 0, "config_delete");
            }
        }
    }
}
