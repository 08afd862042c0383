//! The records, map values and globals that the kernel programs and this crate share, byte for byte, and
//! the pinned records. The C side is `bpf/wire/`. Policies have their own numbers and globals, and
//! [`Table`](crate::model::table::Table) encodes itself; this module's tests compare these as well.
//!
//! The tests read the C side from the BTF of the compiled objects.

pub(crate) mod config;
pub(crate) mod cursor;
pub(crate) mod event;
pub(crate) mod header;
pub(crate) mod host;
#[cfg(test)]
mod mirror;
pub(crate) mod reason;
pub(crate) mod records;
pub(crate) mod report;
pub(crate) mod setup;
pub(crate) mod slot;
