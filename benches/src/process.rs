//! Processes that benches start: other programs that run to their end, the command as a user runs it,
//! and hidden sub-commands of this program.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{UsageWho, getrusage};

/// Runs a process to its end: how long that took, and what the process printed.
pub(crate) fn run(command: &mut Command) -> Result<(Duration, String)> {
    let start = Instant::now();
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot start {command:?}"))?;
    let took = start.elapsed();
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed ({}): {}", output.status, error.trim());
    Ok((took, String::from_utf8(output.stdout).context("not UTF-8")?))
}

/// A hidden sub-command of this program.
pub(crate) fn own(command: &str) -> Result<Command> {
    let mut own = Command::new(std::env::current_exe().context("cannot find this program")?);
    own.arg(command);
    Ok(own)
}

/// The command to measure.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Reuseport {
    /// The command to measure [default: `reuseport` next to this program]
    #[arg(long, value_name = "FILE")]
    command: Option<PathBuf>,
}

impl Reuseport {
    /// That of another build: a checkout in which `cargo build --release` ran.
    pub(crate) fn of_checkout(directory: &Path) -> Self {
        Self { command: Some(directory.join("target/release/reuseport")) }
    }

    /// That in this file.
    pub(crate) fn of_file(file: &Path) -> Self {
        Self { command: Some(file.to_owned()) }
    }

    pub(crate) fn path(&self) -> Result<PathBuf> {
        let path = match &self.command {
            Some(path) => path.clone(),
            None => std::env::current_exe()?.with_file_name("reuseport"),
        };
        ensure!(path.is_file(), "there is no {}: build `reuseport-cli`", path.display());
        Ok(path)
    }

    /// How long the command takes from its start until all its output is read, and that output.
    pub(crate) fn time(&self, arguments: &[&str]) -> Result<(Duration, String)> {
        run(Command::new(self.path()?).args(arguments))
    }

    /// The command's peak of resident memory, in bytes.
    pub(crate) fn peak(&self, arguments: &[&str]) -> Result<u64> {
        // A process inherits the peak of what it was before `exec` (exec_mmap in fs/exec.c), so a small
        // process starts the command.
        let (_, bytes) = run(own("peak")?.arg(self.path()?).args(arguments))?;
        bytes.trim().parse().context("not a number of bytes")
    }
}

/// The command to measure, and perhaps another build of it.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Builds {
    #[command(flatten)]
    this: Reuseport,
    /// Another build of the command, to compare with
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
}

impl Builds {
    pub(crate) fn this(&self) -> &Reuseport {
        &self.this
    }

    pub(crate) fn other(&self) -> Option<Reuseport> {
        self.against.as_deref().map(Reuseport::of_file)
    }

    /// Each, with its name in tables.
    pub(crate) fn named(&self) -> Vec<(&'static str, Reuseport)> {
        let other = self.other().map(|other| ("the other build", other));
        [("this build", self.this.clone())].into_iter().chain(other).collect()
    }
}

/// Runs a command and prints its peak of resident memory: a part of [`Reuseport::peak`].
pub(crate) fn print_peak(command: &[OsString]) -> Result<()> {
    run(Command::new(&command[0]).args(&command[1..]))?;
    println!("{}", getrusage(UsageWho::RUSAGE_CHILDREN)?.max_rss() * 1024);
    Ok(())
}

/// A hidden sub-command that works until it is stopped. Dropping this kills it.
pub(crate) struct Helper {
    process: Child,
    control: UnixStream,
}

impl Helper {
    pub(crate) fn start(command: &str, argument: &str, stdin: impl Into<Stdio>) -> Result<Self> {
        let (control, theirs) = UnixStream::pair()?;
        let mut own = own(command)?;
        own.arg(argument).stdin(stdin).stdout(OwnedFd::from(theirs));
        let process = own.spawn().with_context(|| format!("cannot start {own:?}"))?;
        Ok(Self { process, control })
    }

    pub(crate) fn wait_until_ready(&mut self) -> Result<()> {
        self.control.read_exact(&mut [0]).context("a helper ended before it was ready")
    }

    /// Tells it to stop.
    pub(crate) fn stop(&self) -> Result<()> {
        self.control.shutdown(Shutdown::Write).context("cannot stop a helper")
    }

    /// What it reports at its end.
    pub(crate) fn report(mut self) -> Result<String> {
        let mut report = String::new();
        self.control.read_to_string(&mut report).context("a helper reports nothing")?;
        let status = self.process.wait()?;
        ensure!(status.success(), "a helper ended with {status}");
        Ok(report)
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Tells the bench that this helper is ready. The stream ends when the helper is to stop, and takes its
/// report.
pub(crate) fn ready() -> Result<UnixStream> {
    let mut control = UnixStream::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    control.write_all(b"\n").context("the bench has ended")?;
    Ok(control)
}
