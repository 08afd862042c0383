//! Asking whether a new server is ready, by a command of the user's.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reuseport::status::{GroupStatus, MemberStatus};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::args;
use crate::drained::Waiting;
use crate::error::Failure;

/// Between two runs of the command.
const AGAIN: Duration = Duration::from_millis(200);
/// How often to look whether it has ended.
const PAUSE: Duration = Duration::from_millis(10);

/// A command that exits with 0 when the newest generation is ready.
pub(super) struct Readiness<'a> {
    command: &'a str,
    groups: String,
    pids: String,
}

impl<'a> Readiness<'a> {
    pub(super) fn new(command: &'a str, groups: &[&GroupStatus]) -> Self {
        let keys: Vec<String> = groups.iter().map(|status| status.group.key.to_string()).collect();
        let pids: BTreeSet<u32> = groups.iter().flat_map(|status| holders(status)).collect();
        let pids: Vec<String> = pids.iter().map(ToString::to_string).collect();
        Self { command, groups: keys.join(" "), pids: pids.join(" ") }
    }

    /// Returns when the command has exited with 0.
    ///
    /// # Errors
    ///
    /// If it did not in time. What it started is killed then.
    pub(super) fn wait(&self, limit: Duration) -> Result<()> {
        let waiting = Waiting::begin(Some(limit))?;
        let mut ended = None;
        loop {
            let mut running = Running::start(self)?;
            let status = loop {
                match running.0.try_wait().context("cannot wait for the command")? {
                    Some(status) => break Some(status),
                    None if waiting.is_over() || waiting.is_interrupted() => break None,
                    None => thread::sleep(PAUSE),
                }
            };
            drop(running);
            ended = status.or(ended);
            match status {
                Some(status) if status.success() => return Ok(()),
                _ if waiting.is_interrupted() => bail!("interrupted: nothing was promoted"),
                _ if waiting.is_over() => return Err(self.too_late(ended, limit)),
                _ => thread::sleep(AGAIN),
            }
        }
    }

    fn too_late(&self, status: Option<ExitStatus>, limit: Duration) -> anyhow::Error {
        let how = match status {
            Some(status) => format!("`{}` ended with {status}", self.command),
            None => format!("`{}` has not ended", self.command),
        };
        Failure::degraded(
            format!("not ready in {}: {how}", args::show_time(limit)),
            "nothing was promoted, and traffic is as it was; --ready-timeout waits longer",
        )
        .into()
    }
}

/// The newest generation.
pub(super) fn newest(status: &GroupStatus) -> Option<u32> {
    status.members.iter().filter_map(generation).max()
}

fn generation(member: &MemberStatus) -> Option<u32> {
    member.enrolment.as_ref().map(|enrolment| enrolment.generation)
}

/// The processes that hold members of it.
fn holders(status: &GroupStatus) -> BTreeSet<u32> {
    let newest = newest(status);
    let members = status.members.iter().filter(|member| generation(member) == newest);
    members.flat_map(|member| member.member.holders.iter().map(|holder| holder.pid)).collect()
}

/// A run of the command, in a process group of its own. Dropping it kills what is left of that.
struct Running(Child);

impl Running {
    fn start(readiness: &Readiness<'_>) -> Result<Self> {
        let mut command = Command::new("sh");
        command.args(["-c", readiness.command]).process_group(0);
        command.env("REUSEPORT_GROUPS", &readiness.groups).env("REUSEPORT_PIDS", &readiness.pids);
        // What it prints is for people.
        command.stdin(Stdio::null()).stdout(io::stderr());
        let started = command.spawn();
        started.map(Self).with_context(|| format!("cannot run `{}`", readiness.command))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            let group = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
            if let Some(group) = group {
                // If it has just ended, there is nothing to kill.
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = self.0.wait();
        }
    }
}
