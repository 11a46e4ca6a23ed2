//! Files: how one is opened, what its medium is, how it is synced, and what is remembered of its durability.

mod descriptor;
pub(crate) mod durability;
mod inode;
mod open;
mod sync_plan;

pub(crate) use durability::{FileId, Ticket};
pub(crate) use open::{Kind, OpenFile};
pub(crate) use sync_plan::SyncPlan;
