//! Binding at run time to the libpmem2 that the process uses, and nothing but that.
//!
//! The library never depends on libpmem2. It looks for one when a program hands over an object of it, or an event needs
//! one: among symbols that were linked in statically, in what the loader searches by default, in a library of that name
//! loaded for somebody alone, and last in every object that is loaded. What is found stays loaded and is kept; that there
//! is none is looked up again whenever something has been loaded since. Versions 1.12 to 2.x have all functions named here.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicU64, Ordering};

use once_cell::race::OnceBox;

use crate::error::{Error, Name, Result};
use crate::granularity::Granularity;
use crate::mem::try_box;

type Object = *mut c_void;
type Out<T> = *mut T;

/// The functions of libpmem2 that are used here. Enums are C ints.
macro_rules! functions {
    ($($name:ident($($arg:ty),*) -> $ret:ty;)*) => {
        #[allow(non_snake_case)]
        #[derive(Clone, Copy)]
        struct Api {
            $($name: unsafe extern "C" fn($($arg),*) -> $ret,)*
        }

        const NAMES: &[&str] = &[$(concat!(stringify!($name), "\0")),*];

        // dlsym cannot see functions that were linked into the program statically, weak references do.
        #[cfg(not(miri))]
        core::arch::global_asm!(
            ".pushsection .data.rel.ro.pmemset_weak_pmem2,\"aw\"",
            ".p2align 3",
            ".globl pmemset_weak_pmem2",
            ".hidden pmemset_weak_pmem2",
            "pmemset_weak_pmem2:",
            $(
                concat!(".weak ", stringify!($name)),
                concat!(".8byte ", stringify!($name)),
            )*
            ".popsection",
        );

        impl Api {
            /// All of them, or nothing.
            fn of(address: impl Fn(usize) -> usize) -> Option<Api> {
                let addresses: [usize; NAMES.len()] = std::array::from_fn(address);
                if addresses.contains(&0) {
                    return None;
                }
                let mut at = addresses.into_iter();
                Some(Api {
                    $($name: {
                        type Function = unsafe extern "C" fn($($arg),*) -> $ret;
                        // SAFETY: the address of the function of this name, not zero; libpmem2.h declares it so.
                        unsafe { std::mem::transmute::<usize, Function>(at.next()?) }
                    },)*
                })
            }
        }
    };
}

functions! {
    pmem2_errormsg() -> *const c_char;
    pmem2_source_from_fd(Out<Object>, c_int) -> c_int;
    pmem2_source_get_fd(Object, Out<c_int>) -> c_int;
    pmem2_source_alignment(Object, Out<usize>) -> c_int;
    pmem2_source_delete(Out<Object>) -> c_int;
    pmem2_vm_reservation_get_address(Object) -> *mut c_void;
    pmem2_vm_reservation_get_size(Object) -> usize;
    pmem2_vm_reservation_map_find(Object, usize, usize, Out<Object>) -> c_int;
    pmem2_config_new(Out<Object>) -> c_int;
    pmem2_config_delete(Out<Object>) -> c_int;
    pmem2_config_set_required_store_granularity(Object, c_int) -> c_int;
    pmem2_config_set_offset(Object, usize) -> c_int;
    pmem2_config_set_length(Object, usize) -> c_int;
    pmem2_config_set_vm_reservation(Object, Object, usize) -> c_int;
    pmem2_map_new(Out<Object>, Object, Object) -> c_int;
    pmem2_map_delete(Out<Object>) -> c_int;
    pmem2_map_get_address(Object) -> *mut c_void;
    pmem2_map_get_size(Object) -> usize;
    pmem2_map_get_store_granularity(Object) -> c_int;
}

const SONAME: &CStr = c"libpmem2.so.1";

// Codes of libpmem2 that mean something here. Above the first they are -errno.
const E_UNKNOWN: c_int = -100_000;
const E_INVALID_FILE_HANDLE: c_int = -100_004;
const E_MAPPING_EXISTS: c_int = -100_007;
const E_MAPPING_NOT_FOUND: c_int = -100_016;
const E_LENGTH_OUT_OF_RANGE: c_int = -100_030;
const E_NO_ACCESS: c_int = -100_032;
const E_FILE_DESCRIPTOR_NOT_SET: c_int = -100_035;

// ---- finding it ----------------------------------------------------------------------------------------------------

/// Without a lock: the child of a fork could find that taken for ever.
static FOUND: OnceBox<Api> = OnceBox::new();

/// How many objects the loader had loaded, ever, when there was no libpmem2 among them.
static ABSENT: AtomicU64 = AtomicU64::new(0);

fn loaded() -> Option<&'static Api> {
    if let Some(api) = FOUND.get() {
        return Some(api);
    }
    let loads = count_loads();
    if loads != 0 && ABSENT.load(Ordering::Relaxed) == loads {
        return None;
    }
    let api = linked()
        .or_else(|| in_scope(libc::RTLD_DEFAULT))
        .or_else(|| in_object(SONAME))
        .or_else(in_any_object);
    match api {
        Some(api) => FOUND.get_or_try_init(|| try_box(api)).ok(),
        None => {
            ABSENT.store(loads, Ordering::Relaxed);
            None
        }
    }
}

fn needed(what: &'static str) -> Result<&'static Api> {
    loaded().ok_or(Error::Pmem2Missing(what))
}

#[cfg(not(miri))]
fn linked() -> Option<Api> {
    unsafe extern "C" {
        static pmemset_weak_pmem2: [usize; NAMES.len()];
    }
    // SAFETY: the table above has as many words, and nobody writes to it once the program has been loaded.
    let table = unsafe { &pmemset_weak_pmem2 };
    Api::of(|i| table[i])
}

#[cfg(miri)]
fn linked() -> Option<Api> {
    None
}

/// What a handle of the loader leads to.
fn in_scope(handle: *mut c_void) -> Option<Api> {
    // SAFETY: the names are C strings, and the handle is open.
    Api::of(|i| unsafe { libc::dlsym(handle, NAMES[i].as_ptr().cast()) } as usize)
}

/// What an object that is loaded already defines or depends on. It stays loaded if that is libpmem2.
fn in_object(name: &CStr) -> Option<Api> {
    // SAFETY: a C string; nothing is loaded by this.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
    if handle.is_null() {
        return None;
    }
    let api = in_scope(handle);
    if api.is_none() {
        // SAFETY: opened above.
        unsafe { libc::dlclose(handle) };
    }
    api
}

fn in_any_object() -> Option<Api> {
    let mut nth = Nth {
        skip: 0,
        found: false,
        name: [0; libc::PATH_MAX as usize],
    };
    for index in 0.. {
        nth.skip = index;
        nth.found = false;
        // SAFETY: the callback gets what it expects. It only copies a name: it runs with a lock of the loader held.
        unsafe { libc::dl_iterate_phdr(Some(copy_name), (&raw mut nth).cast()) };
        if !nth.found {
            return None;
        }
        // The program itself has no name, and has been looked at.
        let name = CStr::from_bytes_until_nul(&nth.name)
            .ok()
            .filter(|name| !name.is_empty());
        if let Some(api) = name.and_then(in_object) {
            return Some(api);
        }
    }
    None
}

struct Nth {
    skip: usize,
    found: bool,
    name: [u8; libc::PATH_MAX as usize],
}

unsafe extern "C" fn copy_name(
    info: *mut libc::dl_phdr_info,
    _size: usize,
    nth: *mut c_void,
) -> c_int {
    // SAFETY: both come from in_any_object's call and live across it.
    let (info, nth) = unsafe { (&*info, &mut *nth.cast::<Nth>()) };
    if nth.skip > 0 {
        nth.skip -= 1;
        return 0;
    }
    nth.found = true;
    nth.name[0] = 0;
    if !info.dlpi_name.is_null() {
        // SAFETY: the loader's own C string.
        let name = unsafe { CStr::from_ptr(info.dlpi_name) }.to_bytes_with_nul();
        if let Some(room) = nth.name.get_mut(..name.len()) {
            room.copy_from_slice(name);
        }
    }
    1
}

/// How many objects the loader has loaded, ever; 0 where it does not say.
fn count_loads() -> u64 {
    unsafe extern "C" fn first(
        info: *mut libc::dl_phdr_info,
        size: usize,
        loads: *mut c_void,
    ) -> c_int {
        if size >= size_of::<libc::dl_phdr_info>() {
            // SAFETY: the structure is as large as it is known here; the other comes from the call below.
            unsafe { *loads.cast::<u64>() = (*info).dlpi_adds };
        }
        1
    }
    let mut loads = 0u64;
    // SAFETY: the callback gets what it expects.
    unsafe { libc::dl_iterate_phdr(Some(first), (&raw mut loads).cast()) };
    loads
}

impl Api {
    /// What a failure of a call of it is here.
    fn error(&self, call: &'static str, code: c_int) -> Error {
        match code {
            E_INVALID_FILE_HANDLE => Error::Pmem2Errno(call, libc::EBADF),
            E_NO_ACCESS => Error::Pmem2Errno(call, libc::EACCES),
            code if code > E_UNKNOWN && code < 0 => Error::Pmem2Errno(call, -code),
            code => {
                // SAFETY: a C string of libpmem2's for this thread, until its next call there.
                let text = unsafe { CStr::from_ptr((self.pmem2_errormsg)()) };
                Error::Pmem2(call, code, Name::from(text))
            }
        }
    }

    fn check(&self, call: &'static str, code: c_int) -> Result<()> {
        match code {
            0 => Ok(()),
            code => Err(self.error(call, code)),
        }
    }
}

// ---- sources -------------------------------------------------------------------------------------------------------

/// What a libpmem2 source of the caller's is like.
pub(crate) struct SourceFacts {
    pub fd: c_int,
    pub alignment: usize,
}

/// Asks libpmem2 about a source.
///
/// # Safety
/// The pointer must be a source of the libpmem2 in this process, not deleted yet.
pub(crate) unsafe fn source_facts(source: NonNull<c_void>) -> Result<SourceFacts> {
    let api = needed("a libpmem2 source")?;
    let mut fd = -1;
    // SAFETY: as the caller promises.
    match unsafe { (api.pmem2_source_get_fd)(source.as_ptr(), &mut fd) } {
        E_FILE_DESCRIPTOR_NOT_SET => {
            return Err(Error::InvalidPmem2Source("it has no file behind it"));
        }
        code => api.check("pmem2_source_get_fd", code)?,
    }
    let mut alignment = 0;
    // SAFETY: as the caller promises.
    let code = unsafe { (api.pmem2_source_alignment)(source.as_ptr(), &mut alignment) };
    api.check("pmem2_source_alignment", code)?;
    Ok(SourceFacts { fd, alignment })
}

/// A libpmem2 source of our own. The descriptor stays its owner's.
pub(crate) struct Source {
    api: &'static Api,
    this: NonNull<c_void>,
}

// SAFETY: nothing changes a source between its making and its end.
unsafe impl Send for Source {}
// SAFETY: as above.
unsafe impl Sync for Source {}

impl Source {
    /// A source of an open file; `None` without libpmem2.
    pub(crate) fn from_fd(fd: c_int) -> Result<Option<Source>> {
        let Some(api) = loaded() else {
            return Ok(None);
        };
        let mut source = null_mut();
        // SAFETY: the result goes to a variable of ours.
        let code = unsafe { (api.pmem2_source_from_fd)(&mut source, fd) };
        api.check("pmem2_source_from_fd", code)?;
        Ok(NonNull::new(source).map(|this| Source { api, this }))
    }

    /// As a program sees it.
    pub(crate) fn as_raw(&self) -> usize {
        self.this.as_ptr() as usize
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let mut source = self.this.as_ptr();
        // SAFETY: made by from_fd, and gone after this.
        unsafe { (self.api.pmem2_source_delete)(&mut source) };
    }
}

// ---- reservations --------------------------------------------------------------------------------------------------

/// A reservation of the caller's. libpmem2 changes it under a lock and searches it without: callers serialise all calls
/// about one reservation.
pub(crate) struct Reservation {
    api: &'static Api,
    this: NonNull<c_void>,
}

// SAFETY: only used as its documentation says.
unsafe impl Send for Reservation {}
// SAFETY: as above.
unsafe impl Sync for Reservation {}

impl Reservation {
    /// # Safety
    /// The address must be that of a reservation of the libpmem2 in this process, which lives as long as this object is
    /// used, and which nobody changes meanwhile in other threads.
    pub(crate) unsafe fn new(address: usize) -> Result<Reservation> {
        let api = needed("a libpmem2 reservation")?;
        let this = NonNull::new(address as *mut c_void)
            .ok_or(Error::InvalidArgument("the reservation is NULL"))?;
        Ok(Reservation { api, this })
    }

    /// Its address, which tells it from others.
    pub(crate) fn as_raw(&self) -> usize {
        self.this.as_ptr() as usize
    }

    /// The first address and the size that it has now.
    pub(crate) fn extent(&self) -> (usize, usize) {
        let this = self.this.as_ptr();
        // SAFETY: as promised to `new`.
        unsafe {
            (
                (self.api.pmem2_vm_reservation_get_address)(this) as usize,
                (self.api.pmem2_vm_reservation_get_size)(this),
            )
        }
    }

    /// The lowest mapping that has an address in a range of the reservation: its address and size.
    pub(crate) fn mapping_in(&self, start: usize, len: usize) -> Result<Option<(usize, usize)>> {
        let (base, _) = self.extent();
        let mut map = null_mut();
        // SAFETY: as promised to `new`.
        let code = unsafe {
            (self.api.pmem2_vm_reservation_map_find)(
                self.this.as_ptr(),
                start.wrapping_sub(base),
                len,
                &mut map,
            )
        };
        if code == E_MAPPING_NOT_FOUND {
            return Ok(None);
        }
        self.api.check("pmem2_vm_reservation_map_find", code)?;
        // SAFETY: a mapping that is in the reservation, and stays there as promised to `new`.
        unsafe {
            Ok(Some((
                (self.api.pmem2_map_get_address)(map) as usize,
                (self.api.pmem2_map_get_size)(map),
            )))
        }
    }

    /// Maps a range of a source. `None` when somebody else has some of the addresses now.
    pub(crate) fn map(
        &self,
        source: &Source,
        at: usize,
        len: usize,
        offset: u64,
        required: Granularity,
    ) -> Result<Option<Map>> {
        let api = self.api;
        let (base, _) = self.extent();
        check_keys()?;
        let mut config = null_mut();
        // SAFETY: the result goes to a variable of ours.
        let code = unsafe { (api.pmem2_config_new)(&mut config) };
        api.check("pmem2_config_new", code)?;
        let mut map = null_mut();
        // SAFETY: the config was made above and nobody else has it; the reservation is as promised to `new`.
        let code = unsafe {
            let mut code =
                (api.pmem2_config_set_required_store_granularity)(config, required as c_int);
            if code == 0 {
                code = (api.pmem2_config_set_offset)(config, offset as usize);
            }
            if code == 0 {
                code = (api.pmem2_config_set_length)(config, len);
            }
            if code == 0 {
                let place = at.wrapping_sub(base);
                code = (api.pmem2_config_set_vm_reservation)(config, self.this.as_ptr(), place);
            }
            if code == 0 {
                code = (api.pmem2_map_new)(&mut map, config, source.this.as_ptr());
            }
            code
        };
        // What failed is said before another call says something else.
        let result = match code {
            E_MAPPING_EXISTS => Ok(None),
            E_LENGTH_OUT_OF_RANGE => Err(Error::CannotFit(len)),
            code if code == -libc::ENOMEM => Err(Error::NoRoom(len, libc::ENOMEM)),
            code => api
                .check("pmem2_map_new", code)
                .map(|()| NonNull::new(map).map(|this| Map { api, this })),
        };
        // SAFETY: made above.
        unsafe { (api.pmem2_config_delete)(&mut config) };
        result
    }
}

/// libpmem2 1.12 makes a key for thread-specific data with each mapping and does not look whether it got one: beyond
/// PTHREAD_KEYS_MAX (1024) the end of such a mapping deletes the key of somebody else. So none is made then. Versions that
/// take no keys never get there.
fn check_keys() -> Result<()> {
    let mut key: libc::pthread_key_t = 0;
    // SAFETY: a key of our own, without a destructor, gone at once.
    unsafe {
        match libc::pthread_key_create(&mut key, None) {
            0 => {
                libc::pthread_key_delete(key);
                Ok(())
            }
            errno => Err(Error::System(
                "map in the reservation, for lack of a pthread key for libpmem2",
                errno,
            )),
        }
    }
}

/// A mapping of ours in a reservation. It stays when this is dropped; [`delete`](Self::delete) ends it.
pub(crate) struct Map {
    api: &'static Api,
    this: NonNull<c_void>,
}

impl Map {
    pub(crate) fn extent(&self) -> (usize, usize) {
        // SAFETY: a mapping that `Reservation::map` has made and `delete` has not ended.
        unsafe {
            (
                (self.api.pmem2_map_get_address)(self.this.as_ptr()) as usize,
                (self.api.pmem2_map_get_size)(self.this.as_ptr()),
            )
        }
    }

    /// The store granularity that libpmem2 has found.
    pub(crate) fn granularity(&self) -> Option<Granularity> {
        // SAFETY: as above.
        let value = unsafe { (self.api.pmem2_map_get_store_granularity)(self.this.as_ptr()) };
        Granularity::from_raw(value as u32)
    }

    /// Unmaps it and leaves nothing; after a failure everything is as it was.
    pub(crate) fn delete(slot: &mut Option<Map>) -> Result<()> {
        let Some(Map { api, this }) = slot else {
            return Ok(());
        };
        let mut map = this.as_ptr();
        // SAFETY: as above; nobody has it any more after a success.
        let code = unsafe { (api.pmem2_map_delete)(&mut map) };
        api.check("pmem2_map_delete", code)?;
        *slot = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_without_libpmem2_has_none_and_hears_so_each_time() {
        for _ in 0..3 {
            assert!(Source::from_fd(0).is_ok_and(|source| source.is_none()));
            assert!(matches!(
                needed("a test"),
                Err(Error::Pmem2Missing("a test"))
            ));
        }
        assert_ne!(count_loads(), 0);
    }

    #[test]
    fn every_object_is_looked_at() {
        // libc is there under its name and defines no libpmem2.
        assert!(in_object(c"libc.so.6").is_none());
        assert!(in_any_object().is_none());
        assert!(
            NAMES
                .iter()
                .all(|n| n.starts_with("pmem2_") && n.ends_with('\0'))
        );
    }
}
