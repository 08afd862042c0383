//! Tests of what belongs to the whole process: descriptors are counted, memory is limited, panics that are
//! printed are counted, and system calls fail. One test runs at a time.

#![allow(clippy::unwrap_used, reason = "clippy takes only functions with #[test] for tests")]

#[cfg(feature = "fault-injection")]
mod faults;
#[path = "../fixtures/mod.rs"]
#[allow(dead_code, reason = "shared with the other test binary")]
mod fixtures;
mod hostile;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// One test at a time: no other one may open descriptors or panic meanwhile.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
