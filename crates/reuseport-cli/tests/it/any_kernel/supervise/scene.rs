//! A supervisor with a simple server as its workers.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use test_support::client::try_http_get;
use test_support::process::{output, spawn};
use test_support::server::free_port;
use test_support::wait::{BOUND, until_some};

use crate::common::{self, Running};

/// Answers with the name of its version and its pid. Between two requests it does what files in its directory ask for:
/// `die-N`: worker N kills itself. Arguments: version, descriptor, worker, what it does first.
const SERVER: &str = r#"
import os, signal, socket, sys, time
version, fd, worker, first = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:]
stopped = False

def stop(*_):
    global stopped
    stopped = True

def wait_for(name):
    while not os.path.exists(name):
        time.sleep(0.005)

signal.signal(signal.SIGTERM, signal.SIG_IGN if "stubborn" in first else stop)
print("started", version, flush=True)

def say_ready():
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        s.connect("\0" + os.environ["NOTIFY_SOCKET"][1:])
        s.send(b"STATUS=soon\nREADY=1\n")
    except ConnectionError:
        pass

if "ready" in first:
    say_ready()
if "fail" in first:
    sys.exit(7)
if "wait" in first:
    wait_for("go")
if "late" in first:
    say_ready()
s = socket.socket(fileno=fd)
tcp = s.type == socket.SOCK_STREAM
s.settimeout(0.02)

def answer(connection):
    connection.settimeout(60)
    asked = b""
    while b"\r\n\r\n" not in asked:
        more = connection.recv(4096)
        if not more:
            return
        asked += more
    body = b"%s %d\n" % (version.encode(), os.getpid())
    connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

while not stopped:
    if os.path.exists("die-" + worker):
        os.unlink("die-" + worker)
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        if tcp:
            connection, _ = s.accept()
            with connection:
                answer(connection)
        else:
            asked, peer = s.recvfrom(2048)
            s.sendto(b"%s %d" % (version.encode(), os.getpid()), peer)
    except (TimeoutError, ConnectionError):
        pass
"#;

/// A directory with the server, and a port.
pub(super) struct Scene {
    directory: TempDir,
    pub(super) address: SocketAddr,
}

impl Scene {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("server.py"), SERVER).unwrap();
        Self { directory, address: (Ipv4Addr::LOCALHOST, free_port()).into() }
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Makes a file that workers look for.
    pub(super) fn touch(&self, name: &str) {
        fs::write(self.path().join(name), "").unwrap();
    }

    pub(super) fn run_directory(&self) -> PathBuf {
        self.path().join("run")
    }

    /// The command line of a worker, after `--`.
    pub(super) fn server(&self, version: &str, first: &[&str]) -> Vec<String> {
        let fixed = ["--", "python3", "server.py", version, "{fd}", "{worker}"];
        fixed.iter().chain(first).map(|part| (*part).to_owned()).collect()
    }

    pub(super) fn command(&self, arguments: &[String]) -> Command {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut command = common::command(&arguments);
        command.env("REUSEPORT_RUN", self.run_directory()).current_dir(self.path());
        command
    }

    /// `run` as `web` at the port, with these options and this command.
    pub(super) fn arguments(&self, options: &[&str], command: &[String]) -> Vec<String> {
        let mut arguments: Vec<String> =
            ["run", "--name", "web", "--listen"].map(str::to_owned).into();
        arguments.push(format!("tcp:{}", self.address));
        arguments.extend(options.iter().map(|option| (*option).to_owned()));
        arguments.extend_from_slice(command);
        arguments
    }

    /// Starts it.
    pub(super) fn start(&self, options: &[&str], command: &[String]) -> Supervisor<'_> {
        let mut command = self.command(&self.arguments(options, command));
        let running = spawn(command.stdout(Stdio::null()).stderr(Stdio::piped())).unwrap();
        Supervisor { scene: self, running: Some(Running(running)) }
    }

    /// A call that ends by itself.
    pub(super) fn call(&self, arguments: &[&str], command: &[String]) -> Output {
        let mut all: Vec<String> =
            arguments.iter().map(|argument| (*argument).to_owned()).collect();
        all.extend_from_slice(command);
        output(&mut self.command(&all)).unwrap()
    }

    /// A call that ends with this code and says this.
    #[track_caller]
    pub(super) fn says(&self, code: i32, text: &str, arguments: &[&str], command: &[String]) {
        let output = self.call(arguments, command);
        let said = [&output.stdout[..], &output.stderr[..]].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(text), "{text}: {said}");
        if code != 0 {
            let last = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(last.starts_with("reuseport: ") && last.lines().count() <= 3, "{last}");
        }
    }

    pub(super) fn reload(&self, command: &[String]) -> Output {
        self.call(&["reload", "web"], command)
    }

    /// The version and the pid that answer.
    pub(super) fn ask(&self) -> Option<(String, u32)> {
        let answer = try_http_get(self.address).ok()?;
        let (version, pid) = answer.trim().split_once(' ')?;
        Some((version.to_owned(), pid.parse().ok()?))
    }

    /// Waits until this version answers.
    pub(super) fn until_version(&self, version: &str) -> u32 {
        let answers = || self.ask().filter(|(of, _)| of == version);
        until_some(&format!("version {version} answers"), BOUND, answers).1
    }

    pub(super) fn state(&self) -> Option<Value> {
        let text = fs::read_to_string(self.run_directory().join("web.json")).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// The pids of the workers of a generation, by index.
    pub(super) fn pids(&self, generation: u32) -> Vec<u32> {
        let state = self.state().unwrap_or_default();
        let workers = state["workers"].as_array().cloned().unwrap_or_default();
        let of = workers.iter().filter(|worker| worker["generation"] == generation);
        of.filter_map(|worker| worker["pid"].as_u64()?.try_into().ok()).collect()
    }
}

/// A supervisor. Dropping it ends it, and its workers.
pub(super) struct Supervisor<'a> {
    scene: &'a Scene,
    running: Option<Running>,
}

impl Supervisor<'_> {
    pub(super) fn running(&mut self) -> &mut Running {
        self.running.as_mut().unwrap()
    }

    /// Reads what it says until a line has this word.
    pub(super) fn until(&mut self, word: &str) -> String {
        self.running().read_errors_until(word)
    }

    /// Waits until this number of workers is ready.
    pub(super) fn until_ready(&mut self, workers: usize) {
        for _ in 0..workers {
            self.until("is ready");
        }
    }

    pub(super) fn signal(&mut self, signal: Signal) {
        self.running().signal(signal);
    }

    /// Kills it, and leaves its workers.
    pub(super) fn kill(mut self) {
        drop(self.running.take());
    }

    /// Waits for its end.
    pub(super) fn output(mut self) -> Output {
        self.running.take().unwrap().output()
    }

    /// Asks it to end, and waits.
    #[track_caller]
    pub(super) fn stop(mut self) {
        self.signal(Signal::TERM);
        let output = self.output();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Supervisor<'_> {
    fn drop(&mut self) {
        let Some(running) = self.running.take() else { return };
        drop(running);
        // A test that fails leaves no worker behind.
        for worker in
            self.scene.state().unwrap_or_default()["workers"].as_array().into_iter().flatten()
        {
            let pid = worker["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
            if let Some(pid) = pid.and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// Whether a process is there, and has not ended.
pub(super) fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}
