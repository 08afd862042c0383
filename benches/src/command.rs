//! The command itself, as a user runs it: a process that is started, does one thing and ends.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::resource::{UsageWho, getrusage};

/// Where the command is.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Reuseport {
    /// The command to measure [default: `reuseport` beside this program]
    #[arg(long, value_name = "FILE")]
    command: Option<PathBuf>,
}

impl Reuseport {
    /// The file of the command.
    pub(crate) fn path(&self) -> Result<PathBuf> {
        let path = match &self.command {
            Some(path) => path.clone(),
            None => own()?.with_file_name("reuseport"),
        };
        ensure!(
            path.is_file(),
            "there is no {}: build it with `cargo build --release --package reuseport-cli`",
            path.display()
        );
        Ok(path)
    }

    /// How long it takes from its start until it has ended and all that it prints is read, and that.
    pub(crate) fn time(&self, arguments: &[&str]) -> Result<(Duration, Vec<u8>)> {
        let mut command = Command::new(self.path()?);
        command.args(arguments).stdin(Stdio::null());
        let start = Instant::now();
        let output = command.output().context("cannot start reuseport")?;
        let took = start.elapsed();
        Ok((took, checked(output, &format!("reuseport {}", arguments.join(" ")))?))
    }

    /// The most memory that it has resident while it runs, in bytes, when it does this.
    pub(crate) fn peak(&self, arguments: &[&str]) -> Result<u64> {
        // The kernel gives a process the peak of what it was before `exec` (exec_mmap in
        // fs/exec.c), which started by us would be ours. So a small process starts it.
        let output = Command::new(own()?)
            .arg("peak")
            .arg(self.path()?)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .context("cannot start another of this program")?;
        let peak = checked(output, &format!("reuseport {}", arguments.join(" ")))?;
        let peak = String::from_utf8_lossy(&peak);
        peak.trim().parse().with_context(|| format!("not a number of bytes: {peak:?}"))
    }
}

/// A part of [`Reuseport::peak`].
#[derive(clap::Args)]
pub(crate) struct Peak {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<OsString>,
}

/// Runs the command and prints its peak.
pub(crate) fn peak(args: &Peak) -> Result<()> {
    let mut command = Command::new(&args.command[0]);
    let output = command.args(&args.command[1..]).output().context("cannot start it")?;
    checked(output, &args.command[0].to_string_lossy())?;
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("cannot tell what it used")?;
    let kib = u64::try_from(usage.max_rss()).context("a negative amount of memory")?;
    println!("{}", kib * 1024);
    Ok(())
}

/// This program's file.
pub(crate) fn own() -> Result<PathBuf> {
    std::env::current_exe().context("cannot find the own program")
}

fn checked(output: Output, what: &str) -> Result<Vec<u8>> {
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{what}` failed ({}): {}", output.status, said.trim());
    }
    Ok(output.stdout)
}
