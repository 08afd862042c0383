//! nginx: a master, and workers that each have a listener of their own (`listen ... reuseport`).

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use super::{Daemon, Transport, bound_sockets, free_port, proc};

const CONFIG: &str = "nginx.conf";

/// A running nginx that answers every request with the pid of the worker that served it, as a line.
#[derive(Debug)]
pub struct Nginx {
    daemon: Daemon,
    port: u16,
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

    /// Like [`Nginx::start`], on a given port.
    ///
    /// # Panics
    ///
    /// As [`Nginx::start`] does.
    #[track_caller]
    pub fn start_on(port: u16, workers: usize) -> Self {
        let daemon = Daemon::spawn("nginx", |directory| {
            configure(directory, port, workers);
            command(directory)
        });
        let mut nginx = Self { daemon, port, workers };
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
        self.daemon.pid()
    }

    /// The process ids of the workers that take connections, without those that are shutting down.
    pub fn worker_pids(&self) -> Vec<u32> {
        workers_of(self.daemon.pid())
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
        configure(self.daemon.directory(), self.port, workers);
        self.daemon.signal(Signal::HUP);
        self.wait_until_ready(&old);
    }

    /// Stops it, gracefully (SIGQUIT), and starts it again with the same configuration: all its
    /// sockets are closed, so the group is gone, and then there is a new one at the same address.
    ///
    /// # Panics
    ///
    /// If it does not end or does not listen within [`crate::wait::BOUND`] each.
    #[track_caller]
    pub fn restart(&mut self) {
        self.stop();
        self.daemon.spawn_again(command);
        self.wait_until_ready(&[]);
    }

    /// Stops it, gracefully (SIGQUIT), until [`Nginx::restart`].
    ///
    /// # Panics
    ///
    /// If it does not end within [`crate::wait::BOUND`].
    #[track_caller]
    pub fn stop(&mut self) {
        let status = self.daemon.stop(Signal::QUIT);
        assert!(status.success(), "nginx stopped with {status}");
    }

    #[track_caller]
    fn wait_until_ready(&mut self, old: &[u32]) {
        let (pid, port, workers) = (self.daemon.pid(), self.port, self.workers);
        self.daemon.wait_until(&format!("{workers} workers on port {port}"), || {
            let now = workers_of(pid);
            now.len() == workers
                && now.iter().all(|pid| !old.contains(pid))
                && bound_sockets(pid, Transport::Tcp, port) == workers
        });
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
fn configure(directory: &Path, port: u16, workers: usize) {
    let dir = directory.display();
    let config = format!(
        r#"
daemon off;
user root;
worker_processes {workers};
pid {dir}/nginx.pid;
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
        listen 127.0.0.1:{port} reuseport;
        default_type text/plain;
        return 200 "$pid\n";
    }}
}}
"#
    );
    fs::write(directory.join(CONFIG), config).unwrap_or_else(|e| panic!("nginx.conf: {e}"));
}

fn command(directory: &Path) -> Command {
    let mut command = Command::new(crate::program("nginx"));
    command.arg("-p").arg(directory).args(["-c", CONFIG, "-e", "stderr"]);
    command
}
