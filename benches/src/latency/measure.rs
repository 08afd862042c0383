//! One measurement: a contender deals a schedule's connections to a new server.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result};
use reuseport::Host;

use super::contender::Contender;
use super::generator::{Outcome, drive};
use super::priority;
use super::schedule::Schedule;
use super::wire::Dialect;
use super::worker::{Role, Temper};
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
    let outcome = ask(address, Dialect::Worker, setup.schedule, setup)?;
    dealer.check(outcome.connections.into())?;
    dealer.detach()?;
    workers.iter().try_for_each(Helper::stop)?;
    let counts = |worker: Helper| {
        serde_json::from_str(&worker.report()?).context("a worker reports no counts")
    };
    let counts = workers.into_iter().map(counts).collect::<Result<Vec<(u32, f64)>>>()?;
    let busy: f64 = counts.iter().map(|(_, busy)| busy).sum();
    let busy = busy / setup.schedule.length.as_secs_f64() / counts.len() as f64;
    Ok(Outcome { first: counts[0].0, busy, ..outcome })
}

fn start(
    index: u8,
    first: Temper,
    listeners: &[TcpListener],
    hermes: Option<[u32; 2]>,
) -> Result<Helper> {
    let temper = if index == 0 { first } else { Temper::Steady };
    let role = Role { index, temper, hermes };
    let listener = listeners[usize::from(index) % listeners.len()].try_clone()?;
    Helper::start("latency-worker", &serde_json::to_string(&role)?, OwnedFd::from(listener))
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
