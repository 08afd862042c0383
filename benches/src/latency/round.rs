//! One measurement: a scenario, a contender, workers that are new.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use hdrhistogram::Histogram;
use reuseport::Host;
use serde::Serialize;

use super::contender::{Attached, Contender};
use super::dialect::Dialect;
use super::generator::{Observed, drive};
use super::hermes::Inherited;
use super::nginx::Wrk;
use super::priority;
use super::schedule::Schedule;
use super::temper::Temper;
use super::worker::Counts;
use super::workers::{Listeners, Workers};

/// What one measurement says. Times are microseconds, from scheduled to answered.
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
    /// Which part of the connections the first worker had, the one that misbehaves if one does.
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
    /// What wrk said, where it was asked.
    pub(super) wrk: Option<Wrk>,
    #[serde(skip)]
    pub(super) latency: Histogram<u64>,
}

/// With what it is measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setup<'a> {
    pub(super) workers: u8,
    pub(super) temper: Temper,
    pub(super) schedule: &'a Schedule,
    pub(super) patience: Duration,
    /// For what is drawn beside the schedule.
    pub(super) seed: u64,
}

pub(super) fn measure(host: &Host, contender: Contender, setup: &Setup<'_>) -> Result<Outcome> {
    let listeners = Listeners::new(setup.workers, contender.listening())?;
    let hermes = contender.hermes(&listeners)?;
    let inherited = hermes.as_ref().map(|hermes| Inherited::of(hermes, setup.workers));
    let workers = Workers::start(setup.workers, setup.temper, listeners, inherited)?;
    let attached = match hermes {
        Some(hermes) => Attached::Hermes(Box::new(hermes)),
        None => contender.attach(host, workers.address)?,
    };
    let processors = Processors::now()?;
    let observed = in_front(|| {
        drive(workers.address, setup.workers, Dialect::Ours, setup.schedule, setup.patience)
    })?;
    let machine = processors.busy_since()?;
    attached.check(observed.connections)?;
    attached.detach()?;
    let counts = workers.finish()?;
    observed.check(setup.schedule)?;
    Ok(outcome(observed, &counts, machine, setup))
}

/// On a thread that goes before the workers.
pub(super) fn in_front<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            priority::set(priority::GENERATOR);
            work()
        });
        thread.join().map_err(|_| anyhow!("the generator failed"))?
    })
}

/// Of workers that say nothing, no counts.
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

/// What the machine's processors have done, in ticks. What is nice does not count as work: what keeps
/// them awake is.
pub(super) struct Processors {
    all: u64,
    idle: u64,
}

impl Processors {
    pub(super) fn now() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        Self::parse(&stat).context("/proc/stat is not as expected")
    }

    /// `cpu user nice system idle iowait irq softirq steal guest guest_nice`; guests' time is in
    /// user's, too.
    fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Option<Vec<u64>> = line.split_whitespace().map(|n| n.parse().ok()).collect();
        let ticks = ticks?;
        Some(Self {
            all: ticks.iter().take(8).sum(),
            idle: ticks.get(1)? + ticks.get(3)? + ticks.get(4)?,
        })
    }

    pub(super) fn busy_since(&self) -> Result<f64> {
        let now = Self::now()?;
        let all = now.all.saturating_sub(self.all).max(1) as f64;
        Ok(1.0 - now.idle.saturating_sub(self.idle) as f64 / all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_and_being_nice_is_idle() {
        let parsed = Processors::parse("cpu  10 1 9 70 5 1 2 2 3 0\ncpu0 1\n").unwrap();
        assert_eq!((parsed.all, parsed.idle), (100, 76));
        assert!(Processors::parse("cpu").is_none());
    }
}
