//! Running the command in a private network namespace with a private bpffs.

use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use assert_cmd::cargo::cargo_bin;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sk_reuseport::net::Bind;
use test_support::process::{output, output_undisturbed, spawn};
use test_support::{bpffs, netns};

pub(crate) fn isolated(test: impl FnOnce() + Send) {
    netns::isolated(|| {
        bpffs::private();
        test();
    });
}

pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(cargo_bin!("reuseport"));
    command.args(arguments).stdin(Stdio::null());
    for variable in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "REUSEPORT_LOG"] {
        command.env_remove(variable);
    }
    command
}

pub(crate) fn run(arguments: &[&str]) -> Output {
    output(&mut command(arguments)).unwrap()
}

/// The standard output of a call that must succeed.
pub(crate) fn stdout(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Like [`stdout`], for calls that depend on the holders of sockets of this process.
pub(crate) fn stdout_undisturbed(arguments: &[&str]) -> String {
    let output = output_undisturbed(&mut command(arguments)).unwrap();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&stdout(arguments)).unwrap()
}

/// The standard error of a call that must exit with `code`: one line, perhaps with a hint below, which may list
/// what to choose from.
pub(crate) fn error(code: i32, arguments: &[&str]) -> String {
    let output = run(arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
    assert!(output.stdout.is_empty(), "{arguments:?}: {output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.starts_with("reuseport: "), "{text}");
    let mut rest = text.lines().skip(1);
    assert!(rest.next().is_none_or(|hint| hint.starts_with("hint: ")), "{text}");
    assert!(rest.all(|line| line.starts_with("  ")), "{text}");
    text
}

/// The inode number of the network namespace of the test, for `--netns`: `ls` also lists the groups
/// of other tests.
pub(crate) fn own_netns() -> String {
    std::fs::metadata("/proc/thread-self/ns/net").unwrap().ino().to_string()
}

pub(crate) fn group(listeners: usize) -> (Vec<TcpListener>, String) {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let listeners = Bind::new(any).listeners(listeners).unwrap();
    let name = format!("tcp:{}", listeners[0].local_addr().unwrap());
    (listeners, name)
}

/// How many groups have something pinned.
pub(crate) fn pinned_groups() -> usize {
    let groups = Path::new(bpffs::PATH).join("reuseport/groups");
    std::fs::read_dir(groups).map_or(0, Iterator::count)
}

/// Whether a line begins with a time of day.
pub(crate) fn has_time(line: &str) -> bool {
    let is_number = |text: &str| text.len() == 2 && text.parse::<u8>().is_ok();
    let time = line.split(' ').next().unwrap_or_default();
    time.split(':').count() == 3 && time.split(':').all(is_number)
}

/// A process that holds a listener as descriptor 0. Dropping this kills it.
pub(crate) struct Holder(pub(crate) Child);

impl Holder {
    pub(crate) fn of(listener: TcpListener) -> Self {
        let listener: OwnedFd = listener.into();
        let mut command = Command::new("sleep");
        Self(spawn(command.arg("600").stdin(listener)).unwrap())
    }

    /// As a member is named.
    pub(crate) fn pid(&self) -> String {
        format!("pid:{}", self.0.id())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A command that runs until it is interrupted.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut command = command(arguments);
        Self(spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped())).unwrap())
    }

    /// Reads lines until one contains `word`, and returns that one. Takes no byte of the lines after it.
    pub(crate) fn read_until(&mut self, word: &str) -> String {
        read_until(self.0.stdout.as_mut().unwrap(), word)
    }

    /// The same of standard error.
    pub(crate) fn read_errors_until(&mut self, word: &str) -> String {
        read_until(self.0.stderr.as_mut().unwrap(), word)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Waits until a line contains `word`, and interrupts the command then.
    pub(crate) fn interrupted_after(mut self, word: &str) -> Output {
        self.read_until(word);
        self.interrupt()
    }

    pub(crate) fn interrupt(self) -> Output {
        self.signal(Signal::INT);
        self.output()
    }

    /// What it has written when it ends.
    pub(crate) fn output(mut self) -> Output {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        // A test may have taken one.
        let (out, err) = (self.0.stdout.take(), self.0.stderr.take());
        std::thread::scope(|scope| {
            scope.spawn(|| err.map(|mut err| err.read_to_end(&mut stderr).unwrap()));
            out.map(|mut out| out.read_to_end(&mut stdout).unwrap());
        });
        Output { status: self.0.wait().unwrap(), stdout, stderr }
    }
}

/// A test that fails leaves nothing behind.
impl Drop for Running {
    fn drop(&mut self) {
        if self.0.try_wait().unwrap().is_none() {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }
}

fn read_until(from: &mut impl Read, word: &str) -> String {
    loop {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            let mut byte = [0];
            from.read_exact(&mut byte).unwrap_or_else(|_| panic!("it never printed {word:?}"));
            line.extend(byte);
        }
        let line = String::from_utf8(line).unwrap();
        if line.contains(word) {
            return line;
        }
    }
}
