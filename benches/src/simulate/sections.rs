//! What is compared, and how it is shown. Times are in means of what a request takes, so that scenarios
//! with different numbers of workers can be compared: what counts is how long one waits in relation to
//! what one comes for.

use std::path::Path;

use anyhow::Result;

use super::Effort;
use super::choose::{LeastLoaded, Policy, Terms};
use super::model::{Flood, Hang, KeepAlive, MS, SECOND, Scenario, Time, Work};
use super::runs::{Case, Found, run};
use crate::plot;
use crate::report::{Figure, Report, Table};

/// Connections in a second, where nothing else is said.
const PER_SECOND: f64 = 100_000.0;
const SIZES: [usize; 3] = [16, 128, 1024];
const LOOK_AT: [usize; 6] = [1, 2, 4, 8, 16, 32];

/// Kinds of work, at a share of what the workers can do.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    slug: &'static str,
    exponential: bool,
    long: (f64, f64),
    utilisation: f64,
    hangs: bool,
}

const fn kind(
    name: &'static str,
    slug: &'static str,
    (exponential, long): (bool, (f64, f64)),
    utilisation: f64,
) -> Kind {
    Kind { name, slug, exponential, long, utilisation, hangs: false }
}

const SHORT: (bool, (f64, f64)) = (true, (0.0, 1.0));
const BLOCKING: (bool, (f64, f64)) = (true, (0.002, 100.0));
const BIMODAL: (bool, (f64, f64)) = (false, (0.05, 20.0));

const KINDS: [Kind; 6] = [
    kind("short requests, 70 %", "short-70", SHORT, 0.7),
    kind("short requests, 90 %", "short-90", SHORT, 0.9),
    kind("0.2 % take 100 times as long, 70 %", "blocking-70", BLOCKING, 0.7),
    kind("0.2 % take 100 times as long, 90 %", "blocking-90", BLOCKING, 0.9),
    kind("5 % take 20 times as long, 90 %", "bimodal-90", BIMODAL, 0.9),
    Kind { hangs: true, ..kind("1 % of workers hang, 200 of 500 ms, 70 %", "hang-70", SHORT, 0.7) },
];
const SHORT_70: Kind = KINDS[0];
const BLOCKING_70: Kind = KINDS[2];
const BLOCKING_90: Kind = KINDS[3];
const BIMODAL_90: Kind = KINDS[4];
const HANG_70: Kind = KINDS[5];

impl Kind {
    fn scenario(&self, workers: usize, effort: Effort) -> Scenario {
        let (exponential, long) = (self.exponential, self.long);
        let unit = Work { unit: 1.0, exponential, long }.mean();
        let takes = self.utilisation * workers as f64 / PER_SECOND * SECOND as f64;
        Scenario {
            workers,
            per_second: PER_SECOND,
            connections: connections(workers, effort),
            work: Work { unit: takes / unit, exponential, long },
            round_trip: MS / 10,
            accepts: 1,
            hang: self.hangs.then(|| hang(workers.div_ceil(100))),
            flood: None,
            keep_alive: None,
            failing: false,
            seed: effort.seed,
        }
    }
}

/// As many for a worker as 750 workers have, at least.
fn connections(workers: usize, effort: Effort) -> u64 {
    effort.connections.max(effort.connections * workers as u64 / 750)
}

fn hang(workers: usize) -> Hang {
    Hang { workers, every: SECOND / 2, lasting: 200 * MS, drops: false }
}

fn least_loaded(change: impl Fn(&mut LeastLoaded)) -> Policy {
    let mut policy = LeastLoaded::AS_IS;
    change(&mut policy);
    Policy::LeastLoaded(policy)
}

fn looking_at(members: usize) -> Policy {
    least_loaded(|policy| policy.look_at = members)
}

/// Policies with their names, d rising.
fn by_look_at() -> Vec<(String, Policy)> {
    let some = LOOK_AT.map(|members| match members {
        1 => ("d = 1 (round-robin)".to_owned(), Policy::RoundRobin),
        members => (format!("d = {members}"), looking_at(members)),
    });
    let ends = [("all".to_owned(), looking_at(LeastLoaded::ALL))];
    let bound = [("central queue".to_owned(), Policy::Central)];
    let hash = [("kernel hash".to_owned(), Policy::Random)];
    hash.into_iter().chain(some).chain(ends).chain(bound).collect()
}

/// How many members to look at: for each kind of work p99 and p99.9 over d.
pub(super) fn look_at(report: &mut Report, effort: Effort, plots: Option<&Path>) -> Result<()> {
    let policies = by_look_at();
    for kind in KINDS {
        let cases: Vec<Case> = SIZES
            .iter()
            .flat_map(|&workers| {
                let scenario = kind.scenario(workers, effort);
                policies.iter().map(move |&(_, policy)| Case { scenario, policy })
            })
            .collect();
        let found = run(&cases, effort);
        let by_size: Vec<&[Found]> = found.chunks(policies.len()).collect();
        report
            .table(format!("Members looked at: {}", kind.name), look_at_table(&policies, &by_size));
        for (&workers, found) in SIZES.iter().zip(&by_size).skip(1) {
            let p99 = |name: &str| {
                let index = policies.iter().position(|policy| policy.0 == name);
                index.map_or(f64::NAN, |index| found[index].p99.median)
            };
            let name = format!("{}, {workers} workers: p99 with d = 16 to all", kind.name);
            report.figure(Figure::new(name, p99("d = 16") / p99("all"), ""));
        }
        report.raw(format!("look-at-{}", kind.slug), raw(&policies, &by_size))?;
        if let Some(directory) = plots {
            let path = directory.join(format!("simulation-{}.svg", kind.slug));
            look_at_plot(&path, &kind, &by_size)?;
        }
    }
    Ok(())
}

fn look_at_table(policies: &[(String, Policy)], by_size: &[&[Found]]) -> Table {
    let mut table = Table::new([
        "policy",
        "16 workers: p99",
        "p99.9",
        "128 workers: p99",
        "p99.9",
        "1,024 workers: p99",
        "p99.9",
    ]);
    for (index, (name, _)) in policies.iter().enumerate() {
        let cell = |column: usize| {
            let found = &by_size[column / 2][index];
            if column.is_multiple_of(2) { found.p99.cell() } else { found.p999.cell() }
        };
        let cells = [cell(0), cell(1), cell(2), cell(3), cell(4), cell(5)];
        let [a, b, c, d, e, f] = cells;
        table.row([name.clone(), a, b, c, d, e, f]);
    }
    table
}

fn raw<'a>(policies: &'a [(String, Policy)], by_size: &'a [&[Found]]) -> serde_json::Value {
    let size = |(workers, found): (&usize, &&'a [Found])| {
        let policies = policies
            .iter()
            .zip(*found)
            .map(|((name, _), found)| serde_json::json!({ "policy": name, "found": found }));
        serde_json::json!({ "workers": workers, "policies": policies.collect::<Vec<_>>() })
    };
    SIZES.iter().zip(by_size).map(size).collect()
}

fn look_at_plot(path: &Path, kind: &Kind, by_size: &[&[Found]]) -> Result<()> {
    let line = |(&workers, found): (&usize, &&[Found])| {
        let all = (workers, &found[1 + LOOK_AT.len()]);
        let some = LOOK_AT.into_iter().zip(&found[1..]).filter(|(d, _)| *d < workers);
        let points = some.chain([all]).map(|(d, found)| (d as f64, found.p99.median));
        (format!("{workers} workers"), points.collect::<Vec<_>>())
    };
    let named: Vec<(String, Vec<(f64, f64)>)> = SIZES.iter().zip(by_size).map(line).collect();
    let lines: Vec<(&str, Vec<(f64, f64)>)> =
        named.iter().map(|(name, points)| (name.as_str(), points.clone())).collect();
    let title = format!("least-loaded, simulated: {}", kind.name);
    plot::lines(path, &title, "members looked at (d)", "p99 in mean service times", &lines)
}

/// One value of what was found, as it is printed.
type Shown = fn(&Found) -> String;

/// Rows of policies, columns of scenarios, and one value of each.
struct Grid<'a, const N: usize> {
    heading: [&'a str; N],
    /// Which values of a scenario's.
    columns: Vec<(Scenario, Vec<Shown>)>,
}

impl<const N: usize> Grid<'_, N> {
    fn run(
        &self,
        report: &mut Report,
        (title, slug): (&str, &str),
        policies: &[(&str, Policy)],
        effort: Effort,
    ) -> Result<Vec<Found>> {
        let row = |policy: Policy| {
            self.columns.iter().map(move |&(scenario, _)| Case { scenario, policy })
        };
        let cases: Vec<Case> = policies.iter().flat_map(|policy| row(policy.1)).collect();
        let found = run(&cases, effort);
        let mut table = Table::new(self.heading);
        for ((name, _), row) in policies.iter().zip(found.chunks(self.columns.len())) {
            let of = |(found, column): (&Found, &(_, Vec<Shown>))| {
                column.1.iter().map(|value| value(found)).collect::<Vec<_>>()
            };
            let values = row.iter().zip(&self.columns).flat_map(of);
            let mut cells = [const { String::new() }; N];
            cells[0] = (*name).to_owned();
            cells[1..].iter_mut().zip(values).for_each(|(cell, value)| *cell = value);
            table.row(cells);
        }
        report.table(title, table);
        let rows = policies.iter().zip(found.chunks(self.columns.len()));
        let raw: Vec<_> = rows.map(|((name, _), row)| (name, row)).collect();
        report.raw(slug, raw)?;
        Ok(found)
    }
}

fn p50(found: &Found) -> String {
    found.p50.cell()
}

fn p99(found: &Found) -> String {
    found.p99.cell()
}

fn p999(found: &Found) -> String {
    found.p999.cell()
}

fn to_hung(found: &Found) -> String {
    found.to_hung.cell()
}

fn share(found: &Found) -> String {
    found.share.cell()
}

fn deviation(found: &Found) -> String {
    found.deviation.cell()
}

/// How long the window is in which a member gets at most twice its share.
pub(super) fn window(report: &mut Report, effort: Effort) -> Result<()> {
    let with = |window| least_loaded(|policy| policy.window = window);
    let policies = [
        ("1", with(Some(1))),
        ("2", with(Some(2))),
        ("4", with(Some(4))),
        ("8", with(Some(8))),
        ("16", with(Some(16))),
        ("64", with(Some(64))),
        ("no limit", with(None)),
    ];
    let failing =
        |workers, effort| Scenario { failing: true, ..BLOCKING_90.scenario(workers, effort) };
    let grid = Grid {
        heading: [
            "window",
            "16 workers, blocking 70 %: p99",
            "blocking 90 %: p99",
            "bimodal 90 %: p99",
            "one fails at once: its share",
            "128 workers, blocking 90 %: p99",
            "one fails at once: its share",
        ],
        columns: vec![
            (BLOCKING_70.scenario(16, effort), vec![p99]),
            (BLOCKING_90.scenario(16, effort), vec![p99]),
            (BIMODAL_90.scenario(16, effort), vec![p99]),
            (failing(16, effort), vec![share]),
            (BLOCKING_90.scenario(128, effort), vec![p99]),
            (failing(128, effort), vec![share]),
        ],
    };
    let title = "The window of --max-share: picks to a member in it";
    grid.run(report, (title, "window"), &policies, effort)?;
    Ok(())
}

/// How many half-open requests count.
pub(super) fn half_open(report: &mut Report, effort: Effort) -> Result<()> {
    let with = |half_open| least_loaded(|policy| policy.half_open = half_open);
    let policies = [
        ("0", with(0)),
        ("4", with(4)),
        ("16", with(16)),
        ("64", with(64)),
        ("128", with(128)),
        ("256", with(256)),
        ("1024", with(1024)),
        ("no bound", with(u32::MAX)),
        ("(round-robin)", Policy::RoundRobin),
        ("(central queue)", Policy::Central),
    ];
    let far = |kind: Kind, workers, round_trip: Time| Scenario {
        round_trip,
        ..kind.scenario(workers, effort)
    };
    let flood = Some(Flood { per_second: 50_000.0, remembered: SECOND });
    let flooded = Scenario { flood, ..HANG_70.scenario(16, effort) };
    let grid = Grid {
        heading: [
            "bound",
            "16 workers, 0.1 ms: p99",
            "16 workers, 20 ms: p99",
            "the same at 90 %: p99",
            "128 workers, 20 ms: p99",
            "one of 16 hangs, 20 ms: to it",
            "flood, one of 16 hangs: to it",
            "p99.9",
        ],
        columns: vec![
            (far(BLOCKING_70, 16, MS / 10), vec![p99]),
            (far(BLOCKING_70, 16, 20 * MS), vec![p99]),
            (far(BLOCKING_90, 16, 20 * MS), vec![p99]),
            (far(BLOCKING_70, 128, 20 * MS), vec![p99]),
            (far(HANG_70, 16, 20 * MS), vec![to_hung]),
            (flooded, vec![to_hung, p999]),
        ],
    };
    let title = "The bound of half-open requests (0.2 % take 100 times as long, 70 %)";
    grid.run(report, (title, "half-open"), &policies, effort)?;
    Ok(())
}

fn by_terms() -> [(&'static str, Policy); 6] {
    let with = |terms| least_loaded(|policy| policy.terms = terms);
    [
        ("kernel hash", Policy::Random),
        ("round-robin", Policy::RoundRobin),
        ("queue,open", with(Terms::QueueOpen)),
        ("queue", with(Terms::Queue)),
        ("open", with(Terms::Open)),
        ("(queue and open added up)", with(Terms::Sum)),
    ]
}

/// Which terms count, where connections are short.
pub(super) fn terms(report: &mut Report, effort: Effort) -> Result<()> {
    let greedy = |kind: Kind| Scenario { accepts: 64, ..kind.scenario(16, effort) };
    let grid = Grid {
        heading: [
            "--load",
            "accepts 1, short 70 %: p99",
            "blocking 70 %: p99",
            "one hangs: to it",
            "accepts 64, short 70 %: p99",
            "blocking 70 %: p99",
            "one hangs: to it",
        ],
        columns: vec![
            (SHORT_70.scenario(16, effort), vec![p99]),
            (BLOCKING_70.scenario(16, effort), vec![p99]),
            (HANG_70.scenario(16, effort), vec![to_hung]),
            (greedy(SHORT_70), vec![p99]),
            (greedy(BLOCKING_70), vec![p99]),
            (greedy(HANG_70), vec![to_hung]),
        ],
    };
    let title = "Load terms, short connections, 16 workers";
    grid.run(report, (title, "terms"), &by_terms(), effort)?;
    Ok(())
}

/// Which terms count, where connections stay.
pub(super) fn keep_alive(report: &mut Report, effort: Effort) -> Result<()> {
    // Some 500 open connections to a worker, 5 s each, with a request every 100 ms; a request takes
    // 0.14 ms: 70 %.
    let keep_alive = Some(KeepAlive { requests: 50.0, pause: 100.0 * MS as f64 });
    let kept = Scenario {
        keep_alive,
        accepts: 64,
        per_second: 1600.0,
        connections: effort.connections / 4,
        work: Work { unit: 0.14 * MS as f64, exponential: true, long: SHORT.1 },
        ..SHORT_70.scenario(16, effort)
    };
    let drops = Hang { drops: true, ..hang(1) };
    let dropping = Scenario { hang: Some(drops), ..kept };
    let grid = Grid {
        heading: [
            "--load",
            "open connections: deviation",
            "p50",
            "p99",
            "one hangs: to it",
            "one drops its connections and hangs: to it",
        ],
        columns: vec![
            (kept, vec![deviation, p50, p99]),
            (Scenario { hang: Some(hang(1)), ..kept }, vec![to_hung]),
            (dropping, vec![to_hung]),
        ],
    };
    let title = "Load terms, keep-alive, 16 workers with some 500 connections each, 70 %";
    grid.run(report, (title, "keep-alive"), &by_terms(), effort)?;
    Ok(())
}

/// What the bench of latencies measures: 8 workers, 1 ms, of which 0.2 % block for 100 ms.
pub(super) fn like_bench(report: &mut Report, effort: Effort) -> Result<()> {
    const WORKERS: usize = 8;
    let policies = [
        ("kernel hash", Policy::Random),
        ("round-robin", Policy::RoundRobin),
        ("least-loaded", Policy::LeastLoaded(LeastLoaded::AS_IS)),
        ("central queue", Policy::Central),
    ];
    let work = Work { unit: MS as f64, exponential: false, long: BLOCKING.1 };
    let at = |utilisation: f64| Scenario {
        work,
        connections: 3 * effort.connections,
        per_second: utilisation * WORKERS as f64 * SECOND as f64 / work.mean(),
        ..BLOCKING_70.scenario(WORKERS, effort)
    };
    let ms: Vec<fn(&Found) -> String> =
        vec![|found| found.ms(&found.p50).cell(), |found| found.ms(&found.p99).cell(), |found| {
            found.ms(&found.p999).cell()
        }];
    let columns = [0.25, 0.7, 0.9].map(|share| (at(share), ms.clone()));
    let grid = Grid {
        heading: [
            "policy",
            "25 %: p50",
            "p99",
            "p99.9",
            "70 %: p50",
            "p99",
            "p99.9",
            "90 %: p50",
            "p99",
            "p99.9",
        ],
        columns: columns.to_vec(),
    };
    let title = "Like the bench: 8 workers, 1 ms, 0.2 % block for 100 ms; in ms";
    let found = grid.run(report, (title, "like-bench"), &policies, effort)?;
    let p99 = |row: usize, column: usize| found[row * grid.columns.len() + column].p99.median;
    let name = "like the bench, 25 %: p99, least-loaded to kernel hash";
    report.figure(Figure::new(name, p99(2, 0) / p99(0, 0), "").at_most(1.0 / 15.0));
    for (percent, column) in [(25, 0), (70, 1), (90, 2)] {
        let name = format!("like the bench, {percent} %: p99, least-loaded to a central queue");
        let aim = if percent == 25 { 1.0 } else { 2.0 };
        report.figure(Figure::new(name, p99(2, column) / p99(3, column), "").at_most(aim));
    }
    Ok(())
}
