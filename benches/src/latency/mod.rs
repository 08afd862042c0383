//! `latency`: how long do answers take under each way to deal connections to workers?
//!
//! ```text
//!   scenario ── schedule ──┐            contender
//!   what comes             v                |  deals
//!                      generator ──────> listeners ──> workers
//!                          |                             |
//!                      observed latency               counts
//!                          └─────── measure: outcome ────┘
//!                                       |
//!                        results: tables, figures with aims, plots
//! ```
//!
//! Workers are processes with an event loop as nginx has it, one listener each, and no knowledge of
//! any balancing ([`worker`]). Requests come at times that were drawn beforehand (open loop, Poisson),
//! and tell the worker for how long to block; it sleeps, so that more workers can be busy than there
//! are processors. Latency counts from the scheduled time ([`generator`]). Requests that are never
//! answered count with the time that they waited, two seconds or more; refused ones, which have no
//! latency, are counted apart, and both are `failed`.
//!
//! Contenders ([`contender`]) have their turns in another random order each round, each with new
//! workers and the same requests. What is compared is compared round by round; figures are medians
//! over rounds, with bounds. A measurement is refused if the program that was to deal did not deal
//! every single connection, or if a request is unaccounted for.
//!
//! Not measured: what a program costs (`select`), more than a few processors (`simulate`), and a
//! network: it is loopback.

mod contender;
mod generator;
mod measure;
mod nginx;
mod priority;
mod results;
mod scenario;
mod schedule;
mod temper;
mod wire;
pub(crate) mod worker;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;
use hdrhistogram::Histogram;
use reuseport::Host;

use crate::report::{Common, Report};
use contender::Contender;
use measure::{Setup, measure};
use nginx::Site;
use priority::Awake;
use results::{Cell, Measured};
use scenario::{Aim, Scenario, Server};
use schedule::Schedule;

/// How long after the last request answers are waited for at most.
const PATIENCE: Duration = Duration::from_secs(2);
/// The same, and how long requests come, where one worker never answers.
const SHORT_PATIENCE: Duration = Duration::from_millis(200);
const SHORT: Duration = Duration::from_millis(500);

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    common: Common,
    /// Only this scenario; may be given several times [default: all]
    #[arg(long, value_name = "NAME", value_parser = Scenario::parser())]
    scenario: Vec<&'static Scenario>,
    /// Only this contender; may be given several times. Comparisons with others are left out
    /// [default: all]
    #[arg(long, value_name = "NAME")]
    contender: Vec<Contender>,
    /// Turns of each contender in each scenario
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long requests come, each time
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS", value_parser = seconds)]
    seconds: f64,
    /// How many workers there are; rates follow
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(2..=64))]
    workers: u8,
    /// Two rounds of a second: to see whether it works
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    quick: bool,
    /// Write a plot of latencies by percentile for each scenario into this directory, as SVG
    #[arg(long, value_name = "DIRECTORY")]
    plots: Option<PathBuf>,
    /// The seed of everything that is drawn at random
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    seed: u64,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.05..=600.0).contains(seconds));
    seconds.ok_or_else(|| "a number of seconds from 0.05 to 600".to_owned())
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut report = Report::new("latency")?;
    let _awake = Awake::start();
    priority::set(priority::WORKER); // which workers inherit
    let measured = measure_all(args)?;
    measured.iter().try_for_each(|one| one.tables(&mut report))?;
    if let Some(directory) = &args.plots {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        measured.iter().try_for_each(|one| plot(one, directory))?;
    }
    measured.iter().for_each(|one| one.figures(&mut report));
    report.finish(args.common.json.as_deref())
}

/// All rounds together, a line for each contender.
fn plot(measured: &Measured, directory: &Path) -> Result<()> {
    let latencies: Vec<Histogram<u64>> =
        measured.cells.iter().map(Cell::latency).collect::<Result<_>>()?;
    let names = measured.cells.iter().map(|cell| cell.contender.name());
    let series: Vec<(&str, &Histogram<u64>)> = names.zip(&latencies).collect();
    let path = directory.join(format!("latency-{}.svg", measured.scenario.name));
    crate::plot::distribution(&path, &measured.scenario.describe(measured.workers), &series)
}

/// Whether a contender can be measured in a scenario.
fn suits(contender: Contender, scenario: &Scenario) -> bool {
    // Hermes needs workers that report. A shared queue has no connections that reach one worker.
    let is_nginx = scenario.server == Server::Nginx;
    let is_reached = matches!(scenario.aims, [Aim::Reached(_)]);
    !(contender == Contender::Hermes && is_nginx || !contender.has_queues() && is_reached)
}

fn measure_all(args: &Args) -> Result<Vec<Measured>> {
    let host = Host::open()?;
    let contenders: Vec<Contender> = Contender::value_variants()
        .iter()
        .copied()
        .filter(|one| args.contender.is_empty() || args.contender.contains(one))
        .collect();
    let scenarios = scenario::ALL.iter().filter(|one| {
        args.scenario.is_empty() || args.scenario.iter().any(|asked| asked.name == one.name)
    });
    let new = |scenario: &'static Scenario| {
        let suitable = contenders.iter().filter(|contender| suits(**contender, scenario));
        let cells = suitable.map(|contender| Cell { contender: *contender, outcomes: Vec::new() });
        Measured { scenario, workers: scenario.workers(args.workers), cells: cells.collect() }
    };
    let mut measured: Vec<Measured> = scenarios.map(new).collect();
    let nginx = measured.iter().any(|one| one.scenario.server == Server::Nginx);
    let site = nginx.then(Site::new).transpose()?;
    let mut random = fastrand::Rng::with_seed(args.seed);
    let rounds = if args.quick { 2 } else { args.rounds };
    for round in 1..=rounds {
        for one in &mut measured {
            eprintln!("round {round} of {rounds}: {}", one.scenario.title);
            measure_round(args, &host, site.as_ref(), one, &mut random)?;
        }
    }
    Ok(measured)
}

/// Each contender has a turn in a scenario, with the same requests.
fn measure_round(
    args: &Args,
    host: &Host,
    site: Option<&Site>,
    one: &mut Measured,
    random: &mut fastrand::Rng,
) -> Result<()> {
    let length = Duration::from_secs_f64(if args.quick { 1.0 } else { args.seconds });
    let (length, patience) = match one.scenario.aims {
        [Aim::Reached(_)] => (SHORT, SHORT_PATIENCE),
        _ => (length * one.scenario.stretch, length.min(PATIENCE)),
    };
    let seed = random.u64(..);
    let schedule = Schedule::draw(&one.scenario.traffic(args.workers), length, seed);
    let temper = one.scenario.temper;
    let setup = Setup { workers: one.workers, temper, schedule: &schedule, patience, seed };
    let mut turns: Vec<&mut Cell> = one.cells.iter_mut().collect();
    random.shuffle(&mut turns);
    for cell in turns {
        let outcome = match site {
            Some(site) if one.scenario.server == Server::Nginx => {
                site.measure(host, cell.contender, &setup)
            }
            _ => measure(host, cell.contender, &setup),
        };
        let outcome = outcome
            .with_context(|| format!("{}, {}", one.scenario.title, cell.contender.name()))?;
        cell.outcomes.push(outcome);
    }
    Ok(())
}
