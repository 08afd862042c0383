//! `load`: how long it takes from an object's bytes in memory until its program decides for a group,
//! with our library and with aya, over the same objects, in turn.
//!
//! * A program that selects: object parsed and maps made, two listeners into the socket array,
//!   program verified, attached.
//! * Programs that read the kernel's structures (CO-RE), as `ls` and `watch` have them: object
//!   adapted to the kernel and programs verified; nothing to attach to a group.
//!
//! aya reads and parses the kernel's types for every object, whether it needs them or not;
//! `aya::Ebpf::load` does so twice, and there is no way to load without. So a plain object is a
//! matter of not doing that, and only the second comparison is one of doing it faster.

mod aya;
pub(crate) mod once;
mod ours;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use ::sk_reuseport::net::{Bind, loopback};
use anyhow::{Context, Result};

use crate::Common;
use crate::report::{Figure, Report, Table, number, spread};
use crate::stats::{Median, median};

/// A plain program with a socket array.
static PLAIN: &[u8] = include_bytes!("../../bpf/plain.bpf.o");
static SELECT: &[u8] = include_bytes!("../../../crates/reuseport/bpf/select.bpf.o");
static OBSERVE: &[u8] = include_bytes!("../../../crates/reuseport/bpf/observe.bpf.o");
static WATCH: &[u8] = include_bytes!("../../../crates/reuseport/bpf/watch.bpf.o");

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    common: Common,
    /// How often each loads each object
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How often each loads each object in a process of its own
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    processes: u32,
}

/// How long the parts took.
#[derive(Debug, Clone, Copy, Default)]
struct Timed {
    /// Until the object is parsed and adapted and its maps are there.
    object: Duration,
    /// Until the listeners are in the socket array.
    sockets: Duration,
    /// Until the programs are in the kernel.
    programs: Duration,
    /// Until the program decides for the group.
    attach: Duration,
}

impl Timed {
    fn parts(&self) -> [f64; 4] {
        [self.object, self.sockets, self.programs, self.attach].map(micros)
    }

    fn total(&self) -> f64 {
        self.parts().iter().sum()
    }
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// Gives the time since it was asked last.
struct Laps(Instant);

impl Laps {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn lap(&mut self) -> Duration {
        let now = Instant::now();
        now - std::mem::replace(&mut self.0, now)
    }
}

/// What a tracing program runs at.
#[derive(Clone, Copy)]
enum Target {
    Iterator(&'static str),
    Tracepoint(&'static str),
}

/// An object with tracing programs, by their names.
struct Tracing {
    object: &'static [u8],
    programs: &'static [(&'static str, Target)],
}

static OBSERVING: Tracing = Tracing {
    object: OBSERVE,
    programs: &[
        ("members", Target::Iterator("task_file")),
        ("watches", Target::Iterator("task_file")),
    ],
};

static WATCHING: Tracing = Tracing {
    object: WATCH,
    programs: &[
        ("on_listen", Target::Tracepoint("inet_sock_set_state")),
        ("udp_members", Target::Iterator("udp")),
    ],
};

/// One way to load one object.
struct Subject {
    /// Names it on the command line of `load-once`.
    name: &'static str,
    object: &'static str,
    loader: &'static str,
    load: fn(&[TcpListener]) -> Result<Timed>,
}

const OURS: &str = "sk-reuseport";
const AYA: &str = "aya, EbpfLoader";

static SUBJECTS: [Subject; 8] = [
    Subject {
        name: "plain-ours",
        object: "select, plain",
        loader: OURS,
        load: |listeners| ours::select(PLAIN, "plain", listeners),
    },
    Subject {
        name: "plain-aya",
        object: "select, plain",
        loader: AYA,
        load: |listeners| aya::select(PLAIN, "plain", listeners, aya::load),
    },
    Subject {
        name: "plain-aya-twice",
        object: "select, plain",
        loader: "aya, Ebpf::load",
        load: |listeners| aya::select(PLAIN, "plain", listeners, aya::load_simply),
    },
    Subject {
        name: "policies-ours",
        object: "select, our policies",
        loader: OURS,
        load: |listeners| ours::select(SELECT, "reuseport", listeners),
    },
    Subject {
        name: "observe-ours",
        object: "observe, CO-RE",
        loader: OURS,
        load: |_| ours::trace(&OBSERVING),
    },
    Subject {
        name: "observe-aya",
        object: "observe, CO-RE",
        loader: AYA,
        load: |_| aya::trace(&OBSERVING),
    },
    Subject {
        name: "watch-ours",
        object: "watch, CO-RE",
        loader: OURS,
        load: |_| ours::trace(&WATCHING),
    },
    Subject {
        name: "watch-aya",
        object: "watch, CO-RE",
        loader: AYA,
        load: |_| aya::trace(&WATCHING),
    },
];

/// The subjects that are compared: ours and aya's.
const COMPARED: [(&str, &str); 3] =
    [("plain-ours", "plain-aya"), ("observe-ours", "observe-aya"), ("watch-ours", "watch-aya")];

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut report = Report::new("load")?;
    let warm = measure_here(args.rounds)?;
    let first = measure_in_processes(args.processes)?;
    let mut table = Table::new([
        "object and loader",
        "object",
        "sockets",
        "programs",
        "attach",
        "p10",
        "p50",
        "p90",
        "first in a process",
    ]);
    for (index, subject) in SUBJECTS.iter().enumerate() {
        let part = |part: usize| {
            number(median(&warm[index].iter().map(|t| t.parts()[part]).collect::<Vec<_>>()))
        };
        let totals = totals(&warm[index]);
        let [p10, p50, p90] = spread(&totals);
        table.row([
            format!("{}: {}", subject.object, subject.loader),
            part(0),
            part(1),
            part(2),
            part(3),
            p10,
            p50,
            p90,
            number(median(&first[index])),
        ]);
        report.raw(subject.name, &totals)?;
        report.raw(format!("{}, first in a process", subject.name), &first[index])?;
    }
    report.table(
        format!(
            "Microseconds, medians of the parts and percentiles of the whole, {} rounds in turn; \
             the first load in a process, median of {} processes",
            args.rounds, args.processes
        ),
        table,
    );
    for (ours, aya) in COMPARED {
        let (ours, aya) = (position(ours)?, position(aya)?);
        let object = SUBJECTS[ours].object;
        let ratio = Median::of_ratios(&totals(&warm[ours]), &totals(&warm[aya]));
        report.figure(Figure::median(format!("{object}: ours to aya"), ratio, "").at_most(1.0));
        let ratio = Median::of_ratios(&first[ours], &first[aya]);
        let name = format!("{object}: ours to aya, first in a process");
        report.figure(Figure::median(name, ratio, "").at_most(1.0));
    }
    report.finish(args.common.json.as_deref())
}

fn totals(timed: &[Timed]) -> Vec<f64> {
    timed.iter().map(Timed::total).collect()
}

fn position(name: &str) -> Result<usize> {
    SUBJECTS.iter().position(|s| s.name == name).with_context(|| format!("no subject {name}"))
}

/// For each subject, so many times.
fn measure_here(rounds: u32) -> Result<Vec<Vec<Timed>>> {
    let listeners = listeners()?;
    let mut timed = vec![Vec::new(); SUBJECTS.len()];
    for round in 0..=rounds {
        for (index, subject) in SUBJECTS.iter().enumerate() {
            let once = (subject.load)(&listeners)
                .with_context(|| format!("{} with {}", subject.object, subject.loader))?;
            // The first round warms what lasts: aya probes the kernel's features once.
            if round > 0 {
                timed[index].push(once);
            }
        }
    }
    Ok(timed)
}

/// For each subject, the total in microseconds in so many fresh processes.
fn measure_in_processes(processes: u32) -> Result<Vec<Vec<f64>>> {
    let mut totals = vec![Vec::new(); SUBJECTS.len()];
    for _ in 0..processes {
        for (index, subject) in SUBJECTS.iter().enumerate() {
            totals[index].push(once::in_a_process(subject.name)?);
        }
    }
    Ok(totals)
}

/// A listener and one to choose between.
fn listeners() -> Result<Vec<TcpListener>> {
    Bind::new(loopback(false)).listeners(2).context("cannot listen on loopback")
}
