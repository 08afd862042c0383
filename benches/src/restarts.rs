//! What clients lose while a server restarts, and how long they wait: without a program, with the kernel's setting
//! that migrates what waits, by the server's own reload, and with ours. In turn, in several rounds.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use restarts::rollover::Way;
use restarts::run::{Outcome, Setting, run as run_once};
use restarts::servers::{Family, How, SERVERS, Server};
use restarts::soak as restarts_soak;
use restarts::tally::Counts;

use crate::process::Reuseport;
use crate::report::{Common, Figure, Report, Table};
use crate::stats::{Median, turns};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these servers, which have to be installed
    #[arg(value_name = "SERVER", value_parser = SERVERS.map(|server| server.name))]
    #[arg(default_values = ["nginx", "haproxy", "unbound"])]
    servers: Vec<String>,
    /// How often each way is measured
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// Restarts in each measurement
    #[arg(long, value_name = "N", default_value_t = 8)]
    restarts: usize,
    /// New connections a second, at most; without, half of what the server can do
    #[arg(long, value_name = "N", default_value_t = 3000.0)]
    rate: f64,
    #[command(flatten)]
    command: Reuseport,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
pub(crate) struct SoakArgs {
    /// The results, one line of JSON for each run
    #[arg(long, value_name = "FILE")]
    results: PathBuf,
    #[command(flatten)]
    command: Reuseport,
    #[command(flatten)]
    soak: restarts_soak::Args,
}

/// Goes on with a soak.
pub(crate) fn soak(args: &SoakArgs) -> Result<()> {
    restarts_soak::soak(&args.soak, &args.results, &args.command.path()?)
}

/// How each way is called in tables.
const WAYS: [(Way, &str); 4] = [
    (Way::Plain, "start the new, stop the old"),
    (Way::Migrate, "the same, tcp_migrate_req"),
    (Way::Own, "own reload"),
    (Way::Ours, "promote"),
];

/// Measures every way of each server.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut report = Report::new("restarts")?;
    let command = args.command.path()?;
    for server in args.servers.iter().filter_map(|name| Server::named(name)) {
        let can_be = |(way, _): &&(Way, &str)| match way {
            Way::Own => server.reload.is_some(),
            Way::Plain | Way::Migrate => matches!(server.how, How::RollOut),
            Way::Ours => true,
        };
        let ways: Vec<&(Way, &str)> = WAYS.iter().filter(can_be).collect();
        let mut outcomes = vec![Vec::new(); ways.len()];
        for round in 0..args.rounds {
            // One rate for all ways of a round.
            let mut rate = None;
            for turn in turns(round, ways.len()) {
                let outcome = run_once(&Setting {
                    server,
                    way: ways[turn].0,
                    family: if round % 2 == 0 { Family::V4 } else { Family::V6 },
                    restarts: args.restarts,
                    rate,
                    most: args.rate,
                    between: Duration::from_millis(300),
                    command: command.clone(),
                })?;
                rate = rate.or(Some(outcome.rate));
                outcomes[turn].push(outcome);
            }
        }
        let mut table = Table::new([
            "way",
            "restarts",
            "connections",
            "lost",
            "by the server",
            "wrong",
            "p99",
            "slowest",
            "late or left out",
        ]);
        for ((_, way), outcomes) in ways.iter().zip(&outcomes) {
            table.row(row(way, outcomes));
            let of =
                |time: fn(&Outcome) -> f64| -> Vec<f64> { outcomes.iter().map(time).collect() };
            let p99 = Median::of(&of(|outcome| outcome.times.p99));
            report.figure(Figure::median(format!("{}, {way}: p99", server.name), p99, "ms"));
            report.raw(format!("{}, {way}", server.name), outcomes)?;
        }
        report.table(
            format!("{}: times in ms, the median of the rounds (from - to)", server.name),
            table,
        );
    }
    report.finish(args.common.json.as_deref())
}

fn row(way: &str, outcomes: &[Outcome]) -> [String; 9] {
    let mut counts = Counts::default();
    outcomes.iter().for_each(|outcome| counts += outcome.counts);
    let restarts: u64 = outcomes.iter().map(|outcome| outcome.restarts).sum();
    let late: u64 = outcomes.iter().map(|outcome| outcome.sent_late + outcome.left_out).sum();
    let spread = |time: fn(&Outcome) -> f64| {
        let mut times: Vec<f64> = outcomes.iter().map(time).collect();
        times.sort_by(f64::total_cmp);
        let median = crate::stats::median(&times);
        format!("{median:.1} ({:.1} - {:.1})", times[0], times[times.len() - 1])
    };
    let all = counts.connections + counts.queries;
    [
        way.to_owned(),
        restarts.to_string(),
        all.to_string(),
        counts.ours.sum().to_string(),
        counts.servers.sum().to_string(),
        counts.wrong.to_string(),
        spread(|outcome| outcome.times.p99),
        spread(|outcome| outcome.times.slowest),
        format!("{:.1} %", 100.0 * late as f64 / all.max(1) as f64),
    ]
}
