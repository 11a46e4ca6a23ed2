//! Facts about persistent memory that the kernel publishes in sysfs.

use std::ffi::CStr;
use std::io::Write;
use std::os::fd::AsRawFd;

use super::region::{Region, SYS};
use crate::sys;

const PATH: usize = 160;

/// A path in sysfs, on the stack.
pub(crate) struct Path([u8; PATH]);

impl Path {
    pub(crate) fn new(args: std::fmt::Arguments<'_>) -> Option<Path> {
        let mut bytes = [0; PATH];
        let mut room = &mut bytes[..PATH - 1];
        room.write_fmt(args).ok()?;
        Some(Path(bytes))
    }

    pub(crate) fn as_cstr(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or(c"")
    }
}

/// A small file of sysfs: one line, trimmed, in the caller's buffer.
pub(super) fn line<'a>(path: std::fmt::Arguments<'_>, buffer: &'a mut [u8]) -> Option<&'a str> {
    let text = sys::read_small(Path::new(path)?.as_cstr(), buffer).ok()?;
    // What does not fit is nothing that is expected there.
    let whole = text.ends_with(b"\n").then(|| text.trim_ascii())?;
    std::str::from_utf8(whole).ok().filter(|t| !t.is_empty())
}

pub(super) fn number(path: std::fmt::Arguments<'_>) -> Option<u64> {
    let mut buffer = [0; 40];
    let text = line(path, &mut buffer)?;
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// The size and alignment of a device DAX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeviceDax {
    pub size: u64,
    pub align: u64,
}

impl DeviceDax {
    /// The device DAX with this number; `None` when the device is something else.
    pub(crate) fn of(rdev: u64) -> Option<DeviceDax> {
        let (major, minor) = (libc::major(rdev), libc::minor(rdev));
        let mut buffer = [0; 256];
        let subsystem = Path::new(format_args!("/sys/dev/char/{major}:{minor}/subsystem"))?;
        let link = sys::read_link(subsystem.as_cstr(), &mut buffer).ok()?;
        if !link.ends_with(b"/dax") {
            return None;
        }
        let size = number(format_args!("/sys/dev/char/{major}:{minor}/size"))?;
        // Older kernels publish the alignment with the region only.
        let align = number(format_args!("/sys/dev/char/{major}:{minor}/align"))
            .or_else(|| number(format_args!("/sys/dev/char/{major}:{minor}/device/align")))
            .unwrap_or(2 << 20);
        Some(DeviceDax { size, align })
    }
}

/// The number of the persistent-memory region that a device (of a file system, or device DAX) is in.
pub(crate) fn region_of(dev: u64, character: bool) -> Option<u32> {
    Region::of(SYS, dev, character).map(|region| region.number)
}

/// Whether the platform flushes CPU caches to this region when the power fails. One with memory of
/// several kinds need not do so for all of them.
pub(crate) fn caches_survive_power_failure(region: u32) -> bool {
    caches_survive(SYS, region)
}

fn caches_survive(root: &str, region: u32) -> bool {
    let mut buffer = [0; 32];
    let domain = line(
        format_args!("{root}/bus/nd/devices/region{region}/persistence_domain"),
        &mut buffer,
    );
    domain == Some("cpu_cache")
}

/// Asks the region to write what its platform buffers hold to the medium. `false`: nothing was
/// done, since the control is missing or not ours to write. It usually belongs to root.
pub(crate) fn deep_flush_region(region: u32) -> sys::SysResult<bool> {
    deep_flush(SYS, region)
}

fn deep_flush(root: &str, region: u32) -> sys::SysResult<bool> {
    let Some(path) = Path::new(format_args!(
        "{root}/bus/nd/devices/region{region}/deep_flush"
    )) else {
        return Err(libc::EINVAL);
    };
    let written = sys::open(path.as_cstr(), libc::O_WRONLY, 0)
        .and_then(|fd| sys::write_all(fd.as_raw_fd(), b"1"));
    match written {
        Ok(()) => Ok(true),
        Err(
            libc::ENOENT
            | libc::ENOTDIR
            | libc::ENODEV
            | libc::ENXIO
            | libc::EACCES
            | libc::EPERM
            | libc::EROFS,
        ) => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::super::region::tests::Tree;
    use super::*;

    #[test]
    fn only_the_region_of_the_device_says_whether_caches_survive() {
        let tree = Tree::new();
        let domain = |region: u32, text: &str| {
            tree.write(
                &format!("bus/nd/devices/region{region}/persistence_domain"),
                text,
            );
        };
        let number = tree.region(false).unwrap().number;
        assert_eq!(number, 3);
        assert!(!caches_survive(tree.root, 3), "nothing is known");
        domain(0, "cpu_cache\n");
        assert!(!caches_survive(tree.root, 3), "another one's");
        for text in ["", "\n", "memory_controller\n", "cpu_cache and more\n"] {
            domain(3, text);
            assert!(!caches_survive(tree.root, 3), "{text}");
        }
        domain(0, "memory_controller\n");
        domain(1, "\n");
        domain(3, "cpu_cache\n");
        assert!(caches_survive(tree.root, 3));
        assert!(!caches_survive(tree.root, 0) && !caches_survive(tree.root, 1));
    }

    #[test]
    fn a_deep_flush_that_was_not_done_is_told() {
        let tree = Tree::new();
        let control = "bus/nd/devices/region3/deep_flush";
        assert_eq!(deep_flush(tree.root, 3), Ok(false), "no control");
        assert_eq!(deep_flush(tree.root, 8), Ok(false), "no region");
        tree.write(control, "");
        assert_eq!(deep_flush(tree.root, 3), Ok(true));
        assert_eq!(std::fs::read(tree.path(control)).unwrap(), b"1");
        std::fs::remove_file(tree.path(control)).unwrap();
        std::os::unix::fs::symlink("/dev/full", tree.path(control)).unwrap();
        assert_eq!(deep_flush(tree.root, 3), Err(libc::ENOSPC));
        std::fs::remove_file(tree.path(control)).unwrap();
        // What even root may not write to.
        std::os::unix::fs::symlink("/sys/devices/system/cpu/possible", tree.path(control)).unwrap();
        assert_eq!(deep_flush(tree.root, 3), Ok(false), "not ours to write");
    }
}
