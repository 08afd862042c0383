//! nginx: a master, and workers that each have a listener of their own (`listen ... reuseport`).

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use super::proc::{self, Orphan};
use super::{Daemon, Transport, bound_sockets, free_port};
use crate::wait;

const CONFIG: &str = "nginx.conf";

/// Where the master writes its pid, and where that goes when another binary takes over.
const PID_FILE: &str = "nginx.pid";

/// Where it listens if nothing else is said.
const LOOPBACK: &[&str] = &["127.0.0.1:PORT"];

/// A running nginx that answers every request with the pid of the worker that served it, as a line.
#[derive(Debug)]
pub struct Nginx {
    /// The master, if it is no child of ours.
    orphan: Option<Orphan>,
    daemon: Daemon,
    port: u16,
    listens: &'static [&'static str],
    workers: usize,
}

impl Nginx {
    /// Starts nginx with so many workers, on a free port.
    ///
    /// # Panics
    ///
    /// If its workers do not run and listen within [`crate::wait::BOUND`].
    #[track_caller]
    pub fn start(workers: usize) -> Self {
        Self::start_on(free_port(), workers)
    }

    /// Like [`Nginx::start`], listening at each of these: a `listen` directive's words, with `PORT`
    /// in the place of the port, `reuseport` left out. `[::]:PORT ipv6only=on`, for example.
    ///
    /// # Panics
    ///
    /// As [`Nginx::start`] does.
    #[track_caller]
    pub fn start_listening(listens: &'static [&'static str], workers: usize) -> Self {
        Self::start_as(free_port(), listens, workers)
    }

    /// Like [`Nginx::start`], on a given port.
    ///
    /// # Panics
    ///
    /// As [`Nginx::start`] does.
    #[track_caller]
    pub fn start_on(port: u16, workers: usize) -> Self {
        Self::start_as(port, LOOPBACK, workers)
    }

    #[track_caller]
    fn start_as(port: u16, listens: &'static [&'static str], workers: usize) -> Self {
        let daemon = Daemon::spawn("nginx", |directory| {
            configure(directory, port, listens, workers);
            in_foreground(directory)
        });
        let mut nginx = Self { orphan: None, daemon, port, listens, workers };
        nginx.wait_until_ready(&[]);
        nginx
    }

    /// Starts it as a daemon: it can then be [upgraded](Nginx::upgrade), which it refuses to those
    /// whose child it is, and its listeners pass to another process as it starts.
    ///
    /// # Panics
    ///
    /// As [`Nginx::start`] does.
    #[track_caller]
    pub fn start_daemon(workers: usize) -> Self {
        let (port, listens) = (free_port(), LOOPBACK);
        let daemon = Daemon::spawn("nginx", |directory| {
            configure(directory, port, listens, workers);
            command(directory)
        });
        let mut nginx = Self { orphan: None, daemon, port, listens, workers };
        nginx.adopt_other_than(None);
        nginx.wait_until_ready(&[]);
        nginx
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address it listens on.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The process id of the master.
    pub fn master_pid(&self) -> u32 {
        self.orphan.as_ref().map_or_else(|| self.daemon.pid(), Orphan::pid)
    }

    /// The process ids of the workers that take connections, without those that are shutting down.
    pub fn worker_pids(&self) -> Vec<u32> {
        workers_of(self.master_pid())
    }

    /// What it printed so far.
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// Reloads (SIGHUP) to so many workers and returns when the new ones run. The old ones end when
    /// their last connection does. The listeners of the workers that remain in number stay.
    ///
    /// # Panics
    ///
    /// If the new workers do not run within [`crate::wait::BOUND`].
    #[track_caller]
    pub fn reload(&mut self, workers: usize) {
        let old = self.worker_pids();
        self.workers = workers;
        configure(self.daemon.directory(), self.port, self.listens, workers);
        self.signal(Signal::HUP);
        self.wait_until_ready(&old);
    }

    /// Kills a worker (SIGKILL) and returns when the master has put another one in its place. The
    /// listener stays, for the master has it too; what the worker had accepted is reset.
    ///
    /// # Panics
    ///
    /// If it is no worker, or is not replaced within [`crate::wait::BOUND`].
    #[track_caller]
    pub fn kill_worker(&mut self, pid: u32) {
        assert!(self.worker_pids().contains(&pid), "{pid} is no worker");
        proc::send(pid, Signal::KILL).unwrap_or_else(|e| panic!("cannot kill {pid}: {e}"));
        self.wait_until_ready(&[pid]);
    }

    /// Hands over to another nginx (SIGUSR2, then SIGQUIT to the old master), as one does to
    /// upgrade the binary; returns when the old one has ended. The new one inherits the listeners.
    ///
    /// # Panics
    ///
    /// If it was not [started for that](Nginx::start_daemon); if the new one does not run or
    /// the old one does not end within [`crate::wait::BOUND`] each.
    #[track_caller]
    pub fn upgrade(&mut self) {
        let old = self.orphan.take().unwrap_or_else(|| panic!("it is no daemon"));
        old.signal(Signal::USR2);
        self.adopt_other_than(Some(old.pid()));
        self.wait_until_ready(&[]);
        old.stop(Signal::QUIT);
    }

    /// Stops it, gracefully (SIGQUIT), and starts it again with the same configuration: all its
    /// sockets are closed, so the group is gone, and then there is a new one at the same address.
    ///
    /// # Panics
    ///
    /// If it does not end or does not listen within [`crate::wait::BOUND`] each.
    #[track_caller]
    pub fn restart(&mut self) {
        let as_daemon = self.orphan.is_some();
        self.stop();
        self.daemon.spawn_again(if as_daemon { command } else { in_foreground });
        if as_daemon {
            self.adopt_other_than(None);
        }
        self.wait_until_ready(&[]);
    }

    /// Stops it, gracefully (SIGQUIT), until [`Nginx::restart`].
    ///
    /// # Panics
    ///
    /// If it does not end within [`crate::wait::BOUND`].
    #[track_caller]
    pub fn stop(&mut self) {
        match self.orphan.take() {
            Some(master) => master.stop(Signal::QUIT),
            None => {
                let status = self.daemon.stop(Signal::QUIT);
                assert!(status.success(), "nginx stopped with {status}");
            }
        }
    }

    /// The master is the process that the pid file names, as soon as that is another one.
    #[track_caller]
    fn adopt_other_than(&mut self, old: Option<u32>) {
        let new = wait::until_some("the master's pid", wait::BOUND, || {
            let file = fs::read_to_string(self.daemon.directory().join(PID_FILE)).ok()?;
            file.trim().parse().ok().filter(|pid| Some(*pid) != old)
        });
        self.orphan = Some(Orphan::adopt(new));
    }

    #[track_caller]
    fn wait_until_ready(&mut self, old: &[u32]) {
        let (pid, port, workers) = (self.master_pid(), self.port, self.workers);
        let listeners = workers * self.listens.len();
        let what = format!("{workers} workers on port {port}");
        let ready = || {
            let now = workers_of(pid);
            now.len() == workers
                && now.iter().all(|pid| !old.contains(pid))
                && bound_sockets(pid, Transport::Tcp, port) == listeners
        };
        match self.orphan {
            Some(_) => wait::until(&what, wait::BOUND, ready),
            None => self.daemon.wait_until(&what, ready),
        }
    }

    #[track_caller]
    fn signal(&mut self, signal: Signal) {
        match &self.orphan {
            Some(master) => master.signal(signal),
            None => self.daemon.signal(signal),
        }
    }
}

/// A worker takes this title when it has put its listener into its epoll
/// (ngx_worker_process_cycle), another one when it is told to shut down.
fn workers_of(master: u32) -> Vec<u32> {
    let mut pids = proc::children(master);
    pids.retain(|&pid| proc::command_line(pid) == "nginx: worker process");
    pids
}

#[track_caller]
fn configure(directory: &Path, port: u16, listens: &[&str], workers: usize) {
    let dir = directory.display();
    let listens: String = listens
        .iter()
        .map(|listen| format!("listen {} reuseport;\n", listen.replace("PORT", &port.to_string())))
        .collect();
    let config = format!(
        r#"
user root;
worker_processes {workers};
pid {dir}/{PID_FILE};
error_log stderr notice;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    server {{
        {listens}
        default_type text/plain;
        return 200 "$pid\n";
    }}
}}
"#
    );
    fs::write(directory.join(CONFIG), config).unwrap_or_else(|e| panic!("nginx.conf: {e}"));
}

fn in_foreground(directory: &Path) -> Command {
    let mut command = command(directory);
    command.args(["-g", "daemon off;"]);
    command
}

fn command(directory: &Path) -> Command {
    let mut command = Command::new(crate::program("nginx"));
    command.arg("-p").arg(directory).args(["-c", CONFIG, "-e", "stderr"]);
    command
}
