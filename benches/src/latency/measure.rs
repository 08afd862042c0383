//! One measurement: a contender deals a schedule's connections to a new server.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use hdrhistogram::Histogram;
use reuseport::Host;
use serde::Serialize;

use super::contender::{Contender, Dealer};
use super::generator::{Observed, drive};
use super::priority;
use super::schedule::Schedule;
use super::temper::Temper;
use super::wire::Dialect;
use super::worker::{Counts, Role};
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

/// What one measurement found. Times are microseconds, from scheduled to answered.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Outcome {
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
    pub(super) max: f64,
    /// Answers in a second, while requests came.
    pub(super) throughput: f64,
    /// Requests that had no answer in the end, or were refused.
    pub(super) failed: f64,
    pub(super) reset: f64,
    pub(super) connections: f64,
    /// Which part of the connections the first worker had, which misbehaves if one does.
    pub(super) first_share: f64,
    /// Connections that reached the first worker.
    pub(super) first_reached: f64,
    /// Standard deviation over workers of their open connections, average over time.
    pub(super) deviation: f64,
    /// How busy workers were, from 0 to 1.
    pub(super) busy: f64,
    /// How busy the machine's processors were, from 0 to 1, with everything that ran on them.
    pub(super) machine: f64,
    /// How late the generator was: 99th percentile.
    pub(super) lag: f64,
    /// From wrk, where it ran.
    pub(super) wrk: Option<Wrk>,
    #[serde(skip)]
    pub(super) latency: Histogram<u64>,
}

/// What wrk measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Wrk {
    /// Answers in a second.
    pub(super) answers: f64,
    /// 99th percentile, milliseconds.
    pub(super) p99: f64,
}

/// With workers of this bench.
pub(super) fn measure(host: &Host, contender: Contender, setup: &Setup<'_>) -> Result<Outcome> {
    let listeners = contender.listen(setup.workers)?;
    let address = listeners[0].local_addr()?;
    let dealer = contender.attach(host, address, &listeners)?;
    let mut workers = start(setup, &listeners, dealer.report_maps()?)?;
    workers.iter_mut().try_for_each(Helper::wait_until_ready)?;
    drop(listeners);
    let (observed, machine) = observe(address, Dialect::Worker, &dealer, setup)?;
    dealer.detach()?;
    workers.iter().try_for_each(Helper::stop)?;
    let counts = |worker: Helper| {
        serde_json::from_str(&worker.report()?).context("a worker reports no counts")
    };
    let counts = workers.into_iter().map(counts).collect::<Result<Vec<Counts>>>()?;
    Ok(outcome(observed, &counts, machine, setup))
}

fn start(
    setup: &Setup<'_>,
    listeners: &[TcpListener],
    hermes: Option<[u32; 2]>,
) -> Result<Vec<Helper>> {
    let start = |index: u8| {
        let temper = if index == 0 { setup.temper } else { Temper::Steady };
        let shared = listeners.len() == 1;
        let role = serde_json::to_string(&Role { index, temper, shared, hermes })?;
        let listener = listeners[usize::from(index) % listeners.len()].try_clone()?;
        Helper::start("latency-worker", &role, OwnedFd::from(listener))
    };
    (0..setup.workers).map(start).collect()
}

/// What becomes of the schedule's requests, and how busy the machine is meanwhile. Refused if the dealer
/// did not deal every connection.
pub(super) fn observe(
    address: SocketAddr,
    dialect: Dialect,
    dealer: &Dealer<'_>,
    setup: &Setup<'_>,
) -> Result<(Observed, f64)> {
    let before = Ticks::now()?;
    let observed = ask(address, dialect, setup.schedule, setup)?;
    let machine = Ticks::now()?.busy_since(&before);
    dealer.check(observed.connections)?;
    Ok((observed, machine))
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

/// `counts` is empty for workers that report nothing.
pub(super) fn outcome(
    observed: Observed,
    counts: &[Counts],
    machine: f64,
    setup: &Setup<'_>,
) -> Outcome {
    let latency = observed.latency;
    let at = |quantile| latency.value_at_quantile(quantile) as f64;
    let seconds = setup.schedule.length.as_secs_f64();
    let reached = |counts: &Counts| (counts.accepted + counts.waiting) as f64;
    let all: f64 = counts.iter().map(reached).sum();
    let first = counts.first().map_or(0.0, reached);
    let busy: u64 = counts.iter().map(|counts| counts.busy).sum();
    Outcome {
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: at(0.999),
        max: latency.max() as f64,
        throughput: observed.in_time as f64 / seconds,
        failed: (observed.unanswered + observed.reset) as f64,
        reset: observed.reset as f64,
        connections: observed.connections as f64,
        first_share: first / all.max(1.0),
        first_reached: first,
        deviation: observed.deviation,
        busy: busy as f64 / 1e6 / seconds / counts.len().max(1) as f64,
        machine,
        lag: observed.lag.value_at_quantile(0.99) as f64,
        wrk: None,
        latency,
    }
}

/// What the machine's processors have done, in ticks. Time of nice threads counts as idle: those that
/// keep processors awake are nice.
struct Ticks {
    all: u64,
    idle: u64,
}

impl Ticks {
    fn now() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        Self::parse(&stat).context("/proc/stat is not as expected")
    }

    /// `cpu user nice system idle iowait irq softirq steal guest guest_nice`; guests' time is in
    /// user's, too.
    fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Option<Vec<u64>> = line.split_whitespace().map(|n| n.parse().ok()).collect();
        let ticks = ticks?;
        let idle = ticks.get(1)? + ticks.get(3)? + ticks.get(4)?;
        Some(Self { all: ticks.iter().take(8).sum(), idle })
    }

    fn busy_since(&self, before: &Self) -> f64 {
        let all = self.all.saturating_sub(before.all).max(1) as f64;
        1.0 - self.idle.saturating_sub(before.idle) as f64 / all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_and_being_nice_is_idle() {
        let parsed = Ticks::parse("cpu  10 1 9 70 5 1 2 2 3 0\ncpu0 1\n").unwrap();
        assert_eq!((parsed.all, parsed.idle), (100, 76));
        assert!(Ticks::parse("cpu").is_none());
    }
}
