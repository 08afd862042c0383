//! Going before everything else on the machine: what compiles beside a measurement shall not look like
//! a worker that is slow.
//!
//! A real-time class does that (sched(7)); niceness does not, since it weighs only against the same
//! session (autogroup). It takes chrt(1), which every Debian has. Where that fails, the measurement
//! goes on, and says so.
//!
//! And keeping processors awake ([`Awake`]).

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, ensure};

/// Of workers.
pub(super) const WORKER: u8 = 10;
/// Of the generator: it stands for other machines, which do not wait for workers.
pub(super) const GENERATOR: u8 = 20;

/// The calling thread has this priority from now on, and so do the processes that it starts.
pub(super) fn set(priority: u8) {
    static SAID: Once = Once::new();
    if let Err(error) = chrt("--rr", priority) {
        SAID.call_once(|| {
            eprintln!("bench: no real-time priority, so other load is measured, too: {error:#}");
        });
    }
}

/// Threads that run on each processor when nothing else does. A virtual machine's processor that has
/// nothing to do is given away, and it takes milliseconds until it is back: on a machine that was idle
/// the generator was late by 1.5 ms (p99), and by 0.13 ms with these.
pub(super) struct Awake {
    enough: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Awake {
    pub(super) fn start() -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let spinner = |_| {
            let enough = Arc::clone(&enough);
            thread::spawn(move || {
                if let Err(error) = come_last() {
                    eprintln!("bench: processors may fall asleep: {error:#}");
                    return;
                }
                while !enough.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        };
        let threads = (0..processors).map(spinner).collect();
        Self { enough, threads }
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.enough.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The calling thread runs only when nobody else wants to, and its time counts as `nice`.
fn come_last() -> Result<()> {
    // Of this thread alone: niceness is a thread's (setpriority(2), BUGS).
    rustix::process::setpriority_process(None, 19)?;
    chrt("--idle", 0)
}

fn chrt(class: &str, priority: u8) -> Result<()> {
    let thread = rustix::thread::gettid().as_raw_pid().to_string();
    let mut command = Command::new("chrt");
    command.args([class, "--pid", &priority.to_string(), &thread]);
    let output = command.stdin(Stdio::null()).output().context("cannot start chrt")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "chrt: {}", said.trim());
    Ok(())
}
