//! A real nginx with a location that is slow: the index of a directory with many files, which a worker
//! reads, asks about file by file and sorts while all its other connections wait. Everything else is
//! answered at once.
//!
//! First the open-loop generator asks for both, as it asks workers of ours. Then wrk asks for what is
//! quick, over and over with few connections at once, while the generator asks for what is slow alone.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reuseport::{Host, borrow};
use rustix::net::sockopt::set_socket_incoming_cpu;
use serde::Serialize;
use tempfile::TempDir;
use test_support::server::{Daemon, free_port};

use super::contender::Contender;
use super::dialect::Dialect;
use super::generator::drive;
use super::round::{Outcome, Processors, Setup, in_front, outcome};
use super::schedule::{Schedule, Service, Traffic};
use super::workers::Listening;

/// Files whose index takes one worker some 100 ms.
const FILES: u32 = 20_000;
/// Workers: it really computes, so not more than processors can do.
pub(super) const WORKERS: u8 = 4;
/// What comes, slow requests and quick ones: a nonzero time means slow.
pub(super) const TRAFFIC: Traffic =
    Traffic { rate: 600.0, service: slow_of(0.002), sources: 500, lasting: None };
/// What comes beside wrk: slow requests alone.
const BESIDE_WRK: Traffic = Traffic { rate: 2.0, service: slow_of(1.0), ..TRAFFIC };
/// How long wrk runs, in seconds.
const WRK_SECONDS: u64 = 2;
const WRK_CONNECTIONS: u32 = 8;

const fn slow_of(slow_share: f64) -> Service {
    Service { usual: Duration::ZERO, slow: Duration::from_millis(100), slow_share }
}

/// What wrk said.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Wrk {
    /// Answers in a second.
    pub(super) answers: f64,
    /// 99th percentile, milliseconds.
    pub(super) p99: f64,
}

/// What nginx serves: a directory with one with many files in it.
pub(super) struct Site(TempDir);

impl Site {
    pub(super) fn new() -> Result<Self> {
        let directory = tempfile::tempdir().context("no directory for nginx to serve")?;
        let slow = directory.path().join("slow");
        fs::create_dir(&slow)?;
        for file in 0..FILES {
            File::create(slow.join(format!("{file:05}"))).context("cannot fill a directory")?;
        }
        Ok(Self(directory))
    }
}

/// A new nginx under this contender; `setup` has its workers and what comes.
pub(super) fn measure(
    host: &Host,
    site: &Site,
    contender: Contender,
    setup: &Setup<'_>,
) -> Result<Outcome> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let listening = contender.listening();
    let nginx = start(site, address, setup.workers, listening);
    if listening == Listening::OwnByCpu {
        prefer_cpus(host, address)?;
    }
    let attached = contender.attach(host, address)?;
    let processors = Processors::now()?;
    let ask = |schedule: &Schedule| {
        in_front(|| drive(address, setup.workers, Dialect::Http, schedule, setup.patience))
    };
    let observed = ask(setup.schedule)?;
    let machine = processors.busy_since()?;
    attached.check(observed.connections)?;
    observed.check(setup.schedule)?;
    let beside = Schedule::draw(&BESIDE_WRK, Duration::from_secs(WRK_SECONDS), setup.seed);
    let wrk = std::thread::scope(|scope| {
        let wrk = scope.spawn(|| wrk(address));
        ask(&beside)?;
        wrk.join().map_err(|_| anyhow::anyhow!("wrk failed"))?
    })?;
    attached.detach()?;
    drop(nginx);
    Ok(Outcome { wrk: Some(wrk), ..outcome(observed, &[], machine, setup) })
}

/// Listening, each of its workers, when this returns.
fn start(site: &Site, address: SocketAddr, workers: u8, listening: Listening) -> Daemon {
    let mut nginx = Daemon::spawn("nginx", |directory| {
        let config = config(directory, site.0.path(), address, workers, listening);
        fs::write(directory.join("nginx.conf"), config)
            .unwrap_or_else(|error| panic!("nginx.conf: {error}"));
        let mut command = Command::new(test_support::program("nginx"));
        command.arg("-p").arg(directory).args(["-c", "nginx.conf", "-e", "stderr"]);
        command
    });
    let master = nginx.pid();
    nginx.wait_until("workers", || ready(master) == usize::from(workers));
    nginx
}

/// How many workers wait for connections: they have this title from then on
/// (ngx_worker_process_cycle).
fn ready(master: u32) -> usize {
    let children = fs::read_to_string(format!("/proc/{master}/task/{master}/children"));
    let is_worker = |pid: &&str| {
        let title = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        title.starts_with(b"nginx: worker process")
    };
    children.unwrap_or_default().split_whitespace().filter(is_worker).count()
}

fn config(
    directory: &Path,
    site: &Path,
    address: SocketAddr,
    workers: u8,
    listening: Listening,
) -> String {
    let (directory, site) = (directory.display(), site.display());
    let reuseport = if listening == Listening::Shared { "" } else { " reuseport" };
    format!(
        r#"
user root;
daemon off;
worker_processes {workers};
pid {directory}/nginx.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen {address} backlog=4096{reuseport};
        location / {{ return 200 "ok\n"; }}
        location /slow/ {{ root {site}; autoindex on; }}
    }}
}}
"#
    )
}

/// nginx knows nothing of SO_INCOMING_CPU, so we set it at its listeners.
fn prefer_cpus(host: &Host, address: SocketAddr) -> Result<()> {
    let group = host.find(&format!("tcp:{address}").parse()?)?;
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    for (index, member) in group.members.iter().enumerate() {
        set_socket_incoming_cpu(borrow::borrow(member)?, (index % cpus) as u32)?;
    }
    Ok(())
}

fn wrk(address: SocketAddr) -> Result<Wrk> {
    let mut command = Command::new(test_support::program("wrk"));
    command.args(["--threads", "1", "--latency", "--header", "Connection: close"]);
    command.args(["--connections", &WRK_CONNECTIONS.to_string()]);
    command.args(["--duration", &format!("{WRK_SECONDS}s"), &format!("http://{address}/")]);
    let output = command.stdin(Stdio::null()).output().context("cannot start wrk")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "wrk: {}", String::from_utf8_lossy(&output.stderr));
    parse(&said).with_context(|| format!("wrk said {said:?}"))
}

fn parse(said: &str) -> Option<Wrk> {
    let after = |word: &str| said.lines().find_map(|line| line.trim().strip_prefix(word));
    let answers = after("Requests/sec:")?.trim().parse().ok()?;
    let p99 = after("99%")?.trim();
    // `us`, `ms` and `s`, the longest ones first.
    let units = [("us", 1e-3), ("ms", 1.0), ("s", 1e3)];
    let in_unit =
        |&(unit, millis): &(&str, f64)| Some(p99.strip_suffix(unit)?.parse::<f64>().ok()? * millis);
    Some(Wrk { answers, p99: units.iter().find_map(in_unit)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wrk_says_is_understood() {
        let said = |p99| {
            format!(
                "  Latency Distribution\n     50%  635.00us\n     99%  {p99}\nRequests/sec:  12.5\n"
            )
        };
        for (p99, millis) in [("500.00us", 0.5), ("31.20ms", 31.2), ("1.50s", 1500.0)] {
            assert_eq!(parse(&said(p99)), Some(Wrk { answers: 12.5, p99: millis }));
        }
        assert_eq!(parse("unable to connect"), None);
    }
}
