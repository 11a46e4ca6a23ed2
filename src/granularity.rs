//! How much has to be pushed, and how far, before a store is durable.

/// The store granularity of a medium or a set, from the finest to the coarsest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Granularity {
    /// Stores are durable once they are ordered: the platform flushes CPU caches when the power fails.
    Byte = 0,
    /// Cache lines must be written back.
    CacheLine = 1,
    /// Pages must be synced through the kernel.
    Page = 2,
}

impl Granularity {
    /// The granularity with this number in the C interface.
    pub fn from_raw(value: u32) -> Option<Self> {
        match value {
            0 => Some(Granularity::Byte),
            1 => Some(Granularity::CacheLine),
            2 => Some(Granularity::Page),
            _ => None,
        }
    }

    /// The name that messages and `PMEM2_FORCE_GRANULARITY` use.
    pub fn name(self) -> &'static str {
        match self {
            Granularity::Byte => "BYTE",
            Granularity::CacheLine => "CACHE_LINE",
            Granularity::Page => "PAGE",
        }
    }

    /// The granularity that `PMEM2_FORCE_GRANULARITY` asks for at this moment; `None` when it is unset or invalid.
    pub fn forced() -> Option<Self> {
        crate::sys::secure_env(c"PMEM2_FORCE_GRANULARITY", Self::from_name).flatten()
    }

    fn from_name(name: &[u8]) -> Option<Self> {
        if name.eq_ignore_ascii_case(b"CACHELINE") {
            return Some(Granularity::CacheLine);
        }
        [Granularity::Byte, Granularity::CacheLine, Granularity::Page]
            .into_iter()
            .find(|g| name.eq_ignore_ascii_case(g.name().as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_any_case_and_nothing_else() {
        for (name, want) in [
            ("byte", Some(Granularity::Byte)),
            ("Cache_Line", Some(Granularity::CacheLine)),
            ("CACHELINE", Some(Granularity::CacheLine)),
            ("PAGE", Some(Granularity::Page)),
            ("PAGES", None),
            ("", None),
            (" PAGE", None),
        ] {
            assert_eq!(Granularity::from_name(name.as_bytes()), want, "{name}");
        }
        for raw in 0..3 {
            assert_eq!(Granularity::from_raw(raw).unwrap() as u32, raw);
        }
        assert_eq!(Granularity::from_raw(3), None);
    }
}
