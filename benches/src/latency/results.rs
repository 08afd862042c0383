//! Tables of what was measured in a scenario, and figures with aims.

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;

use super::contender::Contender;
use super::generator::histogram;
use super::measure::{Outcome, Wrk};
use super::scenario::{Aim, Scenario, Server};
use crate::report::{Figure, Report, Table, number, range};
use crate::stats::{Median, median};

/// Any other contender with a queue for each worker may be better by this factor.
const AIM_TO_BEST: f64 = 1.05;
/// The contender that has aims.
const OURS: Contender = Contender::LeastLoaded;

/// What was measured of a contender in a scenario, round by round.
pub(super) struct Cell {
    pub(super) contender: Contender,
    pub(super) outcomes: Vec<Outcome>,
}

impl Cell {
    fn each(&self, of: impl Fn(&Outcome) -> f64) -> Vec<f64> {
        self.outcomes.iter().map(of).collect()
    }

    /// The median over rounds.
    fn median(&self, of: fn(&Outcome) -> f64) -> String {
        number(median(&self.each(of)))
    }

    fn millis(&self, of: fn(&Outcome) -> f64) -> String {
        number(median(&self.each(of)) / 1e3)
    }

    /// Of all rounds together.
    pub(super) fn latency(&self) -> Result<Histogram<u64>> {
        let mut all = histogram();
        for outcome in &self.outcomes {
            all.add(&outcome.latency).context("cannot add up")?;
        }
        Ok(all)
    }
}

/// A column of the table of latencies: its heading, and what it shows of a contender.
type Column = (&'static str, fn(&Measured, &Cell) -> String);

/// Medians over rounds. Workers report the last three.
const COLUMNS: [Column; 14] = [
    ("decides", |_, cell| cell.contender.name().to_owned()),
    ("p50", |_, cell| cell.millis(|outcome| outcome.p50)),
    ("p90", |_, cell| cell.millis(|outcome| outcome.p90)),
    ("p99", |_, cell| cell.millis(|outcome| outcome.p99)),
    ("bounds", |_, cell| {
        let bounds = Median::of(&cell.each(|outcome| outcome.p99 / 1e3));
        range(bounds.low, bounds.high)
    }),
    ("p99.9", |_, cell| cell.millis(|outcome| outcome.p999)),
    ("max", |_, cell| cell.millis(|outcome| outcome.max)),
    ("p99 to hash", |all, cell| all.p99_ratio(cell, Contender::Hash)),
    ("to shared", |all, cell| all.p99_ratio(cell, Contender::Shared)),
    ("answers/s", |_, cell| cell.median(|outcome| outcome.throughput)),
    ("failed", |_, cell| cell.median(|outcome| outcome.failed)),
    ("first's share", |_, cell| format!("{:.3}", median(&cell.each(|o| o.first_share)))),
    ("open, dev.", |_, cell| cell.median(|outcome| outcome.deviation)),
    ("busy", |_, cell| format!("{:.2}", median(&cell.each(|outcome| outcome.busy)))),
];

/// All contenders in one scenario.
pub(super) struct Measured {
    pub(super) scenario: &'static Scenario,
    pub(super) workers: u8,
    pub(super) cells: Vec<Cell>,
}

impl Measured {
    fn each(&self, contender: Contender, of: fn(&Outcome) -> f64) -> Option<Vec<f64>> {
        Some(self.cells.iter().find(|cell| cell.contender == contender)?.each(of))
    }

    /// A contender's p99 in times of another's, if that was measured.
    fn p99_ratio(&self, cell: &Cell, to: Contender) -> String {
        let p99 = |outcome: &Outcome| outcome.p99;
        let ratio = |to: Vec<f64>| format!("{:.3}", Median::of_ratios(&cell.each(p99), &to).value);
        self.each(to, p99).map(ratio).unwrap_or_default()
    }

    /// The scenario's tables, and every single outcome as raw numbers.
    pub(super) fn tables(&self, report: &mut Report) -> Result<()> {
        for cell in &self.cells {
            let name = format!("{}, {}", self.scenario.title, cell.contender.name());
            report.raw(&name, &cell.outcomes)?;
        }
        if let [Aim::Reached(_)] = self.scenario.aims {
            return self.reached_table(report);
        }
        self.latency_table(report);
        if self.scenario.server == Server::Nginx {
            self.wrk_table(report);
        }
        Ok(())
    }

    fn latency_table(&self, report: &mut Report) {
        // nginx reports nothing of what its workers did.
        let columns = match self.scenario.server {
            Server::Workers => &COLUMNS[..],
            Server::Nginx => &COLUMNS[..COLUMNS.len() - 3],
        };
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
            self.cells.first().map_or(0, |cell| cell.outcomes.len()),
            number(all(|outcome| outcome.lag) / 1e3),
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
            let shown = |m: Median| [number(m.value), range(m.low, m.high)];
            let cells = [shown(of(|wrk| wrk.answers)), shown(of(|wrk| wrk.p99))].into_iter();
            table.row([cell.contender.name().to_owned()].into_iter().chain(cells.flatten()));
        }
        let title = format!(
            "{}, wrk with 8 clients, a connection for each request, while 2 slow requests come a \
             second: answers in a second, and wrk's own p99 in milliseconds, which does not include the \
             requests that it did not send while it waited",
            self.scenario.title
        );
        report.table(title, table);
    }

    fn reached_table(&self, report: &mut Report) -> Result<()> {
        let mut table = Table::new(["decides", "p10", "p50", "p90"]);
        for cell in &self.cells {
            let (name, reached) = (cell.contender.name(), cell.each(|o| o.first_reached));
            table.spread_row(name, &reached, []);
            report.raw(format!("{}, {name}: reached it", self.scenario.title), reached)?;
        }
        let count = self.cells.iter().flat_map(|cell| cell.each(|o| o.connections)).next();
        let title = format!(
            "{}. Of some {} connections, how many reached the worker that does not accept",
            self.scenario.describe(self.workers),
            number(count.unwrap_or_default()),
        );
        report.table(title, table);
        Ok(())
    }

    /// All that can be told with the contenders that were measured.
    pub(super) fn figures(&self, report: &mut Report) {
        let figures = self.scenario.aims.iter().map(|aim| self.figure(*aim));
        let figures: Vec<Option<Figure>> = match self.scenario.aims {
            [Aim::Reached(_)] => figures.collect(),
            _ => figures.chain([self.to_best(), self.throughput()]).collect(),
        };
        figures.into_iter().flatten().for_each(|figure| report.figure(figure));
    }

    fn figure(&self, aim: Aim) -> Option<Figure> {
        let title = self.scenario.title;
        Some(match aim {
            Aim::P99ToHash(aim) => self.p99_to(Contender::Hash, "p99")?.at_most(aim),
            Aim::P99ToShared(aim) => self.p99_to(Contender::Shared, "p99")?.at_most(aim),
            Aim::Deviation(aim) => {
                let what = "deviation of open connections";
                self.ratio(|outcome| outcome.deviation, OURS, Contender::Hash, what)?.at_most(aim)
            }
            Aim::FirstShare(aim) => {
                let shares = self.each(OURS, |outcome| outcome.first_share)?;
                let fair = vec![1.0 / f64::from(self.workers); shares.len()];
                let what = "share of the one that fails";
                let name = format!("{title}: {what}, {}, to a fair one", OURS.name());
                Figure::ratio(name, &shares, &fair).at_most(aim)
            }
            Aim::Reached(aim) => {
                let reached = self.each(OURS, |outcome| outcome.first_reached)?;
                let most = reached.into_iter().fold(0.0, f64::max);
                let name = format!("{title}: reached it, {}, the most of all rounds", OURS.name());
                Figure::new(name, most, "connections").at_most(aim)
            }
        })
    }

    /// Round by round.
    fn ratio(
        &self,
        of: fn(&Outcome) -> f64,
        one: Contender,
        other: Contender,
        what: &str,
    ) -> Option<Figure> {
        let (values, to) = (self.each(one, of)?, self.each(other, of)?);
        let title = self.scenario.title;
        let name = format!("{title}: {what}, {} to {}", one.name(), other.name());
        Some(Figure::ratio(name, &values, &to))
    }

    fn p99_to(&self, other: Contender, what: &str) -> Option<Figure> {
        self.ratio(|outcome| outcome.p99, OURS, other, what)
    }

    /// To the one with the lowest p99 among the others that have a queue for each worker.
    fn to_best(&self) -> Option<Figure> {
        let others =
            self.cells.iter().filter(|cell| cell.contender != OURS && cell.contender.has_queues());
        let p99 = |cell: &&Cell| median(&cell.each(|outcome| outcome.p99));
        let best = others.min_by(|a, b| p99(a).total_cmp(&p99(b)))?;
        let figure = self.p99_to(best.contender, "p99, the best other with queues")?;
        Some(figure.at_most_beyond_spread(AIM_TO_BEST))
    }

    /// Aims are upper bounds, so it is the hash's to ours.
    fn throughput(&self) -> Option<Figure> {
        let throughput = |outcome: &Outcome| outcome.throughput;
        let figure = self.ratio(throughput, Contender::Hash, OURS, "answers/s")?;
        Some(figure.at_most_beyond_spread(1.0))
    }
}
