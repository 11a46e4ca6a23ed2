//! Where a file is stored, and repairs of that.

use std::os::fd::RawFd;

use super::{SysResult, check, write_at};

/// Where a range of a file is stored.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct StoredExtent {
    pub logical: u64,
    pub physical: u64,
    pub length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// The kernel's struct fiemap, with room for some extents.
#[repr(C)]
#[derive(Default)]
struct ExtentMap {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    extents: [StoredExtent; 16],
}

const LAST_EXTENT: u32 = 0x1;

impl ExtentMap {
    fn read(fd: RawFd, start: u64, length: u64, flags: u32) -> SysResult<ExtentMap> {
        const FS_IOC_FIEMAP: libc::c_ulong = 0xC020_660B;
        let mut map = ExtentMap {
            start,
            length,
            flags,
            count: 16,
            ..Default::default()
        };
        // SAFETY: the structure is the kernel's struct fiemap with room for as many extents as it says.
        super::uninterrupted(|| check(unsafe { libc::ioctl(fd, FS_IOC_FIEMAP as _, &mut map) }))?;
        map.mapped = map.mapped.min(16);
        Ok(map)
    }

    fn extents(&self) -> &[StoredExtent] {
        &self.extents[..self.mapped as usize]
    }
}

/// Visits what of a range of a file is not stored in blocks that count as written, and so reads as zeros from the medium,
/// until told to stop by false.
pub(crate) fn each_unwritten(
    fd: RawFd,
    offset: u64,
    len: usize,
    visit: &mut dyn FnMut(u64, usize) -> bool,
) -> SysResult<()> {
    const UNKNOWN_DELALLOC_OR_UNWRITTEN: u32 = 0x2 | 0x4 | 0x800;
    let (mut at, end) = (offset, offset + len as u64);
    let mut rest = |from: u64, to: u64| from >= to || visit(from, (to - from) as usize);
    while at < end {
        let map = ExtentMap::read(fd, at, end - at, 0)?;
        let mut last = map.mapped == 0;
        for e in map.extents() {
            let (from, to) = (e.logical.max(at), (e.logical + e.length).min(end));
            let unwritten = e.flags & UNKNOWN_DELALLOC_OR_UNWRITTEN != 0;
            if !rest(at, from.min(end)) || (unwritten && !rest(from, to)) {
                return Ok(());
            }
            at = to.max(at);
            last |= e.flags & LAST_EXTENT != 0;
        }
        if last {
            rest(at, end);
            return Ok(());
        }
    }
    Ok(())
}

/// Visits the parts of a range of a file that have blocks, written or not.
pub(crate) fn each_allocated(
    fd: RawFd,
    offset: u64,
    len: usize,
    visit: &mut dyn FnMut(u64, usize),
) -> SysResult<()> {
    let (mut at, end) = (offset, offset + len as u64);
    while at < end {
        let map = ExtentMap::read(fd, at, end - at, 0)?;
        let mut last = map.mapped == 0;
        for e in map.extents() {
            let (from, to) = (e.logical.clamp(at, end), (e.logical + e.length).min(end));
            if from < to {
                visit(from, (to - from) as usize);
            }
            at = to.max(at);
            last |= e.flags & LAST_EXTENT != 0;
        }
        if last {
            break;
        }
    }
    Ok(())
}

/// Visits, in the order of the file, what is stored at a known place of the device, until told to stop by false.
pub(crate) fn each_extent(
    fd: RawFd,
    visit: &mut dyn FnMut(&StoredExtent) -> bool,
) -> SysResult<()> {
    const SYNC: u32 = 0x1;
    /// Unknown, delayed, encoded, not aligned to blocks, inline, in a block with others.
    const NOT_IN_PLACE: u32 = 0x2 | 0x4 | 0x8 | 0x100 | 0x200 | 0x400;
    let mut at = 0;
    loop {
        let map = ExtentMap::read(fd, at, u64::MAX - at, SYNC)?;
        let mut next = at;
        for e in map.extents() {
            if e.flags & NOT_IN_PLACE == 0 && !visit(e) {
                return Ok(());
            }
            next = e.logical.saturating_add(e.length);
            if e.flags & LAST_EXTENT != 0 {
                return Ok(());
            }
        }
        if next <= at {
            return Ok(());
        }
        at = next;
    }
}

/// Gives the blocks of a range of a file back and allocates it anew; it reads as zeros. The file's size stays.
pub(crate) fn reallocate(fd: RawFd, offset: u64, len: u64) -> SysResult<()> {
    const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
    for mode in [libc::FALLOC_FL_PUNCH_HOLE | KEEP, KEEP] {
        super::uninterrupted(|| {
            // SAFETY: no pointers involved.
            check(unsafe { libc::fallocate(fd, mode, offset as i64, len as i64) })
        })?;
    }
    Ok(())
}

/// Writes zeros to a range of a file.
pub(crate) fn write_zeros(fd: RawFd, offset: u64, len: u64) -> SysResult<()> {
    let zeros = [0u8; 4096];
    let mut done = 0;
    while done < len {
        let n = (len - done).min(zeros.len() as u64);
        // SAFETY: the array is valid for its length.
        unsafe { write_at(fd, zeros.as_ptr(), n as usize, offset + done)? };
        done += n;
    }
    Ok(())
}

/// Has a bus of persistent memory clear the errors of a range of physical addresses.
pub(crate) fn clear_error(bus: RawFd, address: u64, length: u64) -> SysResult<()> {
    /// The kernel's struct nd_cmd_clear_error.
    #[repr(C, packed)]
    struct Clear {
        address: u64,
        length: u64,
        status: u32,
        reserved: [u8; 4],
        cleared: u64,
    }
    /// _IOWR('N', 4, struct nd_cmd_clear_error)
    const ND_IOCTL_CLEAR_ERROR: libc::c_ulong = 0xC020_4E04;
    const _: () = assert!(size_of::<Clear>() == 0x20);
    let mut clear = Clear {
        address,
        length,
        status: 0,
        reserved: [0; 4],
        cleared: 0,
    };
    // SAFETY: the structure is the kernel's.
    check(unsafe { libc::ioctl(bus, ND_IOCTL_CLEAR_ERROR as _, &mut clear) })?;
    if clear.status != 0 || clear.cleared < length {
        return Err(libc::EIO);
    }
    Ok(())
}
