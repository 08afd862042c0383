//! Tables of what was measured in a scenario, a plot, and figures with aims.

use std::path::Path;

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;

use super::contender::{Contender, OURS};
use super::generator::histogram;
use super::measure::Outcome;
use super::nginx::Wrk;
use super::scenario::{Aim, Scenario};
use crate::report::{Figure, Report, Table, number, range};
use crate::stats::{Median, median};

/// Any other contender with a queue for each worker may be better by this factor.
const AIM_TO_BEST: f64 = 1.05;

/// What was measured of a contender in a scenario, round by round.
pub(super) struct Cell {
    pub(super) contender: Contender,
    pub(super) outcomes: Vec<Outcome>,
}

impl Cell {
    fn each(&self, of: impl Fn(&Outcome) -> f64) -> Vec<f64> {
        self.outcomes.iter().map(of).collect()
    }

    fn median(&self, of: impl Fn(&Outcome) -> f64) -> f64 {
        median(&self.each(of))
    }

    /// Of all rounds together.
    fn latency(&self) -> Result<Histogram<u64>> {
        let mut all = histogram();
        for outcome in &self.outcomes {
            all.add(&outcome.seen.latency).context("cannot add up")?;
        }
        Ok(all)
    }
}

fn p99(outcome: &Outcome) -> f64 {
    outcome.latency(0.99)
}

/// A column of the table of latencies: its heading, and what it shows of a contender.
type Column = (&'static str, fn(&Measured, &Cell) -> String);

/// Medians over rounds. Workers report the last three.
const COLUMNS: [Column; 14] = [
    ("decides", |_, cell| cell.contender.name().to_owned()),
    ("p50", |_, cell| number(cell.median(|outcome| outcome.latency(0.5)))),
    ("p90", |_, cell| number(cell.median(|outcome| outcome.latency(0.9)))),
    ("p99", |_, cell| number(cell.median(p99))),
    ("bounds", |_, cell| bounds(Median::of(&cell.each(p99)))),
    ("p99.9", |_, cell| number(cell.median(|outcome| outcome.latency(0.999)))),
    ("max", |_, cell| number(cell.median(|outcome| outcome.latency(1.0)))),
    ("p99 to hash", |all, cell| all.p99_ratio(cell, Contender::Hash)),
    ("to shared", |all, cell| all.p99_ratio(cell, Contender::Shared)),
    ("answers/s", |_, cell| number(cell.median(|outcome| outcome.throughput))),
    ("failed", |_, cell| {
        number(cell.median(|outcome| (outcome.seen.unanswered + outcome.seen.reset) as f64))
    }),
    ("first's share", |_, cell| format!("{:.3}", cell.median(|outcome| outcome.first_share))),
    ("open, dev.", |_, cell| number(cell.median(|outcome| outcome.seen.deviation))),
    ("busy", |_, cell| format!("{:.2}", cell.median(|outcome| outcome.busy))),
];

fn bounds(median: Median) -> String {
    range(median.low, median.high)
}

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
        format!("{:.3}", Median::of_ratios(&cell.each(p99), &self.each(to, p99)).value)
    }

    /// The scenario's tables, and every single outcome as raw numbers.
    pub(super) fn tables(&self, report: &mut Report) -> Result<()> {
        for cell in &self.cells {
            let name = format!("{}, {}", self.scenario.title, cell.contender.name());
            report.raw(name, &cell.outcomes)?;
        }
        if self.scenario.is_reached() {
            self.reached_table(report);
            return Ok(());
        }
        self.latency_table(report);
        if self.scenario.nginx {
            self.wrk_table(report);
        }
        Ok(())
    }

    fn latency_table(&self, report: &mut Report) {
        // nginx reports nothing of what its workers did.
        let columns = &COLUMNS[..COLUMNS.len() - if self.scenario.nginx { 3 } else { 0 }];
        let mut table = Table::new(columns.iter().map(|(heading, _)| *heading));
        for cell in &self.cells {
            table.row(columns.iter().map(|(_, show)| show(self, cell)));
        }
        let all = |of: fn(&Outcome) -> f64| {
            median(&self.cells.iter().flat_map(|cell| cell.each(of)).collect::<Vec<f64>>())
        };
        let title = format!(
            "{}. Milliseconds from scheduled to answered, medians of {} rounds; generator late by {} ms \
             (p99); machine {:.0} % busy",
            self.scenario.describe(self.workers),
            self.cells[0].outcomes.len(),
            number(all(|outcome| outcome.seen.lag.value_at_quantile(0.99) as f64 / 1e3)),
            all(|outcome| outcome.machine) * 100.0,
        );
        report.table(title, table);
    }

    fn wrk_table(&self, report: &mut Report) {
        let mut table = Table::new(["decides", "answers/s", "bounds", "p99", "bounds"]);
        for cell in &self.cells {
            let of = |of: fn(Wrk) -> f64| {
                Median::of(&cell.each(|outcome| outcome.wrk.map_or(f64::NAN, of)))
            };
            let (answers, p99) = (of(|wrk| wrk.answers), of(|wrk| wrk.p99));
            let name = cell.contender.name().to_owned();
            let [answers, p99] = [answers, p99].map(|m| [number(m.value), bounds(m)]);
            table.row([name].into_iter().chain(answers).chain(p99));
        }
        let title = format!(
            "{}, wrk with 8 clients, a connection for each request, while 2 slow requests come a \
             second: answers in a second, and wrk's own p99 in milliseconds, which does not include the \
             requests that it did not send while it waited",
            self.scenario.title
        );
        report.table(title, table);
    }

    fn reached_table(&self, report: &mut Report) {
        let mut table = Table::new(["decides", "p10", "p50", "p90"]);
        for cell in &self.cells {
            table.spread_row(cell.contender.name(), &cell.each(|o| o.first_reached), []);
        }
        let title = format!(
            "{}. Of some {} connections, how many reached the worker that does not accept",
            self.scenario.describe(self.workers),
            number(self.cells[0].median(|outcome| outcome.seen.connections as f64)),
        );
        report.table(title, table);
    }

    /// All rounds together, a line for each contender.
    pub(super) fn plot(&self, directory: &Path) -> Result<()> {
        let series = self.cells.iter().map(|cell| Ok((cell.contender.name(), cell.latency()?)));
        let path = directory.join(format!("latency-{}.svg", self.scenario.name));
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
        let throughput = self.ratio("answers/s", |o| o.throughput, Contender::Hash, OURS);
        report.figure(throughput.at_most_beyond_spread(1.0));
    }

    fn figure(&self, aim: Aim) -> Figure {
        let (title, ours) = (self.scenario.title, OURS.name());
        match aim {
            Aim::P99To(other, aim) => self.ratio("p99", p99, OURS, other).at_most(aim),
            Aim::Deviation(aim) => {
                let what = "deviation of open connections";
                self.ratio(what, |o| o.seen.deviation, OURS, Contender::Hash).at_most(aim)
            }
            Aim::FirstShare(aim) => {
                let shares = self.each(OURS, |outcome| outcome.first_share);
                let fair = vec![1.0 / f64::from(self.workers); shares.len()];
                let name = format!("{title}: share of the one that fails, {ours}, to a fair one");
                Figure::ratio(name, &shares, &fair).at_most(aim)
            }
            Aim::Reached(aim) => {
                let reached = self.each(OURS, |outcome| outcome.first_reached);
                let most = reached.into_iter().fold(0.0, f64::max);
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
