//! The ways to make stores durable: by instructions (`arch`), or by the kernel: what has been flushed is in the `dirty` map,
//! a `drain` takes `range`s out of it and syncs them, drains that meet go together (`pacing`).

pub mod arch;
pub(crate) mod dirty;
pub(crate) mod drain;
mod pacing;
pub(crate) mod range;
pub(crate) mod redirty;
