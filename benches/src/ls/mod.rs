//! `ls`: how long the command takes to list a host's groups, from its start to its end, and how much
//! of that the library takes.
//!
//! The members are held by other processes, as servers have them: see [`hold`].

pub(crate) mod hold;

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use reuseport::Host;

use crate::Common;
use crate::command::Reuseport;
use crate::report::{Figure, Report, Table};
use crate::stats::Median;
use hold::{Crowd, Holders, Members};

/// What `ls` may take, in milliseconds.
const AIM: f64 = 50.0;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    reuseport: Reuseport,
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
    let members = Members { processes: args.processes };
    let held = Holders::start(members.commands())?;
    let few = measure(args, &members)?;

    let crowd = Crowd { sockets: args.sockets.saturating_sub(members.sockets()) };
    let crowded = Holders::start(crowd.commands())?;
    let many = measure(args, &members)?;
    drop((held, crowded));

    let have = format!("{} in {} groups", members.sockets(), members.groups());
    let of = format!("{have}, held by {} processes", args.processes);
    let among = format!("{have}, among {} sockets", members.sockets() + crowd.sockets);
    let mut table = Table::new(["members, and what is timed", "p10", "p50", "p90"]);
    for (name, times) in [(&of, &few), (&among, &many)] {
        for (what, times) in times.named() {
            table.spread_row(format!("{name}: {what}"), times, []);
            report.raw(format!("{name}: {what}"), times)?;
        }
    }
    report.table(format!("Milliseconds, {} rounds", args.rounds), table);
    for (name, times) in [(of, few), (among, many)] {
        let figure = Figure::median(format!("ls: {name}"), Median::of(&times.command), "ms");
        report.figure(figure.at_most(AIM));
    }
    report.finish(args.common.json.as_deref())
}

/// Milliseconds, by round.
#[derive(Default)]
struct Times {
    /// The command, from its start to its end.
    command: Vec<f64>,
    /// The library: programs loaded.
    open: Vec<f64>,
    /// The library: all groups and their state.
    statuses: Vec<f64>,
}

impl Times {
    fn named(&self) -> [(&'static str, &[f64]); 3] {
        [
            ("`reuseport ls --json`, start to end", &self.command),
            ("`Host::open`", &self.open),
            ("`Host::statuses`", &self.statuses),
        ]
    }
}

fn measure(args: &Args, members: &Members) -> Result<Times> {
    let mut times = Times::default();
    for _ in 0..args.rounds {
        let (took, json) = args.reuseport.time(&["ls", "--json"])?;
        members.check_listed(&json)?;
        times.command.push(took.as_secs_f64() * 1e3);

        let start = Instant::now();
        let host = Host::open()?;
        times.open.push(start.elapsed().as_secs_f64() * 1e3);
        let start = Instant::now();
        let statuses = host.statuses()?;
        times.statuses.push(start.elapsed().as_secs_f64() * 1e3);
        ensure!(statuses.len() >= members.groups() as usize, "not all groups were found");
    }
    Ok(times)
}

impl Members {
    /// Refuses what `ls --json` printed if members are missing.
    fn check_listed(&self, json: &[u8]) -> Result<()> {
        let groups: Vec<serde_json::Value> =
            serde_json::from_slice(json).context("`ls --json` printed no array")?;
        let listed = groups.iter().filter(|group| {
            let port = group["port"].as_u64().unwrap_or_default();
            group["address"] == "127.0.0.1" && self.ports().any(|ours| u64::from(ours) == port)
        });
        let listed: u64 = listed.filter_map(|group| group["members"].as_u64()).sum();
        let expected = u64::from(self.sockets());
        ensure!(listed >= expected, "`ls` listed {listed} members of {expected}");
        Ok(())
    }
}
