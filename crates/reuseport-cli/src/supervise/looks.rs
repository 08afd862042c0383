//! When to look whether workers are ready or drained, and what was seen.

use std::collections::BTreeMap;
use std::process::Child;
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process_group};

use super::machine::WorkerId;

/// When to look next, and what was seen.
#[derive(Debug, Default)]
pub(super) struct Looks {
    pub(super) next: Option<Instant>,
    pub(super) drained: u32,
    pub(super) failed: Option<String>,
    pub(super) checks: BTreeMap<WorkerId, Check>,
}

/// The user's command, for one worker.
#[derive(Debug)]
pub(super) struct Check {
    pub(super) running: Option<Child>,
    pub(super) again: Instant,
}

impl Drop for Check {
    fn drop(&mut self) {
        let Some(child) = &mut self.running else { return };
        if let Ok(None) = child.try_wait() {
            let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
            let _ = child.wait();
        }
    }
}
