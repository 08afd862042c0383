//! HAProxy: one process with a listener for each thread (`shards by-thread`).

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use super::{Daemon, Transport, bound_sockets, bound_sockets_here, free_port, proc};

const CONFIG: &str = "haproxy.cfg";

/// A HAProxy that answers with a line that has the number of the serving thread.
#[derive(Debug)]
pub struct Haproxy {
    daemon: Daemon,
    mode: Mode,
    port: u16,
    threads: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// One process (`-db`).
    Alone,
    /// A master, and one worker process that serves (`-W`).
    MasterWorker,
}

impl Haproxy {
    /// Starts HAProxy on a free port.
    ///
    /// # Panics
    ///
    /// If its threads do not listen within [`crate::wait::BOUND`].
    #[track_caller]
    pub fn start(threads: usize) -> Self {
        Self::start_as(Mode::Alone, free_port(), threads)
    }

    /// Like [`Haproxy::start`], on a port that others may use already.
    ///
    /// # Panics
    ///
    /// As [`Haproxy::start`] does.
    #[track_caller]
    pub fn start_on(port: u16, threads: usize) -> Self {
        Self::start_as(Mode::Alone, port, threads)
    }

    /// Starts it in master-worker mode, like the service in Debian, so that it can be
    /// [reloaded](Haproxy::reload).
    ///
    /// # Panics
    ///
    /// As [`Haproxy::start`] does.
    #[track_caller]
    pub fn start_reloadable(threads: usize) -> Self {
        Self::start_as(Mode::MasterWorker, free_port(), threads)
    }

    #[track_caller]
    fn start_as(mode: Mode, port: u16, threads: usize) -> Self {
        let others = bound_sockets_here(Transport::Tcp, port);
        let daemon = Daemon::spawn("haproxy", |directory| {
            configure(directory, port, threads);
            command(directory, mode)
        });
        let mut haproxy = Self { daemon, mode, port, threads };
        haproxy.wait_until_ready(&[], others + threads);
        haproxy
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address it listens on.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The id of the serving process, or of the master if there is none during a reload.
    pub fn pid(&self) -> u32 {
        self.serving().first().copied().unwrap_or_else(|| self.daemon.pid())
    }

    /// Its output so far.
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// Reloads (SIGUSR2 to the master) with a number of threads, and returns when the old worker
    /// has ended. The new worker gets as many of the old listeners as it needs.
    ///
    /// # Panics
    ///
    /// If it was not started by [`Haproxy::start_reloadable`], or does not reload within
    /// [`crate::wait::BOUND`].
    #[track_caller]
    pub fn reload(&mut self, threads: usize) {
        assert_eq!(self.mode, Mode::MasterWorker, "it was not started for reloading");
        let old = self.serving();
        self.threads = threads;
        configure(self.daemon.directory(), self.port, threads);
        self.daemon.signal(Signal::USR2);
        self.wait_until_ready(&old, threads);
    }

    /// Stops it (SIGTERM) and starts it again: its sockets close, so the group ends, and a new
    /// group begins at the same address.
    ///
    /// # Panics
    ///
    /// If it does not end or does not listen within [`crate::wait::BOUND`] each.
    #[track_caller]
    pub fn restart(&mut self) {
        self.daemon.stop(Signal::TERM);
        let mode = self.mode;
        self.daemon.spawn_again(|directory| command(directory, mode));
        self.wait_until_ready(&[], self.threads);
    }

    /// Stops it gracefully (SIGUSR1): it closes its listeners, finishes its requests and ends.
    ///
    /// # Panics
    ///
    /// If it does not end within [`crate::wait::BOUND`].
    #[track_caller]
    pub fn stop(mut self) {
        self.daemon.stop(Signal::USR1);
    }

    #[track_caller]
    fn wait_until_ready(&mut self, old: &[u32], listeners: usize) {
        let (master, mode, port) = (self.daemon.pid(), self.mode, self.port);
        self.daemon.wait_until(&format!("{listeners} listeners on port {port}"), || {
            let now = serving(master, mode);
            now.len() == 1
                && !old.contains(&now[0])
                && bound_sockets(master, Transport::Tcp, port) == listeners
                && can_reload(master, mode)
        });
    }

    fn serving(&self) -> Vec<u32> {
        serving(self.daemon.pid(), self.mode)
    }
}

/// The serving processes: during a reload, an old and a new one.
fn serving(daemon: u32, mode: Mode) -> Vec<u32> {
    match mode {
        Mode::Alone => vec![daemon],
        Mode::MasterWorker => proc::children(daemon),
    }
}

/// Whether a master handles SIGUSR2. It does not for a moment after its worker has begun to serve,
/// because it re-executes itself and installs signal handlers after that (HAProxy 2.6,
/// `mworker_loop`).
fn can_reload(master: u32, mode: Mode) -> bool {
    mode == Mode::Alone || proc::catches(master, Signal::USR2)
}

fn command(directory: &Path, mode: Mode) -> Command {
    let mut command = Command::new(crate::program("haproxy"));
    command.arg(match mode {
        Mode::Alone => "-db",
        Mode::MasterWorker => "-W",
    });
    command.arg("-f").arg(directory.join(CONFIG));
    command
}

#[track_caller]
fn configure(directory: &Path, port: u16, threads: usize) {
    let config = format!(
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
    );
    fs::write(directory.join(CONFIG), config).unwrap_or_else(|e| panic!("{CONFIG}: {e}"));
}
