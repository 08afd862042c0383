//! Every system call and every `unsafe` block of this crate.
//!
//! Calls pass through one funnel, where tests can make a chosen one fail or return a made-up
//! result. The rest of the crate calls safe functions with typed parameters. Files and sockets are
//! opened through `rustix`, which is safe already.
#![allow(unsafe_code)]

mod bpf;
mod error;
mod funnel;
mod mmap;
mod pod;
mod sockopt;

pub(crate) use bpf::*;
pub use error::SyscallError;
pub(crate) use error::{ENOTSUPP, Operation};
#[cfg(any(test, feature = "fault-injection"))]
pub use funnel::{Call, Verdict, intercept};
pub(crate) use mmap::Mapping;
pub use pod::{Key, Pod};
pub(crate) use pod::{bytes_of, from_bytes};
pub(crate) use sockopt::*;
