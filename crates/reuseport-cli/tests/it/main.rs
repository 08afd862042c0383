//! The command: its usage, and its verbs against the real kernel and real servers. Each test has
//! its own network namespace and bpffs. Needs root.
#![allow(clippy::unwrap_used, reason = "in a test, that is the assertion")]

mod accepting;
mod any_kernel;
mod common;
mod not_asked;
mod places;
mod recipes;
mod restarts;
mod steering;
