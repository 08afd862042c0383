//! A server as a child process.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::proc::{self, send};
use crate::{process, wait};

/// How long a dropped server may take to end after SIGTERM before it is killed.
const PATIENCE: Duration = Duration::from_secs(3);

/// The file in the directory of a server that gets its stdout and stderr.
const LOG: &str = "printed.log";

/// A server that runs in the foreground as a child of the test, with a directory for its files.
///
/// Dropping it ends the server and its children (SIGTERM, then SIGKILL) and reaps it. If the test
/// is failing, its output is shown.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    directory: TempDir,
}

impl Daemon {
    /// Starts the command that `command` returns. Its argument is a new directory for the files of
    /// the server, which is removed at the end.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    #[track_caller]
    pub fn spawn(name: &str, command: impl FnOnce(&Path) -> Command) -> Self {
        let directory = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir();
        let directory = directory.unwrap_or_else(|e| panic!("no directory for {name}: {e}"));
        let child = spawn(name, directory.path(), command(directory.path()));
        Self { name: name.to_owned(), child, directory }
    }

    /// Starts the server again in the same directory, after it has ended ([`Daemon::stop`]).
    ///
    /// # Panics
    ///
    /// If it still runs or cannot be started.
    #[track_caller]
    pub fn spawn_again(&mut self, command: impl FnOnce(&Path) -> Command) {
        assert!(self.ended().is_some(), "{} still runs", self.name);
        self.child = spawn(&self.name, self.directory(), command(self.directory()));
    }

    /// The process id of the child.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The directory for its files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Its output so far, stdout and stderr together.
    pub fn log(&self) -> String {
        let log = fs::read(self.directory().join(LOG)).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Waits until the server is `ready`.
    ///
    /// # Panics
    ///
    /// If it ends, or is not ready within [`wait::BOUND`].
    #[track_caller]
    pub fn wait_until(&mut self, what: &str, mut ready: impl FnMut() -> bool) {
        let outcome = wait::poll(wait::BOUND, || match self.ended() {
            Some(status) => Some(Err(status)),
            None => ready().then_some(Ok(())),
        });
        match outcome {
            Some(Ok(())) => {}
            Some(Err(status)) => panic!("{}: {what}: it ended, {status}", self.name),
            None => {
                panic!("{}: {what}: waited {:?} in vain", self.name, wait::scaled(wait::BOUND))
            }
        }
    }

    /// Waits until it has printed this line so often.
    ///
    /// # Panics
    ///
    /// As [`wait_until`](Self::wait_until).
    #[track_caller]
    pub fn wait_for_lines(&mut self, what: &str, line: &str, count: usize) {
        let log = self.directory().join(LOG);
        self.wait_until(what, || {
            let printed = std::fs::read_to_string(&log).unwrap_or_default();
            printed.lines().filter(|printed| *printed == line).count() >= count
        });
    }

    /// Sends a signal to the child alone. It is not an error if the child has ended.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    #[track_caller]
    pub fn signal(&mut self, signal: Signal) {
        // No other process can have its id until this process reaps it.
        if self.ended().is_none()
            && let Err(error) = send(self.pid(), signal)
        {
            panic!("cannot send {signal:?} to {}: {error}", self.name);
        }
    }

    /// Sends `signal`, waits until the server has ended, and returns its status.
    ///
    /// # Panics
    ///
    /// If it does not end within [`wait::BOUND`].
    #[track_caller]
    pub fn stop(&mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        match wait::poll(wait::BOUND, || self.ended()) {
            Some(status) => status,
            None => panic!("{} does not end at {signal:?}", self.name),
        }
    }

    /// Kills the server and its children (SIGKILL), as in a crash, and waits until it has ended.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    #[track_caller]
    pub fn kill(&mut self) {
        let children = proc::children(self.pid());
        // The parent first, because it would replace its children.
        self.stop(Signal::KILL);
        for child in children {
            send(child, Signal::KILL).unwrap_or_else(|e| panic!("cannot kill {child}: {e}"));
        }
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap_or_else(|e| panic!("cannot wait for {}: {e}", self.name))
    }

    /// Ends the server and its children. It does not panic, because it may run during a panic.
    fn end(&mut self) -> io::Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        send(self.pid(), Signal::TERM)?;
        // On a slow machine this may kill a server that would have ended; no test depends on that.
        if wait::poll_unscaled(PATIENCE, || self.child.try_wait().transpose())
            .transpose()?
            .is_some()
        {
            return Ok(());
        }
        // Children first, because they cannot be found after their parent has ended.
        for pid in proc::children(self.pid()).into_iter().chain([self.pid()]) {
            send(pid, Signal::KILL)?;
        }
        self.child.wait().map(drop)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("cannot end {} (pid {}): {error}", self.name, self.pid());
        }
        if thread::panicking() {
            eprintln!("{} printed:\n{}", self.name, self.log());
        }
    }
}

#[track_caller]
fn spawn(name: &str, directory: &Path, mut command: Command) -> Child {
    let log = OpenOptions::new().create(true).append(true).open(directory.join(LOG));
    let outputs = log.and_then(|log| Ok((log.try_clone()?, log)));
    let (stdout, stderr) = outputs.unwrap_or_else(|e| panic!("no log for {name}: {e}"));
    let child = process::spawn(command.stdin(Stdio::null()).stdout(stdout).stderr(stderr));
    child.unwrap_or_else(|e| panic!("cannot start {name} ({command:?}): {e}"))
}
