//! nginx: a master, and workers with a listener each (`listen ... reuseport`).

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use super::proc::{self, Orphan};
use super::{Daemon, Transport, bound_sockets, bound_sockets_here, free_port};
use crate::wait;

const CONFIG: &str = "nginx.conf";

/// The file with the pid of the master, also after an upgrade.
const PID_FILE: &str = "nginx.pid";

/// The default address.
const LOOPBACK: &[&str] = &["127.0.0.1:PORT"];

/// The default content: the pid of the worker.
const PID: &str = r#"default_type text/plain; return 200 "$pid\n";"#;

/// An nginx that answers, by default, with a line that has the pid of the serving worker.
#[derive(Debug)]
pub struct Nginx {
    /// The master, if it is not a child of the test.
    orphan: Option<Orphan>,
    daemon: Daemon,
    port: u16,
    site: Site,
    workers: usize,
    /// Sockets of other servers on its port, which are there as long as this one is.
    others: usize,
}

/// What it listens at, and what it serves.
#[derive(Debug, Clone)]
struct Site {
    listens: &'static [&'static str],
    /// Whether each worker has listeners of its own.
    reuseport: bool,
    /// Directives of the `server` block.
    content: String,
}

impl Nginx {
    /// Starts nginx on a free port.
    ///
    /// # Panics
    ///
    /// If its workers do not run and listen within [`crate::wait::BOUND`].
    #[track_caller]
    pub fn start(workers: usize) -> Self {
        Self::start_on(free_port(), workers)
    }

    /// Like [`Nginx::start`], with these `listen` directives, which have `PORT` in place of the
    /// port and omit `reuseport`: `[::]:PORT ipv6only=on`, for example.
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

    /// Like [`Nginx::start_listening`], with this content of the `server` block, and with one listener for
    /// all workers if not `reuseport`.
    ///
    /// # Panics
    ///
    /// As [`Nginx::start`] does.
    #[track_caller]
    pub fn start_serving(
        listens: &'static [&'static str],
        workers: usize,
        reuseport: bool,
        content: String,
    ) -> Self {
        Self::start_site(free_port(), Site { listens, reuseport, content }, workers)
    }

    #[track_caller]
    fn start_as(port: u16, listens: &'static [&'static str], workers: usize) -> Self {
        Self::start_site(port, Site::of_pids(listens), workers)
    }

    #[track_caller]
    fn start_site(port: u16, site: Site, workers: usize) -> Self {
        let daemon = Daemon::spawn("nginx", |directory| {
            configure(directory, port, &site, workers);
            in_foreground(directory)
        });
        let mut nginx = Self { orphan: None, daemon, port, site, workers, others: 0 };
        nginx.wait_until_ready(&[]);
        nginx
    }

    /// Starts another one on the same port, which listens next to this one: not to be reloaded.
    ///
    /// # Panics
    ///
    /// As [`Nginx::start`] does.
    #[track_caller]
    pub fn start_beside(&self, workers: usize) -> Self {
        let (port, site) = (self.port, self.site.clone());
        let others = bound_sockets_here(Transport::Tcp, port);
        let daemon = Daemon::spawn("nginx", |directory| {
            configure(directory, port, &site, workers);
            in_foreground(directory)
        });
        let mut nginx = Self { orphan: None, daemon, port, site, workers, others };
        nginx.wait_until_ready(&[]);
        nginx
    }

    /// Starts it as a daemon: it can then be [upgraded](Nginx::upgrade), which nginx refuses if it
    /// is a child of the caller, and its listeners pass to another process when it starts.
    ///
    /// # Panics
    ///
    /// As [`Nginx::start`] does.
    #[track_caller]
    pub fn start_daemon(workers: usize) -> Self {
        let (port, site) = (free_port(), Site::of_pids(LOOPBACK));
        let daemon = Daemon::spawn("nginx", |directory| {
            configure(directory, port, &site, workers);
            command(directory)
        });
        let mut nginx = Self { orphan: None, daemon, port, site, workers, others: 0 };
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

    /// The process ids of the workers, without those that are shutting down.
    pub fn worker_pids(&self) -> Vec<u32> {
        workers_of(self.master_pid())
    }

    /// Its output so far.
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// Reloads (SIGHUP) with a number of workers, and returns when the new ones run. An old worker
    /// ends when its last connection does. As many listeners as there are new workers stay open.
    ///
    /// # Panics
    ///
    /// If the new workers do not run within [`crate::wait::BOUND`].
    #[track_caller]
    pub fn reload(&mut self, workers: usize) {
        let old = self.worker_pids();
        self.workers = workers;
        configure(self.daemon.directory(), self.port, &self.site, workers);
        self.signal(Signal::HUP);
        self.wait_until_ready(&old);
    }

    /// Kills a worker (SIGKILL), and returns when the master has replaced it. The listener stays
    /// open, because the master holds it too; accepted connections are reset.
    ///
    /// # Panics
    ///
    /// If it is not a worker, or is not replaced within [`crate::wait::BOUND`].
    #[track_caller]
    pub fn kill_worker(&mut self, pid: u32) {
        assert!(self.worker_pids().contains(&pid), "{pid} is not a worker");
        proc::send(pid, Signal::KILL).unwrap_or_else(|e| panic!("cannot kill {pid}: {e}"));
        self.wait_until_ready(&[pid]);
    }

    /// Upgrades the binary (SIGUSR2, then SIGQUIT to the old master), and returns when the old
    /// nginx has ended. The new one inherits the listeners.
    ///
    /// # Panics
    ///
    /// If it was not started by [`Nginx::start_daemon`]; if the new one does not run or the old one
    /// does not end within [`crate::wait::BOUND`] each.
    #[track_caller]
    pub fn upgrade(&mut self) {
        let old = self.orphan.take().unwrap_or_else(|| panic!("it is not a daemon"));
        old.signal(Signal::USR2);
        self.adopt_other_than(Some(old.pid()));
        self.wait_until_ready(&[]);
        old.stop(Signal::QUIT);
    }

    /// Stops it gracefully (SIGQUIT) and starts it again with the same configuration: its sockets
    /// close, so the group ends, and a new group begins at the same address.
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

    /// Stops it gracefully (SIGQUIT), until [`Nginx::restart`].
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

    /// Takes as master the process in the pid file, as soon as that is not the old one.
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
        let each = if self.site.reuseport { workers } else { 1 };
        let listeners = each * self.site.listens.len() + self.others;
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

/// A worker sets this title when its epoll watches its listener (`ngx_worker_process_cycle`), and
/// another one when it shuts down.
fn workers_of(master: u32) -> Vec<u32> {
    let mut pids = proc::children(master);
    pids.retain(|&pid| proc::command_line(pid) == "nginx: worker process");
    pids
}

impl Site {
    fn of_pids(listens: &'static [&'static str]) -> Self {
        Self { listens, reuseport: true, content: PID.to_owned() }
    }
}

#[track_caller]
fn configure(directory: &Path, port: u16, site: &Site, workers: usize) {
    let Site { listens, reuseport, content } = site;
    let dir = directory.display();
    let reuseport = if *reuseport { " reuseport" } else { "" };
    let listen = |listen: &&str| {
        format!("listen {}{reuseport};\n", listen.replace("PORT", &port.to_string()))
    };
    let listens: String = listens.iter().map(listen).collect();
    let config = format!(
        r#"
user root;
worker_processes {workers};
pid {dir}/{PID_FILE};
error_log stderr notice;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    server {{
        {listens}
        {content}
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
