//! Tests that need the process, or all CPUs, to themselves: they count its descriptors, heap and
//! mappings, raise its limits, or load every CPU. They run one at a time.
#![allow(clippy::unwrap_used, reason = "in a test, that is the assertion")]

#[path = "../common/mod.rs"]
mod common;

mod cycles;
mod faults;
mod hangs;
mod limits;

use std::sync::{Mutex, PoisonError};

/// Runs a test while no other test of this process runs.
fn in_turn<T>(test: impl FnOnce() -> T) -> T {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    test()
}
