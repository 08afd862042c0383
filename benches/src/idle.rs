//! `idle`: what does a watcher take while nothing happens?
//!
//! The share of one core that `attach --watch` takes of one group and of many, TCP and UDP, with the default policy, and
//! how often it runs: first on a small host, then among many other sockets. With `--against`, another build of the
//! command watches in turn.
//!
//! Not measured: what its programs in the kernel add to connections (`load` and `select`).

use std::net::{TcpListener, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use sk_reuseport::net::Bind;
use test_support::loopback;

use crate::hold::start_crowd;
use crate::process::{Builds, Reuseport};
use crate::report::{Common, Figure, Report, Table};
use crate::stats::{spread, turns};
use crate::watcher::{Protocol, Watcher};

/// Members of each group.
const MEMBERS: usize = 2;
/// What a watcher does in its first seconds is not measured.
const SETTLE: Duration = Duration::from_secs(15);

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    builds: Builds,
    /// How often each watcher is started
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long each watcher is measured, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// How many groups "many" is
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    groups: u32,
    /// How many sockets there are on the host in the end: four of five are ends of TCP connections
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    sockets: u32,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut report = Report::new("idle")?;
    let builds = args.builds.named();
    let few = measure(args, &builds)?;
    let crowd = start_crowd(args.sockets)?;
    let many = measure(args, &builds)?;
    drop(crowd);
    let mut table = Table::new(["watcher of", "p10", "p50", "p90", "runs per minute"]);
    for (host, measured) in
        [("alone".to_owned(), few), (format!("among {} sockets", args.sockets), many)]
    {
        for Measured { build, groups, shares, runs } in measured {
            let name = format!("{}, {host}, {build}", groups.name());
            let [_, typical_runs, _] = spread(&runs);
            table.spread_row(&name, &shares, [format!("{typical_runs:.0}")]);
            report.raw(&name, &shares)?;
            let [_, median, _] = spread(&shares);
            report.figure(Figure::new(name, median, "%").at_most(aim(groups.protocol)));
        }
    }
    report.table(
        format!("Percent of one core, {} starts of {} s each", args.rounds, args.seconds),
        table,
    );
    report.finish(args.common.json.as_deref())
}

/// Percent of a core. What is polled may take one.
fn aim(protocol: Protocol) -> f64 {
    match protocol {
        Protocol::Tcp => 0.1,
        Protocol::Udp => 1.0,
    }
}

#[derive(Clone, Copy)]
struct Groups {
    protocol: Protocol,
    count: u32,
}

impl Groups {
    fn name(self) -> String {
        let protocol = self.protocol.name().to_uppercase();
        let groups = if self.count == 1 { "group" } else { "groups" };
        format!("{} {protocol} {groups}", self.count)
    }
}

struct Measured {
    build: &'static str,
    groups: Groups,
    /// Percent of a core, by round.
    shares: Vec<f64>,
    /// How often a minute it ran, by round.
    runs: Vec<f64>,
}

fn measure(args: &Args, builds: &[(&'static str, Reuseport)]) -> Result<Vec<Measured>> {
    let kinds = [Protocol::Tcp, Protocol::Udp]
        .into_iter()
        .flat_map(|protocol| [1, args.groups].map(|count| Groups { protocol, count }));
    let contenders = kinds.flat_map(|groups| builds.iter().map(move |build| (groups, build)));
    let contenders: Vec<_> = contenders.collect();
    let empty = |(groups, (build, _)): &(Groups, &(&'static str, _))| Measured {
        build,
        groups: *groups,
        shares: Vec::new(),
        runs: Vec::new(),
    };
    let mut measured: Vec<Measured> = contenders.iter().map(empty).collect();
    for round in 0..args.rounds as usize {
        for turn in turns(round, contenders.len()) {
            let (groups, (_, reuseport)) = contenders[turn];
            let (share, runs) = used(args, reuseport, groups)?;
            measured[turn].shares.push(share);
            measured[turn].runs.push(runs);
        }
    }
    Ok(measured)
}

/// Percent of a core that a watcher takes, and how often a minute it runs.
fn used(args: &Args, reuseport: &Reuseport, groups: Groups) -> Result<(f64, f64)> {
    let (listeners, sockets, names) = bind(groups)?;
    let watcher = Watcher::start(reuseport, &names, "least-loaded")?;
    thread::sleep(SETTLE);
    let (start, before) = (Instant::now(), watcher.taken()?);
    thread::sleep(Duration::from_secs(args.seconds));
    let (after, seconds) = (watcher.taken()?, start.elapsed().as_secs_f64());
    watcher.stop()?;
    drop((listeners, sockets));
    let share = (after.time - before.time).as_secs_f64() / seconds * 100.0;
    Ok((share, (after.runs - before.runs) as f64 / seconds * 60.0))
}

/// Groups with their names.
fn bind(groups: Groups) -> Result<(Vec<TcpListener>, Vec<UdpSocket>, Vec<String>)> {
    let (mut listeners, mut sockets, mut names) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..groups.count {
        let bind = Bind::new(loopback(false));
        match groups.protocol {
            Protocol::Tcp => {
                let group = bind.listeners(MEMBERS)?;
                names.push(format!("tcp:{}", group[0].local_addr()?));
                listeners.extend(group);
            }
            Protocol::Udp => {
                let group = bind.udp_sockets(MEMBERS)?;
                names.push(format!("udp:{}", group[0].local_addr()?));
                sockets.extend(group);
            }
        }
    }
    Ok((listeners, sockets, names))
}
