//! What is shown of each scenario: a table.

use anyhow::Result;

use super::contender::Contender;
use super::scenario::Scenario;
use super::{Args, Measured};
use crate::report::{Report, Table, number};
use crate::stats::{Median, median};

/// Medians over rounds, and every single outcome as raw numbers.
pub(super) fn table(measured: &Measured, args: &Args, report: &mut Report) -> Result<()> {
    let mut table = Table::new([
        "decides",
        "p50",
        "p90",
        "p99",
        "bounds",
        "p99.9",
        "max",
        "p99 to hash",
        "to shared",
        "answers/s",
        "failed",
        "first's share",
        "open, dev.",
        "busy",
    ]);
    let p99 = |contender| measured.cell(contender).map(|cell| cell.each(|o| o.p99));
    let (hash, shared) = (p99(Contender::Hash), p99(Contender::Shared));
    for cell in &measured.cells {
        let millis = |of: fn(&super::Outcome) -> f64| number(median(&cell.each(of)) / 1e3);
        let plain = |of: fn(&super::Outcome) -> f64| number(median(&cell.each(of)));
        let bounds = Median::of(&cell.each(|o| o.p99 / 1e3));
        // Workers that are not ours say nothing of what they did.
        let said = measured.scenario != Scenario::Nginx;
        let ours = |text: String| if said { text } else { String::new() };
        let to = |other: &Option<Vec<f64>>| {
            let ratio = |other: &Vec<f64>| Median::of_ratios(&cell.each(|o| o.p99), other).value;
            other.as_ref().map(|other| format!("{:.3}", ratio(other))).unwrap_or_default()
        };
        table.row([
            cell.contender.name().to_owned(),
            millis(|o| o.p50),
            millis(|o| o.p90),
            millis(|o| o.p99),
            format!("{} to {}", number(bounds.low), number(bounds.high)),
            millis(|o| o.p999),
            millis(|o| o.max),
            to(&hash),
            to(&shared),
            plain(|o| o.throughput),
            plain(|o| o.failed),
            ours(format!("{:.3}", median(&cell.each(|o| o.first_share)))),
            ours(plain(|o| o.deviation)),
            ours(format!("{:.2}", median(&cell.each(|o| o.busy)))),
        ]);
        let name = format!("{}, {}", measured.scenario.name(), cell.contender.name());
        report.raw(name, &cell.outcomes)?;
    }
    let all = |of: fn(&super::Outcome) -> f64| {
        median(&measured.cells.iter().flat_map(|cell| cell.each(of)).collect::<Vec<f64>>())
    };
    let title = format!(
        "{}. Milliseconds from scheduled to answered, medians of {} rounds; generator late by {} ms \
         (p99); machine {:.0} % busy",
        measured.scenario.describe(args.workers),
        args.rounds(),
        number(all(|o| o.lag) / 1e3),
        all(|o| o.machine) * 100.0,
    );
    report.table(title, table);
    Ok(())
}

/// What wrk said, where it was asked.
pub(super) fn wrk(measured: &Measured, report: &mut Report) {
    let mut table = Table::new(["decides", "answers/s", "bounds", "p99", "bounds"]);
    let mut rows = 0;
    for cell in &measured.cells {
        let said: Vec<_> = cell.outcomes.iter().filter_map(|outcome| outcome.wrk).collect();
        if said.is_empty() {
            continue;
        }
        let answers = Median::of(&said.iter().map(|wrk| wrk.answers).collect::<Vec<f64>>());
        let p99 = Median::of(&said.iter().map(|wrk| wrk.p99).collect::<Vec<f64>>());
        let bounds = |m: &Median| format!("{} to {}", number(m.low), number(m.high));
        let name = cell.contender.name().to_owned();
        let [answers_shown, p99_shown] = [answers, p99].map(|median| number(median.value));
        table.row([name, answers_shown, bounds(&answers), p99_shown, bounds(&p99)]);
        rows += 1;
    }
    if rows > 0 {
        let title = format!(
            "{}, wrk with 8 clients, a connection for each request, while 2 slow requests come a \
             second: answers in a second, and wrk's own p99 in milliseconds, which says nothing of the \
             requests that it did not send while it waited",
            measured.scenario.name()
        );
        report.table(title, table);
    }
}
