//! Bad blocks: ranges of a source that its medium cannot give back.

use std::os::fd::AsRawFd;

use super::device::Path;
use super::region::{Region, SYS};
use crate::error::{Error, Result};
use crate::file::{Kind, OpenFile};
use crate::mem;
use crate::sys;

/// What the kernel counts bad blocks in.
const SECTOR: u64 = 512;

/// A range of a source that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadBlock {
    /// The first byte, from the start of the source.
    pub offset: usize,
    /// Bytes.
    pub length: usize,
}

/// Ranges of a device: first byte, and the one behind the last.
type Ranges = Vec<(u64, u64)>;

fn unsupported<T>(what: &'static str) -> Result<T> {
    Err(Error::BadBlocksUnsupported(what))
}

/// Reads a list of bad blocks: lines of two numbers, sector and count.
fn parse(path: Option<Path>) -> Result<Option<Ranges>> {
    let Some(path) = path else {
        return Ok(None);
    };
    let fd = match sys::open(path.as_cstr(), libc::O_RDONLY, 0) {
        Ok(fd) => fd,
        Err(libc::ENOENT) => return Ok(None),
        Err(e) => return Err(Error::SystemAt("open", path.as_cstr().into(), e)),
    };
    let mut ranges = Vec::new();
    let mut buffer = [0u8; 4096];
    let mut have = 0;
    loop {
        let got = sys::read(&fd, &mut buffer[have..])
            .map_err(|e| Error::SystemAt("read", path.as_cstr().into(), e))?;
        let end = have + got;
        let mut at = 0;
        while let Some(len) = buffer[at..end].iter().position(|b| *b == b'\n') {
            add_line(&mut ranges, &buffer[at..at + len])?;
            at += len + 1;
        }
        if got == 0 {
            add_line(&mut ranges, &buffer[at..end])?;
            return Ok(Some(ranges));
        }
        buffer.copy_within(at..end, 0);
        have = end - at;
        if have == buffer.len() {
            return unsupported("the kernel's list of them cannot be understood");
        }
    }
}

fn add_line(ranges: &mut Ranges, text: &[u8]) -> Result<()> {
    let Ok(text) = std::str::from_utf8(text) else {
        return unsupported("the kernel's list of them cannot be understood");
    };
    let mut words = text.split_ascii_whitespace();
    let (Some(sector), Some(count), None) = (words.next(), words.next(), words.next()) else {
        return match text.trim() {
            "" => Ok(()),
            _ => unsupported("the kernel's list of them cannot be understood"),
        };
    };
    match (sector.parse::<u64>(), count.parse::<u64>()) {
        (Ok(_), Ok(0)) => Ok(()),
        (Ok(sector), Ok(count)) => mem::try_push(
            ranges,
            (
                sector.saturating_mul(SECTOR),
                sector.saturating_add(count).saturating_mul(SECTOR),
            ),
        ),
        _ => unsupported("the kernel's list of them cannot be understood"),
    }
}

/// Keeps what is in `start..start + size`, counted from there.
fn window(ranges: &mut Ranges, start: u64, size: u64) {
    for r in ranges.iter_mut() {
        *r = (
            r.0.saturating_sub(start),
            r.1.saturating_sub(start).min(size),
        );
    }
    ranges.retain(|r| r.0 < r.1);
}

/// The bad ranges of a region, counted from the device's first byte.
fn of_region(region: &Region) -> Result<Ranges> {
    let Some(mut ranges) = parse(region.badblocks())? else {
        return unsupported("the kernel lists none for the region");
    };
    if !ranges.is_empty() {
        let bounds = region.bounds()?;
        window(&mut ranges, bounds.offset, bounds.size);
    }
    Ok(ranges)
}

/// The bad ranges of the device that a file system is on.
fn of_block_device(region: &Region) -> Result<Ranges> {
    let Some(mut ranges) = parse(region.block_badblocks())? else {
        return of_region(region);
    };
    if let Some(start) = region.partition_start() {
        window(&mut ranges, start.saturating_mul(SECTOR), u64::MAX);
    }
    Ok(ranges)
}

/// Sorts, merges what touches, and says it in bytes of the source.
fn finish(mut found: Ranges) -> Result<Vec<BadBlock>> {
    found.sort_unstable();
    let mut bad: Vec<BadBlock> = Vec::new();
    for (lo, hi) in found {
        let (lo, hi) = (lo as usize, hi as usize);
        match bad.last_mut() {
            Some(last) if lo <= last.offset + last.length => {
                last.length = last.length.max(hi - last.offset);
            }
            _ => mem::try_push(
                &mut bad,
                BadBlock {
                    offset: lo,
                    length: hi - lo,
                },
            )?,
        }
    }
    Ok(bad)
}

impl OpenFile {
    pub(crate) fn bad_blocks(&self) -> Result<Vec<BadBlock>> {
        self.bad_blocks_by(SYS)
    }

    fn bad_blocks_by(&self, root: &'static str) -> Result<Vec<BadBlock>> {
        let region = match (self.region_of_device(root), self.kind) {
            (Some(region), _) => region,
            (None, Kind::File) => return Ok(Vec::new()),
            (None, Kind::DeviceDax(_)) => return Err(Error::RegionNotFound(self.name)),
        };
        if !region.exists() {
            return Err(Error::RegionNotFound(region.name()));
        }
        match self.kind {
            Kind::DeviceDax(dax) => {
                let mut ranges = of_region(&region)?;
                window(&mut ranges, 0, dax.size);
                finish(ranges)
            }
            Kind::File => {
                let bad = of_block_device(&region)?;
                if bad.is_empty() {
                    return Ok(Vec::new());
                }
                self.in_file(&bad)
            }
        }
    }

    /// Which ranges of the file are stored in bad ranges of its device: whole blocks of the file system, since less cannot
    /// be replaced.
    fn in_file(&self, bad: &Ranges) -> Result<Vec<BadBlock>> {
        let size = self.size()?;
        let block = sys::file_system(self.fd()).map_or(sys::page_size(), |(_, size)| size.max(1));
        let block = block as u64;
        let mut found = Vec::new();
        let mut result = Ok(());
        let walked = sys::each_extent(self.fd(), &mut |extent| {
            for (lo, hi) in bad {
                let lo = extent.physical.max(*lo);
                let hi = extent.physical.saturating_add(extent.length).min(*hi);
                if lo >= hi {
                    continue;
                }
                let from = extent.logical + (lo - extent.physical);
                let to = extent.logical + (hi - extent.physical);
                let from = from / block * block;
                let to = to.div_ceil(block).saturating_mul(block).min(size);
                if from < to {
                    result = mem::try_push(&mut found, (from, to));
                }
            }
            result.is_ok()
        });
        result?;
        match walked {
            Ok(()) => finish(found),
            Err(libc::EOPNOTSUPP | libc::ENOTTY | libc::EINVAL) => {
                unsupported("the file system does not say where the file is stored")
            }
            Err(e) => Err(Error::SystemAt("look up the extents of", self.name, e)),
        }
    }

    pub(crate) fn clear_bad_block(&self, bad: BadBlock) -> Result<()> {
        const MOST: usize = i64::MAX as usize;
        if bad.offset > MOST {
            return Err(Error::OffsetOutOfRange(bad.offset));
        }
        if bad.length > MOST {
            return Err(Error::LengthOutOfRange(bad.offset, bad.length));
        }
        self.check_range(bad.offset, bad.length)?;
        if bad.length == 0 {
            return Ok(());
        }
        match self.kind {
            Kind::File => self.replace(bad, SYS),
            Kind::DeviceDax(_) => self.clear_on_bus(bad),
        }
    }

    /// Has the file system put other blocks in the place of the bad ones. It may choose the same: then they have to be
    /// written, which makes the driver clear them.
    fn replace(&self, bad: BadBlock, root: &'static str) -> Result<()> {
        let failed = |e| match e {
            libc::EOPNOTSUPP => {
                Error::BadBlocksUnsupported("the file system cannot replace blocks of a file")
            }
            e => Error::Medium("clear a bad block of", bad.offset, e),
        };
        let fd = self.checked_fd()?;
        let (start, end) = (bad.offset as u64, (bad.offset + bad.length) as u64);
        sys::reallocate(fd, start, bad.length as u64).map_err(failed)?;
        for left in self.bad_blocks_by(root)? {
            let from = start.max(left.offset as u64);
            let to = end.min((left.offset + left.length) as u64);
            if from < to {
                sys::write_zeros(fd, from, to - from).map_err(failed)?;
            }
        }
        let since = self.inode().failures();
        let ticket = self.begin(false);
        let synced = sys::fsync(&ticket, fd);
        ticket.end(synced, since).map_err(failed)
    }

    fn clear_on_bus(&self, bad: BadBlock) -> Result<()> {
        let Some(region) = self.region_of_device(SYS) else {
            return Err(Error::RegionNotFound(self.name));
        };
        if !region.exists() {
            return Err(Error::RegionNotFound(region.name()));
        }
        let bounds = region.bounds()?;
        let failed = |e| match e {
            libc::ENOTTY | libc::EOPNOTSUPP | libc::ENOENT | libc::ENXIO => {
                Error::BadBlocksUnsupported("the device's bus has no command to clear them")
            }
            e => Error::Medium("clear a bad block of", bad.offset, e),
        };
        let bus = region.bus;
        let bus = Path::new(format_args!("/dev/ndctl{bus}"))
            .ok_or(Error::BadBlocksUnsupported("the device's bus is not known"))?;
        let bus = sys::open(bus.as_cstr(), libc::O_RDWR, 0).map_err(failed)?;
        let address = bounds.address.saturating_add(bad.offset as u64);
        sys::clear_error(bus.as_raw_fd(), address, bad.length as u64).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::region::tests::Tree;
    use super::*;

    const BLOCK: &str = "devices/x/ndbus1/region3/pfn3.0/block/pmem3";

    fn bad(tree: &Tree, character: bool) -> Result<Ranges> {
        let region = tree.region(character).unwrap();
        if character {
            of_region(&region)
        } else {
            of_block_device(&region)
        }
    }

    #[test]
    fn a_list_of_any_length() {
        let tree = Tree::new();
        let list = format!("{BLOCK}/badblocks");
        tree.write(&list, "");
        assert_eq!(bad(&tree, false), Ok(vec![]));
        tree.write(&list, "\n");
        assert_eq!(bad(&tree, false), Ok(vec![]));
        tree.write(&list, "8 1\n16 4");
        assert_eq!(bad(&tree, false), Ok(vec![(4096, 4608), (8192, 10240)]));
        let long: String = (0..2000u64).map(|i| format!("{} 2\n", i * 7919)).collect();
        tree.write(&list, &long);
        let ranges = bad(&tree, false).unwrap();
        assert_eq!(ranges.len(), 2000);
        for (i, r) in ranges.iter().enumerate() {
            let start = i as u64 * 7919 * 512;
            assert_eq!(*r, (start, start + 1024));
        }
        for absurd in [
            "8\n",
            "8 1 1\n",
            "-8 1\n",
            "8 1x\n",
            "\u{1F4A5}\n",
            "99999999999999999999 1\n",
        ] {
            tree.write(&list, &format!("8 1\n{absurd}"));
            assert!(
                matches!(bad(&tree, false), Err(Error::BadBlocksUnsupported(_))),
                "{absurd}"
            );
        }
        tree.write(&list, &"9".repeat(9000));
        assert!(matches!(
            bad(&tree, false),
            Err(Error::BadBlocksUnsupported(_))
        ));
        tree.write(&list, "18446744073709551615 18446744073709551615\n3 0\n");
        assert_eq!(bad(&tree, false), Ok(vec![(u64::MAX, u64::MAX)]));
    }

    #[test]
    fn a_partition_counts_from_its_start() {
        let tree = Tree::new();
        tree.write(&format!("{BLOCK}/../badblocks"), "0 5\n7 2\n100 1\n");
        tree.write(&format!("{BLOCK}/partition"), "1\n");
        tree.write(&format!("{BLOCK}/start"), "8\n");
        assert_eq!(bad(&tree, false), Ok(vec![(0, 512), (92 * 512, 93 * 512)]));
    }

    #[test]
    fn a_device_is_part_of_its_region() {
        let tree = Tree::new();
        assert!(matches!(
            bad(&tree, true),
            Err(Error::BadBlocksUnsupported(_))
        ));
        tree.write("bus/nd/devices/region3/badblocks", "\n");
        assert_eq!(
            bad(&tree, true),
            Ok(vec![]),
            "nothing is asked for that is not needed"
        );
        tree.write(
            "bus/nd/devices/region3/badblocks",
            "0 1\n4095 2\n4100 1\n6143 5\n9000 1\n",
        );
        assert!(matches!(bad(&tree, true), Err(Error::CannotReadBounds(_))));
        tree.write("bus/nd/devices/dax3.0/resource", "0x100200000\n");
        tree.write("bus/nd/devices/dax3.0/size", "1048576\n");
        let sector = 512;
        assert_eq!(
            bad(&tree, true),
            Ok(vec![
                (0, sector),
                (4 * sector, 5 * sector),
                (2047 * sector, 2048 * sector)
            ])
        );
        // Without a list of its own a block device has the region's.
        tree.write("bus/nd/devices/pfn3.0/resource", "0x100000000\n");
        tree.write("bus/nd/devices/pfn3.0/size", "1024\n");
        assert_eq!(bad(&tree, false), Ok(vec![(0, sector)]));
    }

    #[test]
    fn what_touches_is_one() {
        let found = finish(vec![
            (4096, 8192),
            (0, 512),
            (8192, 8704),
            (512, 600),
            (4096, 5000),
        ]);
        let bad = |offset, length| BadBlock { offset, length };
        assert_eq!(found, Ok(vec![bad(0, 600), bad(4096, 4608)]));
    }
}
