//! `latency`: how long answers take under each way to deal connections to workers.
//!
//! ```text
//!   scenario ── schedule ──┐            contender
//!   what comes             v                |  deals
//!                      generator ──────> listeners ──> workers
//!                          |                             |
//!                      observed latency               counts
//!                          └──────── round: outcome ─────┘
//!                                       |
//!                        tables, figures with aims, plots
//! ```
//!
//! Workers are processes with an event loop as nginx has it, one listener each, and no knowledge of
//! any balancing ([`worker`]). Requests come at times that were drawn beforehand (open loop, Poisson),
//! and tell the worker for how long to block; it sleeps, so that more workers can be busy than there
//! are processors. Latency is counted from the scheduled time ([`generator`]). Requests that are
//! never answered count with the time that they waited, two seconds or more; refused ones, which
//! have no latency, are counted apart, and both are `failed`.
//!
//! Contenders ([`contender`]) have their turns in another random order each round, each with new
//! workers and the same requests. What is compared is compared round by round; figures are medians
//! over rounds, with bounds. A measurement is refused if the program that was to deal did not deal
//! every single connection, or if a request is unaccounted for.
//!
//! Not here: what a program costs (`select`), machines with more than a few processors (simulated
//! elsewhere), and a network: it is loopback.

mod aims;
mod contender;
mod dialect;
mod generator;
mod hermes;
mod nginx;
mod priority;
mod round;
mod scenario;
mod schedule;
mod stops;
mod tables;
mod temper;
mod voice;
mod wire;
pub(crate) mod worker;
mod workers;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use reuseport::Host;

use crate::Common;
use crate::report::Report;
use contender::Contender;
use priority::Awake;
use round::{Outcome, Setup, measure};
use scenario::Scenario;
use schedule::Schedule;

pub(crate) use workers::COMMAND as WORKER_COMMAND;

/// How long after the last request answers are waited for at most.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    common: Common,
    /// Only this scenario; may be given several times [default: all]
    #[arg(long, value_name = "NAME")]
    scenario: Vec<Scenario>,
    /// Only this contender; may be given several times. What is compared with one that is left out
    /// is left out, too [default: all]
    #[arg(long, value_name = "NAME")]
    contender: Vec<Contender>,
    /// How often each contender has its turn in each scenario
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
    /// What is drawn at random is drawn from this number
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    seed: u64,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.05..=600.0).contains(seconds));
    seconds.ok_or_else(|| "a number of seconds from 0.05 to 600".to_owned())
}

impl Args {
    fn rounds(&self) -> u32 {
        if self.quick { 2 } else { self.rounds }
    }

    fn length(&self) -> Duration {
        Duration::from_secs_f64(if self.quick { 1.0 } else { self.seconds })
    }

    fn scenarios(&self) -> Vec<Scenario> {
        let all = Scenario::ALL.into_iter();
        all.filter(|one| self.scenario.is_empty() || self.scenario.contains(one)).collect()
    }

    fn contenders(&self) -> Vec<Contender> {
        let all = Contender::ALL.into_iter();
        all.filter(|one| self.contender.is_empty() || self.contender.contains(one)).collect()
    }
}

/// What was measured of a contender in a scenario, round by round.
struct Cell {
    contender: Contender,
    outcomes: Vec<Outcome>,
}

impl Cell {
    fn each(&self, of: impl Fn(&Outcome) -> f64) -> Vec<f64> {
        self.outcomes.iter().map(of).collect()
    }

    /// Of all rounds together.
    fn latency(&self) -> Result<Histogram<u64>> {
        let mut all = generator::histogram();
        for outcome in &self.outcomes {
            all.add(&outcome.latency).context("cannot add up")?;
        }
        Ok(all)
    }
}

/// All contenders in one scenario.
struct Measured {
    scenario: Scenario,
    cells: Vec<Cell>,
}

impl Measured {
    fn cell(&self, contender: Contender) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.contender == contender)
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut report = Report::new("latency")?;
    let _awake = Awake::start();
    priority::set(priority::WORKER); // which workers inherit
    let host = Host::open()?;
    let (measured, stopped) = measure_all(args, &host)?;
    for one in &measured {
        tables::table(one, args, &mut report)?;
        tables::wrk(one, &mut report);
    }
    if let Some(directory) = &args.plots {
        measured.iter().try_for_each(|one| plot(one, args.workers, directory))?;
    }
    for one in &measured {
        aims::figures(one, args.workers, &mut report);
    }
    stops::report(&stopped, args.workers, &mut report)?;
    report.finish(args.common.json.as_deref())
}

/// All rounds together, a line for each contender.
fn plot(measured: &Measured, workers: u8, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let latencies: Vec<Histogram<u64>> =
        measured.cells.iter().map(Cell::latency).collect::<Result<_>>()?;
    let names = measured.cells.iter().map(|cell| cell.contender.name());
    let series: Vec<(&str, &Histogram<u64>)> = names.zip(&latencies).collect();
    let path = directory.join(format!("latency-{}.svg", measured.scenario.file_name()));
    crate::plot::distribution(&path, &measured.scenario.describe(workers), &series)
}

fn measure_all(args: &Args, host: &Host) -> Result<(Vec<Measured>, stops::Stopped)> {
    let nothing = |contender| Cell { contender, outcomes: Vec::new() };
    let new = |scenario| Measured {
        scenario,
        cells: args
            .contenders()
            .into_iter()
            .filter(|contender| contender.suits(scenario))
            .map(nothing)
            .collect(),
    };
    let mut measured: Vec<Measured> = args.scenarios().into_iter().map(new).collect();
    let mut stopped = stops::Stopped::new(args.contenders());
    let mut random = fastrand::Rng::with_seed(args.seed);
    let site = args.scenarios().contains(&Scenario::Nginx).then(nginx::Site::new).transpose()?;
    for round in 0..args.rounds() {
        for one in &mut measured {
            eprintln!("round {} of {}: {}", round + 1, args.rounds(), one.scenario.name());
            let load = one.scenario.load(args.workers);
            let length = args.length() * load.stretch;
            let seed = random.u64(..);
            let schedule = Schedule::draw(&load.traffic, length, seed);
            let setup = Setup {
                workers: one.scenario.workers(args.workers),
                temper: load.temper,
                schedule: &schedule,
                patience: args.length().min(PATIENCE),
                seed,
            };
            let mut turns: Vec<usize> = (0..one.cells.len()).collect();
            random.shuffle(&mut turns);
            for turn in turns {
                let cell = &mut one.cells[turn];
                let outcome = match &site {
                    Some(site) if one.scenario == Scenario::Nginx => {
                        nginx::measure(host, site, cell.contender, &setup)
                    }
                    _ => measure(host, cell.contender, &setup),
                };
                let outcome = outcome.with_context(|| {
                    format!("{}, {}", one.scenario.name(), cell.contender.name())
                })?;
                cell.outcomes.push(outcome);
            }
        }
        if args.scenario.is_empty() {
            stopped.round(host, args.workers, random.u64(..))?;
        }
    }
    Ok((measured, stopped))
}
