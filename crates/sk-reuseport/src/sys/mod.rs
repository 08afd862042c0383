//! Every system call of this crate, and every `unsafe` of the workspace.
//!
//! Calls pass through one funnel, where tests can make a chosen one fail or answer in the
//! kernel's place. The rest of the crate sees safe functions that take and return typed values.
//! What is merely convenient (opening files, creating sockets) goes through `rustix`, which is
//! safe already.
#![allow(unsafe_code)]

mod bpf;
mod funnel;
mod mmap;
mod pod;
mod sockopt;

pub(crate) use bpf::*;
pub use funnel::Call;
#[cfg(any(test, feature = "fault-injection"))]
pub use funnel::{Verdict, intercept};
pub(crate) use mmap::Mapping;
pub use pod::Pod;
pub(crate) use pod::{bytes_of, from_bytes};
pub(crate) use sockopt::*;

use std::io;

use thiserror::Error;

/// A system call failed.
#[derive(Debug, Error)]
#[error("`{call}` failed: {io_error}{}", crate::hint::of(call, io_error))]
pub struct SyscallError {
    /// The call that failed: for bpf(2), its command.
    pub call: &'static str,
    /// What the kernel said.
    #[source]
    pub io_error: io::Error,
}

impl SyscallError {
    /// For `map_err`: `.map_err(SyscallError::of("bpf_map_freeze"))`.
    pub(crate) fn of(call: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |io_error| Self { call, io_error }
    }
}
