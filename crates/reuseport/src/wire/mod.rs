//! Every value that the kernel programs and this crate share, once: pinned records, map values,
//! records of iterators, codes. The C side is `bpf/wire/`.
//!
//! Each file's tests compare it with the C side, which they read from the BTF of the compiled objects.

pub(crate) mod config;
pub(crate) mod event;
pub(crate) mod header;
pub(crate) mod host;
#[cfg(test)]
mod mirror;
pub(crate) mod reason;
pub(crate) mod records;
pub(crate) mod report;
pub(crate) mod slot;
