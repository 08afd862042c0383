//! What is shown of each scenario: a table.

use anyhow::Result;

use super::contender::Contender;
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
            format!("{:.3}", median(&cell.each(|o| o.first_share))),
            plain(|o| o.deviation),
            format!("{:.2}", median(&cell.each(|o| o.busy))),
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
