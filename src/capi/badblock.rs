//! pmemset_badblock_clear(3).

use std::ffi::c_int;

use super::types::*;
use super::{Variable, call, code, object};
use crate::source::badblock::BadBlock;

/// Makes a range that cannot be read readable again; what it held is lost.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pmemset_badblock_clear(
    bb: *mut pmemset_badblock,
    src: *mut pmemset_source,
) -> c_int {
    code(call!(
        BASIC,
        "pmemset_badblock_clear",
        ("{bb:p}, {src:p}"),
        {
            // SAFETY: the caller's promises.
            let bad = unsafe { Variable::arg(bb, "bb")?.load() };
            // SAFETY: the caller's promises.
            let source = unsafe { object(src, "src")? };
            source.clear_bad_block(BadBlock {
                offset: bad.offset,
                length: bad.length,
            })
        }
    ))
}
