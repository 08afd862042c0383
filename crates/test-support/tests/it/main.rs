//! What the tests of other crates rely on: namespaces that isolate, servers that start, reload and
//! end, probes that find features.
#![allow(clippy::unwrap_used, reason = "in a test, that is the assertion")]

mod any_kernel;
mod features;
mod isolation;
