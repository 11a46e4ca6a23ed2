//! The persistent-memory region that a device is in, as sysfs shows it.

use super::device::{Path, line, number};
use super::sds::Sds;
use crate::error::{Error, Name, Result};
use crate::sys;

/// Where sysfs is; tests have trees of their own.
pub(crate) const SYS: &str = "/sys";

/// DIMMs of one region at most. The kernel allows half of that.
const DIMMS: usize = 64;

/// A region, and what in it a device is made of.
pub(crate) struct Region {
    root: &'static str,
    pub(super) number: u32,
    /// The bus that the region is on.
    pub(super) bus: u32,
    /// The namespace, or what stands for it: `namespace0.0`, `pfn0.0`, `dax0.0`.
    holder: Name,
    /// The device's directory, from the root.
    device: Name,
}

impl Region {
    /// The region of a device (of a file system, or device DAX); `None` when it is in none. CXL has
    /// regions of its own, numbered by themselves, some with device DAX in them: only what is on an
    /// NVDIMM bus counts.
    pub(super) fn of(root: &'static str, dev: u64, character: bool) -> Option<Region> {
        let (major, minor) = (libc::major(dev), libc::minor(dev));
        let kind = if character { "char" } else { "block" };
        let device = Path::new(format_args!("dev/{kind}/{major}:{minor}"))?;
        let mut buffer = [0; 1024];
        let link = Path::new(format_args!("{root}/dev/{kind}/{major}:{minor}"))?;
        let text = std::str::from_utf8(sys::read_link(link.as_cstr(), &mut buffer).ok()?).ok()?;
        let mut bus = None;
        let mut steps = text.split('/');
        while let Some(step) = steps.next() {
            let region = step.strip_prefix("region").and_then(|n| n.parse().ok());
            if let (Some(bus), Some(number)) = (bus, region) {
                return Some(Region {
                    root,
                    number,
                    bus,
                    holder: Name::new(steps.next().unwrap_or("").as_bytes()),
                    device: Name::from(device.as_cstr()),
                });
            }
            bus = step.strip_prefix("ndbus").and_then(|n| n.parse().ok());
        }
        None
    }

    /// The identity and the count of unsafe shutdowns: those of the region's DIMMs, in its order; or in that of an identity
    /// which a program has stored, when it names just these DIMMs. Other libraries list them in the order of a directory.
    pub(super) fn shutdown_facts(&self, stored: &[u8]) -> Result<Sds> {
        let (root, region) = (self.root, self.number);
        let unsupported = |why| Err(Error::SdsUnsupported(why));
        let Some(count) = number(format_args!(
            "{root}/bus/nd/devices/region{region}/mappings"
        )) else {
            return unsupported("the number of the region's DIMMs cannot be read");
        };
        if count == 0 || count > DIMMS as u64 {
            return unsupported("the number of the region's DIMMs makes no sense");
        }
        let mut facts = Sds::default();
        let mut seen = [u32::MAX; DIMMS];
        // Where each DIMM's part of the identity begins.
        let mut starts = [0; DIMMS + 1];
        let mut dimms = 0;
        for i in 0..count as usize {
            let mut buffer = [0; 128];
            // The DIMM's name, then the range of it and its position.
            let dimm = line(
                format_args!("{root}/bus/nd/devices/region{region}/mapping{i}"),
                &mut buffer,
            )
            .and_then(|text| text.split(',').next()?.strip_prefix("nmem")?.parse().ok());
            let Some(dimm) = dimm else {
                return unsupported("one of the region's DIMMs cannot be found");
            };
            if seen[..i].contains(&dimm) {
                continue;
            }
            seen[i] = dimm;
            let mut buffer = [0; 1024];
            let Some(id) = line(
                format_args!("{root}/bus/nd/devices/nmem{dimm}/nfit/id"),
                &mut buffer,
            ) else {
                return unsupported("a DIMM has no identity");
            };
            if !facts.append_id(id.as_bytes()) {
                return Err(Error::SdsIdTooLong(512));
            }
            dimms += 1;
            starts[dimms] = facts.id().len();
            let count = number(format_args!(
                "{root}/bus/nd/devices/nmem{dimm}/nfit/dirty_shutdown"
            ));
            let Some(sum) = count.and_then(|n| facts.usc.checked_add(n)) else {
                return unsupported("a DIMM has no count of unsafe shutdowns");
            };
            facts.usc = sum;
        }
        if names_the_same(stored, facts.id(), &starts[..=dimms]) {
            facts.set_id(stored);
        }
        Ok(facts)
    }

    pub(super) fn exists(&self) -> bool {
        let (root, region) = (self.root, self.number);
        Path::new(format_args!("{root}/bus/nd/devices/region{region}"))
            .is_some_and(|path| sys::path_facts(path.as_cstr()).is_ok())
    }

    pub(super) fn name(&self) -> Name {
        self.device
    }

    /// The file that lists bad blocks of the block device.
    pub(super) fn block_badblocks(&self) -> Option<Path> {
        // A partition's are among those of its disk.
        let (root, device) = (self.root, self.device);
        let up = if self.partition_start().is_some() {
            "/.."
        } else {
            ""
        };
        Path::new(format_args!("{root}/{device}{up}/badblocks"))
    }

    /// The sector where the partition starts, for a device that is one.
    pub(super) fn partition_start(&self) -> Option<u64> {
        let (root, device) = (self.root, self.device);
        number(format_args!("{root}/{device}/partition"))?;
        number(format_args!("{root}/{device}/start"))
    }

    /// The file that lists bad blocks of the region.
    pub(super) fn badblocks(&self) -> Option<Path> {
        let (root, region) = (self.root, self.number);
        Path::new(format_args!(
            "{root}/bus/nd/devices/region{region}/badblocks"
        ))
    }

    /// The device's data: its physical address, its offset in the region, and its size.
    pub(super) fn bounds(&self) -> Result<Bounds> {
        let (root, region, holder) = (self.root, self.number, self.holder);
        let read = || {
            let start = number(format_args!(
                "{root}/bus/nd/devices/region{region}/resource"
            ))?;
            let address = number(format_args!("{root}/bus/nd/devices/{holder}/resource"))?;
            let size = number(format_args!("{root}/bus/nd/devices/{holder}/size"))?;
            let offset = address.checked_sub(start)?;
            address.checked_add(size)?;
            (size > 0).then_some(Bounds {
                address,
                offset,
                size,
            })
        };
        read().ok_or(Error::CannotReadBounds(self.device))
    }
}

/// Whether an identity consists of the same pieces as another, which begin and end at `ends`, in any order.
fn names_the_same(stored: &[u8], id: &[u8], ends: &[usize]) -> bool {
    let mut used = [false; DIMMS];
    let mut rest = stored;
    while !rest.is_empty() {
        let pieces = ends.windows(2).map(|w| &id[w[0]..w[1]]).enumerate();
        let fitting = pieces.filter(|(i, piece)| !used[*i] && rest.starts_with(piece));
        // One that is the beginning of another could be either: most likely the longer.
        let Some((i, piece)) = fitting.max_by_key(|(_, piece)| piece.len()) else {
            return false;
        };
        used[i] = true;
        rest = &rest[piece.len()..];
    }
    stored.len() == id.len()
}

/// Where a device's data is.
pub(super) struct Bounds {
    pub address: u64,
    pub offset: u64,
    pub size: u64,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::fs;
    use std::path::PathBuf;

    /// A tree of facts. Its path is leaked, as the real one is static.
    pub(crate) struct Tree {
        pub dir: tempfile::TempDir,
        pub root: &'static str,
    }

    impl Tree {
        /// A tree with a block device and a character device, both with the number 7:9, in region 3 of bus 1.
        pub(crate) fn new() -> Tree {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path().to_str().unwrap().to_owned().leak();
            let tree = Tree { dir, root };
            for (kind, place) in [
                ("block", "devices/x/ndbus1/region3/pfn3.0/block/pmem3"),
                ("char", "devices/x/ndbus1/region3/dax3.0/dax3.0"),
            ] {
                fs::create_dir_all(tree.path(place)).unwrap();
                fs::create_dir_all(tree.path(&format!("dev/{kind}"))).unwrap();
                std::os::unix::fs::symlink(
                    format!("../../{place}"),
                    tree.path(&format!("dev/{kind}/7:9")),
                )
                .unwrap();
            }
            tree.write("bus/nd/devices/region3/resource", "0x100000000\n");
            tree
        }

        pub(crate) fn path(&self, path: &str) -> PathBuf {
            self.dir.path().join(path)
        }

        pub(crate) fn write(&self, path: &str, text: &str) {
            let path = self.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn dimm(&self, n: u32, id: &str, usc: &str) {
            self.write(&format!("bus/nd/devices/nmem{n}/nfit/id"), id);
            self.write(&format!("bus/nd/devices/nmem{n}/nfit/dirty_shutdown"), usc);
        }

        fn mappings(&self, dimms: &[u32]) {
            self.write(
                "bus/nd/devices/region3/mappings",
                &format!("{}\n", dimms.len()),
            );
            for (i, d) in dimms.iter().enumerate() {
                self.write(
                    &format!("bus/nd/devices/region3/mapping{i}"),
                    &format!("nmem{d},0,134217728,{i}\n"),
                );
            }
        }

        pub(crate) fn region(&self, character: bool) -> Option<Region> {
            Region::of(self.root, libc::makedev(7, 9), character)
        }

        fn facts(&self) -> Result<Sds> {
            self.region(false).unwrap().shutdown_facts(b"")
        }
    }

    #[test]
    fn finds_the_region_the_bus_and_the_holder() {
        let tree = Tree::new();
        for (character, holder) in [(false, "pfn3.0"), (true, "dax3.0")] {
            let region = tree.region(character).unwrap();
            assert_eq!((region.number, region.bus), (3, 1));
            assert_eq!(region.holder.to_string(), holder);
        }
        assert!(Region::of(tree.root, libc::makedev(8, 0), false).is_none());
        let device = |n: u32, kind: &str, place: &str| {
            let link = tree.path(&format!("dev/{kind}/8:{n}"));
            std::os::unix::fs::symlink(format!("../../devices/{place}"), link).unwrap();
            let region = Region::of(tree.root, libc::makedev(8, n), kind == "char");
            region.map(|r| (r.bus, r.number, r.holder.to_string()))
        };
        assert_eq!(device(0, "block", "disk"), None);
        // Other memory is in regions of its own, which may have the same numbers.
        let cxl = "platform/ACPI0017:00/root0";
        let plain = format!("{cxl}/decoder0.0/region3/dax_region3/dax3.0");
        assert_eq!(device(1, "char", &plain), None);
        assert_eq!(device(2, "char", "platform/hmem.3/dax3.0"), None);
        assert_eq!(device(3, "char", "x/ndbus1/dimm0/region3/dax3.0"), None);
        let bridged =
            format!("{cxl}/nvdimm-bridge0/ndbus2/region4/namespace4.0/block/pmem4/pmem4p1");
        assert_eq!(
            device(4, "block", &bridged),
            Some((2, 4, "namespace4.0".into()))
        );
        let behind = format!("{cxl}/decoder0.0/region3/ndbus2/region5/dax5.0/dax5.0");
        assert_eq!(device(5, "char", &behind), Some((2, 5, "dax5.0".into())));
    }

    #[test]
    fn dimms_in_the_regions_order() {
        let tree = Tree::new();
        tree.dimm(0, "8680-00\n", "5\n");
        tree.dimm(1, "8680-11\n", "0\n");
        tree.dimm(4, "8680-44\n", "37\n");
        tree.mappings(&[4, 0, 1]);
        let facts = tree.facts().unwrap();
        assert_eq!(facts.id(), b"8680-448680-008680-11");
        assert_eq!((facts.usc, facts.refcount), (42, 0));
        tree.mappings(&[1]);
        assert_eq!(tree.facts().unwrap().id(), b"8680-11");
        // One DIMM is one device, however often it is mapped.
        tree.mappings(&[0, 1, 0]);
        assert_eq!(tree.facts().unwrap().id(), b"8680-008680-11");
        assert_eq!(tree.facts().unwrap().usc, 5);
    }

    #[test]
    fn stored_identities_keep_their_order() {
        let tree = Tree::new();
        for (n, id) in [(0, "8680-00\n"), (1, "8680-0\n"), (2, "8680-22\n")] {
            tree.dimm(n, id, "1\n");
        }
        tree.mappings(&[0, 1, 2]);
        let facts = |stored: &str| {
            let facts = tree
                .region(false)
                .unwrap()
                .shutdown_facts(stored.as_bytes());
            String::from_utf8(facts.unwrap().id().to_vec()).unwrap()
        };
        let ours = "8680-008680-08680-22";
        for same in [ours, "8680-228680-008680-0", "8680-08680-008680-22"] {
            assert_eq!(facts(same), same);
        }
        for other in [
            "",
            "8680-00",
            "8680-008680-228680-22",
            "8680-228680-008680-1",
            "8680-008680-08680-228680-00",
        ] {
            assert_eq!(facts(other), ours, "{other}");
        }
    }

    #[test]
    fn unreadable_and_absurd_facts() {
        let unsupported = |tree: &Tree, what: &str| {
            assert!(
                matches!(tree.facts(), Err(Error::SdsUnsupported(_))),
                "{what}"
            );
        };
        let tree = Tree::new();
        unsupported(&tree, "nothing");
        tree.mappings(&[0, 1]);
        unsupported(&tree, "no DIMM");
        tree.dimm(0, "8680-00\n", "5\n");
        unsupported(&tree, "no second DIMM");
        for (id, usc) in [
            ("", "5\n"),
            ("\n", "5\n"),
            ("8680-11\n", ""),
            ("8680-11\n", "-1\n"),
            ("8680-11\n", "many\n"),
            ("8680-11\n", "99999999999999999999\n"),
            ("8680-11\n", "18446744073709551615\n"),
            ("8680-\u{1F4A5}", "5\n"),
        ] {
            tree.dimm(1, id, usc);
            unsupported(&tree, &format!("{id:?} {usc:?}"));
        }
        tree.dimm(1, &"x".repeat(2000), "5\n");
        unsupported(&tree, "endless");
        let half = format!("{}\n", "y".repeat(256));
        tree.dimm(0, &half, "18446744073709551614\n");
        tree.dimm(1, &half, "1\n");
        let facts = tree.facts().unwrap();
        assert_eq!((facts.id().len(), facts.usc), (512, u64::MAX));
        tree.dimm(1, &format!("y{half}"), "1\n");
        assert_eq!(tree.facts(), Err(Error::SdsIdTooLong(512)));
        for absurd in ["0\n", "-3\n", "65\n", "18446744073709551615\n", "x\n"] {
            tree.write("bus/nd/devices/region3/mappings", absurd);
            unsupported(&tree, absurd);
        }
        tree.mappings(&[0]);
        for absurd in [
            "nmem,0\n",
            "dimm0,0\n",
            "nmem4294967296,0\n",
            "\n",
            "../../x\n",
        ] {
            tree.write("bus/nd/devices/region3/mapping0", absurd);
            unsupported(&tree, absurd);
        }
    }

    #[test]
    fn bounds_of_namespaces() {
        let tree = Tree::new();
        let bounds = |character| tree.region(character).unwrap().bounds();
        assert!(matches!(bounds(true), Err(Error::CannotReadBounds(_))));
        tree.write("bus/nd/devices/dax3.0/resource", "0x100200000\n");
        assert!(matches!(bounds(true), Err(Error::CannotReadBounds(_))));
        tree.write("bus/nd/devices/dax3.0/size", "1048576\n");
        let b = bounds(true).unwrap();
        assert_eq!(
            (b.address, b.offset, b.size),
            (0x1_0020_0000, 0x20_0000, 1 << 20)
        );
        assert!(matches!(bounds(false), Err(Error::CannotReadBounds(_))));
        for (resource, size) in [
            ("0x0\n", "4096\n"),
            ("0x100200000\n", "0\n"),
            ("0x100200000\n", "18446744073709551615\n"),
        ] {
            tree.write("bus/nd/devices/dax3.0/resource", resource);
            tree.write("bus/nd/devices/dax3.0/size", size);
            assert!(matches!(bounds(true), Err(Error::CannotReadBounds(_))));
        }
    }
}
