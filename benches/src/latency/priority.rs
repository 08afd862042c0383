//! Going before everything else on the machine: what compiles beside a measurement shall not look like
//! a worker that is slow.
//!
//! A real-time class does that (sched(7)); niceness does not, since it weighs only against the same
//! session (autogroup). It takes chrt(1), which every Debian has. Where that fails, the measurement
//! goes on, and says so.

use std::process::{Command, Stdio};
use std::sync::Once;

use anyhow::{Context, Result, ensure};

/// Of workers.
pub(super) const WORKER: u8 = 10;
/// Of the generator: it stands for other machines, which do not wait for workers.
pub(super) const GENERATOR: u8 = 20;

/// The calling thread has this priority from now on, and so do the processes that it starts.
pub(super) fn set(priority: u8) {
    static SAID: Once = Once::new();
    if let Err(error) = try_set(priority) {
        SAID.call_once(|| {
            eprintln!("bench: no real-time priority, so other load is measured, too: {error:#}");
        });
    }
}

fn try_set(priority: u8) -> Result<()> {
    let thread = rustix::thread::gettid().as_raw_pid().to_string();
    let mut command = Command::new("chrt");
    command.args(["--rr", "--pid", &priority.to_string(), &thread]);
    let output = command.stdin(Stdio::null()).output().context("cannot start chrt")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "chrt: {}", said.trim());
    Ok(())
}
