//! A server as gunicorn is from version 24 on: a master, and workers that bind one socket each, which the master starts
//! again. Over TCP they answer as a web server, over UDP as a resolver: each datagram by one.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use rustix::process::Signal;

use super::{Daemon, Transport, proc};

/// The arguments: protocol, port, workers. An answer has the pid of the master. SIGTERM ends it: what was accepted is
/// answered before.
const SERVER: &str = r#"
import os, signal, socket, sys
tcp, port, workers = sys.argv[1] == "tcp", int(sys.argv[2]), int(sys.argv[3])
master, stopped, children = os.getpid(), False, set()

def stop(*_):
    global stopped
    stopped = True
    if os.getpid() == master:
        for child in children:
            os.kill(child, signal.SIGTERM)

def answer(connection):
    connection.settimeout(60)
    asked = b""
    while b"\r\n\r\n" not in asked:
        more = connection.recv(4096)
        if not more:
            return
        asked += more
    body = b"%d\n" % master
    head = b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    connection.sendall(head + body)

def work():
    kind = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
    s = socket.socket(socket.AF_INET, kind)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind(("127.0.0.1", port))
    if tcp:
        s.listen(1024)
    os.write(1, b"bound\n")
    s.settimeout(0.05)
    while not stopped:
        try:
            if tcp:
                connection, _ = s.accept()
                with connection:
                    answer(connection)
            else:
                asked, peer = s.recvfrom(2048)
                s.sendto(b"%d %s" % (master, asked), peer)
        except (TimeoutError, ConnectionError):
            pass

def fork():
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    children.add(child)

signal.signal(signal.SIGTERM, stop)
for _ in range(workers):
    fork()
while children:
    child, _ = os.wait()
    children.discard(child)
    if not stopped:
        fork()
"#;

/// A master with workers that bind one socket each.
#[derive(Debug)]
pub struct Forking {
    daemon: Daemon,
    port: u16,
}

impl Forking {
    /// Starts it on a port that others may use already.
    ///
    /// # Panics
    ///
    /// If its sockets are not bound within [`crate::wait::BOUND`].
    #[track_caller]
    pub fn start_on(transport: Transport, port: u16, workers: usize) -> Self {
        let protocol = match transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        };
        let mut daemon = Daemon::spawn("forking", |_| {
            let mut command = Command::new(crate::program("python3"));
            command.args(["-c", SERVER, protocol, &port.to_string(), &workers.to_string()]);
            command
        });
        // Tables in /proc may lack sockets while others come and go.
        daemon.wait_for_lines("its sockets", "bound", workers);
        Self { daemon, port }
    }

    /// The address it serves.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The process id of the master, with which it answers.
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// The process ids of the workers.
    pub fn worker_pids(&self) -> Vec<u32> {
        proc::children(self.pid())
    }

    /// Kills a worker (SIGKILL), which the master starts again.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[track_caller]
    pub fn kill_worker(&self) {
        let worker = self.worker_pids().first().copied().unwrap_or_else(|| panic!("no worker"));
        proc::send(worker, Signal::KILL).unwrap_or_else(|e| panic!("cannot kill {worker}: {e}"));
    }

    /// Ends it (SIGTERM), which closes its sockets.
    ///
    /// # Panics
    ///
    /// If it does not end within [`crate::wait::BOUND`].
    #[track_caller]
    pub fn stop(mut self) {
        let status = self.daemon.stop(Signal::TERM);
        assert!(status.success(), "the server stopped with {status}");
    }
}
