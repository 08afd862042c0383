//! The command as a program: its usage, and its verbs against the real kernel and real servers, each
//! test in a network and with a bpffs of its own. Needs root.
#![allow(clippy::unwrap_used, reason = "in a test, that is the assertion")]

mod any_kernel;
mod common;
mod steering;
