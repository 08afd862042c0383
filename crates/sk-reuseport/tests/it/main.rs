//! What this crate does, against the real kernel: one module per subject. Each test has its own
//! network namespace and, where it pins something, its own bpffs. Tests that change or count what
//! belongs to the whole process are in the other binary, `process`.

#![allow(clippy::unwrap_used, reason = "clippy takes only functions with #[test] for tests")]

mod attach;
mod aya_compat;
mod cgroup_sock;
mod compilers;
mod conformance;
#[path = "../fixtures/mod.rs"]
#[allow(dead_code, reason = "shared with the other test binary")]
mod fixtures;
mod links;
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
