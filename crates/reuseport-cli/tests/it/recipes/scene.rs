//! Where a recipe runs: a directory with its files, in the network namespace of the test. All that its
//! scripts start ends with it.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use assert_cmd::cargo::cargo_bin;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use test_support::process::spawn;
use test_support::wait;

use super::page::Page;

/// Gets what the scripts and the servers print.
const LOG: &str = "printed.log";

pub(super) struct Scene {
    directory: TempDir,
}

impl Scene {
    /// Makes the directory, with the files of the page.
    pub(super) fn new(page: &Page) -> Self {
        let directory = tempfile::Builder::new().prefix("recipe-").tempdir().unwrap();
        // Some servers give up root before they write their files.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
        for (name, content) in page.files() {
            fs::write(directory.path().join(name), content).unwrap();
        }
        Self { directory }
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Puts this before what is in a file of the page.
    pub(super) fn prepend(&self, file: &str, text: &str) {
        let path = self.path().join(file);
        let before = fs::read_to_string(&path).unwrap();
        fs::write(path, format!("{text}{before}")).unwrap();
    }

    /// A shell for a script, with the built command first in its PATH.
    fn shell(&self, script: &str) -> Command {
        let mut path = vec![PathBuf::from(cargo_bin!("reuseport").parent().unwrap())];
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        path.extend(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
        let mut shell = Command::new("sh");
        shell.args(["-euc", script]).current_dir(self.path()).stdin(Stdio::null());
        shell.env("PATH", std::env::join_paths(path).unwrap()).env("HOME", self.path());
        shell.env("PYTHONDONTWRITEBYTECODE", "1");
        shell
    }

    fn log(&self) -> File {
        let path = self.path().join(LOG);
        OpenOptions::new().create(true).append(true).open(path).unwrap()
    }

    /// Runs a script, which must succeed. What it starts in the background goes on.
    #[track_caller]
    pub(super) fn run(&self, script: &str) {
        let mut shell = self.shell(script);
        let mut child = spawn(shell.stdout(self.log()).stderr(self.log())).unwrap();
        let ended = wait::poll(3 * wait::BOUND, || child.try_wait().unwrap());
        let status = ended.unwrap_or_else(|| panic!("it does not end: {script}"));
        assert!(status.success(), "{status}: {script}");
    }

    /// Starts a script that does not end by itself, and returns when it has printed `word`.
    #[track_caller]
    pub(super) fn start(&self, script: &str, word: &str) {
        let path = self.path().join("started.log");
        let output = File::create(&path).unwrap();
        let mut shell = self.shell(&format!("exec {script}"));
        let mut child = spawn(shell.stdout(output.try_clone().unwrap()).stderr(output)).unwrap();
        let printed = || fs::read_to_string(&path).unwrap();
        wait::until(&format!("{script} to print {word:?}"), wait::BOUND, || {
            assert!(child.try_wait().unwrap().is_none(), "{script}ended: {}", printed());
            printed().contains(word)
        });
    }
}

/// The processes in the network namespace of the calling thread, without this process, whose first thread
/// is in another one.
fn processes() -> Vec<Pid> {
    let here = fs::read_link("/proc/thread-self/ns/net").unwrap();
    let all = fs::read_dir("/proc").unwrap().flatten();
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
            for entry in fs::read_dir(self.path()).into_iter().flatten().flatten() {
                if entry.path().extension().is_some_and(|extension| extension == "log") {
                    let text = fs::read(entry.path()).unwrap_or_default();
                    let text = String::from_utf8_lossy(&text);
                    eprintln!("{}:\n{text}", entry.file_name().to_string_lossy());
                }
            }
        }
    }
}
