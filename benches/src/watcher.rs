//! `reuseport attach --watch` as a process.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
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

/// A watcher of groups. Dropping this kills it.
pub(crate) struct Watcher(Child);

/// What a watcher has taken.
#[derive(Clone, Copy)]
pub(crate) struct Taken {
    /// Of processors.
    pub(crate) time: Duration,
    /// How often one of its threads began to run.
    pub(crate) runs: u64,
}

impl Watcher {
    /// Returns when it watches.
    pub(crate) fn start(reuseport: &Reuseport, groups: &[String], policy: &str) -> Result<Self> {
        let mut command = Command::new(reuseport.path()?);
        command.arg("attach").args(groups).args(["--policy", policy, "--watch"]);
        let process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut watcher = Self(process.with_context(|| format!("cannot start {command:?}"))?);
        let mut lines = BufReader::new(watcher.0.stdout.as_mut().context("no output")?).lines();
        let is_ready = |line: std::io::Result<String>| line.is_ok_and(|l| l.contains("Watching"));
        ensure!(lines.any(is_ready), "{command:?} ended early");
        Ok(watcher)
    }

    pub(crate) fn taken(&self) -> Result<Taken> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.0.id()))?;
        let mut taken = Taken { time: Duration::ZERO, runs: 0 };
        for thread in threads {
            // Nanoseconds on a processor, nanoseconds of waiting for one, turns on one.
            let schedstat = fs::read_to_string(thread?.path().join("schedstat"))?;
            let numbers: Vec<u64> =
                schedstat.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
            let &[time, _, runs] = &numbers[..] else { bail!("no three numbers in schedstat") };
            taken.time += Duration::from_nanos(time);
            taken.runs += runs;
        }
        Ok(taken)
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
