//! What this crate does, against the real kernel: one file per subject. Each test has a network of its
//! own, and where it pins something, a bpffs of its own.

#![allow(clippy::unwrap_used, reason = "clippy takes only functions with #[test] for tests")]

mod attach;
mod common;
mod maps;
mod messages;
mod migrate;
mod net;
mod objects;
mod pins;
mod ring_buf;
mod sock_maps;
mod tables;
mod tracing;
