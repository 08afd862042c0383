//! The comparisons, a table each: rows are policies, columns are scenarios. Times are in means of what a
//! request takes, so that different numbers of workers can be compared.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::Result;

use super::args::Args;
use super::choose::{LeastLoaded, Policy};
use super::model::{Flood, Hang, KeepAlive, MS, Outcome, SECOND, Scenario, Time, Work, simulate};
use crate::report::{Figure, Report, Table, number};
use crate::stats::median;

/// One number of a simulation.
type Value = fn(&Scenario, &Outcome) -> f64;
type Rows = Vec<(String, Policy)>;

fn quantile(scenario: &Scenario, outcome: &Outcome, quantile: f64) -> f64 {
    outcome.latencies.value_at_quantile(quantile) as f64 / scenario.work.mean()
}

const P50: Value = |scenario, outcome| quantile(scenario, outcome, 0.5);
const P99: Value = |scenario, outcome| quantile(scenario, outcome, 0.99);
const P999: Value = |scenario, outcome| quantile(scenario, outcome, 0.999);
/// Of the first worker, in fair shares.
const SHARE: Value = |scenario, outcome| {
    outcome.dealt[0] as f64 * scenario.workers as f64 / scenario.connections as f64
};
/// Connections given to a worker while it hung, each time.
const TO_HUNG: Value = |_, outcome| outcome.to_hung.0 as f64 / outcome.to_hung.1.max(1) as f64;
/// The standard deviation of open connections.
const DEVIATION: Value = |_, outcome| outcome.deviations.0 / outcome.deviations.1.max(1) as f64;

/// Simulates all rows in all columns, on as many processors as there are, and returns the medians by row.
/// `heading` has the columns' names, with bars between them.
fn grid(
    report: &mut Report,
    args: &Args,
    (title, slug): (&str, &str),
    heading: &str,
    rows: &Rows,
    columns: &[(Scenario, &[Value])],
) -> Result<Vec<Vec<f64>>> {
    let found = Mutex::new(vec![Vec::new(); rows.len() * columns.len()]);
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some((_, policy)) = rows.get(index / columns.len()) else { return };
            let (scenario, values) = &columns[index % columns.len()];
            let run = |seed| simulate(&Scenario { seed, ..*scenario }, *policy);
            let outcomes: Vec<Outcome> = (1..=args.runs).map(run).collect();
            let runs = |value: &Value| outcomes.iter().map(|o| value(scenario, o)).collect();
            let values: Vec<Vec<f64>> = values.iter().map(runs).collect();
            found.lock().unwrap_or_else(PoisonError::into_inner)[index] = values;
        }
    };
    thread::scope(|scope| {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        (0..processors).for_each(|_| drop(scope.spawn(work)));
    });
    let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    let by_row: Vec<Vec<Vec<f64>>> = found.chunks(columns.len()).map(<[_]>::concat).collect();
    let mut table = Table::new(heading.split('|'));
    for ((name, _), values) in rows.iter().zip(&by_row) {
        table.row([name.clone()].into_iter().chain(values.iter().map(|runs| shown(runs))));
    }
    report.table(title, table);
    report.raw(slug, rows.iter().map(|row| &row.0).zip(&by_row).collect::<Vec<_>>())?;
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

/// Whether times are exponential, and the share and factor of long requests.
type Kind = (bool, (f64, f64));
const SHORT: Kind = (true, (0.0, 1.0));
const BLOCKING: Kind = (true, (0.002, 100.0));
const BIMODAL: Kind = (false, (0.05, 20.0));

/// 100,000 connections a second keep the workers busy for this share of the time.
fn scenario((exponential, long): Kind, utilisation: f64, workers: usize, args: &Args) -> Scenario {
    const PER_SECOND: f64 = 100_000.0;
    let unit = Work { unit: 1.0, exponential, long }.mean();
    let takes = utilisation * workers as f64 / PER_SECOND * SECOND as f64;
    Scenario {
        workers,
        per_second: PER_SECOND,
        connections: args.connections.max(args.connections * workers as u64 / 750),
        work: Work { unit: takes / unit, exponential, long },
        round_trip: MS / 10,
        accepts: 1,
        hang: None,
        flood: None,
        keep_alive: None,
        failing: false,
        seed: 1,
    }
}

/// Short requests at 70 %, and 1 % of the workers hang for 200 of every 500 ms.
fn hanging(workers: usize, args: &Args) -> Scenario {
    let hang =
        Hang { workers: workers.div_ceil(100), every: SECOND / 2, lasting: 200 * MS, drops: false };
    Scenario { hang: Some(hang), ..scenario(SHORT, 0.7, workers, args) }
}

fn named<const N: usize>(rows: [(&str, Policy); N]) -> Rows {
    rows.map(|(name, policy)| (name.to_owned(), policy)).to_vec()
}

fn least_loaded(change: impl Fn(&mut LeastLoaded)) -> Policy {
    let mut constants = LeastLoaded::AS_IS;
    change(&mut constants);
    Policy::LeastLoaded(constants)
}

/// How many members to examine.
pub(super) fn sample(report: &mut Report, args: &Args) -> Result<()> {
    let of = |sample| least_loaded(|constants| constants.sample = sample);
    let mut rows =
        named([("kernel hash", Policy::Hash), ("d = 1 (round-robin)", Policy::RoundRobin)]);
    rows.extend([4, 8, 16, 32].map(|d| (format!("d = {d}"), of(d))));
    rows.extend(named([("all", of(LeastLoaded::ALL)), ("central queue", Policy::Central)]));
    type Make<'a> = &'a dyn Fn(usize) -> Scenario;
    let at = |kind, utilisation| move |workers| scenario(kind, utilisation, workers, args);
    let kinds: [(&str, &str, Make<'_>); 6] = [
        ("short requests, 70 %", "short-70", &at(SHORT, 0.7)),
        ("short requests, 90 %", "short-90", &at(SHORT, 0.9)),
        ("0.2 % take 100 times as long, 70 %", "blocking-70", &at(BLOCKING, 0.7)),
        ("0.2 % take 100 times as long, 90 %", "blocking-90", &at(BLOCKING, 0.9)),
        ("5 % take 20 times as long, 90 %", "bimodal-90", &at(BIMODAL, 0.9)),
        ("1 % of workers hang, 200 of 500 ms, 70 %", "hang-70", &|workers| hanging(workers, args)),
    ];
    for (name, slug, make) in kinds {
        let columns = [16, 128, 1024].map(|workers| (make(workers), &[P99, P999][..]));
        let heading =
            "policy|16 workers: p99|p99.9|128 workers: p99|p99.9|1,024 workers: p99|p99.9";
        let title = (&*format!("Members examined: {name}"), &*format!("sample-{slug}"));
        let found = grid(report, args, title, heading, &rows, &columns)?;
        for (workers, column) in [(128, 2), (1024, 4)] {
            let name = format!("{name}, {workers} workers: p99 with d = 16 to all");
            report.figure(Figure::new(name, found[4][column] / found[6][column], ""));
        }
    }
    Ok(())
}

/// How long the window is in which a member gets at most twice its share.
pub(super) fn window(report: &mut Report, args: &Args) -> Result<()> {
    let of = |window| least_loaded(|constants| constants.window = window);
    let mut rows = [1, 2, 4, 8, 16, 64].map(|picks| (picks.to_string(), of(Some(picks)))).to_vec();
    rows.extend(named([("no limit", of(None))]));
    let failing = |workers| Scenario { failing: true, ..scenario(SHORT, 0.9, workers, args) };
    let columns: [(Scenario, &[Value]); 6] = [
        (scenario(BLOCKING, 0.7, 16, args), &[P99]),
        (scenario(BLOCKING, 0.9, 16, args), &[P99]),
        (scenario(BIMODAL, 0.9, 16, args), &[P99]),
        (failing(16), &[SHARE]),
        (scenario(BLOCKING, 0.9, 128, args), &[P99]),
        (failing(128), &[SHARE]),
    ];
    let heading = "window|16 workers, blocking 70 %: p99|blocking 90 %: p99|bimodal 90 %: p99|\
                   one fails at once: its share|128 workers, blocking 90 %: p99|\
                   one fails at once: its share";
    let title = ("The window of --max-share: picks to a member in it", "window");
    grid(report, args, title, heading, &rows, &columns).map(drop)
}

/// How many half-open requests count.
pub(super) fn half_open(report: &mut Report, args: &Args) -> Result<()> {
    let of = |half_open| least_loaded(|constants| constants.half_open = half_open);
    let bounds = [0, 4, 16, 64, 128, 256, 1024];
    let mut rows = bounds.map(|bound| (bound.to_string(), of(bound))).to_vec();
    rows.extend(named([
        ("no bound", of(LeastLoaded::NO_BOUND)),
        ("(round-robin)", Policy::RoundRobin),
        ("(central queue)", Policy::Central),
    ]));
    let far = |round_trip: Time, scenario: Scenario| Scenario { round_trip, ..scenario };
    let flood = Some(Flood { per_second: 50_000.0, remembered: SECOND });
    let columns: [(Scenario, &[Value]); 6] = [
        (scenario(BLOCKING, 0.7, 16, args), &[P99]),
        (far(20 * MS, scenario(BLOCKING, 0.7, 16, args)), &[P99]),
        (far(20 * MS, scenario(BLOCKING, 0.9, 16, args)), &[P99]),
        (far(20 * MS, scenario(BLOCKING, 0.7, 128, args)), &[P99]),
        (far(20 * MS, hanging(16, args)), &[TO_HUNG]),
        (Scenario { flood, ..hanging(16, args) }, &[TO_HUNG, P999]),
    ];
    let heading = "bound|16 workers, 0.1 ms: p99|16 workers, 20 ms: p99|the same at 90 %: p99|\
                   128 workers, 20 ms: p99|one of 16 hangs, 20 ms: to it|\
                   flood, one of 16 hangs: to it|p99.9";
    let title = "The bound of half-open requests (0.2 % take 100 times as long, 70 %)";
    grid(report, args, (title, "half-open"), heading, &rows, &columns).map(drop)
}

fn by_terms() -> Rows {
    let of =
        |queue, open| least_loaded(|constants| (constants.queue, constants.open) = (queue, open));
    named([
        ("kernel hash", Policy::Hash),
        ("round-robin", Policy::RoundRobin),
        ("queue,open", of(true, true)),
        ("queue", of(true, false)),
        ("open", of(false, true)),
    ])
}

/// Which terms count, where connections are short.
pub(super) fn terms(report: &mut Report, args: &Args) -> Result<()> {
    let scenarios =
        [scenario(SHORT, 0.7, 16, args), scenario(BLOCKING, 0.7, 16, args), hanging(16, args)];
    let values: [&[Value]; 3] = [&[P99], &[P99], &[TO_HUNG]];
    let accepting =
        |accepts| scenarios.iter().map(move |one| Scenario { accepts, ..*one }).zip(values);
    let columns: Vec<_> = accepting(1).chain(accepting(64)).collect();
    let heading = "--load|accepts 1, short 70 %: p99|blocking 70 %: p99|one hangs: to it|\
                   accepts 64, short 70 %: p99|blocking 70 %: p99|one hangs: to it";
    let title = ("Load terms, short connections, 16 workers", "terms");
    grid(report, args, title, heading, &by_terms(), &columns).map(drop)
}

/// Which terms count, where connections stay: some 500 to a worker, 5 s each, with a request of 0.14 ms
/// every 100 ms.
pub(super) fn keep_alive(report: &mut Report, args: &Args) -> Result<()> {
    let kept = Scenario {
        keep_alive: Some(KeepAlive { requests: 50.0, pause: 100.0 * MS as f64 }),
        accepts: 64,
        per_second: 1600.0,
        connections: args.connections / 4,
        work: Work { unit: 0.14 * MS as f64, exponential: true, long: SHORT.1 },
        ..scenario(SHORT, 0.7, 16, args)
    };
    let hang = hanging(16, args).hang;
    let drops = hang.map(|hang| Hang { drops: true, ..hang });
    let columns: [(Scenario, &[Value]); 3] = [
        (kept, &[DEVIATION, P50, P99]),
        (Scenario { hang, ..kept }, &[TO_HUNG]),
        (Scenario { hang: drops, ..kept }, &[TO_HUNG]),
    ];
    let heading = "--load|open connections: deviation|p50|p99|one hangs: to it|\
                   one drops its connections and hangs: to it";
    let title = "Load terms, keep-alive, 16 workers with some 500 connections each, 70 %";
    grid(report, args, (title, "keep-alive"), heading, &by_terms(), &columns).map(drop)
}

/// What the bench of latencies measures: 8 workers, 1 ms, of which 0.2 % block for 100 ms.
pub(super) fn like_bench(report: &mut Report, args: &Args) -> Result<()> {
    let rows = named([
        ("kernel hash", Policy::Hash),
        ("round-robin", Policy::RoundRobin),
        ("least-loaded", Policy::LeastLoaded(LeastLoaded::AS_IS)),
        ("central queue", Policy::Central),
    ]);
    let work = Work { unit: MS as f64, exponential: false, long: BLOCKING.1 };
    let in_ms: [Value; 3] = [
        |_, outcome| outcome.latencies.value_at_quantile(0.5) as f64 / MS as f64,
        |_, outcome| outcome.latencies.value_at_quantile(0.99) as f64 / MS as f64,
        |_, outcome| outcome.latencies.value_at_quantile(0.999) as f64 / MS as f64,
    ];
    let columns = [0.25, 0.7, 0.9].map(|utilisation| {
        let like = Scenario {
            work,
            connections: 3 * args.connections,
            per_second: utilisation * 8.0 * SECOND as f64 / work.mean(),
            ..scenario(BLOCKING, utilisation, 8, args)
        };
        (like, &in_ms[..])
    });
    let heading = "policy|25 %: p50|p99|p99.9|70 %: p50|p99|p99.9|90 %: p50|p99|p99.9";
    let title = ("Like the bench: 8 workers, 1 ms, 0.2 % block for 100 ms; in ms", "like-bench");
    let found = grid(report, args, title, heading, &rows, &columns)?;
    let name = "like the bench, 25 %: p99, least-loaded to kernel hash";
    report.figure(Figure::new(name, found[2][1] / found[0][1], "").at_most(1.0 / 15.0));
    for (percent, column, aim) in [(25, 1, 1.0), (70, 4, 2.0), (90, 7, 2.0)] {
        let name = format!("like the bench, {percent} %: p99, least-loaded to a central queue");
        report.figure(Figure::new(name, found[2][column] / found[3][column], "").at_most(aim));
    }
    Ok(())
}
