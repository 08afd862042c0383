//! The library against the real kernel and real servers. Each test has a network namespace and, if
//! it pins anything, a bpffs of its own, so that tests run in parallel in one process.
//!
//! Tests that measure or change the process itself are in `tests/process`.
#![allow(clippy::unwrap_used, reason = "in a test, that is the assertion")]

#[path = "../common/mod.rs"]
mod common;

mod any_kernel;
mod attach;
mod bad_input;
mod borrow;
mod concurrent;
mod elsewhere;
mod findings;
mod generations;
mod interrupted;
mod least_loaded;
mod many;
mod members;
mod observe;
mod open;
mod own_objects;
mod own_program;
mod own_settings;
mod picks;
mod policies;
mod report;
mod rights;
mod schema;
mod servers;
mod shared_map;
mod split;
mod succession;
mod takeover;
mod verifier;
mod watch;
mod without_tables;
