//! Servers with event loops, and which of their workers has a connection.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use test_support::burst::ask_all;
use test_support::client::try_http_get;
use test_support::server::{Daemon, Haproxy, Nginx, free_port};

pub(super) const WORKERS: usize = 4;

#[derive(Debug)]
pub(super) enum Kind {
    Nginx,
    Haproxy,
    Envoy(PathBuf),
}

impl Kind {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Envoy(_) => "Envoy",
        }
    }
}

pub(super) enum Server {
    Nginx(Nginx),
    Haproxy(Haproxy),
    Envoy(Envoy),
}

impl Server {
    pub(super) fn start(kind: &Kind) -> Result<Self> {
        Ok(match kind {
            Kind::Nginx => {
                Self::Nginx(Nginx::start_listening(&["127.0.0.1:PORT backlog=4096"], WORKERS))
            }
            Kind::Haproxy => Self::Haproxy(Haproxy::start(WORKERS)),
            Kind::Envoy(program) => Self::Envoy(Envoy::start(program)),
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        match self {
            Self::Nginx(nginx) => nginx.addr(),
            Self::Haproxy(haproxy) => haproxy.addr(),
            Self::Envoy(envoy) => (Ipv4Addr::LOCALHOST, envoy.port).into(),
        }
    }

    /// The worker of each connection, in any order.
    pub(super) fn who_has(&self, streams: &[TcpStream]) -> Result<Vec<String>> {
        match self {
            // They answer with the worker's process id, or the thread's number.
            Self::Nginx(_) | Self::Haproxy(_) => Ok(ask_all(streams)?),
            Self::Envoy(envoy) => {
                ask_all(streams)?;
                envoy.workers(streams.len())
            }
        }
    }

    /// Kills a worker process.
    pub(super) fn kill(&self, worker: &str) -> Result<()> {
        let pid = worker.trim().parse().ok().and_then(Pid::from_raw).context("not a process id")?;
        Ok(kill_process(pid, Signal::KILL)?)
    }
}

pub(super) struct Envoy {
    _daemon: Daemon,
    port: u16,
    admin: SocketAddr,
}

impl Envoy {
    fn start(program: &Path) -> Self {
        let (port, admin) = (free_port(), free_port());
        let mut daemon = Daemon::spawn("envoy", |directory| {
            let config = directory.join("envoy.yaml");
            fs::write(&config, configuration(port, admin)).expect("the directory is new");
            let mut envoy = Command::new(program);
            envoy.arg("-c").arg(config).args(["--concurrency", &WORKERS.to_string()]);
            envoy.args(["--disable-hot-restart", "-l", "warning"]);
            envoy
        });
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        daemon.wait_until("Envoy answers", || try_http_get(address).is_ok());
        Self { _daemon: daemon, port, admin: (Ipv4Addr::LOCALHOST, admin).into() }
    }

    /// By its own statistics, as soon as they have this many connections.
    fn workers(&self, connections: usize) -> Result<Vec<String>> {
        for _ in 0..500 {
            let stats = self.stats()?;
            let active = stats.lines().filter_map(|line| {
                let (name, value) = line.split_once(": ")?;
                let of_ours = name.contains(&format!("_{}.", self.port));
                let worker = name.strip_suffix(".downstream_cx_active").filter(|_| of_ours)?;
                Some((worker.to_owned(), value.parse::<usize>().ok()?))
            });
            let workers: Vec<String> =
                active.flat_map(|(worker, count)| std::iter::repeat_n(worker, count)).collect();
            if workers.len() == connections {
                return Ok(workers);
            }
            thread::sleep(Duration::from_millis(10));
        }
        bail!("Envoy does not count {connections} connections: {}", self.stats()?)
    }

    fn stats(&self) -> Result<String> {
        let mut admin = TcpStream::connect(self.admin).context("no statistics of Envoy")?;
        let request =
            "GET /stats?filter=worker_ HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";
        admin.write_all(request.as_bytes())?;
        let mut stats = String::new();
        admin.read_to_string(&mut stats)?;
        Ok(stats)
    }
}

fn configuration(port: u16, admin: u16) -> String {
    let manager = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.\
                   HttpConnectionManager";
    let router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
    format!(
        r#"
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}
static_resources:
  listeners:
  - name: listener
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": {manager}
          stat_prefix: bench
          http_protocol_options: {{accept_http_10: true}}
          route_config: {{virtual_hosts: [{{name: all, domains: ["*"], routes: [
            {{match: {{prefix: "/"}}, direct_response: {{status: 200, body: {{inline_string: "ok\n"}}}}}}]}}]}}
          http_filters: [{{name: envoy.filters.http.router, typed_config: {{"@type": {router}}}}}]
"#
    )
}
