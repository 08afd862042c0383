//! The fixtures work: namespaces isolate, servers start, reload and end, probes detect features.
#![allow(clippy::unwrap_used, reason = "in a test, that is the assertion")]

mod any_kernel;
mod features;
mod isolation;
