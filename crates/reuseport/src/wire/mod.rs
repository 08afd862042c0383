//! Every value that the kernel programs and this crate share, once: pinned records, map values,
//! records of iterators, codes. The C side is `bpf/wire/`.
//!
//! A test compares both sides through the BTF of the compiled objects.

pub(crate) mod config;
pub(crate) mod event;
pub(crate) mod header;
pub(crate) mod host;
pub(crate) mod reason;
pub(crate) mod records;
pub(crate) mod report;
pub(crate) mod slot;
