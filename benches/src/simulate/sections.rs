//! The comparisons, a table each: rows are policies, columns are scenarios. Times are in means of what a
//! request takes, so that different numbers of workers can be compared.

use std::thread;

use anyhow::Result;
use policy_model::Config;
use policy_model::Policy::{self, Hash, LeastLoaded, RoundRobin};

use super::lasting::{burst, drop_hang};
use super::model::{Decider, MS, Outcome, SECOND, Scenario, Work, simulate};
use crate::report::{Figure, Report, Table, number};
use crate::stats::median;

/// Simulations of each case, with seeds 1, 2, ...
const RUNS: u64 = 3;
/// Connections a second.
const RATE: f64 = 100_000.0;

/// One number of a simulation.
type Value = fn(&Scenario, &Outcome) -> f64;
type Row = (&'static str, Decider);

fn quantile(outcome: &Outcome, quantile: f64) -> f64 {
    outcome.latencies.value_at_quantile(quantile) as f64
}

const P99: Value = |scenario, outcome| quantile(outcome, 0.99) / scenario.work.mean();
const P999: Value = |scenario, outcome| quantile(outcome, 0.999) / scenario.work.mean();
/// Of the first worker, in fair shares.
const SHARE: Value = |scenario, outcome| {
    outcome.dealt[0] as f64 * scenario.workers as f64 / scenario.connections as f64
};
/// Connections given to a worker while it hung, each time.
const TO_HUNG: Value = |_, outcome| outcome.to_hung.0 as f64 / outcome.to_hung.1.max(1) as f64;

/// Simulates all rows in all columns at the same time, and returns the medians by row.
/// `heading` has the columns' names, with bars between them.
fn grid(
    report: &mut Report,
    title: &str,
    heading: &str,
    rows: &[Row],
    columns: &[(Scenario, &[Value])],
) -> Result<Vec<Vec<f64>>> {
    let cell = |decider: Decider, (scenario, values): &(Scenario, &[Value])| {
        let run = |seed| simulate(&Scenario { seed, ..*scenario }, decider);
        let outcomes: Vec<Outcome> = (1..=RUNS).map(run).collect();
        let runs = |value: &Value| outcomes.iter().map(|o| value(scenario, o)).collect();
        values.iter().map(runs).collect::<Vec<Vec<f64>>>()
    };
    let cell = &cell;
    let by_row: Vec<Vec<Vec<f64>>> = thread::scope(|scope| {
        let mut cells = Vec::new();
        for (_, decider) in rows {
            cells.extend(columns.iter().map(|column| scope.spawn(move || cell(*decider, column))));
        }
        let ended = cells.into_iter().map(|cell| cell.join().expect("a simulation ends"));
        ended.collect::<Vec<_>>().chunks(columns.len()).map(<[_]>::concat).collect()
    });
    let mut table = Table::new(heading.split('|'));
    for ((name, _), values) in rows.iter().zip(&by_row) {
        table.row([(*name).to_owned()].into_iter().chain(values.iter().map(|runs| shown(runs))));
    }
    report.table(title, table);
    report.raw(title, rows.iter().map(|row| row.0).zip(&by_row).collect::<Vec<_>>())?;
    Ok(by_row.iter().map(|row| row.iter().map(|runs| median(runs)).collect()).collect())
}

/// The median, and half of the distance between the least and the most if that is considerable.
fn shown(runs: &[f64]) -> String {
    let least = runs.iter().copied().fold(f64::INFINITY, f64::min);
    let most = runs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    match (most - least) / 2.0 {
        apart if apart < 0.03 * median(runs) || apart == 0.0 => number(median(runs)),
        apart => format!("{} ±{}", number(median(runs)), number(apart)),
    }
}

const SHORT: Work = Work { unit: 1.0, exponential: true, long: (0.0, 1.0) };
const BLOCKING: Work = Work { unit: 1.0, exponential: true, long: (0.002, 100.0) };
const BIMODAL: Work = Work { unit: 1.0, exponential: false, long: (0.05, 20.0) };

/// Requests of this kind keep the workers busy for this share of the time.
fn scenario(kind: Work, utilisation: f64, workers: usize, connections: u64) -> Scenario {
    let takes = utilisation * workers as f64 / RATE * SECOND as f64;
    Scenario {
        workers,
        per_second: RATE,
        connections: connections.max(connections * workers as u64 / 750),
        work: Work { unit: takes / kind.mean(), ..kind },
        round_trip: MS / 10,
        ..Scenario::default()
    }
}

/// Short requests at 70 %, and one of 16 workers hangs for 200 of every 500 ms.
fn hanging(connections: u64) -> Scenario {
    Scenario { hanging: 1, ..scenario(SHORT, 0.7, 16, connections) }
}

fn policy(policy: Policy) -> Decider {
    Some(Config::tcp(policy))
}

/// least-loaded with other constants than those of `bpf/wire/tuning.h`.
fn changed(change: impl Fn(&mut Config)) -> Decider {
    let mut config = Config::tcp(LeastLoaded);
    change(&mut config);
    Some(config)
}

/// How many members to examine.
pub(super) fn sample(report: &mut Report, connections: u64) -> Result<()> {
    let examined = [("d = 4", 4), ("d = 8", 8), ("d = 16", 16), ("d = 32", 32), ("all", 1024)];
    let mut rows = vec![("kernel hash", policy(Hash)), ("d = 1 (round-robin)", policy(RoundRobin))];
    rows.extend(examined.map(|(name, d)| (name, changed(|config| config.sample = d))));
    rows.push(("central queue", None));
    let kinds = [
        ("short requests, 70 %", SHORT, 0.7, false),
        ("short requests, 90 %", SHORT, 0.9, false),
        ("0.2 % take 100 times as long, 70 %", BLOCKING, 0.7, false),
        ("0.2 % take 100 times as long, 90 %", BLOCKING, 0.9, false),
        ("5 % take 20 times as long, 90 %", BIMODAL, 0.9, false),
        ("1 % of workers hang, 200 of 500 ms, 70 %", SHORT, 0.7, true),
    ];
    for (name, kind, utilisation, hang) in kinds {
        let columns = [16_usize, 128, 1024].map(|workers| {
            let hanging = if hang { workers.div_ceil(100) } else { 0 };
            let scenario = scenario(kind, utilisation, workers, connections);
            (Scenario { hanging, ..scenario }, &[P99, P999][..])
        });
        let heading =
            "policy|16 workers: p99|p99.9|128 workers: p99|p99.9|1,024 workers: p99|p99.9";
        grid(report, &format!("Members examined: {name}"), heading, &rows, &columns)?;
    }
    Ok(())
}

/// How long the window is in which a member gets at most twice its share.
pub(super) fn window(report: &mut Report, connections: u64) -> Result<()> {
    let rows = ["1", "2", "4", "8", "16", "64", "no limit"].map(|window| {
        // None of the simulations is as long as 32,767 picks for each member.
        let picks = window.parse().unwrap_or(32_767);
        (window, changed(|config| config.window = picks))
    });
    let of = |kind, utilisation, workers| scenario(kind, utilisation, workers, connections);
    let failing = |workers| Scenario { failing: true, ..of(SHORT, 0.9, workers) };
    let columns: [(Scenario, &[Value]); 6] = [
        (of(BLOCKING, 0.7, 16), &[P99]),
        (of(BLOCKING, 0.9, 16), &[P99]),
        (of(BIMODAL, 0.9, 16), &[P99]),
        (failing(16), &[SHARE]),
        (of(BLOCKING, 0.9, 128), &[P99]),
        (failing(128), &[SHARE]),
    ];
    let heading = "window|16 workers, blocking 70 %: p99|blocking 90 %: p99|bimodal 90 %: p99|\
                   one fails at once: its share|128 workers, blocking 90 %: p99|\
                   one fails at once: its share";
    let title = "The window of --max-share: picks to a member in it";
    grid(report, title, heading, &rows, &columns).map(drop)
}

/// How many half-open requests count.
pub(super) fn half_open(report: &mut Report, connections: u64) -> Result<()> {
    let mut rows: Vec<Row> = Vec::new();
    for bound in ["0", "4", "16", "64", "128", "256", "1024", "no bound"] {
        let number = bound.parse().unwrap_or(i32::MAX as u32);
        rows.push((bound, changed(|config| config.half_open_bound = number)));
    }
    rows.extend([("(round-robin)", policy(RoundRobin)), ("(central queue)", None)]);
    let of = |utilisation, workers| scenario(BLOCKING, utilisation, workers, connections);
    let far = |scenario: Scenario| Scenario { round_trip: 20 * MS, ..scenario };
    let columns: [(Scenario, &[Value]); 5] = [
        (of(0.7, 16), &[P99]),
        (far(of(0.7, 16)), &[P99]),
        (far(of(0.9, 16)), &[P99]),
        (far(of(0.7, 128)), &[P99]),
        (far(hanging(connections)), &[TO_HUNG]),
    ];
    let heading = "bound|16 workers, 0.1 ms: p99|16 workers, 20 ms: p99|the same at 90 %: p99|\
                   128 workers, 20 ms: p99|one of 16 hangs, 20 ms: to it";
    let title = "The bound of half-open requests (0.2 % take 100 times as long, 70 %)";
    grid(report, title, heading, &rows, &columns).map(drop)
}

/// Which terms count.
pub(super) fn terms(report: &mut Report, connections: u64) -> Result<()> {
    let terms = [("queue,open", true, true), ("queue", true, false), ("open", false, true)];
    let mut rows = vec![("kernel hash", policy(Hash)), ("round-robin", policy(RoundRobin))];
    rows.extend(terms.map(|(name, queue, open)| {
        (name, changed(|config| (config.load_queue, config.load_open) = (queue, open)))
    }));
    let of = |kind| scenario(kind, 0.7, 16, connections);
    let columns: [(Scenario, &[Value]); 3] =
        [(of(SHORT), &[P99]), (of(BLOCKING), &[P99]), (hanging(connections), &[TO_HUNG])];
    let heading = "--load|short 70 %: p99|blocking 70 %: p99|one hangs: to it";
    let title = "Load terms, short connections, 16 workers";
    grid(report, title, heading, &rows, &columns).map(drop)
}

/// Connections that last: how evenly a burst is dealt, and what reaches workers that drop theirs and hang.
pub(super) fn lasting(report: &mut Report) -> Result<()> {
    let terms =
        |load_queue, load_open| Config { load_queue, load_open, ..Config::tcp(LeastLoaded) };
    let rows = [
        ("kernel hash", Config::tcp(Hash)),
        ("round-robin", Config::tcp(RoundRobin)),
        ("queue,open", terms(true, true)),
        ("queue", terms(true, false)),
        ("open", terms(false, true)),
    ];
    let values: [fn(Config, u64) -> f64; 9] = [
        |config, seed| burst(config, 100, 0, seed),
        |config, seed| burst(config, 100, MS, seed),
        |config, seed| burst(config, 400, MS, seed),
        |config, seed| burst(config, 400, 3 * MS, seed),
        |config, seed| burst(config, 400, 10 * MS, seed),
        |config, seed| drop_hang(config, 1, 400.0, seed),
        |config, seed| drop_hang(config, 1, 4000.0, seed),
        |config, seed| drop_hang(config, 2, 400.0, seed),
        |config, seed| drop_hang(config, 2, 4000.0, seed),
    ];
    let title = "Connections that last: deviation per worker of a burst to 4 workers that wake one after the \
                 other; connections that reach each of 8 workers that drops its own and hangs for 400 ms";
    let mut table = Table::new(
        "policy|100 clients, 0 ms|100, 1 ms|400, 1 ms|400, 3 ms|400, 10 ms|one hangs, 400/s|4,000/s|\
         two hang, 400/s|4,000/s"
            .split('|'),
    );
    let mut all = Vec::new();
    for (name, config) in rows {
        let each =
            |value: &fn(Config, u64) -> f64| (1..=9).map(|seed| value(config, seed)).collect();
        let runs: Vec<Vec<f64>> = values.iter().map(each).collect();
        table.row([name.to_owned()].into_iter().chain(runs.iter().map(|runs| shown(runs))));
        all.push((name, runs));
    }
    report.table(title, table);
    report.raw(title, &all)?;
    for column in [1, 2] {
        let deviations = [2, 0].map(|row: usize| median(&all[row].1[column]));
        let name =
            format!("lasting, burst of {}: least-loaded to kernel hash", [0, 100, 400][column]);
        report.figure(Figure::new(name, deviations[0] / deviations[1], "").at_most(0.2));
    }
    let reached = all[2].1[5].iter().copied().fold(0.0, f64::max);
    let figure = Figure::new("lasting, one drops and hangs: reached it, the most", reached, "");
    report.figure(figure.at_most(1.0));
    Ok(())
}

/// What the bench of latencies measures: 8 workers, 1 ms, of which 0.2 % block for 100 ms.
pub(super) fn like_bench(report: &mut Report, connections: u64) -> Result<()> {
    let rows = [
        ("kernel hash", policy(Hash)),
        ("round-robin", policy(RoundRobin)),
        ("least-loaded", policy(LeastLoaded)),
        ("central queue", None),
    ];
    let work = Work { unit: MS as f64, exponential: false, ..BLOCKING };
    let in_ms: [Value; 3] = [
        |_, outcome| quantile(outcome, 0.5) / MS as f64,
        |_, outcome| quantile(outcome, 0.99) / MS as f64,
        |_, outcome| quantile(outcome, 0.999) / MS as f64,
    ];
    let columns = [0.25, 0.7, 0.9].map(|utilisation| {
        let per_second = utilisation * 8.0 * SECOND as f64 / work.mean();
        let like = scenario(BLOCKING, utilisation, 8, 3 * connections);
        (Scenario { work, per_second, ..like }, &in_ms[..])
    });
    let heading = "policy|25 %: p50|p99|p99.9|70 %: p50|p99|p99.9|90 %: p50|p99|p99.9";
    let bimodal = Work { unit: 10.0 * MS as f64, ..BIMODAL };
    let per_second = 0.85 * 8.0 * SECOND as f64 / bimodal.mean();
    let like = scenario(BIMODAL, 0.85, 8, 3 * connections);
    let column = (Scenario { work: bimodal, per_second, ..like }, &in_ms[..]);
    let title = "Like the bench: 8 workers, requests of 10 ms and 5 % of 200 ms, at 85 %; in ms";
    grid(report, title, "policy|p50|p99|p99.9", &rows, &[column])?;
    let title = "Like the bench: 8 workers, 1 ms, 0.2 % block for 100 ms; in ms";
    let found = grid(report, title, heading, &rows, &columns)?;
    let aims = [
        ("25 %: p99, least-loaded to kernel hash", 0, 1, 1.0 / 15.0),
        ("25 %: p99, least-loaded to a central queue", 3, 1, 1.0),
        ("70 %: p99, least-loaded to a central queue", 3, 4, 2.0),
        ("90 %: p99, least-loaded to a central queue", 3, 7, 2.0),
    ];
    for (name, row, column, aim) in aims {
        let ratio = found[2][column] / found[row][column];
        report.figure(Figure::new(format!("like the bench, {name}"), ratio, "").at_most(aim));
    }
    Ok(())
}
