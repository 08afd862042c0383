//! `newcomer`: how long does a socket that joins a watched group get nothing?
//!
//! From just before it binds until it gets the first connection, or datagram, of a stream that does not end, under
//! `attach --watch`; first on a small host, then among many other sockets. With `--against`, another build of the
//! command watches in turn.
//!
//! Not measured: servers that restart.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::net::sockopt::set_socket_linger;
use sk_reuseport::net::Bind;
use test_support::loopback;

use crate::hold::start_crowd;
use crate::process::{Builds, Reuseport};
use crate::report::{Common, Figure, Report, Table, number};
use crate::stats::{percentile, turns};
use crate::watcher::{Protocol, Watcher};

/// Sockets that are there from the beginning.
const OLD: usize = 2;
/// Newcomers for each start of a watcher.
const EACH: usize = 20;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    builds: Builds,
    /// How many newcomers each build sees
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How many sockets there are on the host in the end: four of five are ends of TCP connections
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    sockets: u32,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut report = Report::new("newcomer")?;
    let builds = args.builds.named();
    let both = |builds: &[_]| -> Result<Vec<_>> {
        let protocols = [Protocol::Tcp, Protocol::Udp].into_iter();
        protocols.map(|protocol| Ok((protocol, measure(args, builds, protocol)?))).collect()
    };
    let few = both(&builds)?;
    let crowd = start_crowd(args.sockets)?;
    let many = both(&builds)?;
    drop(crowd);
    let mut table = Table::new(["socket", "p10", "p50", "p90", "p99"]);
    for (host, measured) in
        [("alone".to_owned(), few), (format!("among {} sockets", args.sockets), many)]
    {
        for (protocol, times) in measured {
            for ((build, _), times) in builds.iter().zip(times) {
                let name = format!("{}, {host}, {build}", protocol.name());
                let p99 = percentile(&times, 0.99);
                table.spread_row(&name, &times, [number(p99)]);
                report.raw(&name, &times)?;
                let figure = Figure::new(format!("{name}: p99"), p99, "ms");
                report.figure(figure.at_most(aim(protocol)));
            }
        }
    }
    report.table(
        format!("Milliseconds until the first connection or datagram, {} sockets", args.rounds),
        table,
    );
    report.finish(args.common.json.as_deref())
}

/// What a newcomer may wait, at the 99th percentile, in milliseconds. A UDP socket is left alone for 100 ms.
fn aim(protocol: Protocol) -> f64 {
    match protocol {
        Protocol::Tcp => 50.0,
        Protocol::Udp => 250.0,
    }
}

/// Milliseconds, by build and newcomer.
fn measure(args: &Args, builds: &[(&str, Reuseport)], protocol: Protocol) -> Result<Vec<Vec<f64>>> {
    let mut times = vec![Vec::new(); builds.len()];
    for round in 0..(args.rounds as usize).div_ceil(EACH) {
        for build in turns(round, builds.len()) {
            times[build].extend(match protocol {
                Protocol::Tcp => watched::<TcpListener>(&builds[build].1)?,
                Protocol::Udp => watched::<UdpSocket>(&builds[build].1)?,
            });
        }
    }
    Ok(times)
}

/// The sockets of a group.
trait Sockets: Sized {
    const PROTOCOL: Protocol;

    fn bind(address: SocketAddr, count: usize) -> io::Result<Vec<Self>>;

    fn address(&self) -> io::Result<SocketAddr>;

    /// Sends a request to the group.
    fn request(address: SocketAddr) -> io::Result<()>;

    /// Takes a request, if there is one.
    fn take(&self) -> io::Result<()>;
}

impl Sockets for TcpListener {
    const PROTOCOL: Protocol = Protocol::Tcp;

    fn bind(address: SocketAddr, count: usize) -> io::Result<Vec<Self>> {
        Bind::new(address).nonblocking(true).listeners(count)
    }

    fn address(&self) -> io::Result<SocketAddr> {
        self.local_addr()
    }

    fn request(address: SocketAddr) -> io::Result<()> {
        let client = TcpStream::connect(address)?;
        // It leaves no port in TIME_WAIT.
        Ok(set_socket_linger(&client, Some(Duration::ZERO))?)
    }

    fn take(&self) -> io::Result<()> {
        self.accept().map(drop)
    }
}

impl Sockets for UdpSocket {
    const PROTOCOL: Protocol = Protocol::Udp;

    fn bind(address: SocketAddr, count: usize) -> io::Result<Vec<Self>> {
        Bind::new(address).nonblocking(true).udp_sockets(count)
    }

    fn address(&self) -> io::Result<SocketAddr> {
        self.local_addr()
    }

    fn request(address: SocketAddr) -> io::Result<()> {
        UdpSocket::bind("127.0.0.1:0")?.send_to(b"x", address).map(drop)
    }

    fn take(&self) -> io::Result<()> {
        self.recv(&mut [0; 8]).map(drop)
    }
}

/// The times of newcomers to a group that a watcher follows.
fn watched<S: Sockets>(reuseport: &Reuseport) -> Result<Vec<f64>> {
    let old = S::bind(loopback(false), OLD)?;
    let address = old[0].address()?;
    let group = format!("{}:{address}", S::PROTOCOL.name());
    let watcher = Watcher::start(reuseport, &[group], "round-robin")?;
    let times = (0..EACH).map(|_| {
        // The watcher finds that the one before is gone, at any moment of its regular looks.
        thread::sleep(Duration::from_millis(fastrand::u64(150..350)));
        newcomer(address, &old)
    });
    let times = times.collect();
    watcher.stop()?;
    times
}

fn newcomer<S: Sockets>(address: SocketAddr, old: &[S]) -> Result<f64> {
    let start = Instant::now();
    let new = S::bind(address, 1)?.remove(0);
    while new.take().is_err() {
        ensure!(start.elapsed() < Duration::from_secs(20), "a socket gets nothing");
        S::request(address)?;
        old.iter().for_each(|socket| drop(socket.take()));
        thread::sleep(Duration::from_micros(100));
    }
    Ok(start.elapsed().as_secs_f64() * 1e3)
}
