//! One measurement: a contender deals a schedule's connections to a new server.

use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result};

use super::contender::{Contender, Dealer, Means};
use super::generator::{Outcome, Setup, drive};
use super::wire::Dialect;
use super::worker::{Role, Temper};
use crate::process::Helper;

/// With workers of this bench.
pub(super) fn measure(means: &Means, contender: Contender, setup: &Setup<'_>) -> Result<Outcome> {
    let listeners = contender.listen(setup.workers)?;
    let address = listeners[0].local_addr()?;
    let dealer = contender.attach(means, address, &listeners)?;
    let hermes = match &dealer {
        Dealer::Hermes(hermes) => Some(hermes.map_ids()?),
        _ => None,
    };
    let start = |index| {
        let temper = if index == 0 { setup.temper } else { Temper::Steady };
        // Restarts begin when there are as many lasting connections as there should be.
        let first_hang = match temper {
            Temper::Restarts => setup.schedule.settled,
            _ => Duration::from_millis(200),
        };
        let role = serde_json::to_string(&Role { index, temper, first_hang, hermes })?;
        let listener = listeners[usize::from(index) % listeners.len()].try_clone()?;
        Helper::start("latency-worker", &role, OwnedFd::from(listener))
    };
    let mut workers = (0..setup.workers).map(start).collect::<Result<Vec<Helper>>>()?;
    workers.iter_mut().try_for_each(Helper::wait_until_ready)?;
    drop(listeners);
    let outcome = drive(address, Dialect::Worker, setup)?;
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
