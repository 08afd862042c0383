//! unbound: a DNS server whose threads each have a UDP socket of their own (`so-reuseport: yes`).

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use super::{Daemon, Transport, bound_sockets, free_port};

const CONFIG: &str = "unbound.conf";

/// A running unbound that knows one name, [`Unbound::NAME`], and asks nobody for it.
#[derive(Debug)]
pub struct Unbound {
    daemon: Daemon,
    port: u16,
}

impl Unbound {
    /// The name it knows.
    pub const NAME: &'static str = "server.test";
    /// The address it answers for it.
    pub const ANSWER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    /// Starts unbound with so many threads, on a free port.
    ///
    /// # Panics
    ///
    /// If its threads do not listen within [`crate::wait::BOUND`].
    #[track_caller]
    pub fn start(threads: usize) -> Self {
        let port = free_port();
        let mut daemon = Daemon::spawn("unbound", |directory| {
            let file = directory.join(CONFIG);
            let config = config(directory, port, threads);
            fs::write(&file, config).unwrap_or_else(|e| panic!("{CONFIG}: {e}"));
            let mut command = Command::new(crate::program("unbound"));
            command.args(["-d", "-c"]).arg(file);
            command
        });
        let pid = daemon.pid();
        daemon.wait_until(&format!("{threads} UDP sockets on port {port}"), || {
            bound_sockets(pid, Transport::Udp, port) == threads
        });
        Self { daemon, port }
    }

    /// The port it answers on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address it answers on.
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

fn config(directory: &Path, port: u16, threads: usize) -> String {
    let (dir, name, answer) = (directory.display(), Unbound::NAME, Unbound::ANSWER);
    format!(
        r#"
server:
    interface: 127.0.0.1
    port: {port}
    num-threads: {threads}
    so-reuseport: yes
    do-ip6: no
    do-daemonize: no
    chroot: ""
    username: ""
    directory: "{dir}"
    pidfile: "{dir}/unbound.pid"
    use-syslog: no
    logfile: ""
    verbosity: 1
    module-config: "iterator"
    local-zone: "test." static
    local-data: "{name}. A {answer}"
remote-control:
    control-enable: no
"#
    )
}
