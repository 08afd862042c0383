//! `newcomer`: how long does a listener that joins a watched group get nothing?
//!
//! From just before it binds until it accepts its first connection of a stream that does not end, under
//! `attach --watch`; first on a small host, then among many other sockets. With `--against`, another build of the
//! command watches in turn.
//!
//! Not measured: servers that restart, and UDP.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::net::sockopt::set_socket_linger;
use rustix::process::{Pid, Signal, kill_process};
use sk_reuseport::net::Bind;
use test_support::loopback;

use crate::hold::start_crowd;
use crate::process::Reuseport;
use crate::report::{Common, Figure, Report, Table, number};
use crate::stats::{percentile, turns};

/// What a newcomer may wait, at the 99th percentile, in milliseconds.
const AIM: f64 = 50.0;
/// Listeners that are there from the beginning.
const OLD: usize = 2;
/// Newcomers for each start of a watcher.
const EACH: usize = 20;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    reuseport: Reuseport,
    /// Another build of the command, to compare with
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// How many newcomers each build sees
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How many sockets there are on the host in the end: four of five are ends of TCP connections
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    sockets: u32,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut report = Report::new("newcomer")?;
    let mut builds = vec![("this build", args.reuseport.clone())];
    if let Some(file) = &args.against {
        builds.push(("the other build", Reuseport::of_file(file)));
    }
    let few = measure(args, &builds)?;
    let crowd = start_crowd(args.sockets)?;
    let many = measure(args, &builds)?;
    drop(crowd);
    let mut table = Table::new(["listener", "p10", "p50", "p90", "p99"]);
    for (host, times) in
        [("alone".to_owned(), few), (format!("among {} sockets", args.sockets), many)]
    {
        for ((build, _), times) in builds.iter().zip(times) {
            let (name, p99) = (format!("{host}, {build}"), percentile(&times, 0.99));
            table.spread_row(&name, &times, [number(p99)]);
            report.raw(&name, &times)?;
            report.figure(Figure::new(format!("{name}: p99"), p99, "ms").at_most(AIM));
        }
    }
    report.table(
        format!("Milliseconds until the first connection, {} listeners", args.rounds),
        table,
    );
    report.finish(args.common.json.as_deref())
}

/// Milliseconds, by build and newcomer.
fn measure(args: &Args, builds: &[(&str, Reuseport)]) -> Result<Vec<Vec<f64>>> {
    let mut times = vec![Vec::new(); builds.len()];
    for round in 0..(args.rounds as usize).div_ceil(EACH) {
        for build in turns(round, builds.len()) {
            times[build].extend(watched(&builds[build].1)?);
        }
    }
    Ok(times)
}

/// The times of newcomers to a group that a watcher follows.
fn watched(reuseport: &Reuseport) -> Result<Vec<f64>> {
    let old = Bind::new(loopback(false)).nonblocking(true).listeners(OLD)?;
    let address = old[0].local_addr()?;
    let watcher = Watcher::start(reuseport, address)?;
    let times = (0..EACH).map(|_| {
        // The watcher finds that the one before is gone, at any moment of its regular looks.
        thread::sleep(Duration::from_millis(fastrand::u64(150..350)));
        newcomer(address, &old)
    });
    let times = times.collect();
    watcher.stop()?;
    times
}

fn newcomer(address: SocketAddr, old: &[TcpListener]) -> Result<f64> {
    let start = Instant::now();
    let new = Bind::new(address).nonblocking(true).listeners(1)?.remove(0);
    while new.accept().is_err() {
        ensure!(start.elapsed() < Duration::from_secs(20), "a listener gets nothing");
        let client = TcpStream::connect(address)?;
        // It leaves no port in TIME_WAIT.
        set_socket_linger(&client, Some(Duration::ZERO))?;
        drop(client);
        old.iter().for_each(|listener| drop(listener.accept()));
        thread::sleep(Duration::from_micros(100));
    }
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// `attach --watch` of one group.
struct Watcher(Child);

impl Watcher {
    fn start(reuseport: &Reuseport, address: SocketAddr) -> Result<Self> {
        let mut command = Command::new(reuseport.path()?);
        command.args(["attach", &format!("tcp:{address}"), "--policy", "round-robin", "--watch"]);
        let process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut watcher = Self(process.with_context(|| format!("cannot start {command:?}"))?);
        let mut lines = BufReader::new(watcher.0.stdout.as_mut().context("no output")?).lines();
        let is_ready = |line: std::io::Result<String>| line.is_ok_and(|l| l.contains("Watching"));
        ensure!(lines.any(is_ready), "{command:?} ended early");
        Ok(watcher)
    }

    fn stop(mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.0), Signal::INT)?;
        let status = self.0.wait()?;
        ensure!(status.success(), "the watcher failed: {status}");
        Ok(())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // It has ended, unless the bench failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
