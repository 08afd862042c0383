//! `ls`: how long does the command take to list a host's groups?
//!
//! Timed from the command's start to its end, and next to it the library's part. The members are held
//! by other processes, as servers have them (`hold`); then the same among many other sockets. With
//! `--against`, another build of the command is timed in the same rounds.
//!
//! Not measured: other network namespaces, and steered groups, whose state `ls` reads as well.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use reuseport::Host;

use crate::hold::{Members, start_crowd};
use crate::process::Builds;
use crate::report::{Common, Figure, Report, Table};
use crate::stats::Median;

/// What `ls` may take, in milliseconds.
const AIM: f64 = 50.0;
/// What is timed; the last one with `--against`.
const TIMED: [&str; 4] = [
    "`reuseport ls --json`, start to end",
    "`Host::open`",
    "`Host::statuses`",
    "the other build's `reuseport ls --json`",
];

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    builds: Builds,
    /// How often each is timed
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How many processes have members of groups: five each, in groups of up to ten
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=2000))]
    processes: u32,
    /// How many sockets there are on the host in the end: four of five are ends of TCP connections
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    sockets: u32,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut report = Report::new("ls")?;
    let members = Members { processes: args.processes, workers: 10, each: 5 };
    let have = format!("{} in {} groups", members.sockets(), members.groups());
    let held = members.start()?;
    let few = measure(args, &members)?;
    let crowd = args.sockets.saturating_sub(members.sockets());
    let crowded = start_crowd(crowd)?;
    let many = measure(args, &members)?;
    drop((held, crowded));

    let measured = [
        (format!("{have}, held by {} processes", args.processes), few),
        (format!("{have}, among {} sockets", members.sockets() + crowd), many),
    ];
    let mut table = Table::new(["members, and what is timed", "p10", "p50", "p90"]);
    for (name, times) in measured {
        for (what, times) in TIMED.iter().zip(&times).filter(|(_, times)| !times.is_empty()) {
            table.spread_row(format!("{name}: {what}"), times, []);
            report.raw(format!("{name}: {what}"), times)?;
        }
        let figure = Figure::median(format!("ls: {name}"), Median::of(&times[0]), "ms");
        report.figure(figure.at_most(AIM));
    }
    report.table(format!("Milliseconds, {} rounds", args.rounds), table);
    report.finish(args.common.json.as_deref())
}

/// Milliseconds, by round, of each of [`TIMED`].
fn measure(args: &Args, members: &Members) -> Result<[Vec<f64>; 4]> {
    let other = args.builds.other();
    let mut times = [const { Vec::new() }; 4];
    for _ in 0..args.rounds {
        if let Some(other) = &other {
            times[3].push(other.time(&["ls", "--json"])?.0.as_secs_f64() * 1e3);
        }
        let (command, json) = args.builds.this().time(&["ls", "--json"])?;
        check_listed(members, &json)?;
        let start = Instant::now();
        let host = Host::open()?;
        let open = start.elapsed();
        let start = Instant::now();
        let statuses = host.statuses()?;
        let took = [command, open, start.elapsed()];
        ensure!(statuses.len() >= members.groups() as usize, "not all groups were found");
        for (times, took) in times.iter_mut().zip(took) {
            times.push(took.as_secs_f64() * 1e3);
        }
    }
    Ok(times)
}

/// Refuses what `ls --json` printed if members are missing.
fn check_listed(members: &Members, json: &str) -> Result<()> {
    let groups: Vec<serde_json::Value> =
        serde_json::from_str(json).context("`ls --json` printed no array")?;
    let is_ours = |port: u64| members.ports().any(|held| u64::from(held) == port);
    let ours = groups.iter().filter(|group| group["port"].as_u64().is_some_and(is_ours));
    let listed: u64 = ours.filter_map(|group| group["members"].as_u64()).sum();
    ensure!(listed >= members.sockets().into(), "`ls` listed only {listed} members");
    Ok(())
}
