//! `load`: how long does it take from an object's bytes in memory until its program decides for a
//! group, with our library and with aya?
//!
//! Both load the same objects, in turn:
//!
//! * A program that selects: object parsed and maps made, two listeners into the socket array,
//!   program verified, attached.
//! * Programs that read the kernel's structures (CO-RE), as `ls` and `watch` have them: object
//!   adapted to the kernel and programs verified.
//!
//! aya reads and parses the kernel's types for every object, whether it needs them or not, and
//! `aya::Ebpf::load` does so twice. So only the second comparison is one of doing the same faster.
//!
//! Not measured: what the programs cost once they run (`select`).

mod loaders;

use std::net::TcpListener;

use anyhow::{Context, Result};
use sk_reuseport::net::Bind;
use test_support::loopback;

use crate::process::{own, run as run_process};
use crate::report::{Common, Figure, Report, Table, number, spread};
use crate::stats::median;
use loaders::{Parts, Tracing, ours, theirs};

/// A plain program with a socket array.
static PLAIN: &[u8] = include_bytes!("../../bpf/plain.bpf.o");
static SELECT: &[u8] = include_bytes!("../../../crates/reuseport/bpf/select.bpf.o");
static OBSERVE: Tracing = Tracing {
    object: include_bytes!("../../../crates/reuseport/bpf/observe.bpf.o"),
    iterators: &[("members", "task_file"), ("watches", "task_file")],
    tracepoints: &[],
};
static WATCH: Tracing = Tracing {
    object: include_bytes!("../../../crates/reuseport/bpf/watch.bpf.o"),
    iterators: &[("udp_members", "udp")],
    tracepoints: &[("on_state", "inet_sock_set_state")],
};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    common: Common,
    /// How often each loads each object; a tenth as often in a process of its own
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

/// One way to load one object: the names of the object and of the loader, and what it runs.
type Subject = (&'static str, &'static str, fn(&[TcpListener]) -> Result<Parts>);

const PLAIN_NAME: &str = "select, plain";
const OBSERVE_NAME: &str = "observe, CO-RE";
const WATCH_NAME: &str = "watch, CO-RE";
const OURS: &str = "sk-reuseport";
const AYA: &str = "aya, EbpfLoader";

static SUBJECTS: [Subject; 8] = [
    (PLAIN_NAME, OURS, |l| ours::select(PLAIN, "plain", l, ours::load)),
    (PLAIN_NAME, AYA, |l| theirs::select(PLAIN, "plain", l, theirs::load)),
    (PLAIN_NAME, "aya, Ebpf::load", |l| theirs::select(PLAIN, "plain", l, theirs::load_simply)),
    ("select, our policies", OURS, |l| ours::select(SELECT, "reuseport", l, ours::load)),
    (OBSERVE_NAME, OURS, |_| ours::trace(&OBSERVE)),
    (OBSERVE_NAME, AYA, |_| theirs::trace(&OBSERVE)),
    (WATCH_NAME, OURS, |_| ours::trace(&WATCH)),
    (WATCH_NAME, AYA, |_| theirs::trace(&WATCH)),
];

/// Microseconds by round: the four parts, the whole, and the first load in a process.
type Times = [Vec<f64>; 6];

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut report = Report::new("load")?;
    let times = measure(args)?;
    let heading = "object and loader|object|sockets|programs|attach|p10|p50|p90|first in a process";
    let mut table = Table::new(heading.split('|'));
    for ((object, loader, _), times) in SUBJECTS.iter().zip(&times) {
        let name = format!("{object}: {loader}");
        let [parts @ .., whole, first] = times;
        let parts = parts.iter().map(|part| number(median(part)));
        let cells = [name.clone()].into_iter().chain(parts).chain(spread(whole));
        table.row(cells.chain([number(median(first))]));
        report.raw(&name, whole)?;
        report.raw(format!("{name}, first in a process"), first)?;
    }
    let (warm, first) = (args.rounds, args.rounds.div_ceil(10));
    let title = format!(
        "Microseconds, medians of the parts and percentiles of the whole, {warm} rounds in turn; \
         the first load in a process, median of {first} processes"
    );
    report.table(title, table);
    for object in [PLAIN_NAME, OBSERVE_NAME, WATCH_NAME] {
        let by = |loader| {
            let mut all = SUBJECTS.iter().zip(&times);
            let found = all.find(|(subject, _)| (subject.0, subject.1) == (object, loader));
            found.map(|(_, times)| times).context("no such subject")
        };
        let ([.., ours, ours_first], [.., aya, aya_first]) = (by(OURS)?, by(AYA)?);
        let name = format!("{object}: ours to aya");
        report.figure(Figure::ratio(&name, ours, aya).at_most(1.0));
        let name = format!("{name}, first in a process");
        report.figure(Figure::ratio(name, ours_first, aya_first).at_most(1.0));
    }
    report.finish(args.common.json.as_deref())
}

fn measure(args: &Args) -> Result<Vec<Times>> {
    let listeners = listeners()?;
    let mut times: Vec<Times> = vec![Times::default(); SUBJECTS.len()];
    for round in 0..=args.rounds {
        for ((object, loader, load), times) in SUBJECTS.iter().zip(&mut times) {
            let parts = load(&listeners).with_context(|| format!("{object} with {loader}"))?;
            // The first round warms what lasts: aya probes the kernel's features once.
            if round > 0 {
                let all = parts.into_iter().chain([parts.iter().sum()]);
                times.iter_mut().zip(all).for_each(|(times, part)| times.push(part));
            }
        }
    }
    for _ in 0..args.rounds.div_ceil(10) {
        for (index, times) in times.iter_mut().enumerate() {
            let (_, microseconds) = run_process(own("load-once")?.arg(index.to_string()))?;
            times[5].push(microseconds.trim().parse().context("not a number")?);
        }
    }
    Ok(times)
}

/// A listener and one to choose between.
fn listeners() -> Result<Vec<TcpListener>> {
    Bind::new(loopback(false)).listeners(2).context("cannot listen on loopback")
}

/// Loads one of [`SUBJECTS`] in a process that has loaded nothing before, as a command that runs once, and
/// prints how many microseconds that took.
pub(crate) fn once(subject: usize) -> Result<()> {
    let (.., load) = SUBJECTS.get(subject).context("no such subject")?;
    println!("{}", load(&listeners()?)?.iter().sum::<f64>());
    Ok(())
}
