//! One measurement: a contender deals a schedule's connections to a new server.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result};
use reuseport::Host;

use super::contender::{Contender, Dealer};
use super::generator::{Outcome, drive};
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
    let outcome = observe(address, Dialect::Worker, &dealer, setup)?;
    dealer.detach()?;
    workers.iter().try_for_each(Helper::stop)?;
    let counts = |worker: Helper| {
        serde_json::from_str(&worker.report()?).context("a worker reports no counts")
    };
    let counts = workers.into_iter().map(counts).collect::<Result<Vec<Counts>>>()?;
    let all: u32 = counts.iter().map(|counts| counts.reached).sum();
    let busy: f64 = counts.iter().map(|counts| counts.busy).sum();
    Ok(Outcome {
        first_share: f64::from(counts[0].reached) / f64::from(all.max(1)),
        first_reached: counts[0].reached,
        busy: busy / setup.schedule.length.as_secs_f64() / counts.len() as f64,
        ..outcome
    })
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
) -> Result<Outcome> {
    let [all, idle] = ticks()?;
    let outcome = ask(address, dialect, setup.schedule, setup)?;
    let [all_now, idle_now] = ticks()?;
    dealer.check(outcome.connections.into())?;
    let machine = 1.0 - (idle_now - idle) / (all_now - all).max(1.0);
    Ok(Outcome { machine, ..outcome })
}

/// Sends a schedule's requests, at a priority above the workers'.
pub(super) fn ask(
    address: SocketAddr,
    dialect: Dialect,
    schedule: &Schedule,
    setup: &Setup<'_>,
) -> Result<Outcome> {
    priority::set(priority::GENERATOR);
    let outcome = drive(address, setup.workers, dialect, schedule, setup.patience);
    priority::set(priority::WORKER);
    outcome
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
