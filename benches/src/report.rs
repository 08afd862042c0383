//! What a bench prints: Markdown tables, figures with their aims, and the raw numbers as JSON.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use crate::machine;
use crate::stats::{self, Median};

/// The options of all benches.
#[derive(clap::Args)]
pub(crate) struct Common {
    /// Write every measurement to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// Everything that one bench measured. Tables are printed at once.
#[derive(Serialize)]
pub(crate) struct Report {
    bench: &'static str,
    /// With the date and the load.
    machine: String,
    figures: Vec<Figure>,
    /// Every single measurement, by what was measured.
    raw: BTreeMap<String, Value>,
}

impl Report {
    pub(crate) fn new(bench: &'static str) -> Result<Self> {
        let machine = machine::describe()?;
        println!("`cargo xtask bench {bench}`, {machine}\n");
        Ok(Self { bench, machine, figures: Vec::new(), raw: BTreeMap::new() })
    }

    pub(crate) fn table(&mut self, title: impl Display, table: Table) {
        println!("{title}\n\n{}", table.render());
    }

    pub(crate) fn figure(&mut self, figure: Figure) {
        self.figures.push(figure);
    }

    pub(crate) fn raw(&mut self, name: impl Into<String>, values: impl Serialize) -> Result<()> {
        let values = serde_json::to_value(values).context("cannot write numbers as JSON")?;
        self.raw.insert(name.into(), values);
        Ok(())
    }

    /// Prints the figures, and writes everything as JSON if a file is named.
    pub(crate) fn finish(self, json: Option<&Path>) -> Result<()> {
        let mut figures = Table::new(["figure", "value", "aim: at most", ""]);
        self.figures.iter().for_each(|figure| figures.row(figure.row()));
        println!("{}", figures.render());
        let Some(path) = json else { return Ok(()) };
        let text = serde_json::to_string_pretty(&self).context("cannot write JSON")?;
        fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
    }
}

/// One number, with its aim if there is one.
#[derive(Serialize)]
pub(crate) struct Figure {
    name: String,
    value: f64,
    /// The median lies between these with 95 % confidence.
    bounds: Option<(f64, f64)>,
    unit: &'static str,
    aim: Option<f64>,
    met: Option<bool>,
}

impl Figure {
    pub(crate) fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { name: name.into(), value, bounds: None, unit, aim: None, met: None }
    }

    pub(crate) fn median(name: impl Into<String>, median: Median, unit: &'static str) -> Self {
        Self { bounds: Some((median.low, median.high)), ..Self::new(name, median.value, unit) }
    }

    /// The median of the ratios of two measurements of each round.
    pub(crate) fn ratio(name: impl Into<String>, values: &[f64], to: &[f64]) -> Self {
        Self::median(name, Median::of_ratios(values, to), "")
    }

    pub(crate) fn at_most(self, aim: f64) -> Self {
        Self { met: Some(self.value <= aim), aim: Some(aim), ..self }
    }

    /// The aim is missed only if both bounds of the median are above it.
    pub(crate) fn at_most_beyond_spread(self, aim: f64) -> Self {
        let low = self.bounds.map_or(self.value, |(low, _)| low);
        Self { met: Some(self.value.min(low) <= aim), aim: Some(aim), ..self }
    }

    fn row(&self) -> [String; 4] {
        let unit = if self.unit.is_empty() { String::new() } else { format!(" {}", self.unit) };
        let bounds = self.bounds.map(|(low, high)| format!(" ({})", range(low, high)));
        let value = format!("{}{}{unit}", number(self.value), bounds.unwrap_or_default());
        let aim = self.aim.map(|aim| format!("{}{unit}", number(aim))).unwrap_or_default();
        let verdict = match self.met {
            Some(true) if self.aim.is_some_and(|aim| self.value > aim) => "met within the spread",
            Some(true) => "met",
            Some(false) => "missed",
            None => "",
        };
        [self.name.clone(), value, aim, verdict.to_owned()]
    }
}

/// Rows under a heading. The first column is text, the others are numbers.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<'a>(heading: impl IntoIterator<Item = &'a str>) -> Self {
        Self { rows: vec![heading.into_iter().map(str::to_owned).collect()] }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// A row of `name`, the percentiles that [`spread`] shows, and what follows them.
    pub(crate) fn spread_row(
        &mut self,
        name: impl Into<String>,
        values: &[f64],
        more: impl IntoIterator<Item = String>,
    ) {
        self.row([name.into()].into_iter().chain(spread(values)).chain(more));
    }

    fn render(&self) -> String {
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max();
        let widths: Vec<usize> =
            (0..self.rows[0].len()).map(|column| width(column).unwrap_or(0).max(3)).collect();
        let line = |row: &Vec<String>| {
            let mut line = format!("| {:<1$} |", row[0], widths[0]);
            for (cell, width) in row.iter().zip(&widths).skip(1) {
                line += &format!(" {cell:>width$} |");
            }
            line + "\n"
        };
        let mut rules: Vec<String> =
            widths.iter().map(|width| "-".repeat(width - 1) + ":").collect();
        rules[0] = "-".repeat(widths[0]);
        line(&self.rows[0]) + &line(&rules) + &self.rows[1..].iter().map(line).collect::<String>()
    }
}

/// `p10`, `p50` and `p90` of at least one value.
pub(crate) fn spread(values: &[f64]) -> [String; 3] {
    stats::spread(values).map(number)
}

/// `1.2 to 3.4`
pub(crate) fn range(low: f64, high: f64) -> String {
    format!("{} to {}", number(low), number(high))
}

/// A number with three or four significant digits.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 1e4 => grouped(value),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        0.0 => "0".to_owned(),
        _ => format!("{value:.3}"),
    }
}

/// `12,345,678`
fn grouped(value: f64) -> String {
    let mut text = format!("{value:.0}");
    let digits = usize::from(value < 0.0)..text.len();
    digits.rev().step_by(3).skip(1).for_each(|place| text.insert(place + 1, ','));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_says_whether_its_aim_is_met() {
        let figure = Figure::median("hash", Median { value: 1.034, low: 1.03, high: 1.04 }, "ms");
        let met = figure.at_most(1.05);
        assert_eq!(met.row(), ["hash", "1.034 (1.030 to 1.040) ms", "1.050 ms", "met"]);
        let within = met.at_most_beyond_spread(1.03);
        assert_eq!(within.row()[3], "met within the spread");
        assert_eq!(within.at_most_beyond_spread(1.02).row()[3], "missed");
    }

    #[test]
    fn numbers_are_as_long_as_they_mean() {
        let shown = [0.0, 0.5, 12.34, 123.4, 1234.0, 12345.6, -1_234_567.0].map(number);
        assert_eq!(shown, ["0", "0.500", "12.3", "123", "1234", "12,346", "-1,234,567"]);
    }
}
