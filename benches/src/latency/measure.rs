//! One measurement: a contender deals a schedule's connections to a new server.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use reuseport::Host;
use serde::Serialize;

use super::contender::{Contender, Dealer};
use super::generator::{Observed, drive};
use super::nginx::Wrk;
use super::priority;
use super::schedule::Schedule;
use super::wire::Dialect;
use super::worker::{Counts, Role, Temper};
use crate::process::Helper;

/// With what it is measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setup<'a> {
    pub(super) workers: u8,
    /// The first worker's; the others are steady.
    pub(super) temper: Temper,
    pub(super) schedule: &'a Schedule,
    /// How long answers are waited for after the schedule's end.
    pub(super) patience: Duration,
    /// For what is drawn in addition to the schedule.
    pub(super) seed: u64,
}

/// What one measurement found.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    #[serde(flatten)]
    pub(super) seen: Observed,
    /// Answers in a second, while requests came.
    pub(super) throughput: f64,
    /// Which part of the connections the first worker had, which misbehaves if one does.
    pub(super) first_share: f64,
    /// Connections that reached the first worker.
    pub(super) first_reached: f64,
    /// How busy workers were, from 0 to 1.
    pub(super) busy: f64,
    /// How busy the machine's processors were, from 0 to 1, with everything that ran on them.
    pub(super) machine: f64,
    /// From wrk, where it ran.
    pub(super) wrk: Option<Wrk>,
}

impl Outcome {
    /// `counts` is empty for workers that report nothing.
    pub(super) fn new(
        (seen, machine): (Observed, f64),
        counts: &[Counts],
        setup: &Setup<'_>,
    ) -> Self {
        let seconds = setup.schedule.length.as_secs_f64();
        let all: u64 = counts.iter().map(|counts| counts.reached).sum();
        let first = counts.first().map_or(0, |counts| counts.reached) as f64;
        let busy: u64 = counts.iter().map(|counts| counts.busy).sum();
        Self {
            throughput: seen.in_time as f64 / seconds,
            first_share: first / all.max(1) as f64,
            first_reached: first,
            busy: busy as f64 / 1e6 / seconds / counts.len().max(1) as f64,
            machine,
            wrk: None,
            seen,
        }
    }

    /// In milliseconds.
    pub(super) fn latency(&self, quantile: f64) -> f64 {
        self.seen.latency.value_at_quantile(quantile) as f64 / 1e3
    }
}

/// With workers of this bench.
pub(super) fn measure(host: &Host, contender: Contender, setup: &Setup<'_>) -> Result<Outcome> {
    let listeners = contender.listen(setup.workers)?;
    let address = listeners[0].local_addr()?;
    let dealer = contender.attach(host, address, &listeners)?;
    let hermes = dealer.report_maps()?;
    let start = |index| start(index, setup.temper, &listeners, hermes);
    let mut workers = (0..setup.workers).map(start).collect::<Result<Vec<Helper>>>()?;
    workers.iter_mut().try_for_each(Helper::wait_until_ready)?;
    drop(listeners);
    let observed = observe(address, Dialect::Worker, &dealer, setup)?;
    dealer.detach()?;
    workers.iter().try_for_each(Helper::stop)?;
    let counts = |worker: Helper| {
        serde_json::from_str(&worker.report()?).context("a worker reports no counts")
    };
    let counts = workers.into_iter().map(counts).collect::<Result<Vec<Counts>>>()?;
    Ok(Outcome::new(observed, &counts, setup))
}

fn start(
    index: u8,
    first: Temper,
    listeners: &[TcpListener],
    hermes: Option<[u32; 2]>,
) -> Result<Helper> {
    let temper = if index == 0 { first } else { Temper::Steady };
    let role = Role { index, temper, shared: listeners.len() == 1, hermes };
    let listener = listeners[usize::from(index) % listeners.len()].try_clone()?;
    Helper::start("latency-worker", &serde_json::to_string(&role)?, OwnedFd::from(listener))
}

/// What becomes of the schedule's requests, and how busy the machine is meanwhile. Refused if the dealer
/// did not deal every connection.
pub(super) fn observe(
    address: SocketAddr,
    dialect: Dialect,
    dealer: &Dealer<'_>,
    setup: &Setup<'_>,
) -> Result<(Observed, f64)> {
    let [all, idle] = ticks()?;
    let observed = ask(address, dialect, setup.schedule, setup)?;
    let [all_now, idle_now] = ticks()?;
    dealer.check(observed.connections)?;
    Ok((observed, 1.0 - (idle_now - idle) / (all_now - all).max(1.0)))
}

/// Sends a schedule's requests, from a thread that goes before the workers.
pub(super) fn ask(
    address: SocketAddr,
    dialect: Dialect,
    schedule: &Schedule,
    setup: &Setup<'_>,
) -> Result<Observed> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            priority::set(priority::GENERATOR);
            drive(address, setup.workers, dialect, schedule, setup.patience)
        });
        thread.join().map_err(|_| anyhow!("the generator failed"))?
    })
}

/// How long the machine's processors have run, and for how much of that they were idle. Time of nice
/// threads counts as idle: those that keep processors awake are nice.
fn ticks() -> Result<[f64; 2]> {
    let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    // `cpu user nice system idle iowait irq softirq steal ...` in the first line
    let ticks = stat.split_whitespace().skip(1).take(8).map(|ticks| Ok(ticks.parse()?));
    let ticks = ticks.collect::<Result<Vec<f64>>>().context("/proc/stat is not as expected")?;
    Ok([ticks.iter().sum(), ticks[1] + ticks[3] + ticks[4]])
}
