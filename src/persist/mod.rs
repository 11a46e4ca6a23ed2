//! The ways to make stores durable: by instructions (`arch`), or by the kernel (`page`, with a `log` of what was flushed).

pub mod arch;
pub(crate) mod log;
pub(crate) mod page;
mod segment;
