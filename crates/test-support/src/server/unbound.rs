//! unbound: a DNS server with a UDP socket for each thread (`so-reuseport: yes`).

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use super::{Daemon, Transport, bound_sockets, bound_sockets_here, free_port};

const CONFIG: &str = "unbound.conf";

/// An unbound that answers for one name, [`Unbound::NAME`], without asking other servers.
#[derive(Debug)]
pub struct Unbound {
    daemon: Daemon,
    port: u16,
    threads: usize,
}

impl Unbound {
    /// The name.
    pub const NAME: &'static str = "server.test";
    /// The address of the name.
    pub const ANSWER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    /// Starts unbound on a free port.
    ///
    /// # Panics
    ///
    /// If its threads do not listen within [`crate::wait::BOUND`].
    #[track_caller]
    pub fn start(threads: usize) -> Self {
        Self::start_on(free_port(), threads)
    }

    /// Like [`Unbound::start`], on a port that others may use already.
    ///
    /// # Panics
    ///
    /// As [`Unbound::start`] does.
    #[track_caller]
    pub fn start_on(port: u16, threads: usize) -> Self {
        let others = bound_sockets_here(Transport::Udp, port);
        let daemon = Daemon::spawn("unbound", |directory| {
            let config = config(directory, port, threads);
            fs::write(directory.join(CONFIG), config).unwrap_or_else(|e| panic!("{CONFIG}: {e}"));
            command(directory)
        });
        let mut unbound = Self { daemon, port, threads };
        unbound.wait_until_ready(others + threads);
        unbound
    }

    /// Stops it (SIGTERM) and starts it again: its sockets close, so its groups end, and new groups
    /// begin at the same address.
    ///
    /// # Panics
    ///
    /// If it does not end or does not listen within [`crate::wait::BOUND`] each.
    #[track_caller]
    pub fn restart(&mut self) {
        self.daemon.stop(Signal::TERM);
        self.daemon.spawn_again(command);
        self.wait_until_ready(self.threads);
    }

    /// Stops it (SIGTERM), and returns how many queries each of its threads has counted.
    ///
    /// # Panics
    ///
    /// If it does not end within [`crate::wait::BOUND`], or prints something unexpected.
    #[track_caller]
    pub fn stop_and_count(mut self) -> Vec<u64> {
        self.daemon.stop(Signal::TERM);
        // `... info: server stats for thread 0: 12499 queries, 12499 answers from cache, ...`
        let log = self.daemon.log();
        let of = |line: &str| -> Option<u64> {
            let (_, counted) = line.split_once("server stats for thread ")?;
            counted.split_once(": ")?.1.split_once(" queries")?.0.parse().ok()
        };
        let counts: Vec<u64> = log.lines().filter_map(of).collect();
        assert_eq!(counts.len(), self.threads, "unbound printed {log}");
        counts
    }

    #[track_caller]
    fn wait_until_ready(&mut self, sockets: usize) {
        let (pid, port) = (self.daemon.pid(), self.port);
        self.daemon.wait_until(&format!("{sockets} UDP sockets on port {port}"), || {
            bound_sockets(pid, Transport::Udp, port) == sockets
        });
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

    /// Its output so far.
    pub fn log(&self) -> String {
        self.daemon.log()
    }
}

fn command(directory: &Path) -> Command {
    let mut command = Command::new(crate::program("unbound"));
    command.args(["-d", "-c"]).arg(directory.join(CONFIG));
    command
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
