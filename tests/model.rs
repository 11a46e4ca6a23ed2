//! Random calls against a simple model of the contract: placing, coalescing, removing, finding, references, events, error
//! codes, and the bytes in the files.
//!
//! The model knows nothing of address space but what the library has returned: it checks that parts do not overlap, that
//! coalescing places them where it must, and what every call finds afterwards. `PMEMSET_MODEL_CASES` sets the number of
//! sequences, `PMEMSET_MODEL_STEPS` their greatest length.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pmemset::codes::*;
use pmemset::{
    Coalescing, Config, Copying, Error, Event, Extent, Flags, Granularity, Observer, Part, PartMap,
    Set, Source,
};
use proptest::prelude::*;
use proptest::test_runner::{Config as Runs, TestCaseError, TestRunner};

/// Tests that change the environment, and all others, take turns.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn page() -> usize {
    // SAFETY: no pointers involved.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

fn number(name: &str, usual: u32) -> u32 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(usual)
}

fn force_granularity(value: Option<&str>) {
    // SAFETY: tests of this program take turns, and a test has one thread that looks at the environment.
    unsafe {
        match value {
            Some(value) => std::env::set_var("PMEM2_FORCE_GRANULARITY", value),
            None => std::env::remove_var("PMEM2_FORCE_GRANULARITY"),
        }
    }
}

/// One call. Numbers are reduced to what makes sense when it runs, so that sequences can be shortened freely.
#[derive(Clone, Debug)]
enum Op {
    /// file, offset, length, and how the two are spoilt.
    Map(u8, u8, u8, Spoil),
    Coalesce(u8),
    /// An address: part map, offset.
    Find(u16, Near),
    /// Take a reference and keep it.
    Hold(u16),
    Drop(u16),
    /// Remove the part map that a kept reference or a new one is to.
    RemoveHeld(u16),
    RemoveMap(u16),
    /// From one address to another.
    RemoveRange(u16, Near, u16, Near),
    RemoveStrange(u8),
    /// Part map, offset, length, value, how.
    Write(u16, u32, u32, u8, How),
    Flush(u16, u32, u32),
    FlushNowhere(u16, Near),
    DeepFlush(u16, Near, u32),
    Drain,
    /// Store where nothing is mapped yet.
    Early(u8),
    Force(u8),
    /// Start over with the same files.
    Renew,
}

#[derive(Clone, Copy, Debug)]
enum Spoil {
    No,
    OffsetUnaligned,
    LengthUnaligned,
    Both,
    PastEnd,
    OffsetHuge,
    OffsetMost,
    LengthMost,
}

#[derive(Clone, Copy, Debug)]
enum Near {
    Start,
    Before,
    Last,
    End,
    Inside(u32),
    Zero,
    Top,
}

#[derive(Clone, Copy, Debug)]
enum How {
    Store,
    StorePersist,
    Copy(u32),
    Move(u32),
    Fill(u32),
}

fn near() -> impl Strategy<Value = Near> {
    prop_oneof![
        3 => Just(Near::Start),
        2 => Just(Near::Before),
        2 => Just(Near::Last),
        3 => Just(Near::End),
        6 => any::<u32>().prop_map(Near::Inside),
        1 => Just(Near::Zero),
        1 => Just(Near::Top),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let spoil = prop_oneof![
        20 => Just(Spoil::No),
        1 => Just(Spoil::OffsetUnaligned),
        1 => Just(Spoil::LengthUnaligned),
        1 => Just(Spoil::Both),
        1 => Just(Spoil::PastEnd),
        1 => Just(Spoil::OffsetHuge),
        1 => Just(Spoil::OffsetMost),
        1 => Just(Spoil::LengthMost),
    ];
    let how = prop_oneof![
        Just(How::Store),
        Just(How::StorePersist),
        (0u32..128).prop_map(How::Copy),
        (0u32..128).prop_map(How::Move),
        (0u32..128).prop_map(How::Fill),
    ];
    let index = any::<u16>;
    prop_oneof![
        18 => (any::<u8>(), any::<u8>(), any::<u8>(), spoil).prop_map(|(f, o, l, s)| Op::Map(f, o, l, s)),
        5 => (0u8..4).prop_map(Op::Coalesce),
        5 => (index(), near()).prop_map(|(m, n)| Op::Find(m, n)),
        3 => index().prop_map(Op::Hold),
        3 => index().prop_map(Op::Drop),
        2 => index().prop_map(Op::RemoveHeld),
        3 => index().prop_map(Op::RemoveMap),
        6 => (index(), near(), index(), near()).prop_map(|(a, b, c, d)| Op::RemoveRange(a, b, c, d)),
        1 => any::<u8>().prop_map(Op::RemoveStrange),
        8 => (index(), any::<u32>(), any::<u32>(), any::<u8>(), how)
            .prop_map(|(m, o, l, v, h)| Op::Write(m, o, l, v, h)),
        3 => (index(), any::<u32>(), any::<u32>()).prop_map(|(m, o, l)| Op::Flush(m, o, l)),
        1 => (index(), near()).prop_map(|(m, n)| Op::FlushNowhere(m, n)),
        1 => (index(), near(), any::<u32>()).prop_map(|(m, n, l)| Op::DeepFlush(m, n, l)),
        3 => Just(Op::Drain),
        1 => any::<u8>().prop_map(Op::Early),
        1 => (0u8..6).prop_map(Op::Force),
        1 => Just(Op::Renew),
    ]
}

// ---- the model -----------------------------------------------------------------------------------------------------

/// A file as read(2) must show it.
struct File {
    path: Option<PathBuf>,
    source: Source,
    bytes: Vec<u8>,
    grows: bool,
}

#[derive(Clone, Debug, PartialEq)]
struct ModelPart {
    addr: usize,
    len: usize,
    file: usize,
    offset: usize,
}

/// A part map: an identity and parts that lie side by side.
#[derive(Clone, Debug)]
struct ModelMap {
    id: u64,
    parts: Vec<ModelPart>,
    references: usize,
}

impl ModelMap {
    fn start(&self) -> usize {
        self.parts[0].addr
    }

    fn end(&self) -> usize {
        let last = &self.parts[self.parts.len() - 1];
        last.addr + last.len
    }

    fn extent(&self) -> Extent {
        Extent {
            addr: self.start(),
            len: self.end() - self.start(),
        }
    }
}

#[derive(Default)]
struct Model {
    /// By start.
    maps: BTreeMap<usize, ModelMap>,
    previous: Option<u64>,
    coalescing: Coalescing,
    granularity: Option<Granularity>,
    next_id: u64,
}

impl Model {
    fn find(&self, addr: usize) -> Option<&ModelMap> {
        let (_, map) = self.maps.range(..=addr).next_back()?;
        (addr < map.end()).then_some(map)
    }

    fn nth(&self, index: u16) -> Option<&ModelMap> {
        self.maps
            .values()
            .nth((usize::from(index)).checked_rem(self.maps.len())?)
    }

    fn by_id(&mut self, id: u64) -> Option<&mut ModelMap> {
        self.maps.values_mut().find(|m| m.id == id)
    }

    fn is_free(&self, lo: usize, hi: usize) -> bool {
        !self.maps.values().any(|m| m.start() < hi && lo < m.end())
    }

    fn address(&self, index: u16, near: Near) -> usize {
        let extent = self.nth(index).map_or(
            Extent {
                addr: page() * 16,
                len: page(),
            },
            ModelMap::extent,
        );
        match near {
            Near::Start => extent.addr,
            Near::Before => extent.addr - 1,
            Near::Last => extent.addr + extent.len - 1,
            Near::End => extent.addr + extent.len,
            Near::Inside(at) => extent.addr + at as usize % extent.len,
            Near::Zero => 0,
            Near::Top => usize::MAX,
        }
    }

    /// Where a part must join the previous part map, by the rules of coalescing; an error where it cannot and must.
    fn expected_place(&self, len: usize) -> Result<Option<usize>, ()> {
        let previous = self
            .maps
            .values()
            .find(|m| Some(m.id) == self.previous)
            .map(ModelMap::end)
            .filter(|_| self.coalescing != Coalescing::None);
        match previous {
            Some(end) if self.is_free(end, end + len) => Ok(Some(end)),
            Some(_) if self.coalescing == Coalescing::Full => Err(()),
            _ => Ok(None),
        }
    }

    fn add(&mut self, part: ModelPart, joined: bool) -> Extent {
        if joined {
            let id = self.previous.expect("there is a previous part map");
            let map = self.by_id(id).expect("the previous part map is mapped");
            map.parts.push(part);
            return map.extent();
        }
        let map = ModelMap {
            id: self.next_id,
            parts: vec![part],
            references: 0,
        };
        self.next_id += 1;
        self.previous = Some(map.id);
        let extent = map.extent();
        self.maps.insert(extent.addr, map);
        extent
    }

    /// Removes every part that the range touches, or says that one of their part maps is referenced. `mine`: references
    /// that do not count.
    fn remove(&mut self, addr: usize, len: usize, mine: usize) -> Result<(), ()> {
        let end = addr.saturating_add(len);
        let hit = |p: &ModelPart| len > 0 && p.addr < end && addr < p.addr + p.len;
        let touched: Vec<usize> = self
            .maps
            .values()
            .filter(|m| m.parts.iter().any(hit))
            .map(ModelMap::start)
            .collect();
        if touched.iter().any(|at| self.maps[at].references > mine) {
            return Err(());
        }
        let mut role_is_free = false;
        for at in &touched {
            let map = self.maps.remove(at).expect("it was there");
            // What is left of a run: parts below the hole, and parts above it.
            let below: Vec<_> = map.parts.iter().take_while(|p| !hit(p)).cloned().collect();
            let above: Vec<_> = (map.parts.iter().rev())
                .take_while(|p| !hit(p))
                .cloned()
                .collect();
            let mut id = Some(map.id);
            for parts in [below, above.into_iter().rev().collect()] {
                if parts.is_empty() {
                    continue;
                }
                // The lower half keeps identity and role.
                let id = id.take().unwrap_or_else(|| {
                    self.next_id += 1;
                    self.next_id - 1
                });
                let map = ModelMap {
                    id,
                    parts,
                    references: 0,
                };
                self.maps.insert(map.start(), map);
            }
            role_is_free |= id.is_some() && id == self.previous;
        }
        if role_is_free {
            let lo = touched[0].max(addr);
            let below = self.maps.range(..=lo).next_back();
            let heir = below.or_else(|| self.maps.range(lo..).next());
            self.previous = heir.map(|(_, m)| m.id);
        }
        Ok(())
    }

    /// The bytes of a range that lies in one part map: file, offset, length for each piece.
    fn pieces(&self, addr: usize, len: usize) -> Vec<(usize, usize, usize)> {
        let map = self.find(addr).expect("a range in a part map");
        let mut pieces = Vec::new();
        for p in &map.parts {
            let (lo, hi) = (addr.max(p.addr), (addr + len).min(p.addr + p.len));
            if lo < hi {
                pieces.push((p.file, p.offset + (lo - p.addr), hi - lo));
            }
        }
        pieces
    }
}

/// Whether two pieces of the list are the same bytes of a file: then a copy's result depends on its direction.
fn aliases(pieces: &[(usize, usize, usize)]) -> bool {
    pieces.iter().enumerate().any(|(i, a)| {
        (pieces[i + 1..].iter()).any(|b| a.0 == b.0 && a.1 < b.1 + b.2 && b.1 < a.1 + a.2)
    })
}

// ---- the world: library and model side by side -----------------------------------------------------------------------

type Check = Result<(), TestCaseError>;

macro_rules! check_code {
    ($result:expr, $want:expr, $($context:tt)*) => {{
        let (got, want) = ($result.as_ref().map_or_else(Error::code, |_| 0), $want);
        prop_assert_eq!(got, want, "{}", format!($($context)*));
    }};
}

struct Files {
    dir: tempfile::TempDir,
    files: Vec<File>,
}

impl Files {
    /// Files of several sizes: one page to many, odd, empty, growing, without a name.
    fn new() -> Files {
        let dir = tempfile::tempdir().expect("a directory");
        let mut files = Vec::new();
        let p = page();
        for (i, size) in [p, 3 * p, 16 * p, 64 * p, 3 * p + 100, 0, 600 * p]
            .into_iter()
            .enumerate()
        {
            let bytes: Vec<u8> = (0..size).map(|at| (at * 7 + at / p + i) as u8).collect();
            let path = dir.path().join(format!("file{i}"));
            std::fs::write(&path, &bytes).expect("a file");
            files.push(File {
                source: Source::open(&c(&path)).expect("a source"),
                path: Some(path),
                bytes,
                grows: false,
            });
        }
        let path = dir.path().join("grows");
        let flags = PMEMSET_SOURCE_FILE_CREATE_IF_NEEDED | PMEMSET_SOURCE_FILE_TRUNCATE_IF_NEEDED;
        files.push(File {
            source: Source::open_with(&c(&path), u64::from(flags)).expect("a source"),
            path: Some(path),
            bytes: Vec::new(),
            grows: true,
        });
        files.push(File {
            source: Source::temporary(&c(dir.path())).expect("a temporary source"),
            path: None,
            bytes: Vec::new(),
            grows: true,
        });
        Files { dir, files }
    }
}

fn c(path: &std::path::Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("no NUL in the path")
}

type Events = Arc<Mutex<Vec<Event>>>;

struct World<'a> {
    set: &'a Set,
    model: Model,
    held: Vec<(PartMap<'a>, u64)>,
    events: Events,
    forced: Option<Granularity>,
}

impl<'a> World<'a> {
    fn events(&self) -> Vec<Event> {
        std::mem::take(&mut self.events.lock().expect("the events"))
    }

    /// The codes that mapping may end with; empty when it must succeed. The second: the length that is mapped.
    fn verdict(
        &self,
        file: &File,
        offset: usize,
        length: usize,
        forced: Option<Granularity>,
    ) -> (Vec<i32>, usize) {
        let (p, size, most) = (page(), file.bytes.len(), i64::MAX as usize);
        let mut codes = Vec::new();
        let mut len = length;
        if offset > most {
            codes.push(PMEMSET_E_INVALID_OFFSET_VALUE);
        }
        if offset % p != 0 {
            codes.push(PMEMSET_E_INVALID_PMEM2_MAP);
        }
        if length == 0 {
            if size == 0 || offset >= size {
                codes.push(PMEMSET_E_INVALID_PMEM2_MAP);
            } else {
                len = size - offset;
            }
        }
        if len % p != 0 {
            codes.push(PMEMSET_E_LENGTH_UNALIGNED);
        }
        if length != 0 && offset.checked_add(length).is_none_or(|end| end > size) {
            if !file.grows {
                codes.push(PMEMSET_E_INVALID_PMEM2_MAP);
            } else if offset.checked_add(length).is_none_or(|end| end > most) {
                codes.push(PMEMSET_E_CANNOT_TRUNCATE_SOURCE_FILE);
            }
        }
        let granularity = forced.unwrap_or(Granularity::Page);
        if self.model.granularity.is_some_and(|g| g != granularity) {
            codes.push(PMEMSET_E_GRANULARITY_MISMATCH);
        }
        (codes, len)
    }

    fn map(&mut self, files: &mut [File], f: u8, o: u8, l: u8, spoil: Spoil) -> Check {
        let p = page();
        let index = usize::from(f) % files.len();
        let file = &mut files[index];
        let pages = file.bytes.len() / p;
        let room = if file.grows { 40 } else { pages.max(1) };
        let mut offset = usize::from(o) % room * p;
        let mut length = match usize::from(l) % 9 {
            0 => 0,
            n if n < 6 => n * p,
            n => (n - 5) * usize::from(l) * p,
        };
        if length != 0 && !file.grows {
            length = length.min((file.bytes.len().saturating_sub(offset) / p).max(1) * p);
        }
        match spoil {
            Spoil::No => {}
            Spoil::OffsetUnaligned => offset += 1 + usize::from(l),
            Spoil::LengthUnaligned => length += 1 + usize::from(o),
            Spoil::Both => {
                offset += 512;
                length += 512;
            }
            Spoil::PastEnd => length += (pages + 1) * p,
            Spoil::OffsetHuge => offset |= 1 << 63,
            Spoil::OffsetMost => offset = (i64::MAX as usize) / p * p,
            Spoil::LengthMost => {
                length = if l % 2 == 0 {
                    usize::MAX
                } else {
                    usize::MAX / p * p
                }
            }
        }
        let part = match Part::new(&file.source, offset, length) {
            Ok(part) => part,
            Err(e) => {
                return Err(TestCaseError::fail(format!("part_new checks nothing: {e}")));
            }
        };
        let (codes, len) = self.verdict(file, offset, length, self.forced);
        self.events();
        let result = self.set.map(&part);
        let context = format!("file {index}, {offset:#x} + {length:#x}, {result:x?}");
        if !codes.is_empty() {
            let code = result.as_ref().map_or_else(Error::code, |_| 0);
            prop_assert!(codes.contains(&code), "{context}, want one of {codes:?}");
            prop_assert_eq!(self.events(), [], "a failed mapping fires nothing");
            return self.grown(file);
        }
        let Ok(place) = self.model.expected_place(len) else {
            check_code!(result, PMEMSET_E_CANNOT_COALESCE_PARTS, "{context}");
            prop_assert_eq!(self.events(), [], "a failed mapping fires nothing");
            return self.grown(file);
        };
        check_code!(result, 0, "{context}");
        let got = result.expect("checked above");
        let at = match place {
            Some(at) => at,
            None => {
                prop_assert_eq!(got.len, len, "a part map of its own: {}", context);
                prop_assert_eq!(got.addr % p, 0, "{}", context);
                prop_assert!(
                    self.model.is_free(got.addr, got.addr + len),
                    "overlaps: {context}"
                );
                got.addr
            }
        };
        if file.grows && file.bytes.len() < offset + len {
            file.bytes.resize(offset + len, 0);
        }
        let part = ModelPart {
            addr: at,
            len,
            file: index,
            offset,
        };
        let want = self.model.add(part, place.is_some());
        prop_assert_eq!(got, want, "{}", context);
        self.model.granularity = Some(self.forced.unwrap_or(Granularity::Page));
        prop_assert_eq!(
            self.events(),
            [Event::PartAdd {
                addr: got.addr,
                len: got.len,
                pmem2_source: 0
            }]
        );
        // The bytes are the file's.
        prop_assert_eq!(&load(at, len), &files[index].bytes[offset..offset + len]);
        Ok(())
    }

    /// After a failed mapping a file that grows may have grown, by zeroes.
    fn grown(&self, file: &mut File) -> Check {
        if let (true, Some(path)) = (file.grows, &file.path) {
            let bytes = std::fs::read(path).expect("the file");
            prop_assert!(bytes.len() >= file.bytes.len(), "a file has shrunk");
            file.bytes.resize(bytes.len(), 0);
            prop_assert_eq!(&bytes, &file.bytes);
        } else if file.grows {
            // Without a name its size cannot be seen; what it grew to does not matter but for a length of 0.
            let part = Part::new(&file.source, 0, 0).expect("a part");
            let mut config = Config::new();
            config.set_required_granularity(Granularity::Page);
            let other = Set::new(&config).expect("a set");
            if let Ok(extent) = other.map(&part) {
                prop_assert!(extent.len >= file.bytes.len(), "a file has shrunk");
                file.bytes.resize(extent.len, 0);
            }
        }
        Ok(())
    }

    fn write(&mut self, files: &mut [File], op: (u16, u32, u32, u8, How)) -> Check {
        let (index, offset, length, value, how) = op;
        let Some(map) = self.model.nth(index) else {
            return Ok(());
        };
        let extent = map.extent();
        let at = offset as usize % extent.len;
        let mut len = length as usize % (extent.len - at + 1);
        if length % 3 != 0 {
            len %= 300;
        }
        let addr = extent.addr + at;
        let mut pieces = self.model.pieces(addr, len);
        if aliases(&pieces) {
            pieces.truncate(1);
            len = pieces[0].2;
        }
        let bytes: Vec<u8> = (0..len).map(|i| value.wrapping_add(i as u8)).collect();
        let dest = addr as *mut u8;
        let granularity = self.model.granularity.expect("something is mapped");
        self.events();
        let mut stored = bytes.clone();
        let (result, want) = match how {
            How::Store | How::StorePersist => {
                // SAFETY: within a part map; nobody else uses it.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), dest, len) };
                if matches!(how, How::Store) {
                    // SAFETY: as above.
                    let result = unsafe { self.set.flush(dest, len) };
                    (result, vec![Event::Flush { addr, len }])
                } else {
                    // SAFETY: as above.
                    let result = unsafe { self.set.persist(dest, len) };
                    (result, vec![Event::Flush { addr, len }, Event::Drain])
                }
            }
            How::Copy(flags) | How::Move(flags) | How::Fill(flags) => {
                let mut src = bytes.as_ptr();
                if let How::Move(_) = how {
                    // From the part map itself, overlapping, where no page of it shows twice.
                    let shift = (value as usize % 64).min(at);
                    let whole = self.model.pieces(addr - shift, len + shift);
                    if !aliases(&whole) {
                        src = (addr - shift) as *const u8;
                        stored = load(addr - shift, len);
                    }
                }
                let what = match how {
                    How::Copy(_) => Copying::Copy(src),
                    How::Move(_) => Copying::Move(src),
                    _ => {
                        stored = vec![value; len];
                        Copying::Fill(i32::from(value) | 0x1200)
                    }
                };
                // SAFETY: within a part map; nobody else uses it.
                let result = unsafe { self.set.copy(dest, what, len, Flags(flags)) };
                let (src, dest) = (src as usize, addr);
                let mut want = vec![match how {
                    How::Copy(_) => Event::Copy {
                        src,
                        dest,
                        len,
                        flags,
                    },
                    How::Move(_) => Event::Move {
                        src,
                        dest,
                        len,
                        flags,
                    },
                    _ => Event::Set {
                        dest,
                        value: i32::from(value) | 0x1200,
                        len,
                        flags,
                    },
                }];
                if flags & PMEMSET_F_MEM_NODRAIN == 0 {
                    want.push(Event::Drain);
                }
                (result, want)
            }
        };
        check_code!(result, 0, "{how:?} of {len} at {granularity:?}");
        prop_assert_eq!(self.events(), want, "events of {:?}", how);
        let mut from = 0;
        for (file, offset, len) in pieces {
            files[file].bytes[offset..offset + len].copy_from_slice(&stored[from..from + len]);
            from += len;
        }
        prop_assert_eq!(load(addr, len), stored);
        Ok(())
    }

    fn drain(&mut self) -> Check {
        self.events();
        let result = self.set.drain();
        if self.model.granularity.is_none() {
            check_code!(result, PMEMSET_E_NO_PART_MAPPED, "drain");
            prop_assert_eq!(self.events(), [], "a failed drain fires nothing");
        } else {
            check_code!(result, 0, "drain");
            prop_assert_eq!(self.events(), [Event::Drain]);
        }
        Ok(())
    }

    fn step(&mut self, files: &mut [File], op: &Op) -> Check {
        match *op {
            Op::Map(f, o, l, spoil) => self.map(files, f, o, l, spoil)?,
            Op::Coalesce(n) => {
                let value = Coalescing::from_raw(u32::from(n));
                prop_assert_eq!(value.is_some(), n < 3);
                if let Some(value) = value {
                    self.set.set_coalescing(value);
                    self.model.coalescing = value;
                }
            }
            Op::Find(index, near) => {
                let addr = self.model.address(index, near);
                let found = self.set.part_map(addr);
                match self.model.find(addr) {
                    Some(map) => {
                        check_code!(found, 0, "{addr:#x}");
                        prop_assert_eq!(found.expect("checked above").extent(), map.extent());
                    }
                    None => check_code!(found, PMEMSET_E_CANNOT_FIND_PART_MAP, "{addr:#x}"),
                }
            }
            Op::Hold(index) => {
                let Some(map) = self.model.nth(index) else {
                    return Ok(());
                };
                let (id, addr) = (map.id, map.start());
                let found = self.set.part_map(addr);
                check_code!(found, 0, "{addr:#x}");
                self.held.push((found.expect("checked above"), id));
                self.model.by_id(id).expect("it is mapped").references += 1;
            }
            Op::Drop(index) => {
                if !self.held.is_empty() {
                    let (map, id) = self.held.swap_remove(usize::from(index) % self.held.len());
                    self.model.by_id(id).expect("held maps stay").references -= 1;
                    drop(map);
                }
            }
            Op::RemoveHeld(index) => {
                if !self.held.is_empty() {
                    let (map, id) = self.held.swap_remove(usize::from(index) % self.held.len());
                    self.remove_map(map, id, 1)?;
                }
            }
            Op::RemoveMap(index) => {
                let Some(map) = self.model.nth(index) else {
                    return Ok(());
                };
                let (id, last) = (map.id, map.end() - 1);
                let found = self.set.part_map(last);
                check_code!(found, 0, "{last:#x}");
                self.model.by_id(id).expect("it is mapped").references += 1;
                self.remove_map(found.expect("checked above"), id, 1)?;
            }
            Op::RemoveRange(a, from, b, to) => {
                let (from, to) = (self.model.address(a, from), self.model.address(b, to));
                // Backwards ranges become short ones.
                let len = to.checked_sub(from).unwrap_or(from % 3);
                self.events();
                let result = self.set.remove_range(from, len);
                let want = match self.model.remove(from, len, 0) {
                    Ok(()) => 0,
                    Err(()) => PMEMSET_E_PART_MAP_POSSIBLE_USE_AFTER_DROP,
                };
                check_code!(result, want, "remove_range({from:#x}, {len:#x})");
                prop_assert_eq!(self.events(), [], "what the library syncs fires nothing");
            }
            Op::RemoveStrange(n) => {
                // Where nothing of the set is: no matter how.
                let here = &raw const n as usize;
                check_code!(self.set.remove_range(here, usize::from(n)), 0, "the stack");
                let top = usize::MAX - usize::from(n);
                check_code!(self.set.remove_range(top, usize::MAX), 0, "the top");
                check_code!(self.set.remove_range(0, page()), 0, "the bottom");
            }
            Op::Write(m, o, l, v, h) => self.write(files, (m, o, l, v, h))?,
            Op::Flush(index, offset, length) => {
                let Some(extent) = self.model.nth(index).map(ModelMap::extent) else {
                    return Ok(());
                };
                let at = offset as usize % extent.len;
                let len = length as usize % (extent.len - at + 1);
                let addr = extent.addr + at;
                self.events();
                // SAFETY: within a part map.
                check_code!(unsafe { self.set.flush(addr as *const u8, len) }, 0, "");
                prop_assert_eq!(self.events(), [Event::Flush { addr, len }]);
            }
            Op::FlushNowhere(index, near) => {
                let addr = self.model.address(index, near);
                // At the other granularities the caller promises that the range is mapped.
                let coarse = self
                    .model
                    .granularity
                    .is_none_or(|g| g == Granularity::Page);
                if !coarse || self.model.find(addr).is_some() {
                    return Ok(());
                }
                let end = addr.saturating_add(page() / 2);
                let len = match self.model.maps.range(addr..end).next() {
                    Some((start, _)) => start - addr,
                    None => end - addr,
                };
                let lowest = self.model.maps.keys().next();
                let want = match self.model.granularity {
                    None => PMEMSET_E_NO_PART_MAPPED,
                    Some(_) if len == 0 => 0,
                    // Below the arena may be memory of the program's, or nothing.
                    Some(_) if lowest.is_some_and(|lowest| addr < *lowest) => return Ok(()),
                    Some(_) => -libc::ENOMEM,
                };
                // SAFETY: at PAGE granularity nothing in the range is touched.
                let result = unsafe { self.set.flush(addr as *const u8, len) };
                check_code!(result, want, "flush({addr:#x}, {len:#x})");
            }
            Op::DeepFlush(index, near, len) => {
                let addr = self.model.address(index, near);
                let result = self.set.deep_flush(addr, len as usize % (page() * 20));
                check_code!(result, 0, "deep_flush({addr:#x}, {len:#x})");
            }
            Op::Drain => self.drain()?,
            Op::Early(value) => {
                if self.model.granularity.is_some() {
                    return Ok(());
                }
                let mut memory = [value; 8];
                let what = Copying::Fill(!i32::from(value));
                // SAFETY: the destination is ours.
                let result = unsafe { self.set.copy(memory.as_mut_ptr(), what, 8, Flags(0)) };
                check_code!(result, PMEMSET_E_NO_PART_MAPPED, "a fill");
                prop_assert_eq!(memory, [value; 8]);
                let code = |r: pmemset::Result<()>| r.map_or_else(|e| e.code(), |()| 0);
                let here = memory.as_ptr();
                // SAFETY: the range is ours.
                unsafe {
                    prop_assert_eq!(code(self.set.flush(here, 8)), PMEMSET_E_NO_PART_MAPPED);
                    prop_assert_eq!(code(self.set.persist(here, 8)), PMEMSET_E_NO_PART_MAPPED);
                }
                let deep = self.set.deep_flush(here as usize, 8);
                prop_assert_eq!(code(deep), 0);
            }
            Op::Force(n) => {
                let (name, value) = match n {
                    0 => (Some("CACHE_LINE"), Some(Granularity::CacheLine)),
                    1 => (Some("byte"), Some(Granularity::Byte)),
                    2 => (Some("Page"), Some(Granularity::Page)),
                    3 => (Some("pages"), None),
                    _ => (None, None),
                };
                force_granularity(name);
                self.forced = value;
            }
            Op::Renew => {}
        }
        self.check()
    }

    fn remove_map(&mut self, map: PartMap<'a>, id: u64, mine: usize) -> Check {
        let extent = map.extent();
        self.events();
        let want = self.model.remove(extent.addr, extent.len, mine);
        let result = self.set.remove(map);
        prop_assert_eq!(self.events(), [], "what the library syncs fires nothing");
        match (result, want) {
            (Ok(()), Ok(())) => Ok(()),
            (Err((map, e)), Err(())) => {
                prop_assert_eq!(e.code(), PMEMSET_E_PART_MAP_POSSIBLE_USE_AFTER_DROP);
                self.held.push((map, id));
                Ok(())
            }
            (result, want) => Err(TestCaseError::fail(format!(
                "removing {extent:x?}: {:?}, want {want:?}",
                result.map_err(|e| e.1)
            ))),
        }
    }

    /// Everything that can be seen of the set is as the model has it.
    fn check(&self) -> Check {
        let got: Vec<Extent> = self.set.part_maps().map(|m| m.extent()).collect();
        let want: Vec<Extent> = self.model.maps.values().map(ModelMap::extent).collect();
        prop_assert_eq!(&got, &want, "a walk");
        let mut walked = Vec::new();
        let mut at = self.set.first();
        while let Some(map) = at {
            walked.push(map.extent());
            at = self.set.next(&map);
        }
        prop_assert_eq!(&walked, &want, "first and next");
        for (map, id) in &self.held {
            let held = self.model.maps.values().find(|m| m.id == *id);
            prop_assert_eq!(Some(map.extent()), held.map(ModelMap::extent), "held");
        }
        let granularity = self.set.granularity().map_err(|e| e.code());
        let want = self.model.granularity.ok_or(PMEMSET_E_NO_PART_MAPPED);
        prop_assert_eq!(granularity, want);
        Ok(())
    }

    /// All the bytes, through the mappings.
    fn check_bytes(&self, files: &[File]) -> Check {
        for p in self.model.maps.values().flat_map(|m| &m.parts) {
            let want = &files[p.file].bytes[p.offset..p.offset + p.len];
            prop_assert!(load(p.addr, p.len) == want, "bytes of {p:x?} differ");
        }
        Ok(())
    }
}

fn load(addr: usize, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    // SAFETY: callers give ranges of part maps, to which nobody else stores meanwhile.
    unsafe { std::ptr::copy_nonoverlapping(addr as *const u8, bytes.as_mut_ptr(), len) };
    bytes
}

fn new_set() -> (Set, Events) {
    let events = Events::default();
    let mut config = Config::new();
    config.set_required_granularity(Granularity::Page);
    let told = events.clone();
    config.set_observer(Observer::Closure(Arc::new(move |_, event| {
        told.lock().expect("the events").push(*event);
    })));
    (Set::new(&config).expect("a set"), events)
}

/// Runs operations on one set; how many were run before the set was to be renewed.
fn run_set(files: &mut [File], ops: &[Op]) -> Result<usize, TestCaseError> {
    let (set, events) = new_set();
    let mut world = World {
        set: &set,
        model: Model::default(),
        held: Vec::new(),
        events,
        forced: None,
    };
    force_granularity(None);
    let mut done = 0;
    let mut result = Ok(());
    for op in ops {
        done += 1;
        result = world
            .step(files, op)
            .map_err(|e| TestCaseError::fail(format!("step {done}, {op:x?}: {e}")));
        if result.is_err() || matches!(op, Op::Renew) {
            break;
        }
    }
    force_granularity(None);
    result?;
    world.check_bytes(files)?;
    drop(world);
    let deleted = set.delete();
    check_code!(deleted, 0, "delete");
    Ok(done)
}

fn run(ops: &[Op]) -> Check {
    let mut world = Files::new();
    let mut at = 0;
    while at < ops.len() {
        at += run_set(&mut world.files, &ops[at..])?;
        for (i, file) in world.files.iter().enumerate() {
            if let Some(path) = &file.path {
                let bytes = std::fs::read(path).expect("the file");
                prop_assert!(bytes == file.bytes, "file {i} differs from the model");
            }
        }
    }
    // Once more from the start, by new sources.
    for file in world.files.iter().filter(|f| !f.bytes.is_empty()) {
        let Some(path) = &file.path else { continue };
        let whole = file.bytes.len() / page() * page();
        let source = Source::open(&c(path)).expect("a source");
        let (set, _) = new_set();
        let part = Part::new(&source, 0, whole).expect("a part");
        let extent = set.map(&part).expect("a whole file");
        prop_assert_eq!(load(extent.addr, extent.len), &file.bytes[..whole]);
    }
    // Nothing that was made for the unnamed source has stayed.
    let names = std::fs::read_dir(world.dir.path()).expect("the directory");
    prop_assert_eq!(names.count(), 8);
    Ok(())
}

#[test]
fn random_sequences_agree_with_the_model() {
    let _turn = turn();
    let steps = number("PMEMSET_MODEL_STEPS", 60) as usize;
    let mut runner = TestRunner::new(Runs {
        cases: number("PMEMSET_MODEL_CASES", 100),
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..Runs::default()
    });
    let sequences = prop::collection::vec(op(), 1..steps.max(2));
    if let Err(e) = runner.run(&sequences, |ops| run(&ops)) {
        panic!("{e}");
    }
}
