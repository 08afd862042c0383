//! HAProxy: one process, whose threads each have a listener of their own (`shards by-thread`).

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use super::{Daemon, Transport, bound_sockets, free_port};

const CONFIG: &str = "haproxy.cfg";

/// A running HAProxy that answers every request with the number of the thread that served it, as a
/// line.
#[derive(Debug)]
pub struct Haproxy {
    daemon: Daemon,
    port: u16,
}

impl Haproxy {
    /// Starts HAProxy with so many threads, on a free port.
    ///
    /// # Panics
    ///
    /// If its threads do not listen within [`crate::wait::BOUND`].
    #[track_caller]
    pub fn start(threads: usize) -> Self {
        let port = free_port();
        let mut daemon = Daemon::spawn("haproxy", |directory| {
            let file = directory.join(CONFIG);
            fs::write(&file, config(port, threads)).unwrap_or_else(|e| panic!("{CONFIG}: {e}"));
            let mut command = Command::new(crate::program("haproxy"));
            command.args(["-db", "-f"]).arg(file);
            command
        });
        let pid = daemon.pid();
        daemon.wait_until(&format!("{threads} listeners on port {port}"), || {
            bound_sockets(pid, Transport::Tcp, port) == threads
        });
        Self { daemon, port }
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address it listens on.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// What it printed so far.
    pub fn log(&self) -> String {
        self.daemon.log()
    }
}

fn config(port: u16, threads: usize) -> String {
    format!(
        r#"
global
    nbthread {threads}
    maxconn 1024
defaults
    mode http
    timeout client 30s
    timeout http-request 30s
frontend test
    bind 127.0.0.1:{port} shards by-thread
    http-request return status 200 content-type text/plain lf-string "%[thread]\n"
"#
    )
}
