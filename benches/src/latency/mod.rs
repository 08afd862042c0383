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
//! and tell the worker for how long to block. Latency counts from the scheduled time ([`generator`]).
//! Requests that are never answered count with the time that they waited, two seconds or more; refused
//! ones, which have no latency, are counted apart, and both are `failed`.
//!
//! Contenders ([`contender`]) have their turns in another random order each round, each with new
//! workers and the same requests, and are compared round by round. A measurement is refused if the
//! program that was to deal did not deal every connection, or if a request is unaccounted for.
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
mod wire;
pub(crate) mod worker;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::builder::PossibleValuesParser;
use reuseport::Host;
use tempfile::TempDir;

use crate::process::Reuseport;
use crate::report::{Common, Report};
use contender::{Contender, Means};
use generator::Setup;
use measure::measure;
use results::{Cell, Measured};
use scenario::Scenario;
use schedule::Schedule;

/// How long after the last request answers are waited for at most.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    common: Common,
    /// Only this scenario; may be given several times [default: all]
    #[arg(long, value_name = "NAME", value_parser = names())]
    scenario: Vec<String>,
    /// Turns of each contender in each scenario
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How many milliseconds requests come, each time
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(50..))]
    millis: u64,
    /// How many workers there are; rates follow
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(2..=64))]
    workers: u8,
    /// Two rounds of a second: to see whether it works
    #[arg(long, conflicts_with_all = ["rounds", "millis"])]
    quick: bool,
    /// Compare round-robin and least-loaded with those of this other checkout, in which
    /// `cargo build --release --package reuseport-cli` has run, and with nothing else
    #[arg(long, value_name = "DIRECTORY")]
    against: Option<PathBuf>,
    /// Write a plot of latencies by percentile for each scenario into this directory, as SVG
    #[arg(long, value_name = "DIRECTORY")]
    plots: Option<PathBuf>,
}

fn names() -> PossibleValuesParser {
    // For clap, they live as long as the program.
    PossibleValuesParser::new(scenario::ALL.iter().map(|scenario| &*scenario.name().leak()))
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut report = Report::new("latency")?;
    priority::keep_processors_awake();
    priority::set(priority::WORKER); // which workers inherit
    let measured = measure_all(args)?;
    measured.iter().try_for_each(|one| one.tables(&mut report))?;
    if let Some(directory) = &args.plots {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        measured.iter().try_for_each(|one| one.plot(directory))?;
    }
    match args.against {
        Some(_) => measured.iter().for_each(|one| one.compare_builds(&mut report)),
        None => measured.iter().for_each(|one| one.figures(&mut report)),
    }
    report.finish(args.common.json.as_deref())
}

fn measure_all(args: &Args) -> Result<Vec<Measured>> {
    let other = args.against.as_deref().map(Reuseport::of_checkout);
    other.as_ref().map(Reuseport::path).transpose()?;
    let means = Means { host: Host::open()?, other };
    let contenders: &[Contender] =
        if means.other.is_some() { &contender::BUILDS } else { &contender::ALL };
    let asked = |scenario: &&Scenario| {
        args.scenario.is_empty() || args.scenario.iter().any(|name| *name == scenario.name())
    };
    let new = |scenario: &'static Scenario| {
        let suitable = contenders.iter().copied().filter(|one| scenario.suits(*one));
        let cells = suitable.map(|contender| Cell { contender, outcomes: Vec::new() }).collect();
        Measured { scenario, workers: scenario.workers(args.workers), cells }
    };
    let mut measured: Vec<Measured> = scenario::ALL.iter().filter(asked).map(new).collect();
    let needs_site = measured.iter().any(|one| one.scenario.nginx);
    let site = needs_site.then(nginx::site).transpose()?;
    let mut random = fastrand::Rng::with_seed(1);
    let rounds = if args.quick { 2 } else { args.rounds };
    for round in 1..=rounds {
        for one in &mut measured {
            eprintln!("round {round} of {rounds}: {}", one.scenario.title);
            measure_round(args, &means, site.as_ref(), one, &mut random)?;
        }
    }
    Ok(measured)
}

/// Each contender has a turn in a scenario, with the same requests.
fn measure_round(
    args: &Args,
    means: &Means,
    site: Option<&TempDir>,
    one: &mut Measured,
    random: &mut fastrand::Rng,
) -> Result<()> {
    let scenario = one.scenario;
    let length = Duration::from_millis(if args.quick { 1000 } else { args.millis });
    let (length, patience) = match scenario.is_reached() {
        // A worker that does not accept never answers.
        true => (Duration::from_millis(500), Duration::from_millis(200)),
        false => (length * scenario.stretch, length.min(PATIENCE)),
    };
    let seed = random.u64(..);
    let schedule = Schedule::draw(&scenario.traffic(args.workers), length, seed);
    let temper = scenario.temper;
    let setup = Setup { workers: one.workers, temper, schedule: &schedule, patience, seed };
    let mut turns: Vec<&mut Cell> = one.cells.iter_mut().collect();
    random.shuffle(&mut turns);
    for cell in turns {
        let outcome = match site.filter(|_| scenario.nginx) {
            Some(site) => nginx::measure(means, cell.contender, &setup, site),
            None => measure(means, cell.contender, &setup),
        };
        let what = || format!("{}, {}", scenario.title, cell.contender.name());
        cell.outcomes.push(outcome.with_context(what)?);
    }
    Ok(())
}
