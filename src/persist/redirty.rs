//! Making pages dirty again that the kernel counts as clean after a write of them was lost, without changing a byte.

use std::os::fd::RawFd;

use super::dirty::PageSet;
use super::range::is_zero;
use crate::file::OpenFile;
use crate::sys::{self, SysResult};

/// Makes dirty what is in memory of some pages of a range of a file, which is no longer than a [`PageSet`]. What is not in memory
/// is on the medium, or gone. Over a hole of the file only pages are made dirty that are not all zeros, if they are `lost` or the
/// program has touched them: zeros are what the medium gives back for them, and the hole is not filled. Returns which pages are
/// dirty now.
pub(crate) fn pages(
    file: &OpenFile,
    (addr, offset, len): (usize, u64, usize),
    wanted: &PageSet,
    lost: &PageSet,
) -> SysResult<PageSet> {
    let page = sys::page_size();
    let count = len / page;
    let mut resident = [1u8; PageSet::PAGES];
    match sys::resident(addr, len, &mut resident[..count]) {
        // The part is being removed by another thread.
        Err(libc::ENOMEM) => return Ok(PageSet::default()),
        Err(errno) if !sys::is_refused(errno) => return Err(errno),
        _ => {}
    }
    let pinned = file.pin();
    let fd = pinned.as_ref().map(|pinned| pinned.fd());
    let data = fd.and_then(|fd| data_of(fd, offset, count));
    let mut mapped = None;
    let mut made = PageSet::default();
    for i in (0..count).filter(|i| wanted.has(*i) && resident[*i] & 1 != 0) {
        let over_data = data.is_none_or(|data| data.has(i));
        let stored = || {
            let mapped = mapped.get_or_insert_with(|| mapped_pages(addr, count));
            let offset = offset + (i * page) as u64;
            match fd.and_then(|fd| is_zero_in_memory(fd, offset, page)) {
                Some(zero) => !zero && (mapped.has(i) || lost.has(i)),
                // Reading it would read what is behind it, too, and that would count as in memory then.
                None => mapped.has(i) && !fd.is_some_and(|fd| is_zero(fd, offset, page)),
            }
        };
        if over_data || { stored }() {
            made.add(i);
        }
    }
    for (first, pages) in made.runs() {
        let at = addr + first * page;
        match sys::make_dirty(at, pages * page) {
            // Kernels before 5.14 do not know how, and sandboxes may refuse it.
            Err(errno) if sys::is_refused(errno) => {
                (0..pages).try_for_each(|i| sys::add_nothing(at + i * page))?;
            }
            made => made?,
        }
    }
    Ok(made)
}

/// Which pages of a file have blocks behind them; `None` where that cannot be found out.
fn data_of(fd: RawFd, offset: u64, count: usize) -> Option<PageSet> {
    let page = sys::page_size();
    let mut found = PageSet::default();
    sys::each_allocated(fd, offset, count * page, &mut |from, len| {
        let first = (from - offset) as usize;
        for i in first / page..(first + len).div_ceil(page) {
            found.add(i);
        }
    })
    .ok()?;
    Some(found)
}

/// Whether a page of a file is all zeros; `None` where that cannot be said without reading it from the medium.
fn is_zero_in_memory(fd: RawFd, offset: u64, len: usize) -> Option<bool> {
    let mut buffer = [0u8; 512];
    let mut at = 0;
    while at < len {
        let n = (len - at).min(buffer.len());
        match sys::read_cached(fd, &mut buffer[..n], offset + at as u64).ok()? {
            0 => break,
            got if buffer[..got].iter().all(|b| *b == 0) => at += got,
            _ => return Some(false),
        }
    }
    Some(true)
}

/// Which pages of a range the program has touched; all, where the kernel does not show that.
fn mapped_pages(addr: usize, count: usize) -> PageSet {
    let mut found = PageSet::default();
    for first in (0..count).step_by(64) {
        let mut words = [1u64 << 63; 64];
        let some = (count - first).min(64);
        let _ = sys::mapped_pages(addr + first * sys::page_size(), &mut words[..some]);
        for i in (0..some).filter(|i| words[*i] >> 63 != 0) {
            found.add(first + i);
        }
    }
    found
}
