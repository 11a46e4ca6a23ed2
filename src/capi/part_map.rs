//! Finding and removing part maps.

use std::ffi::{c_int, c_void};
use std::ptr::{NonNull, null_mut};

use super::types::*;
use super::{Variable, behind, call, code, descriptor, object, quick_call, range_arg, set_arg};
use crate::error::Result;
use crate::set::Extent;
use crate::set::part_map::Slot;

/// Stores what a search for a part map has found, or NULL.
///
/// # Safety
/// `pmap` is NULL or points to a pointer.
unsafe fn found(
    pmap: *mut *mut pmemset_part_map,
    name: &'static str,
    find: impl FnOnce() -> Result<Option<NonNull<Slot>>>,
) -> Result<Option<NonNull<Slot>>> {
    // SAFETY: as the caller promises.
    let out = unsafe { Variable::arg(pmap, name)? };
    out.store(null_mut());
    let found = find()?;
    out.store(found.map_or(null_mut(), |slot| slot.as_ptr().cast()));
    Ok(found)
}

fn extent_of(slot: &Slot) -> Extent {
    Extent {
        addr: slot.start(),
        len: slot.size(),
    }
}

/// Stores a reference to the set's first part map in address order, or NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_first_part_map(
    set: *mut pmemset,
    pmap: *mut *mut pmemset_part_map,
) {
    let _ = quick_call!(CALLS, "pmemset_first_part_map", ("{set:p}, {pmap:p}"), {
        // SAFETY: the caller's promises.
        unsafe { found(pmap, "pmap", || set_arg(set)?.core().find_above(0)) }
    });
}

/// Stores a reference to the part map behind another in address order, or NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_next_part_map(
    set: *mut pmemset,
    cur: *mut pmemset_part_map,
    next: *mut *mut pmemset_part_map,
) {
    let _ = quick_call!(
        CALLS,
        "pmemset_next_part_map",
        ("{set:p}, {cur:p}, {next:p}"),
        {
            // SAFETY: the caller's promises: a reference keeps the current part map.
            unsafe {
                found(next, "next", || {
                    let set = set_arg(set)?;
                    set.core().find_above(object(cur, "cur")?.start())
                })
            }
        }
    );
}

/// Stores a reference to the part map that contains an address, or NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_part_map_by_address(
    set: *mut pmemset,
    pmap: *mut *mut pmemset_part_map,
    addr: *mut c_void,
) -> c_int {
    code(quick_call!(
        CALLS,
        "pmemset_part_map_by_address",
        ("{set:p}, {pmap:p}, {addr:p}"),
        {
            // SAFETY: the caller's promises.
            unsafe {
                found(pmap, "pmap", || {
                    let set = set_arg(set)?;
                    range_arg(addr, 1, "addr")?;
                    set.core().find(addr as usize).map(Some)
                })
            }
        }
    ))
}

/// Returns the address and size of a part map; of NULL, nothing of size 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_descriptor_part_map(
    pmap: *mut pmemset_part_map,
) -> pmemset_part_descriptor {
    let extent = quick_call!(CALLS, "pmemset_descriptor_part_map", ("{pmap:p}"), {
        // SAFETY: the caller's reference keeps the slot.
        Ok(extent_of(unsafe { object(pmap, "pmap")? }))
    });
    descriptor(extent.unwrap_or(Extent { addr: 0, len: 0 }))
}

/// Gives a reference to a part map back and sets the pointer to NULL; the set may be deleted already.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_part_map_drop(pmap: *mut *mut pmemset_part_map) {
    let _ = quick_call!(CALLS, "pmemset_part_map_drop", ("{pmap:p}"), {
        // SAFETY: the caller's promises.
        let out = unsafe { Variable::arg(pmap, "pmap")? };
        let old = out.load();
        out.store(null_mut());
        if let Ok(slot) = behind(old, "*pmap") {
            // SAFETY: the reference that is given back keeps the slot.
            unsafe { Slot::drop_reference(slot) };
        }
        Ok(old)
    });
}

/// Removes a part map to which the caller has the only reference, and sets the pointer to NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_remove_part_map(
    set: *mut pmemset,
    part: *mut *mut pmemset_part_map,
) -> c_int {
    code(call!(
        BASIC,
        "pmemset_remove_part_map",
        ("{set:p}, {part:p}"),
        {
            // SAFETY: the caller's promises.
            let set = unsafe { set_arg(set)? };
            // SAFETY: the caller's promises.
            let out = unsafe { Variable::arg(part, "part")? };
            let slot = behind(out.load(), "*part")?;
            // SAFETY: the caller's reference keeps the slot.
            let extent = extent_of(unsafe { slot.as_ref() });
            set.remove_slot(slot)?;
            out.store(null_mut());
            Ok(extent)
        }
    ))
}

/// Removes every part that has a byte in a range, all of them or none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_remove_range(
    set: *mut pmemset,
    addr: *mut c_void,
    len: usize,
) -> c_int {
    code(call!(
        BASIC,
        "pmemset_remove_range",
        ("{set:p}, {addr:p}, {len}"),
        {
            // SAFETY: the caller's promises.
            unsafe { set_arg(set) }.and_then(|set| {
                range_arg(addr, len, "addr")?;
                set.remove_range(addr as usize, len)
            })
        }
    ))
}

#[cfg(all(test, not(any(loom, miri))))]
mod tests {
    use std::ffi::CStr;

    use super::super::error::pmemset_errormsg;
    use super::*;
    use crate::set::{Part, Set};
    use crate::{Config, Error, Granularity, Source};

    #[test]
    fn a_walk_that_cannot_go_on_says_so() {
        let page = crate::sys::page_size();
        let mut config = Config::new();
        config.set_required_granularity(Granularity::Page);
        let set = Set::new(&config).unwrap();
        let source = Source::temporary(c".").unwrap();
        let part = Part::new(&source, 0, page).unwrap();
        let mut at: Vec<usize> = (0..3).map(|_| set.map(&part).unwrap().addr).collect();
        at.sort_unstable();
        let this: *mut pmemset = set.as_raw().as_ptr().cast();
        let middle = set.core().find(at[1]).unwrap();
        let message = || {
            // SAFETY: this thread's message.
            unsafe { CStr::from_ptr(pmemset_errormsg()) }
                .to_str()
                .unwrap()
        };
        // SAFETY: the set lives, and every reference that is used has been taken.
        unsafe {
            let (mut first, mut next) = (null_mut(), null_mut());
            pmemset_first_part_map(this, &mut first);
            let full = middle.as_ref().take_all();
            let error = Error::TooManyReferences(at[1]);
            assert_eq!(
                pmemset_part_map_by_address(this, &mut next, at[1] as *mut c_void),
                error.code()
            );
            assert!(next.is_null());
            super::super::error::set_message(&Error::NullPath);
            next = first;
            pmemset_next_part_map(this, first, &mut next);
            assert!(next.is_null());
            assert_eq!(message(), error.to_string());
            assert!(set.part_maps().count() == 1 && set.part_map(at[2]).is_ok());
            middle.as_ref().give_all_but(full);
            pmemset_next_part_map(this, first, &mut next);
            assert_eq!(next.cast(), middle.as_ptr());
            assert_eq!(set.part_maps().count(), 3);
            for mut map in [first, next, middle.as_ptr().cast()] {
                pmemset_part_map_drop(&mut map);
            }
        }
        set.delete().unwrap();
    }
}
