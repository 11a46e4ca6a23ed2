//! The C functions, called as C does. Miri runs these, too (tests/miri.sh), but for what needs system calls that it does not
//! have.

use std::ffi::{CStr, CString, c_int, c_void};
use std::ptr::null_mut;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::badblock::*;
use super::config::*;
use super::error::*;
use super::map_config::*;
use super::mem::*;
use super::part::*;
use super::part_map::*;
use super::persist::*;
use super::set::*;
use super::source::*;
use super::types::*;
use super::types_112::{pmemset_event_context, pmemset_sds};
use super::*;
use crate::codes::*;
use crate::event::Event;
use crate::source::sds::Sds;

const EINVAL: c_int = -libc::EINVAL;

fn message() -> String {
    // SAFETY: this thread's message, which ends in a zero byte.
    let text = unsafe { CStr::from_ptr(pmemset_errormsg()) };
    text.to_str().unwrap().to_owned()
}

/// A pointer that threads pass to each other, as C programs do.
#[derive(Clone, Copy)]
struct Common<T>(*mut T);
// SAFETY: what is done with it is what is tested.
unsafe impl<T> Send for Common<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Common<T> {}

impl<T> Common<T> {
    fn get(&self) -> *mut T {
        self.0
    }
}

fn new_config() -> *mut pmemset_config {
    let mut config = null_mut();
    // SAFETY: a variable of our own, and what it points to.
    unsafe {
        assert_eq!(pmemset_config_new(&mut config), 0);
        let granularity = PMEM2_GRANULARITY_PAGE;
        let set = pmemset_config_set_required_store_granularity(config, granularity);
        assert_eq!(set, 0);
    }
    config
}

fn new_set(config: *mut pmemset_config) -> *mut pmemset {
    let mut set = null_mut();
    // SAFETY: a variable of our own, and a config that is alive.
    assert_eq!(unsafe { pmemset_new(&mut set, config) }, 0);
    assert!(!set.is_null());
    set
}

#[test]
fn configs_and_their_values() {
    let mut config = null_mut();
    let mut set = null_mut();
    // SAFETY: variables of our own, and what they point to.
    unsafe {
        assert_eq!(pmemset_config_new(&mut config), 0);
        assert_eq!(pmemset_new(&mut set, config), PMEMSET_E_GRANULARITY_NOT_SET);
        assert!(set.is_null());
        for value in [-1, 3, i32::MAX, i32::MIN] {
            assert_eq!(
                pmemset_config_set_required_store_granularity(config, value),
                PMEMSET_E_GRANULARITY_NOT_SUPPORTED
            );
        }
        assert!(message().contains(&i32::MIN.unsigned_abs().to_string()));
        assert_eq!(
            pmemset_config_set_acceptable_states(config, 32),
            PMEMSET_E_INVALID_PART_STATES
        );
        assert_eq!(pmemset_config_set_acceptable_states(config, 31), 0);
        pmemset_config_set_reservation(config, null_mut());
        pmemset_config_set_event_callback(config, None, null_mut());
        assert_eq!(pmemset_config_delete(&mut config), 0);
        assert!(config.is_null());
        assert_eq!(pmemset_config_delete(&mut config), 0);
    }
}

#[test]
fn map_configs() {
    let mut config = null_mut();
    // SAFETY: a variable of our own, and what it points to.
    unsafe {
        assert_eq!(pmemset_map_config_new(&mut config), 0);
        assert_eq!(pmemset_map_config_set_offset(config, 4096), 0);
        pmemset_map_config_set_length(config, usize::MAX);
        let beyond = i64::MAX as usize + 1;
        assert_eq!(
            pmemset_map_config_set_offset(config, beyond),
            PMEMSET_E_OFFSET_OUT_OF_RANGE
        );
        assert_eq!(pmemset_map_config_delete(&mut config), 0);
        assert!(config.is_null());
        assert_eq!(pmemset_map_config_delete(&mut config), 0);
    }
}

#[test]
fn every_argument_that_must_not_be_null() {
    let config = Common(new_config()).get();
    let set = new_set(config);
    let mut buffer = [0u8; 8];
    let (ptr, len) = (buffer.as_mut_ptr().cast::<c_void>(), buffer.len());
    // SAFETY: NULL, or objects and variables of our own.
    unsafe {
        let mut no_set: *mut pmemset = null_mut();
        let mut no_source: *mut pmemset_source = null_mut();
        let mut no_part = null_mut();
        let mut no_map = null_mut();
        let mut granularity = 77;
        for code in [
            pmemset_config_new(null_mut()),
            pmemset_config_delete(null_mut()),
            pmemset_config_set_required_store_granularity(null_mut(), 0),
            pmemset_config_set_acceptable_states(null_mut(), 0),
            pmemset_map_config_new(null_mut()),
            pmemset_map_config_delete(null_mut()),
            pmemset_map_config_set_offset(null_mut(), 0),
            pmemset_new(null_mut(), config),
            pmemset_new(&mut no_set, null_mut()),
            pmemset_delete(null_mut()),
            pmemset_set_contiguous_part_coalescing(null_mut(), 0),
            pmemset_get_store_granularity(null_mut(), &mut granularity),
            pmemset_get_store_granularity(set, null_mut()),
            pmemset_source_from_file(null_mut(), c"f".as_ptr()),
            pmemset_xsource_from_file(null_mut(), c"f".as_ptr(), 0),
            pmemset_source_from_temporary(null_mut(), c".".as_ptr()),
            pmemset_source_from_pmem2(null_mut(), null_mut()),
            pmemset_source_delete(null_mut()),
            pmemset_source_set_sds(null_mut(), null_mut(), null_mut()),
            pmemset_source_pread_mcsafe(null_mut(), ptr, len, 0),
            pmemset_source_pwrite_mcsafe(null_mut(), ptr, len, 0),
            pmemset_source_alignment(null_mut(), &mut 0),
            pmemset_badblock_clear(null_mut(), null_mut()),
            pmemset_part_new(null_mut(), set, null_mut(), 0, 0),
            pmemset_part_new(&mut no_part, null_mut(), null_mut(), 0, 0),
            pmemset_part_new(&mut no_part, set, null_mut(), 0, 0),
            pmemset_part_delete(null_mut()),
            pmemset_part_map(null_mut(), null_mut(), null_mut()),
            pmemset_part_map(&mut no_part, null_mut(), null_mut()),
            pmemset_map(null_mut(), null_mut(), null_mut(), null_mut()),
            pmemset_part_map_by_address(null_mut(), &mut no_map, ptr),
            pmemset_part_map_by_address(set, null_mut(), ptr),
            pmemset_part_map_by_address(set, &mut no_map, null_mut()),
            pmemset_remove_part_map(null_mut(), &mut no_map),
            pmemset_remove_part_map(set, null_mut()),
            pmemset_remove_part_map(set, &mut no_map),
            pmemset_remove_range(null_mut(), ptr, len),
            pmemset_remove_range(set, null_mut(), len),
            pmemset_persist(null_mut(), ptr, len),
            pmemset_persist(set, null_mut(), len),
            pmemset_flush(null_mut(), ptr, len),
            pmemset_flush(set, null_mut(), len),
            pmemset_drain(null_mut()),
            pmemset_deep_flush(null_mut(), ptr, len),
            pmemset_deep_flush(set, null_mut(), len),
        ] {
            assert_eq!(code, EINVAL, "{}", message());
        }
        assert_eq!(granularity, 77);
        assert_eq!(
            pmemset_map(set, null_mut(), null_mut(), null_mut()),
            PMEMSET_E_INVALID_SOURCE_TYPE
        );
        for code in [
            pmemset_source_from_file(&mut no_source, std::ptr::null()),
            pmemset_xsource_from_file(&mut no_source, std::ptr::null(), 7),
            pmemset_source_from_temporary(&mut no_source, std::ptr::null()),
        ] {
            assert_eq!(code, PMEMSET_E_INVALID_SOURCE_PATH);
            assert_eq!(message(), "file path cannot be empty");
        }
        let code = pmemset_source_from_pmem2(&mut no_source, null_mut());
        assert_eq!(code, PMEMSET_E_INVALID_PMEM2_SOURCE);
        // Those that cannot say so leave a message.
        let quiet: [(&str, &dyn Fn()); 10] = [
            ("cfg", &|| {
                pmemset_config_set_reservation(null_mut(), null_mut())
            }),
            ("config", &|| {
                pmemset_config_set_event_callback(null_mut(), None, null_mut())
            }),
            ("map_cfg", &|| pmemset_map_config_set_length(null_mut(), 0)),
            ("src", &|| {
                pmemset_source_set_badblock_detection(null_mut(), 2)
            }),
            ("pmap", &|| pmemset_first_part_map(set, null_mut())),
            ("next", &|| {
                pmemset_next_part_map(set, null_mut(), null_mut())
            }),
            ("pmap", &|| pmemset_part_map_drop(null_mut())),
            ("pmap", &|| {
                assert!(pmemset_descriptor_part_map(null_mut()).addr.is_null())
            }),
            ("set", &|| {
                assert_eq!(pmemset_memcpy(null_mut(), ptr, ptr, len, 0), ptr)
            }),
            ("pmemdest", &|| {
                assert!(pmemset_memset(set, null_mut(), 0, len, 0).is_null())
            }),
        ];
        for (name, call) in quiet {
            assert_eq!(pmemset_drain(null_mut()), EINVAL);
            let before = message();
            call();
            assert_eq!(message(), format!("argument {name} must not be NULL"));
            assert!(name == "set" || message() != before);
        }
        let (mut set, mut config) = (set, config);
        assert_eq!(pmemset_delete(&mut set), 0);
        assert_eq!(pmemset_config_delete(&mut config), 0);
    }
}

#[test]
fn a_set_with_nothing_mapped() {
    let mut config = new_config();
    let mut set = new_set(config);
    let mut buffer = [1u8; 16];
    let (ptr, len) = (buffer.as_mut_ptr().cast::<c_void>(), buffer.len());
    let mut map = 8 as *mut pmemset_part_map;
    let mut granularity = 0;
    // SAFETY: objects and variables of our own.
    unsafe {
        assert_eq!(pmemset_config_delete(&mut config), 0);
        pmemset_first_part_map(set, &mut map);
        assert!(map.is_null());
        map = 8 as *mut pmemset_part_map;
        assert_eq!(
            pmemset_part_map_by_address(set, &mut map, ptr),
            PMEMSET_E_CANNOT_FIND_PART_MAP
        );
        assert!(map.is_null());
        pmemset_part_map_drop(&mut map);
        for code in [
            pmemset_get_store_granularity(set, &mut granularity),
            pmemset_persist(set, ptr, len),
            pmemset_flush(set, ptr, len),
            pmemset_drain(set),
        ] {
            assert_eq!(code, PMEMSET_E_NO_PART_MAPPED);
        }
        assert_eq!(pmemset_memset(set, ptr, 7, len, 0), ptr);
        assert_eq!(pmemset_memmove(set, ptr, ptr, len, 0), ptr);
        assert_eq!(pmemset_memcpy(set, ptr, ptr.add(8), 8, 0), ptr);
        assert_eq!(message(), Error::NoPartMapped.to_string());
        assert_eq!(pmemset_deep_flush(set, ptr, len), 0);
        assert_eq!(pmemset_remove_range(set, ptr, len), 0);
        assert_eq!(
            pmemset_set_contiguous_part_coalescing(set, 3),
            PMEMSET_E_INVALID_COALESCING_VALUE
        );
        assert_eq!(pmemset_set_contiguous_part_coalescing(set, 2), 0);
        assert_eq!(pmemset_delete(&mut set), 0);
        assert!(set.is_null());
        assert_eq!(pmemset_delete(&mut set), 0);
    }
    assert_eq!(buffer, [1; 16]);
}

#[test]
fn threads_share_a_config_and_a_set() {
    let mut config = new_config();
    let mut set = new_set(config);
    let common = (Common(config), Common(set));
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let (config, set) = (common.0.get(), common.1.get());
                for value in 0..3 {
                    let mut own = new_set(config);
                    let mut map = null_mut();
                    // SAFETY: several threads may use a config to make sets, and a set for anything.
                    unsafe {
                        assert_eq!(pmemset_set_contiguous_part_coalescing(set, value), 0);
                        pmemset_first_part_map(set, &mut map);
                        assert_eq!(pmemset_drain(set), PMEMSET_E_NO_PART_MAPPED);
                        assert_eq!(pmemset_delete(&mut own), 0);
                    }
                }
            });
        }
    });
    // SAFETY: the threads have ended.
    unsafe {
        assert_eq!(pmemset_delete(&mut set), 0);
        assert_eq!(pmemset_config_delete(&mut config), 0);
    }
}

#[test]
fn messages_are_of_their_thread() {
    // SAFETY: NULL is looked at only.
    unsafe { pmemset_drain(null_mut()) };
    let before = pmemset_errormsg();
    thread::spawn(|| {
        assert_eq!(message(), "");
        // SAFETY: as above.
        unsafe { pmemset_config_delete(null_mut()) };
        assert_eq!(message(), "argument cfg must not be NULL");
    })
    .join()
    .unwrap();
    assert_eq!(before, pmemset_errormsg());
    assert_eq!(message(), "argument set must not be NULL");
    assert_eq!(pmemset_err_to_errno(EINVAL), libc::EINVAL);
    assert_eq!(pmemset_err_to_errno(PMEMSET_E_NOSUPP), libc::ENOTSUP);
}

/// What a callback was told: the type of the event and its payload's words, as far as there are any.
#[derive(Default)]
struct Told(Mutex<Vec<(c_int, [usize; 3])>>);

unsafe extern "C" fn told(
    set: *mut pmemset,
    context: *mut pmemset_event_context,
    arg: *mut c_void,
) -> c_int {
    assert!(!set.is_null());
    // SAFETY: what pmemset_config_set_event_callback was given, and a context whose payload is the type's.
    unsafe {
        let told = &*arg.cast::<Told>();
        let data = &(*context).data;
        let words = match (*context).r#type {
            0 => [
                data.copy.src as usize,
                data.copy.dest as usize,
                data.copy.len,
            ],
            1 => [
                data.r#move.src as usize,
                data.r#move.dest as usize,
                data.r#move.len,
            ],
            2 => [
                data.set.dest as usize,
                data.set.value as usize,
                data.set.len,
            ],
            3 => [data.flush.addr as usize, data.flush.len, 0],
            4 => [0; 3],
            6 => [data.remove_range.addr as usize, data.remove_range.len, 0],
            7 => [
                data.part_add.addr as usize,
                data.part_add.len,
                data.part_add.src as usize,
            ],
            8 => [
                data.part_remove.addr as usize,
                data.part_remove.len,
                data.part_remove.src as usize,
            ],
            9 => {
                let sds = data.sds_update.sds;
                // What it changes is its own.
                (*sds).refcount += 1;
                [
                    (*sds).usc as usize,
                    (*sds).refcount as usize,
                    data.sds_update.src as usize,
                ]
            }
            10 => {
                let bad = data.badblock.bb;
                (*bad).length += 1;
                [(*bad).offset, (*bad).length, data.badblock.src as usize]
            }
            11 => [data.badblocks_cleared.src as usize, 0, 0],
            other => panic!("event {other}"),
        };
        told.0.lock().unwrap().push(((*context).r#type, words));
    }
    -1
}

#[test]
fn every_event_as_a_callback_gets_it() {
    let log = Told::default();
    let mut config = new_config();
    let arg = std::ptr::from_ref(&log).cast_mut().cast();
    // SAFETY: a config that is alive; the callback's argument outlives the set.
    unsafe { pmemset_config_set_event_callback(config, Some(told), arg) };
    let mut raw = new_set(config);
    // SAFETY: a set that is alive.
    let set = unsafe { set_arg(raw) }.unwrap();
    let mut sds = Sds::default();
    (sds.usc, sds.refcount) = (5, 1);
    let (src, dest, len, flags) = (16, 32, 48, 1);
    let (addr, source, pmem2_source) = (64, 80, 96);
    let events = [
        Event::Copy {
            src,
            dest,
            len,
            flags,
        },
        Event::Move {
            src,
            dest,
            len,
            flags,
        },
        Event::Set {
            dest,
            value: 9,
            len,
            flags,
        },
        Event::Flush { addr, len },
        Event::Drain,
        Event::RemoveRange { addr, len },
        Event::PartAdd {
            addr,
            len,
            pmem2_source,
        },
        Event::PartRemove { addr, len, source },
        Event::SdsUpdate {
            sds: std::ptr::from_ref(&sds).expose_provenance(),
            source,
        },
        Event::BadBlock {
            offset: 7,
            length: 8,
            source,
        },
        Event::BadBlocksCleared { source },
    ];
    for event in &events {
        set.tell(event);
    }
    assert_eq!((sds.usc, sds.refcount), (5, 1));
    assert_eq!(
        *log.0.lock().unwrap(),
        [
            (0, [src, dest, len]),
            (1, [src, dest, len]),
            (2, [dest, 9, len]),
            (3, [addr, len, 0]),
            (4, [0; 3]),
            (6, [addr, len, 0]),
            (7, [addr, len, pmem2_source]),
            (8, [addr, len, source]),
            (9, [5, 2, source]),
            (10, [7, 9, source]),
            (11, [source, 0, 0]),
        ]
    );
    // SAFETY: objects of our own.
    unsafe {
        assert_eq!(pmemset_delete(&mut raw), 0);
        assert_eq!(pmemset_config_delete(&mut config), 0);
    }
}

/// What Miri must find, so that a run that finds nothing means something: a config changed while others use it.
#[cfg(miri)]
#[test]
#[ignore = "undefined behaviour, for tests/miri.sh"]
fn planted_borrow_of_a_config_that_others_use() {
    let common = Common(new_config());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..100 {
                    // SAFETY: none: this is the bug.
                    let config = unsafe { object_alone(common.get(), "cfg") };
                    assert!(config.is_ok_and(|c| c.required_granularity().is_some()));
                    thread::yield_now();
                }
            });
        }
    });
}

/// A file of some pages, and a source of it. What Miri knows of files is enough for that.
fn new_source(dir: &tempfile::TempDir) -> *mut pmemset_source {
    let path = dir.path().join("file");
    std::fs::write(&path, vec![1; 65536]).unwrap();
    let path = CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    let mut source = null_mut();
    // SAFETY: a variable of our own, and a C string.
    let made = unsafe { pmemset_source_from_file(&mut source, path.as_ptr()) };
    assert_eq!(made, 0, "{}", message());
    source
}

#[test]
fn threads_share_a_source_that_is_not_mapped() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = new_config();
    let mut set = new_set(config);
    let mut source = new_source(&dir);
    let common = (Common(set), Common(source));
    let given = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let (set, source) = (common.0.get(), common.1.get());
                let mut part = null_mut();
                let mut align = 0;
                let mut byte = 0u8;
                let mut sds = pmemset_sds {
                    id: [0; 513],
                    usc: 0,
                    refcount: 0,
                };
                // SAFETY: several threads may use a source at once.
                unsafe {
                    assert_eq!(pmemset_source_alignment(source, &mut align), 0);
                    assert_eq!(align % 4096, 0);
                    assert_eq!(pmemset_part_new(&mut part, set, source, 0, 0), 0);
                    pmemset_source_set_badblock_detection(source, 1);
                    match pmemset_source_set_sds(source, &mut sds, null_mut()) {
                        0 => given.fetch_add(1, Ordering::Relaxed),
                        code => {
                            assert_eq!(code, PMEMSET_E_SDS_ALREADY_SET);
                            0
                        }
                    };
                    let buffer = (&raw mut byte).cast();
                    assert_eq!(
                        pmemset_source_pread_mcsafe(source, buffer, 1, 65536),
                        PMEMSET_E_LENGTH_OUT_OF_RANGE
                    );
                    assert_eq!(pmemset_source_pread_mcsafe(source, buffer, 0, 0), 0);
                    assert_eq!(pmemset_part_delete(&mut part), 0);
                    assert!(part.is_null());
                }
            });
        }
    });
    assert_eq!(given.load(Ordering::Relaxed), 1);
    // SAFETY: the threads have ended.
    unsafe {
        assert_eq!(pmemset_source_delete(&mut source), 0);
        assert!(source.is_null());
        assert_eq!(pmemset_source_delete(&mut source), 0);
        assert_eq!(pmemset_delete(&mut set), 0);
        assert_eq!(pmemset_config_delete(&mut config), 0);
    }
}

/// From here on files are mapped, which Miri does not do.
#[cfg(not(miri))]
mod with_files {
    use super::*;

    fn temporary() -> *mut pmemset_source {
        let mut source = null_mut();
        // SAFETY: a variable of our own.
        let made = unsafe { pmemset_source_from_temporary(&mut source, c"/tmp".as_ptr()) };
        assert_eq!(made, 0, "{}", message());
        source
    }

    struct Results {
        part: *mut pmemset_part,
        desc: pmemset_part_descriptor,
        seen: usize,
    }

    unsafe extern "C" fn looks_at_results(
        _set: *mut pmemset,
        context: *mut pmemset_event_context,
        arg: *mut c_void,
    ) -> c_int {
        let results = arg.cast::<Results>();
        // SAFETY: the program's variables, which are its callback's as well.
        unsafe {
            assert!((*results).part.is_null());
            assert_eq!((*results).desc.addr, (*context).data.part_add.addr);
            (*results).seen += 1;
        }
        0
    }

    #[test]
    fn a_callback_finds_the_results_of_the_call_that_it_is_in() {
        let mut results = Results {
            part: null_mut(),
            desc: pmemset_part_descriptor {
                addr: null_mut(),
                size: 0,
            },
            seen: 0,
        };
        let results = &raw mut results;
        let mut config = new_config();
        // SAFETY: objects and variables of our own.
        unsafe {
            pmemset_config_set_event_callback(config, Some(looks_at_results), results.cast());
            let mut set = new_set(config);
            let mut source = temporary();
            let part = &raw mut (*results).part;
            assert_eq!(pmemset_part_new(part, set, source, 0, 65536), 0);
            assert_eq!(
                pmemset_part_map(part, null_mut(), &raw mut (*results).desc),
                0,
                "{}",
                message()
            );
            assert_eq!(((*results).seen, (*results).desc.size), (1, 65536));
            assert_eq!(pmemset_delete(&mut set), 0);
            assert_eq!(pmemset_source_delete(&mut source), 0);
            assert_eq!(pmemset_config_delete(&mut config), 0);
        }
    }

    #[test]
    fn threads_share_a_source_and_a_map_config() {
        let mut config = new_config();
        let mut set = new_set(config);
        let mut source = temporary();
        let mut range = null_mut();
        // SAFETY: variables of our own, and what they point to.
        unsafe {
            assert_eq!(pmemset_map_config_new(&mut range), 0);
            pmemset_map_config_set_length(range, 65536);
        }
        let common = (Common(set), Common(source), Common(range));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let (set, source, range) = (common.0.get(), common.1.get(), common.2.get());
                    let mut part = null_mut();
                    let mut align = 0;
                    // SAFETY: several threads may map a source at once, by one map config.
                    unsafe {
                        for _ in 0..20 {
                            assert_eq!(pmemset_map(set, source, range, null_mut()), 0);
                            assert_eq!(pmemset_source_alignment(source, &mut align), 0);
                            assert_eq!(pmemset_part_new(&mut part, set, source, 0, 65536), 0);
                            assert_eq!(pmemset_part_map(&mut part, null_mut(), null_mut()), 0);
                        }
                    }
                });
            }
        });
        // SAFETY: the threads have ended.
        unsafe {
            assert_eq!(pmemset_delete(&mut set), 0);
            assert_eq!(pmemset_source_delete(&mut source), 0);
            assert_eq!(pmemset_map_config_delete(&mut range), 0);
            assert_eq!(pmemset_config_delete(&mut config), 0);
        }
    }
}
