//! Many files as one piece of durable memory.
//!
//! A [`Source`] says where bytes live: a path, an unnamed temporary file, a device. A [`Part`] is a range of a source. A
//! [`Set`] maps parts into one arena of addresses, knows which address belongs to which part map, and knows the one way in
//! which stores to it become durable: by syncing pages, by writing cache lines back, or by ordering alone.
//!
//! The crate is also the C library libpmemset, as PMDK released it: the functions of its interface are a thin skin over
//! what is here (see libpmemset(7)).
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let path = std::ffi::CString::new(dir.path().join("file").to_str().unwrap())?;
//! # std::fs::write(dir.path().join("file"), vec![0; 1 << 20])?;
//! use pmemset::{Config, Copying, Flags, Granularity, Part, Set, Source};
//!
//! let mut config = Config::new();
//! config.set_required_granularity(Granularity::Page);
//! let set = Set::new(&config)?;
//! let source = Source::open(&path)?;
//! let extent = set.map(&Part::new(&source, 0, 65536)?)?;
//! let text = b"durable when copy returns";
//! // SAFETY: the destination is in the part map.
//! unsafe { set.copy(extent.addr as *mut u8, Copying::Copy(text.as_ptr()), text.len(), Flags::default())? };
//! set.delete()?;
//! # assert!(std::fs::read(dir.path().join("file"))?.starts_with(text));
//! # Ok(())
//! # }
//! ```
//!
//! Every failure is an [`Error`], which needs no memory; running out of memory is one. No function panics on any input.
//! Set `PMEM2_FORCE_GRANULARITY`, `PMEMSET_EAGER_FLUSH` and the `PMEM_*` variables as libpmemset(7) describes.

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("libpmemset needs 64-bit Linux");

mod arena;
mod capi;
pub mod codes;
mod config;
mod error;
mod event;
mod file;
mod fork;
mod granularity;
mod mem;
mod order;
#[doc(hidden)]
pub mod persist;
mod pmem2;
mod set;
mod source;
mod sync;
mod sys;
mod trace;

pub use config::Config;
pub use error::{Error, Name, Result};
pub use event::{Event, Observer, ObserverFn};
pub use granularity::Granularity;
pub use set::{Coalescing, Copying, Extent, Flags, Part, PartMap, Set};
pub use source::Source;
pub use source::badblock::BadBlock;
pub use source::sds::{Sds, State};
