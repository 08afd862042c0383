//! The model: groups, members, policies, tables. Values and computation, no I/O.

pub(crate) mod degraded;
pub(crate) mod diagnosis;
pub mod finding;
pub mod group;
pub(crate) mod holder;
pub mod id;
pub(crate) mod membership;
pub(crate) mod mounts;
mod name;
pub(crate) mod place;
pub(crate) mod plan;
pub mod policy;
pub(crate) mod refusal;
pub(crate) mod retake;
pub(crate) mod roster;
pub(crate) mod selection;
pub mod server;
pub mod setting;
pub mod spec;
pub(crate) mod split;
pub mod status;
pub(crate) mod sticky;
pub(crate) mod succession;
pub(crate) mod table;
pub(crate) mod ungrouped;
pub(crate) mod written;
