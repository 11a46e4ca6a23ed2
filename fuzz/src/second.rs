//! Calls of the second dialect, PMDK 1.12's.

use std::ffi::{c_char, c_int, c_void};
use std::ptr::null_mut;

use super::{Descriptor, Object, World, pick};

#[repr(C)]
struct BadBlock {
    offset: usize,
    length: usize,
}

#[repr(C)]
struct Sds {
    id: [c_char; 513],
    usc: u64,
    refcount: c_int,
}

unsafe extern "C" {
    fn pmemset_map(set: Object, src: Object, cfg: Object, desc: *mut Descriptor) -> c_int;
    fn pmemset_map_config_new(cfg: *mut Object) -> c_int;
    fn pmemset_map_config_delete(cfg: *mut Object) -> c_int;
    fn pmemset_map_config_set_offset(cfg: Object, offset: usize) -> c_int;
    fn pmemset_map_config_set_length(cfg: Object, length: usize);
    fn pmemset_config_set_acceptable_states(cfg: Object, states: u64) -> c_int;
    fn pmemset_source_set_sds(src: Object, sds: *mut Sds, state: *mut c_int) -> c_int;
    fn pmemset_source_set_badblock_detection(src: Object, value: bool);
    fn pmemset_source_pread_mcsafe(src: Object, buf: *mut c_void, n: usize, at: usize) -> c_int;
    fn pmemset_source_pwrite_mcsafe(src: Object, buf: *mut c_void, n: usize, at: usize) -> c_int;
    fn pmemset_source_alignment(src: Object, alignment: *mut usize) -> c_int;
    fn pmemset_badblock_clear(bad: *mut BadBlock, src: Object) -> c_int;
}

const INVALID_SOURCE_TYPE: c_int = -200004;
const OFFSET_OUT_OF_RANGE: c_int = -200024;
const INVALID_PART_STATES: c_int = -200025;
const SDS_ALREADY_SET: c_int = -200027;
const LENGTH_OUT_OF_RANGE: c_int = -200033;

/// Where sources report the states of their parts; it must be there as long as they are.
static mut STATE: c_int = 0;

impl World<'_> {
    /// # Safety
    /// As in `step`: what is handed over is NULL, or lives.
    pub(super) unsafe fn second(&mut self, which: usize, set: Object) {
        // SAFETY: as in `step`.
        unsafe {
            match self.bytes.byte() % 16 {
                0 | 1 => self.map_config(),
                2..10 => self.map(which, set),
                10..12 => self.medium(),
                12 => self.shutdown_state(),
                13 => {
                    let source = pick(&mut self.bytes, &self.sources);
                    pmemset_source_set_badblock_detection(source, self.bytes.rarely(2));
                }
                14 => self.clear(),
                _ => self.small_things(),
            }
        }
    }

    unsafe fn map_config(&mut self) {
        let mut config = std::ptr::without_provenance_mut(1);
        // SAFETY: as in `step`.
        unsafe {
            let rc = pmemset_map_config_new(&mut config);
            must!(self.result("map_config_new", rc, false), "");
            let offset = self.bytes.size(self.page);
            let rc = pmemset_map_config_set_offset(config, offset);
            let fine = self.result("map_config_set_offset", rc, false);
            must!(fine == (offset <= i64::MAX as usize), "{offset} = {rc}");
            must!(fine || rc == OFFSET_OUT_OF_RANGE, "{offset} = {rc}");
            pmemset_map_config_set_length(config, self.bytes.size(self.page));
            self.map_configs.push(config);
            if self.map_configs.len() > 5 {
                let mut old = self.map_configs.swap_remove(0);
                let rc = pmemset_map_config_delete(&mut old);
                must!(rc == 0 && old.is_null(), "map_config_delete = {rc}");
            }
        }
    }

    unsafe fn map(&mut self, which: usize, set: Object) {
        let source = pick(&mut self.bytes, &self.sources);
        let config = match self.bytes.rarely(3) {
            true => null_mut(),
            false => pick(&mut self.bytes, &self.map_configs),
        };
        let no_desc = self.bytes.rarely(4);
        let before = self.walk(which);
        let mut desc = Descriptor {
            addr: null_mut(),
            size: 0,
        };
        // SAFETY: as in `step`.
        let rc = unsafe {
            let desc = if no_desc { null_mut() } else { &mut desc };
            pmemset_map(set, source, config, desc)
        };
        let fine = self.result("map", rc, set.is_null() || source.is_null());
        if !set.is_null() && source.is_null() {
            must!(rc == INVALID_SOURCE_TYPE, "no source = {rc}");
        }
        let after = self.walk(which);
        if !fine {
            must!(before == after, "{rc}: {before:?} became {after:?}");
            return;
        }
        self.count.mapped += 1;
        self.count.second += 1;
        must!(
            no_desc || after.contains(&desc),
            "{desc:?} is not in {after:?}"
        );
        let bytes = |maps: &[Descriptor]| maps.iter().map(|m| m.size).sum::<usize>();
        must!(bytes(&after) > bytes(&before), "nothing was mapped");
    }

    /// What is written to a source is read from it.
    unsafe fn medium(&mut self) {
        let source = pick(&mut self.bytes, &self.sources);
        let at = self.bytes.size(self.page);
        let n = self.bytes.size(self.page).min(self.buffer.len());
        let fill = self.bytes.byte() as u8;
        let mut given = vec![fill; n];
        let mut got = vec![!fill; n];
        // SAFETY: as in `step`; the buffers are as large as they are said to be.
        unsafe {
            let null = n > 0 && self.bytes.rarely(20);
            let of = |buffer: &mut Vec<u8>| match null {
                true => null_mut(),
                false => buffer.as_mut_ptr().cast(),
            };
            let wrote = pmemset_source_pwrite_mcsafe(source, of(&mut given), n, at);
            let fine = self.result("pwrite_mcsafe", wrote, null || source.is_null());
            let read = pmemset_source_pread_mcsafe(source, of(&mut got), n, at);
            self.result("pread_mcsafe", read, null || source.is_null());
            must!(wrote == read, "written: {wrote}, read: {read}");
            must!(!fine || given == got, "{n} bytes at {at}");
            must!(
                fine || n == 0 || got.iter().all(|b| *b == !fill),
                "what failed has stored"
            );
        }
    }

    unsafe fn shutdown_state(&mut self) {
        // The last one, which goes soon: no disk has a shutdown state, and so it cannot be mapped any more.
        let source = match self.bytes.rarely(8) {
            true => null_mut(),
            false => self.sources.last().map_or(null_mut(), |s| *s),
        };
        // An identity without an end is no error: the device's is another.
        let long = self.bytes.rarely(4);
        let mut sds = Sds {
            id: [if long { 1 } else { 0 }; 513],
            usc: self.bytes.word() as u64,
            refcount: self.bytes.byte() as c_int - 3,
        };
        let (null, no_state) = (self.bytes.rarely(8), self.bytes.rarely(2));
        let state = match no_state {
            true => null_mut(),
            false => &raw mut STATE,
        };
        // SAFETY: as in `step`.
        unsafe {
            let sds = if null { null_mut() } else { &raw mut sds };
            let rc = pmemset_source_set_sds(source, sds, state);
            let fine = self.result("set_sds", rc, source.is_null());
            if source.is_null() {
                return;
            }
            // That takes it away.
            if null {
                must!(fine, "set_sds of NULL = {rc}");
                return;
            }
            must!(fine || rc == SDS_ALREADY_SET, "set_sds = {rc}");
            if fine {
                let rc = pmemset_source_set_sds(source, sds, state);
                must!(rc == SDS_ALREADY_SET, "a second one = {rc}");
            }
        }
    }

    unsafe fn clear(&mut self) {
        let source = pick(&mut self.bytes, &self.sources);
        let mut bad = BadBlock {
            offset: self.bytes.size(self.page),
            length: self.bytes.size(self.page),
        };
        let null = self.bytes.rarely(8);
        // SAFETY: as in `step`.
        unsafe {
            let rc = pmemset_badblock_clear(if null { null_mut() } else { &mut bad }, source);
            self.result("badblock_clear", rc, null || source.is_null());
            if null || source.is_null() {
                return;
            }
            let most = i64::MAX as usize;
            must!(
                bad.offset <= most || rc == OFFSET_OUT_OF_RANGE,
                "{} = {rc}",
                bad.offset
            );
            must!(
                bad.offset > most || bad.length <= most || rc == LENGTH_OUT_OF_RANGE,
                "{} = {rc}",
                bad.length
            );
        }
    }

    unsafe fn small_things(&mut self) {
        let source = pick(&mut self.bytes, &self.sources);
        let mut alignment = 7;
        // SAFETY: as in `step`.
        unsafe {
            let rc = pmemset_source_alignment(source, &mut alignment);
            let fine = self.result("alignment", rc, source.is_null());
            must!(
                alignment == if fine { self.page } else { 7 },
                "alignment = {rc}, {alignment}"
            );
            let states = match self.bytes.rarely(2) {
                true => self.bytes.word() as u64,
                false => self.bytes.byte() as u64 % 64,
            };
            let config = pick(&mut self.bytes, &self.configs);
            let rc = pmemset_config_set_acceptable_states(config, states);
            self.result("acceptable_states", rc, config.is_null());
            if !config.is_null() {
                let unknown = states & !31 != 0;
                must!(unknown == (rc == INVALID_PART_STATES), "{states:#x} = {rc}");
            }
            let null: *mut Object = null_mut();
            let mut object = null_mut();
            let codes = [
                pmemset_map(null_mut(), null_mut(), null_mut(), null_mut()),
                pmemset_map_config_new(null),
                pmemset_map_config_delete(null),
                pmemset_map_config_set_offset(null_mut(), 0),
                pmemset_config_set_acceptable_states(null_mut(), 1),
                pmemset_source_alignment(null_mut(), &mut alignment),
                pmemset_badblock_clear(null_mut(), null_mut()),
            ];
            for (i, rc) in codes.into_iter().enumerate() {
                must!(rc < 0, "call {i} of 1.12 with NULL = {rc}");
            }
            self.result("calls of 1.12 with NULL", codes[0], true);
            pmemset_map_config_set_length(null_mut(), 1);
            pmemset_source_set_badblock_detection(null_mut(), true);
            must!(
                pmemset_map_config_delete(&mut object) == 0,
                "map_config_delete"
            );
        }
    }

    pub(super) fn end_second(&mut self) {
        for mut config in self.map_configs.drain(..) {
            // SAFETY: it lives until now.
            must!(
                unsafe { pmemset_map_config_delete(&mut config) } == 0,
                "map_config_delete"
            );
        }
    }
}
