//! What counts as a pick, who gets what when nobody is in the table, tables that are swapped and
//! programs that come and go under load. The kernel program's own counters prove that it decided.
#![allow(clippy::unwrap_used, reason = "in a test, that is the assertion")]

#[path = "../common/world.rs"]
#[allow(dead_code, reason = "each test binary uses its own part")]
mod world;

mod cycles;
mod gone;
mod load;
mod mixture;
mod segment;
mod steered;
mod strays;
mod swaps;

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::{Duration, Instant};

use test_support::wait::{self, BOUND};

/// Some tests count the process's descriptors and memory: nothing else runs in it meanwhile.
static PROCESS: RwLock<()> = RwLock::new(());

/// To be kept by a test that does not mind others beside it.
fn beside_others() -> RwLockReadGuard<'static, ()> {
    PROCESS.read().unwrap_or_else(PoisonError::into_inner)
}

/// To be kept by a test that measures the process.
fn without_others() -> RwLockWriteGuard<'static, ()> {
    PROCESS.write().unwrap_or_else(PoisonError::into_inner)
}

/// So many times; where everything is slower, as many as take about as long.
fn times(count: usize) -> usize {
    let slowness = wait::scaled(Duration::from_secs(1)).as_secs();
    count / usize::try_from(slowness).unwrap()
}

/// Waits for what takes less than a millisecond, which is what [`wait::until`] begins with.
#[track_caller]
fn soon(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < wait::scaled(BOUND), "waited in vain: {what}");
        thread::yield_now();
    }
}
