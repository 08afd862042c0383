//! The demo's output: a table for each round, and the rounds side by side. Every number is
//! measured; none is expected.

use std::fmt::Write as _;
use std::time::Duration;

use super::load::{Outcome, quantile};
use crate::output::{Align, BOLD, Cell, DIM, GOOD, Last, NOTE, PLAIN, Table, bar, count, percent};

/// A bar that fills its column stands for this share of the connections, in every round.
const FULL_BAR: f64 = 0.4;
/// Connections that took longer waited for a worker that hung: an answer takes a fiftieth of this.
const LONG: Duration = Duration::from_millis(100);
/// Connections that start later than this measure the machine and not the server.
const LATE: Duration = Duration::from_millis(10);

/// One round, measured.
#[derive(Debug)]
pub(crate) struct Round {
    /// What decides, for the summary: "kernel hash".
    pub(crate) name: &'static str,
    pub(crate) workers: Vec<WorkerRound>,
    /// All latencies, sorted.
    pub(crate) latencies: Vec<Duration>,
    pub(crate) failed: usize,
    /// Sorted.
    pub(crate) lags: Vec<Duration>,
    /// How often the program left the choice to the kernel; None without a program.
    pub(crate) left_to_kernel: Option<u64>,
}

/// One worker's part of a round.
#[derive(Debug)]
pub(crate) struct WorkerRound {
    /// How long its answers take, by design.
    pub(crate) service: Duration,
    /// Whether it hangs again and again, by design.
    pub(crate) hangs: bool,
    /// What the worker itself counted.
    pub(crate) accepted: u64,
    /// What the kernel program counted; None without a program.
    pub(crate) picks: Option<u64>,
    /// Sorted.
    pub(crate) latencies: Vec<Duration>,
}

impl Round {
    /// Adds the clients' results.
    pub(crate) fn add(&mut self, outcome: Outcome) {
        for answer in &outcome.answers {
            self.latencies.push(answer.latency);
            if let Some(worker) = self.workers.get_mut(answer.worker) {
                worker.latencies.push(answer.latency);
            }
        }
        self.failed += outcome.failed;
        self.lags.extend(outcome.lags);
        self.latencies.sort_unstable();
        self.lags.sort_unstable();
        self.workers.iter_mut().for_each(|w| w.latencies.sort_unstable());
    }

    fn accepted(&self) -> u64 {
        self.workers.iter().map(|w| w.accepted).sum()
    }

    /// What the program picked, all workers together.
    fn picks(&self) -> Option<u64> {
        self.workers.iter().map(|w| w.picks).sum()
    }

    fn share(&self, worker: usize) -> f64 {
        self.workers[worker].accepted as f64 / self.accepted().max(1) as f64
    }
}

/// The table of one round: a row for each worker.
pub(crate) fn workers(round: &Round, width: usize) -> String {
    let rows = || round.workers.iter();
    let mut table = Table::default();
    let names = rows().enumerate().map(|(w, worker)| match worker.hangs {
        true => Cell::new(format!("{w} hangs"), NOTE),
        false => w.to_string().into(),
    });
    table
        .column("WORKER", Align::Left, names)
        .column("WORK", Align::Right, rows().map(|w| time(Some(w.service)).into()))
        .column("ACCEPTED", Align::Right, rows().map(|w| w.accepted.to_string().into()))
        .column("PICKED", Align::Right, rows().map(|w| or_dash(w.picks)))
        .column("P50", Align::Right, rows().map(|w| time(quantile(&w.latencies, 0.5)).into()))
        .column("P99", Align::Right, rows().map(|w| time(quantile(&w.latencies, 0.99)).into()))
        .column(">100 ms", Align::Right, rows().map(|w| long(&w.latencies).to_string().into()));
    let shares = |row: usize, room: Option<usize>| {
        let room = room.unwrap_or(30).saturating_sub(7).min(40);
        let share = round.share(row);
        format!("{:>6} {GOOD}{}{GOOD:#}", percent(share), bar(share / FULL_BAR, room))
    };
    table.draw(Some(width), &Last { title: "SHARE OF CONNECTIONS", least: 7, text: &shares })
}

/// The remarks below a round's table.
pub(crate) fn remarks(round: &Round) -> String {
    let mut out = String::new();
    if let Some(picks) = round.picks() {
        let _ = writeln!(
            out,
            "the program picked {picks} times by its own counters; the workers accepted {}",
            round.accepted()
        );
        if let Some(n) = round.left_to_kernel.filter(|n| *n > 0) {
            let _ = writeln!(out, "it left {} to the kernel", count(n as usize, "connection"));
        }
    }
    if round.failed > 0 {
        let _ = writeln!(out, "{NOTE}{} failed{NOTE:#}", count(round.failed, "connection"));
    }
    if let Some(lag) = quantile(&round.lags, 0.99).filter(|lag| *lag > LATE) {
        let _ = writeln!(
            out,
            "{NOTE}this machine was busy: 1 of 100 connections started {} late or more{NOTE:#}",
            time(Some(lag))
        );
    }
    out
}

/// All rounds side by side.
pub(crate) fn summary(rounds: &[Round], width: usize) -> String {
    let at = |share| move |r: &Round| Cell::from(time(quantile(&r.latencies, share)));
    let mut table = Table::default();
    table
        .column("WHO DECIDED", Align::Left, rounds.iter().map(|r| Cell::new(r.name, BOLD)))
        .column("P50", Align::Right, rounds.iter().map(at(0.5)))
        .column("P90", Align::Right, rounds.iter().map(at(0.9)))
        .column("P99", Align::Right, rounds.iter().map(at(0.99)))
        .column("SLOWEST", Align::Right, rounds.iter().map(at(1.0)));
    let waited = |row: usize, _| {
        let latencies = &rounds[row].latencies;
        format!("{} of {}", long(latencies), latencies.len())
    };
    table.draw(Some(width), &Last { title: "TOOK OVER 100 ms", least: 16, text: &waited })
}

/// The first round against the last, in a sentence.
pub(crate) fn conclusion(rounds: &[Round]) -> String {
    let (Some(first), Some(last)) = (rounds.first(), rounds.last()) else { return String::new() };
    let of = |round: &Round, share| quantile(&round.latencies, share);
    let mut out = String::new();
    for (share, text) in [(0.9, "90 of 100"), (0.99, "99 of 100")] {
        let (Some(before), Some(after)) = (of(first, share), of(last, share)) else { continue };
        let times = before.as_secs_f64() / after.as_secs_f64().max(1e-9);
        let _ = write!(
            out,
            "{text} connections were answered within\n  {} ({}), then {} ({})",
            time(Some(before)),
            first.name,
            time(Some(after)),
            last.name,
        );
        // Two runs of the same thing differ by up to a fifth.
        match times {
            t if t >= 10.0 => drop(writeln!(out, ": {BOLD}{t:.0} times faster{BOLD:#}")),
            t if t >= 1.2 => drop(writeln!(out, ": {BOLD}{t:.1} times faster{BOLD:#}")),
            _ => drop(writeln!(out, "{DIM}: no gain{DIM:#}")),
        }
    }
    out
}

/// How many took long.
fn long(latencies: &[Duration]) -> usize {
    latencies.iter().filter(|latency| **latency > LONG).count()
}

fn or_dash<N: ToString>(number: Option<N>) -> Cell {
    number.map_or(Cell::new("-", PLAIN), |n| n.to_string().into())
}

/// A duration in milliseconds or seconds, three digits of it.
fn time(duration: Option<Duration>) -> String {
    let Some(ms) = duration.map(|d| d.as_secs_f64() * 1e3) else { return "-".to_owned() };
    match ms {
        ms if ms < 9.995 => format!("{ms:.2} ms"),
        ms if ms < 99.95 => format!("{ms:.1} ms"),
        ms if ms < 999.5 => format!("{ms:.0} ms"),
        ms => format!("{:.2} s", ms / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::super::load::Answer;
    use super::*;

    fn round(name: &'static str, accepted: [u64; 4], slow_ms: u64, ours: bool) -> Round {
        let workers = accepted.into_iter().enumerate().map(|(worker, accepted)| WorkerRound {
            service: Duration::from_millis(2),
            hangs: worker == 3,
            accepted,
            picks: ours.then_some(accepted),
            latencies: Vec::new(),
        });
        let mut round = Round {
            name,
            workers: workers.collect(),
            latencies: Vec::new(),
            failed: 0,
            lags: Vec::new(),
            left_to_kernel: ours.then_some(0),
        };
        let answers = accepted.iter().enumerate().flat_map(|(worker, n)| {
            let ms = if worker == 3 { slow_ms } else { 2 };
            let latency = Duration::from_micros(ms * 1000 + 130);
            std::iter::repeat_n(Answer { worker, latency }, *n as usize)
        });
        round.add(Outcome { answers: answers.collect(), failed: 0, lags: Vec::new() });
        round
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn a_round_under_the_kernel_has_no_picks() {
        let round = round("kernel hash", [230, 215, 240, 215], 320, false);
        insta::assert_snapshot!(plain(&workers(&round, 80)));
        assert_eq!(remarks(&round), "");
    }

    #[test]
    fn a_round_under_the_program_shows_its_counters_beside_the_workers() {
        let mut round = round("round-robin", [225, 225, 225, 225], 20, true);
        insta::assert_snapshot!("steered", plain(&(workers(&round, 100) + &remarks(&round))));
        round.failed = 3;
        round.left_to_kernel = Some(2);
        round.lags = vec![Duration::from_millis(50); 3];
        insta::assert_snapshot!("troubled", plain(&remarks(&round)));
    }

    #[test]
    fn rounds_are_compared_by_what_was_measured() {
        let rounds = [
            round("kernel hash", [230, 215, 240, 215], 320, false),
            round("round-robin", [225, 225, 225, 225], 22, true),
            round("least-loaded", [297, 296, 300, 7], 400, true),
        ];
        insta::assert_snapshot!(plain(&(summary(&rounds, 80) + &conclusion(&rounds))));
        let same = [round("a", [1, 1, 1, 1], 20, false), round("b", [1, 1, 1, 1], 20, true)];
        assert!(plain(&conclusion(&same)).contains("no gain"));
    }

    #[test]
    fn times_have_three_digits() {
        let text = |us| time(Some(Duration::from_micros(us)));
        assert_eq!(text(2130), "2.13 ms");
        assert_eq!(text(21_349), "21.3 ms");
        assert_eq!(text(999_400), "999 ms");
        assert_eq!(text(1_234_000), "1.23 s");
        assert_eq!(time(None), "-");
    }
}
