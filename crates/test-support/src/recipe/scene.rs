//! Where a recipe runs: a directory with its files, in the network namespace of the test. All that its
//! scripts start ends with it.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::Page;
use crate::process::spawn;
use crate::wait;

/// Gets what the scripts and the servers print.
const LOG: &str = "printed.log";

/// The directory of a recipe. Dropping this ends every process in the network namespace of the calling thread.
#[derive(Debug)]
pub struct Scene {
    site: Site,
    _directory: TempDir,
}

/// A directory in which scripts run. Several ones may be in one scene.
#[derive(Debug)]
pub struct Site {
    directory: PathBuf,
    command: PathBuf,
}

impl Scene {
    /// Makes the directory, with the files of the page. Scripts find the `reuseport` of this file.
    ///
    /// # Panics
    ///
    /// If that fails.
    pub fn new(page: &Page, command: &Path) -> Self {
        Self::with(page.files(), command)
    }

    /// The same with these files.
    ///
    /// # Panics
    ///
    /// If that fails.
    pub fn with<'a>(files: impl Iterator<Item = (&'a str, &'a str)>, command: &Path) -> Self {
        let directory = tempfile::Builder::new().prefix("recipe-").tempdir();
        let directory = directory.unwrap_or_else(|e| panic!("no directory for a recipe: {e}"));
        let site = Site { directory: directory.path().into(), command: command.into() };
        site.fill(files);
        Self { site, _directory: directory }
    }

    /// Another directory below this one.
    ///
    /// # Panics
    ///
    /// If it cannot be made, or its files cannot be written.
    pub fn site<'a>(&self, name: &str, files: impl Iterator<Item = (&'a str, &'a str)>) -> Site {
        let (directory, command) = (self.site.directory.join(name), self.site.command.clone());
        fs::create_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
        let site = Site { directory, command };
        site.fill(files);
        site
    }
}

impl std::ops::Deref for Scene {
    type Target = Site;

    fn deref(&self) -> &Site {
        &self.site
    }
}

impl Site {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// The content of a file, if there is such a file.
    pub fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.directory.join(name)).ok()
    }

    /// Writes these files.
    ///
    /// # Panics
    ///
    /// If that fails.
    pub fn fill<'a>(&self, files: impl Iterator<Item = (&'a str, &'a str)>) {
        // Some servers give up root before they write their files.
        let opened = fs::set_permissions(&self.directory, Permissions::from_mode(0o777));
        opened.unwrap_or_else(|e| panic!("{}: {e}", self.directory.display()));
        for (name, content) in files {
            let written = fs::write(self.directory.join(name), content);
            written.unwrap_or_else(|e| panic!("cannot write {name}: {e}"));
        }
    }

    /// Puts this before what is in a file of the page.
    ///
    /// # Panics
    ///
    /// If there is no such file.
    pub fn prepend(&self, file: &str, text: &str) {
        let before = self.read(file).unwrap_or_else(|| panic!("no file {file}"));
        self.fill([(file, format!("{text}{before}").as_str())].into_iter());
    }

    /// A shell for a script, with the built command first in its PATH.
    fn shell(&self, script: &str) -> Command {
        let mut path: Vec<PathBuf> = self.command.parent().map(Into::into).into_iter().collect();
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        path.extend(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
        let path = std::env::join_paths(path).unwrap_or_else(|e| panic!("no PATH: {e}"));
        let mut shell = Command::new("sh");
        shell.args(["-euc", script]).current_dir(self.path()).stdin(Stdio::null());
        shell.env("PATH", path).env("HOME", self.path());
        shell.env("PYTHONDONTWRITEBYTECODE", "1");
        shell
    }

    fn log(&self, name: &str) -> File {
        let log = OpenOptions::new().create(true).append(true).open(self.path().join(name));
        log.unwrap_or_else(|e| panic!("no log: {e}"))
    }

    /// Runs a script, which must succeed. What it starts in the background goes on.
    ///
    /// # Panics
    ///
    /// If it fails, or does not end.
    #[track_caller]
    pub fn run(&self, script: &str) {
        let mut shell = self.shell(script);
        let child = spawn(shell.stdout(self.log(LOG)).stderr(self.log(LOG)));
        let mut child = child.unwrap_or_else(|e| panic!("cannot start a shell: {e}"));
        let ended = wait::poll(3 * wait::BOUND, || child.try_wait().transpose());
        let status = ended.unwrap_or_else(|| panic!("it does not end: {script}"));
        assert!(status.as_ref().is_ok_and(|s| s.success()), "{status:?}: {script}");
    }

    /// Starts a script that does not end by itself, and returns when it has printed `word`.
    ///
    /// # Panics
    ///
    /// If it does not print that, or ends.
    #[track_caller]
    pub fn start(&self, script: &str, word: &str) {
        const STARTED: &str = "started.log";
        let output = || {
            let file = File::create(self.path().join(STARTED));
            file.unwrap_or_else(|e| panic!("no log: {e}"))
        };
        drop(output());
        let mut shell = self.shell(&format!("exec {script}"));
        let child = spawn(shell.stdout(self.log(STARTED)).stderr(self.log(STARTED)));
        let mut child = child.unwrap_or_else(|e| panic!("cannot start a shell: {e}"));
        let printed = || self.read(STARTED).unwrap_or_default();
        wait::until(&format!("{script} to print {word:?}"), wait::BOUND, || {
            let ended = child.try_wait().is_ok_and(|status| status.is_some());
            assert!(!ended, "{script}ended: {}", printed());
            printed().contains(word)
        });
    }
}

/// The processes in the network namespace of the calling thread, without this process, whose first thread
/// is in another one.
fn processes() -> Vec<Pid> {
    let Ok(here) = fs::read_link("/proc/thread-self/ns/net") else { return Vec::new() };
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let here =
        all.filter(|entry| fs::read_link(entry.path().join("ns/net")).is_ok_and(|n| n == here));
    let pids = here.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(Pid::from_raw).collect()
}

/// Whether no process is left within a time, during which they get `signal`.
fn end_all(signal: Signal, patience: Duration) -> bool {
    // Again, because a server may start another process meanwhile.
    let ended = || {
        let left = processes();
        for pid in &left {
            let _ = kill_process(*pid, signal);
        }
        left.is_empty().then_some(())
    };
    wait::poll(patience, ended).is_some()
}

impl Drop for Scene {
    fn drop(&mut self) {
        // Servers that are killed leave shared memory behind.
        if !end_all(Signal::TERM, Duration::from_secs(3)) {
            end_all(Signal::KILL, wait::BOUND);
        }
        if std::thread::panicking() {
            show_logs(self.path());
        }
    }
}

/// Prints the logs in a directory and below.
fn show_logs(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            show_logs(&path);
        } else if path.extension().is_some_and(|extension| extension == "log") {
            let text = fs::read(&path).unwrap_or_default();
            eprintln!("{}:\n{}", path.display(), String::from_utf8_lossy(&text));
        }
    }
}
