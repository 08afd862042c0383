//! `reuseport attach --watch` as a process.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::process::Reuseport;

#[derive(Clone, Copy)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// As names of groups begin.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A watcher of groups, which decides in turn. Dropping this kills it.
pub(crate) struct Watcher(Child);

impl Watcher {
    /// Returns when it watches.
    pub(crate) fn start(reuseport: &Reuseport, groups: &[String]) -> Result<Self> {
        let mut command = Command::new(reuseport.path()?);
        command.arg("attach").args(groups).args(["--policy", "round-robin", "--watch"]);
        let process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut watcher = Self(process.with_context(|| format!("cannot start {command:?}"))?);
        let mut lines = BufReader::new(watcher.0.stdout.as_mut().context("no output")?).lines();
        let is_ready = |line: std::io::Result<String>| line.is_ok_and(|l| l.contains("Watching"));
        ensure!(lines.any(is_ready), "{command:?} ended early");
        Ok(watcher)
    }

    /// The processor time that it has taken.
    pub(crate) fn processor_time(&self) -> Result<Duration> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.0.id()))?;
        let mut sum = Duration::ZERO;
        for thread in threads {
            // The first number: nanoseconds on a processor.
            let times = fs::read_to_string(thread?.path().join("schedstat"))?;
            let first = times.split(' ').next().context("an empty schedstat")?;
            sum += Duration::from_nanos(first.parse().context("no number in schedstat")?);
        }
        Ok(sum)
    }

    /// Ends it as a user does.
    pub(crate) fn stop(mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.0), Signal::INT)?;
        let status = self.0.wait()?;
        ensure!(status.success(), "the watcher failed: {status}");
        Ok(())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // It has ended, unless the bench failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
