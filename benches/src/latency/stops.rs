//! A worker that stops accepting: how many connections still reach it. The others are idle most of
//! the time, so that nobody should, but for the first, which nothing tells from the others' first.

use std::time::Duration;

use anyhow::Result;
use reuseport::Host;

use super::contender::Contender;
use super::round::{Setup, measure};
use super::schedule::{Schedule, Service, Traffic};
use super::temper::Temper;
use crate::report::{Figure, Report, Table};

/// Connections a second.
const RATE: f64 = 4_000.0;
const LENGTH: Duration = Duration::from_millis(500);
/// Nobody waits for the worker that does not accept.
const PATIENCE: Duration = Duration::from_millis(200);
/// So many may reach it.
const AIM: f64 = 2.0;

/// By contender with a queue for each worker, how many connections reached the one that does not
/// accept, round by round.
pub(super) struct Stopped(Vec<(Contender, Vec<f64>)>);

impl Stopped {
    pub(super) fn new(contenders: Vec<Contender>) -> Self {
        let with_queues = contenders.into_iter().filter(|contender| contender.has_queues());
        Self(with_queues.map(|contender| (contender, Vec::new())).collect())
    }

    pub(super) fn round(&mut self, host: &Host, workers: u8, seed: u64) -> Result<()> {
        let service = Service::always(Duration::ZERO);
        let traffic = Traffic { rate: RATE, service, sources: 500, lasting: None };
        let schedule = Schedule::draw(&traffic, LENGTH, seed);
        let temper = Temper::StopsAccepting;
        let setup = Setup { workers, temper, schedule: &schedule, patience: PATIENCE, seed };
        for (contender, reached) in &mut self.0 {
            reached.push(measure(host, *contender, &setup)?.first_reached);
        }
        Ok(())
    }
}

pub(super) fn report(stopped: &Stopped, workers: u8, report: &mut Report) -> Result<()> {
    let mut table = Table::new(["decides", "p10", "p50", "p90"]);
    let measured = stopped.0.iter().filter(|(_, reached)| !reached.is_empty());
    for (contender, reached) in measured.clone() {
        table.spread_row(contender.name(), reached, []);
        report.raw(format!("stops accepting, {}: reached it", contender.name()), reached)?;
    }
    if measured.clone().next().is_some() {
        let count = (RATE * LENGTH.as_secs_f64()).round();
        report.table(
            format!(
                "stops accepting: of some {count} connections ({RATE} a second, {workers} workers), how \
                 many reached the worker that does not accept"
            ),
            table,
        );
    }
    for (contender, reached) in measured.filter(|(one, _)| *one == Contender::LeastLoaded) {
        let most = reached.iter().copied().fold(0.0, f64::max);
        let name =
            format!("stops accepting: reached it, {}, the most of all rounds", contender.name());
        report.figure(Figure::new(name, most, "connections").at_most(AIM));
    }
    Ok(())
}
