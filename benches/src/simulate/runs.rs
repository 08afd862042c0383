//! Many simulations at once, each case several times, and what they have in common.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use serde::Serialize;

use super::Effort;
use super::choose::Policy;
use super::model::{Outcome, Scenario, simulate};
use crate::report::number;
use crate::stats::median;

/// One thing to simulate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub(super) scenario: Scenario,
    pub(super) policy: Policy,
}

/// A value with how far its runs lie apart.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Value {
    pub(super) median: f64,
    runs: Vec<f64>,
}

impl Value {
    fn of(runs: Vec<f64>) -> Self {
        Self { median: median(&runs), runs }
    }

    /// The median, and half of what lies between the least and the most.
    pub(super) fn cell(&self) -> String {
        let least = self.runs.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.runs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        match (most - least) / 2.0 {
            apart if apart < 0.03 * self.median || apart == 0.0 => number(self.median),
            apart => format!("{} ±{}", number(self.median), number(apart)),
        }
    }

    fn times(&self, factor: f64) -> Self {
        Self::of(self.runs.iter().map(|run| run * factor).collect())
    }
}

/// What came out of the runs of a case. Times are in means of what a request takes.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Found {
    pub(super) p50: Value,
    pub(super) p99: Value,
    pub(super) p999: Value,
    /// Of the first worker, in fair shares.
    pub(super) share: Value,
    /// Connections given to a worker while it hung, each time.
    pub(super) to_hung: Value,
    /// The standard deviation of open connections.
    pub(super) deviation: Value,
    #[serde(skip)]
    unit: f64,
}

impl Found {
    fn of(case: &Case, outcomes: &[Outcome]) -> Self {
        let unit = case.scenario.work.mean();
        let value =
            |of: &dyn Fn(&Outcome) -> f64| Value::of(outcomes.iter().map(of).collect::<Vec<_>>());
        let latency = |quantile| {
            value(&|outcome| outcome.latencies.value_at_quantile(quantile) as f64 / unit)
        };
        let fair = case.scenario.connections as f64 / case.scenario.workers as f64;
        let per = |sum: f64, count: u64| if count == 0 { 0.0 } else { sum / count as f64 };
        Self {
            p50: latency(0.5),
            p99: latency(0.99),
            p999: latency(0.999),
            share: value(&|outcome| outcome.dealt[0] as f64 / fair),
            to_hung: value(&|outcome| per(outcome.to_hung.0 as f64, outcome.to_hung.1)),
            deviation: value(&|outcome| per(outcome.deviations.0, outcome.deviations.1)),
            unit,
        }
    }

    /// A time in milliseconds.
    pub(super) fn ms(&self, time: &Value) -> Value {
        time.times(self.unit / super::model::MS as f64)
    }
}

/// Simulates all cases, on as many processors as there are.
pub(super) fn run(cases: &[Case], effort: Effort) -> Vec<Found> {
    let (next, found) = (AtomicUsize::new(0), Mutex::new(vec![None; cases.len()]));
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(case) = cases.get(index) else { return };
            let one = Found::of(case, &outcomes(case, effort));
            found.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(one);
        }
    };
    thread::scope(|scope| {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        (0..processors).for_each(|_| drop(scope.spawn(work)));
    });
    let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.into_iter().flatten().collect()
}

fn outcomes(case: &Case, effort: Effort) -> Vec<Outcome> {
    let seeds = effort.seed..effort.seed + effort.runs;
    seeds.map(|seed| simulate(&Scenario { seed, ..case.scenario }, case.policy)).collect()
}
