//! Sockets and helper processes for the tests of this crate.
//!
//! A helper process is the test binary itself, told by an environment variable to run its ignored
//! test `helper` and nothing else.

#![allow(dead_code)] // Each test binary uses its own part.
#![allow(clippy::unwrap_used)] // A test of ours that cannot go on may panic, helpers included.

pub(crate) mod world;

use std::io::{BufRead, BufReader, Write as _};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ChildStdout, Command, Stdio};

use reuseport::group::Group;
use reuseport::id::Cookie;
use reuseport::observe::Observer;
use rustix::event::epoll;
use rustix::net::sockopt;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType};

pub(crate) const BACKLOG: i32 = 64;

/// A listening member at `address`; port 0 for a new group.
pub(crate) fn tcp(address: &str) -> OwnedFd {
    tcp_with(address, |_| {})
}

/// The same, after `prepare` has set options.
pub(crate) fn tcp_with(address: &str, prepare: impl FnOnce(&OwnedFd)) -> OwnedFd {
    let socket = bound(address, SocketType::STREAM, prepare);
    net::listen(&socket, BACKLOG).unwrap();
    socket
}

/// A bound UDP member at `address`; port 0 for a new group.
pub(crate) fn udp(address: &str) -> OwnedFd {
    bound(address, SocketType::DGRAM, |_| {})
}

fn bound(address: &str, kind: SocketType, prepare: impl FnOnce(&OwnedFd)) -> OwnedFd {
    let address: SocketAddr = address.parse().unwrap();
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = net::socket_with(family, kind, SocketFlags::CLOEXEC, None).unwrap();
    sockopt::set_socket_reuseport(&socket, true).unwrap();
    prepare(&socket);
    net::bind(&socket, &address).unwrap();
    socket
}

/// The address that a socket is bound to.
pub(crate) fn local_address(socket: impl AsFd) -> SocketAddr {
    net::getsockname(socket).unwrap().try_into().unwrap()
}

/// A socket's cookie.
pub(crate) fn cookie(socket: impl AsFd) -> Cookie {
    Cookie::new(sockopt::socket_cookie(socket).unwrap()).unwrap()
}

/// The groups in the calling thread's network namespace.
pub(crate) fn groups_here(observer: &Observer) -> Vec<Group> {
    let here = observer.own_netns().unwrap();
    let mut groups = observer.groups().unwrap();
    groups.retain(|g| g.key.netns == here);
    groups
}

/// The only group in the calling thread's network namespace.
pub(crate) fn only_group(observer: &Observer) -> Group {
    let mut groups = groups_here(observer);
    assert_eq!(groups.len(), 1, "{groups:#?}");
    groups.remove(0)
}

const ROLE: &str = "REUSEPORT_TEST_HELPER";
const SAYS: &str = "helper: ";

/// A process that has a socket as its standard input. It is killed when this is dropped, or when
/// the thread that started it ends.
pub(crate) struct Helper {
    child: Child,
    said: String,
    _stdout: BufReader<ChildStdout>,
}

impl Helper {
    /// Starts one that plays `role` with a copy of `socket`, and waits until it does:
    /// `hold` (nothing else), `watch` (by epoll), `look` (lists the group's holders), `serve` (accepts
    /// whatever comes, and keeps it).
    pub(crate) fn holding(socket: &OwnedFd, role: &str) -> Self {
        Self::start(Command::new(std::env::current_exe().unwrap()), socket, role)
    }

    /// The same, as the first process of a new pid namespace.
    pub(crate) fn in_pid_namespace(socket: &OwnedFd, role: &str) -> Self {
        let mut command = Command::new(test_support::program("unshare"));
        command.args(["--pid", "--fork", "--kill-child"]).arg(std::env::current_exe().unwrap());
        Self::start(command, socket, role)
    }

    fn start(mut command: Command, socket: &OwnedFd, role: &str) -> Self {
        let mut child = command
            .args(["--exact", "helper", "--ignored", "--nocapture"])
            .env(ROLE, role)
            .stdin(socket.try_clone().unwrap())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        let said = loop {
            line.clear();
            assert_ne!(stdout.read_line(&mut line).unwrap(), 0, "the helper ended early");
            // What libtest says stands before it, perhaps on the same line.
            if let Some((_, said)) = line.split_once(SAYS) {
                break said.trim_end().to_owned();
            }
        };
        Self { child, said, _stdout: stdout }
    }

    /// The started process (in [`Self::in_pid_namespace`] the helper's parent).
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it said when it was ready.
    pub(crate) fn said(&self) -> &str {
        &self.said
    }

    /// Kills it and waits until it is gone.
    pub(crate) fn kill(self) {
        drop(self);
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It may have died already: then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a helper process does; returns at once in any other.
pub(crate) fn helper_main() {
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
        "look" => format!("sees {:?}", only_group(&Observer::new().unwrap()).pids()),
        other => panic!("no role {other:?}"),
    };
    println!("{SAYS}{said}");
    loop {
        std::thread::park();
    }
}
