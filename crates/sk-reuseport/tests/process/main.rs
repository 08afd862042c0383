//! Tests that own the process: they count descriptors and panics, limit memory, and set the panic
//! hook. One test runs at a time.

#![allow(clippy::unwrap_used, reason = "clippy takes only functions with #[test] for tests")]

#[cfg(feature = "fault-injection")]
mod faults;
#[path = "../fixtures/mod.rs"]
#[allow(dead_code, reason = "shared with the other test binary")]
mod fixtures;
mod hostile;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Runs one test at a time, so that no other one opens descriptors or panics meanwhile.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
