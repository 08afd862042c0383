//! Real-time priority, so that other work on the machine does not look like a slow worker, and
//! processors that do not fall asleep.
//!
//! It takes a real-time class (sched(7)): niceness weighs only against the same session (autogroup).
//! chrt(1), which every Debian has, sets it. Where that fails, the measurement goes on with a warning.

use std::process::Command;
use std::sync::Once;
use std::thread;

use anyhow::Result;

use crate::process::run;

/// Of workers.
pub(super) const WORKER: u8 = 10;
/// Of the generator: it stands for other machines, which do not wait for workers.
pub(super) const GENERATOR: u8 = 20;

/// Gives the calling thread this priority, and the processes that it starts.
pub(super) fn set(priority: u8) {
    static WARNED: Once = Once::new();
    if let Err(error) = chrt("--rr", priority) {
        WARNED.call_once(|| {
            eprintln!("bench: no real-time priority, other load is measured, too: {error:#}");
        });
    }
}

/// Runs a thread on each processor when nothing else does, until this process ends. A virtual machine's
/// idle processor is given away and takes milliseconds to come back: on an idle machine the generator was
/// late by 1.5 ms (p99), and by 0.13 ms with these threads.
pub(super) fn keep_processors_awake() {
    for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
        thread::spawn(|| match chrt("--idle", 0) {
            Ok(()) => loop {
                std::hint::spin_loop();
            },
            Err(error) => eprintln!("bench: processors may fall asleep: {error:#}"),
        });
    }
}

fn chrt(class: &str, priority: u8) -> Result<()> {
    let thread = rustix::thread::gettid().as_raw_pid().to_string();
    run(Command::new("chrt").args([class, "--pid", &priority.to_string(), &thread]))?;
    Ok(())
}
