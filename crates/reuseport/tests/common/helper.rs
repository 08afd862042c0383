//! A process that holds a socket: a copy of this test binary that runs the ignored test [`holder`].

use std::io::{BufRead, BufReader, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ChildStdout, Command, Stdio};

use reuseport::Host;
use rustix::event::epoll;
use test_support::process::{rerun, rerun_under, spawn};

use super::only_group;
use super::waiting::{self, Worker};

const ROLE: &str = "REUSEPORT_TEST_HELPER";
const SAYS: &str = "helper: ";

/// A process whose standard input is a socket. It is killed when this is dropped or when the thread
/// that started it ends.
pub(crate) struct Helper {
    child: Child,
    said: String,
    _stdout: BufReader<ChildStdout>,
}

impl Helper {
    /// Starts a process with a copy of `socket` and waits until it plays `role`: `hold` (does
    /// nothing), `watch` (with epoll), `look` (lists the holders of the group), `open` (says why it cannot), `reasons` (says which
    /// members it cannot borrow), `serve` (accepts every connection and keeps it) or one of [`waiting::HOW`].
    pub(crate) fn holding(socket: &OwnedFd, role: &str) -> Self {
        Self::start(rerun(module_path!(), "holder"), socket, role)
    }

    /// Like [`Self::holding`], as the first process of a new pid namespace.
    pub(crate) fn in_pid_namespace(socket: &OwnedFd, role: &str) -> Self {
        let mut unshare = Command::new(test_support::program("unshare"));
        unshare.args(["--pid", "--fork", "--kill-child"]);
        Self::start(rerun_under(unshare, module_path!(), "holder"), socket, role)
    }

    /// Like [`Self::holding`], as root of a new user namespace.
    pub(crate) fn in_user_namespace(socket: &OwnedFd, role: &str) -> Self {
        let mut unshare = Command::new(test_support::program("unshare"));
        unshare.args(["--user", "--map-root-user"]);
        Self::start(rerun_under(unshare, module_path!(), "holder"), socket, role)
    }

    fn start(mut command: Command, socket: &OwnedFd, role: &str) -> Self {
        command
            .arg("--nocapture")
            .env(ROLE, role)
            .stdin(socket.try_clone().unwrap())
            .stdout(Stdio::piped());
        let mut child = spawn(&mut command).unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        let said = loop {
            line.clear();
            assert_ne!(stdout.read_line(&mut line).unwrap(), 0, "the helper ended early");
            // libtest prints before it, perhaps on the same line.
            if let Some((_, said)) = line.split_once(SAYS) {
                break said.trim_end().to_owned();
            }
        };
        Self { child, said, _stdout: stdout }
    }

    /// The process that was started: after [`Self::in_pid_namespace`], the parent of the helper.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it printed when it was ready.
    pub(crate) fn said(&self) -> &str {
        &self.said
    }

    /// Kills the process and waits until it has ended.
    pub(crate) fn kill(self) {
        drop(self);
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // Both fail if the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "runs in the processes that other tests start"]
fn holder() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let signal = Some(rustix::process::Signal::KILL);
    rustix::process::set_parent_process_death_signal(signal).unwrap();
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let said = match role.as_str() {
        "hold" => String::new(),
        "watch" => {
            let (data, events) = (epoll::EventData::new_u64(0), epoll::EventFlags::IN);
            epoll::add(&poll, std::io::stdin(), data, events).unwrap();
            String::new()
        }
        "serve" => {
            let listener =
                std::net::TcpListener::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
            let greet = |stream: std::io::Result<std::net::TcpStream>| {
                let mut stream = stream.unwrap();
                let _ = stream.write_all(b"x");
                stream
            };
            std::thread::spawn(move || listener.incoming().map(greet).collect::<Vec<_>>());
            String::new()
        }
        "reasons" => {
            let group = only_group(&Host::open().unwrap());
            let reason = |member: &reuseport::Member| {
                let why = member.unborrowable().map_or("-", |why| why.name());
                format!("{}:{why}", member.cookie.map_or(0, |cookie| cookie.get()))
            };
            let mut reasons: Vec<String> = group.members.iter().map(reason).collect();
            reasons.sort();
            reasons.join(" ")
        }
        "open" => Host::open().unwrap_err().report().to_string(),
        "look" => format!("sees {:?}", only_group(&Host::open().unwrap()).pids()),
        other => match waiting::HOW.into_iter().find(|how| *how == other) {
            Some(how) => Worker::start(how),
            None => panic!("no role {other:?}"),
        },
    };
    println!("{SAYS}{said}");
    loop {
        std::thread::park();
    }
}
