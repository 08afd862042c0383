//! What should be reached, scenario by scenario.

use super::contender::Contender;
use super::scenario::Scenario;
use super::{Measured, Outcome};
use crate::report::{Figure, Report};
use crate::stats::{Median, median};

/// At a quarter of capacity, the kernel hash's p99 is to be at least 15 times as long.
const FIFTEENTH: f64 = 1.0 / 15.0;
/// The shared socket is the bound: nearer to capacity, twice its p99.
const TWICE_SHARED: f64 = 2.0;
/// Any other contender with a queue for each worker may be so much better.
const TO_BEST: f64 = 1.05;
/// A worker that fails fast gets at most so many times its fair share.
const SHARES: f64 = 2.0;
/// How unevenly connections that last are spread, to the hash.
const DEVIATION: f64 = 0.1;

/// The contender that has aims.
const OURS: Contender = Contender::LeastLoaded;

/// All that can be told of what was measured.
pub(super) fn figures(measured: &Measured, workers: u8, report: &mut Report) {
    let p99: fn(&Outcome) -> f64 = |outcome| outcome.p99;
    let to_hash = || ratio(measured, p99, Contender::Hash, "p99");
    let to_shared = || ratio(measured, p99, Contender::Shared, "p99");
    let mut figures: Vec<Option<Figure>> = Vec::new();
    match measured.scenario {
        Scenario::Blocking25 => {
            figures.push(to_hash().map(|figure| figure.at_most(FIFTEENTH)));
            figures.push(to_shared().map(|figure| figure.at_most(1.0)));
        }
        Scenario::Blocking70 | Scenario::Blocking90 => {
            figures.push(to_shared().map(|figure| figure.at_most(TWICE_SHARED)));
        }
        Scenario::FailFast => {
            let share = ratio_of_shares(measured, workers);
            figures.push(share.map(|figure| figure.at_most(SHARES)));
        }
        Scenario::KeepAlive => {
            let deviation = ratio(
                measured,
                |outcome| outcome.deviation,
                Contender::Hash,
                "deviation of open connections",
            );
            figures.push(deviation.map(|figure| figure.at_most(DEVIATION)));
        }
        _ => {}
    }
    figures.push(to_best(measured));
    figures.push(throughput(measured));
    figures.into_iter().flatten().for_each(|figure| report.figure(figure));
}

/// Ours to another one's, round by round.
fn ratio(
    measured: &Measured,
    of: fn(&Outcome) -> f64,
    other: Contender,
    what: &str,
) -> Option<Figure> {
    let (ours, others) = (measured.cell(OURS)?.each(of), measured.cell(other)?.each(of));
    let name = format!("{}: {what}, {} to {}", measured.scenario.name(), OURS.name(), other.name());
    Some(Figure::median(name, Median::of_ratios(&ours, &others), ""))
}

/// To the one with the lowest p99 among the others that have a queue for each worker.
fn to_best(measured: &Measured) -> Option<Figure> {
    let p99 = |contender| {
        median(&measured.cell(contender).map_or(vec![f64::INFINITY], |cell| cell.each(|o| o.p99)))
    };
    let others = measured.cells.iter().map(|cell| cell.contender);
    let best = others
        .filter(|contender| *contender != OURS && contender.has_queues())
        .min_by(|a, b| p99(*a).total_cmp(&p99(*b)))?;
    let ratio = ratio(measured, |outcome| outcome.p99, best, "p99, the best other with queues")?;
    Some(ratio.at_most_beyond_spread(TO_BEST))
}

/// Aims are upper bounds: so it is the hash's to ours.
fn throughput(measured: &Measured) -> Option<Figure> {
    let of = |outcome: &Outcome| outcome.throughput;
    let ours = measured.cell(OURS)?.each(of);
    let hash = measured.cell(Contender::Hash)?.each(of);
    let name = format!(
        "{}: answers/s, {} to {}",
        measured.scenario.name(),
        Contender::Hash.name(),
        OURS.name()
    );
    let figure = Figure::median(name, Median::of_ratios(&hash, &ours), "");
    Some(figure.at_most_beyond_spread(1.0))
}

fn ratio_of_shares(measured: &Measured, workers: u8) -> Option<Figure> {
    let share = measured.cell(OURS)?.each(|outcome| outcome.first_share * f64::from(workers));
    let name = format!(
        "{}: share of the one that fails, {}, to a fair one",
        measured.scenario.name(),
        OURS.name()
    );
    Some(Figure::median(name, Median::of(&share), ""))
}
