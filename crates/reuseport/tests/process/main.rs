//! Tests that need a process, or all CPUs, to themselves: they count its descriptors, heap and mappings, raise its
//! limits, or load every CPU.
#![allow(clippy::unwrap_used, reason = "in a test, that is the assertion")]

#[path = "../common/mod.rs"]
mod common;

mod cycles;
mod faults;
mod hangs;
mod limits;

use std::any::type_name;
use std::process::Command;
use std::sync::{PoisonError, RwLock};

use rustix::process::{Signal, set_parent_process_death_signal};
use test_support::process::output;

use crate::common::world::alone;

/// Set in the process of one test.
const OWN: &str = "REUSEPORT_TEST_OWN_PROCESS";

/// Excludes tests that load every CPU and others.
static CPUS: RwLock<()> = RwLock::new(());

/// Runs a test, which is a closure of its test function, in a process of its own, and [`alone`] there. The process is
/// a copy of this test binary that runs nothing else.
fn in_own_process<F: FnOnce() + Send>(test: F) {
    if std::env::var_os(OWN).is_some() {
        set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
        return alone(test);
    }
    let _others = CPUS.read().unwrap_or_else(PoisonError::into_inner);
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name_of::<F>(), "--include-ignored", "--nocapture"]).env(OWN, "1");
    let output = output(&mut command).unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    print!("{said}");
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("ok. 1 passed"), "{}", output.status);
}

/// The name of the test that a closure belongs to, without the crate: that of `process::faults::some_test::{{closure}}` is
/// `faults::some_test`.
fn name_of<F>() -> &'static str {
    let name = type_name::<F>();
    let (_, name) = name.split_once("::").unwrap_or(("", name));
    name.split_once("::{{").map_or(name, |(function, _)| function)
}

/// Runs a test that loads every CPU, while no other test of this binary runs.
fn with_all_cpus<T>(test: impl FnOnce() -> T) -> T {
    let _alone = CPUS.write().unwrap_or_else(PoisonError::into_inner);
    test()
}
