//! Tables of what was measured in a scenario, a plot, and figures with aims.

use std::path::Path;

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;

use super::contender::{Contender, OURS, PAIRS};
use super::generator::{Outcome, Times};
use super::scenario::{Aim, Scenario};
use crate::report::{Figure, Report, Table, number, range, spread};
use crate::stats::{Median, median};

const DEVIATION: &str = "deviation of open connections";
const BURST_SHARE: &str = "the most of a burst at one worker";
/// Any other contender with a queue for each worker may be better by this factor.
const AIM_TO_BEST: f64 = 1.05;

/// What was measured of a contender in a scenario, round by round.
pub(super) struct Cell {
    pub(super) contender: Contender,
    pub(super) outcomes: Vec<Outcome>,
}

impl Cell {
    fn each(&self, of: fn(&Outcome) -> f64) -> Vec<f64> {
        self.outcomes.iter().map(of).collect()
    }

    fn median(&self, of: fn(&Outcome) -> f64) -> f64 {
        median(&self.each(of))
    }

    fn number(&self, of: fn(&Outcome) -> f64) -> String {
        number(self.median(of))
    }

    fn bounds(&self, of: fn(&Outcome) -> f64) -> String {
        let median = Median::of(&self.each(of));
        range(median.low, median.high)
    }

    /// Of all rounds together.
    fn latency(&self) -> Result<Histogram<u64>> {
        let Times(mut all) = Times::default();
        for outcome in &self.outcomes {
            all.add(&outcome.latency.0).context("cannot add up")?;
        }
        Ok(all)
    }
}

fn p99(outcome: &Outcome) -> f64 {
    outcome.latency.millis(0.99)
}

fn reached(outcome: &Outcome) -> f64 {
    outcome.first.into()
}

fn deviation(outcome: &Outcome) -> f64 {
    outcome.deviation
}

fn burst_share(outcome: &Outcome) -> f64 {
    outcome.burst_share
}

fn first_share(outcome: &Outcome) -> f64 {
    f64::from(outcome.first) / f64::from(outcome.connections.max(1))
}

/// A column of a table: its heading, and what it shows of a contender.
type Column = (&'static str, fn(&Measured, &Cell) -> String);

const DECIDES: Column = ("decides", |_, cell| cell.contender.name().to_owned());
/// Medians over rounds. Workers report the last three.
const LATENCY: [Column; 14] = [
    DECIDES,
    ("p50", |_, cell| cell.number(|one| one.latency.millis(0.5))),
    ("p90", |_, cell| cell.number(|one| one.latency.millis(0.9))),
    ("p99", |_, cell| cell.number(p99)),
    ("bounds", |_, cell| cell.bounds(p99)),
    ("p99.9", |_, cell| cell.number(|one| one.latency.millis(0.999))),
    ("max", |_, cell| cell.number(|one| one.latency.millis(1.0))),
    ("p99 to hash", |all, cell| all.p99_ratio(cell, Contender::Hash)),
    ("to shared", |all, cell| all.p99_ratio(cell, Contender::Shared)),
    ("answers/s", |_, cell| cell.number(|one| one.throughput)),
    ("failed", |_, cell| cell.number(|one| f64::from(one.unanswered + one.reset))),
    ("first's share", |_, cell| format!("{:.3}", cell.median(first_share))),
    ("open, dev.", |_, cell| cell.number(deviation)),
    ("busy", |_, cell| format!("{:.2}", cell.median(|one| one.busy))),
];
const BURSTS: [Column; 2] = [
    ("most of a burst", |_, cell| cell.number(burst_share)),
    ("bounds", |_, cell| cell.bounds(burst_share)),
];
const LASTING: [Column; 1] = [("dev., bounds", |_, cell| cell.bounds(deviation))];
const WRK: [Column; 3] = [
    DECIDES,
    ("answers/s", |_, cell| cell.number(|one| one.wrk)),
    ("bounds", |_, cell| cell.bounds(|one| one.wrk)),
];
const REACHED: [Column; 4] = [
    DECIDES,
    ("p10", |_, cell| spread(&cell.each(reached))[0].clone()),
    ("p50", |_, cell| spread(&cell.each(reached))[1].clone()),
    ("p90", |_, cell| spread(&cell.each(reached))[2].clone()),
];

/// All contenders in one scenario.
pub(super) struct Measured {
    pub(super) scenario: &'static Scenario,
    pub(super) workers: u8,
    pub(super) cells: Vec<Cell>,
}

impl Measured {
    fn each(&self, contender: Contender, of: fn(&Outcome) -> f64) -> Vec<f64> {
        let cell = self.cells.iter().find(|cell| cell.contender == contender);
        cell.expect("it suits the scenario").each(of)
    }

    /// A contender's p99 in times of another's.
    fn p99_ratio(&self, cell: &Cell, to: Contender) -> String {
        if self.cells.iter().all(|cell| cell.contender != to) {
            return String::new();
        }
        format!("{:.3}", Median::of_ratios(&cell.each(p99), &self.each(to, p99)).value)
    }

    /// The scenario's tables, and every single outcome as raw numbers.
    pub(super) fn tables(&self, report: &mut Report) -> Result<()> {
        for cell in &self.cells {
            let name = format!("{}, {}", self.scenario.title, cell.contender.name());
            report.raw(name, &cell.outcomes)?;
        }
        let described = self.scenario.describe(self.workers);
        let all = |of: fn(&Outcome) -> f64| {
            number(median(&self.cells.iter().flat_map(|cell| cell.each(of)).collect::<Vec<f64>>()))
        };
        if self.scenario.is_reached() {
            let title = format!(
                "{described}. Of some {} connections, how many reached the worker that does not accept",
                all(|one| one.connections.into()),
            );
            self.table(report, title, &REACHED);
            return Ok(());
        }
        let title = format!(
            "{described}. Milliseconds from scheduled to answered, medians of {} rounds; generator late \
             by {} ms (p99)",
            self.cells[0].outcomes.len(),
            all(|one| one.lag.millis(0.99)),
        );
        let unreported = if self.scenario.nginx { 3 } else { 0 };
        let mut columns = LATENCY[..LATENCY.len() - unreported].to_vec();
        columns.extend(self.scenario.lasting.then_some(LASTING).into_iter().flatten());
        columns.extend(self.scenario.bursts.then_some(BURSTS).into_iter().flatten());
        self.table(report, title, &columns);
        if self.scenario.nginx {
            let title = "nginx, wrk with 8 clients, a connection for each request, while 2 slow \
                         requests come a second";
            self.table(report, title.to_owned(), &WRK);
        }
        Ok(())
    }

    fn table(&self, report: &mut Report, title: String, columns: &[Column]) {
        let mut table = Table::new(columns.iter().map(|(heading, _)| *heading));
        for cell in &self.cells {
            table.row(columns.iter().map(|(_, show)| show(self, cell)));
        }
        report.table(title, table);
    }

    /// All rounds together, a line for each contender.
    pub(super) fn plot(&self, directory: &Path) -> Result<()> {
        let series = self.cells.iter().map(|cell| Ok((cell.contender.name(), cell.latency()?)));
        let path = directory.join(format!("latency-{}.svg", self.scenario.name()));
        let title = self.scenario.describe(self.workers);
        crate::plot::distribution(&path, &title, &series.collect::<Result<Vec<_>>>()?)
    }

    pub(super) fn figures(&self, report: &mut Report) {
        for aim in self.scenario.aims {
            report.figure(self.figure(*aim));
        }
        if self.scenario.is_reached() {
            return;
        }
        // The one with the lowest p99 among the others that have a queue for each worker.
        let others = self.cells.iter().filter(|c| c.contender != OURS && c.contender.has_queues());
        let best = others.min_by(|a, b| a.median(p99).total_cmp(&b.median(p99)));
        let best = best.expect("the hash, at least").contender;
        let p99 = self.ratio("p99, the best other with queues", p99, OURS, best);
        report.figure(p99.at_most_beyond_spread(AIM_TO_BEST));
        // Aims are upper bounds, so it is the hash's to ours.
        let answers = self.ratio("answers/s", |one| one.throughput, Contender::Hash, OURS);
        report.figure(answers.at_most_beyond_spread(1.0));
    }

    /// What decides in this build to the same in the other one.
    pub(super) fn compare_builds(&self, report: &mut Report) {
        type Measure = (&'static str, fn(&Outcome) -> f64);
        let Scenario { lasting, bursts, .. } = *self.scenario;
        let mut measures: Vec<Measure> = match self.scenario.is_reached() {
            true => vec![("reached it", reached)],
            false => vec![("p99", p99)],
        };
        measures.extend(lasting.then_some((DEVIATION, deviation as fn(&Outcome) -> f64)));
        measures.extend(bursts.then_some((BURST_SHARE, burst_share as fn(&Outcome) -> f64)));
        for [this, other] in PAIRS {
            for (what, of) in &measures {
                report.figure(self.ratio(what, *of, this, other));
            }
        }
    }

    fn figure(&self, aim: Aim) -> Figure {
        let (title, ours) = (self.scenario.title, OURS.name());
        match aim {
            Aim::P99To(other, aim) => self.ratio("p99", p99, OURS, other).at_most(aim),
            Aim::DeviationTo(other, aim) => {
                self.ratio(DEVIATION, deviation, OURS, other).at_most(aim)
            }
            Aim::BurstShare(aim) => {
                let name = format!("{title}: {BURST_SHARE}, {ours}, to a fair share");
                Figure::median(name, Median::of(&self.each(OURS, burst_share)), "").at_most(aim)
            }
            Aim::FirstShare(aim) => {
                let shares = self.each(OURS, first_share);
                let fair = vec![1.0 / f64::from(self.workers); shares.len()];
                let name = format!("{title}: share of the one that fails, {ours}, to a fair one");
                Figure::ratio(name, &shares, &fair).at_most(aim)
            }
            Aim::Reached(aim) => {
                let most = self.each(OURS, reached).into_iter().fold(0.0, f64::max);
                let name = format!("{title}: reached it, {ours}, the most of all rounds");
                Figure::new(name, most, "connections").at_most(aim)
            }
        }
    }

    /// Round by round.
    fn ratio(
        &self,
        what: &str,
        of: fn(&Outcome) -> f64,
        one: Contender,
        other: Contender,
    ) -> Figure {
        let name = format!("{}: {what}, {} to {}", self.scenario.title, one.name(), other.name());
        Figure::ratio(name, &self.each(one, of), &self.each(other, of))
    }
}
