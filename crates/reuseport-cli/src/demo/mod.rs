//! `reuseport demo`: the effect of a policy in half a minute, with nothing to set up.
//!
//! A server of four workers on loopback, one of which hangs again and again, under a steady load:
//! first under the kernel's hash, then under round-robin, then under least-loaded. The server and
//! its clients run in this process ([`server`], [`load`]), [`backend`](crate::backend) steers the
//! group like any other, and everything shown ([`report`]) is measured. The demo detaches what it
//! attaches, on ^C too.

mod load;
mod report;
mod screen;
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reuseport::Policy;
use reuseport::group::Protocol;
use reuseport::policy::LeastLoaded;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::backend::OwnGroup;
use crate::output::BOLD;
use load::Plan;
use report::{Round, WorkerRound};
use screen::Screen;
use server::{Hang, Server, WorkerSpec};

/// The time to answer a request.
const SERVICE: Duration = Duration::from_millis(2);
/// Of four workers, the last hangs.
const WORKERS: usize = 4;
const HANGS: usize = WORKERS - 1;
const HANG: Hang = Hang { every: Duration::from_millis(600), lasts: Duration::from_millis(400) };
/// Keeps each worker busy for 0.15 of its time: there is always one that could answer at once.
const RATE: u32 = 300;
/// More than ever wait at once.
const CLIENTS: usize = 96;

/// What decides in a round, and its names.
struct Stage {
    name: &'static str,
    title: &'static str,
    /// None: no program.
    policy: Option<Policy>,
}

const STAGES: [Stage; 3] = [
    Stage {
        name: "kernel hash",
        title: "the kernel's own hash, no program attached",
        policy: None,
    },
    Stage {
        name: "round-robin",
        title: "round-robin: a program picks one worker after the other",
        policy: Some(Policy::RoundRobin),
    },
    Stage {
        name: "least-loaded",
        title: "least-loaded: a program picks the worker with the fewest connections",
        policy: Some(Policy::LeastLoaded(LeastLoaded::DEFAULT)),
    },
];

/// Runs the demo, each round for `seconds`.
///
/// # Errors
///
/// If the program cannot be loaded or attached (this needs the rights that `attach` needs), or a
/// signal ended the demo early. Nothing is left behind in either case.
pub(crate) fn run(seconds: u32) -> Result<()> {
    let stop = stop_on_signals()?;
    let mut screen = Screen::of_stdout();
    let server = Server::start(&specs()).context("cannot start the demo's server")?;
    let mut group = OwnGroup::find(server.listeners())?;
    // If attaching is impossible, fail now and not after the first round.
    group.attach(Policy::default_for(Protocol::Tcp))?;
    group.detach()?;

    screen.print(&introduction(&server, seconds))?;
    let mut rounds = Vec::new();
    for (index, stage) in STAGES.iter().enumerate() {
        screen.print(&format!("\n{BOLD}{}{BOLD:#}\n", heading(index, stage)))?;
        if let Some(policy) = stage.policy {
            group.attach(policy)?;
        }
        let round = measure(stage, &server, &group, seconds, &stop, &mut screen)?;
        let table = report::workers(&round, screen.width());
        screen.print(&(table + &report::remarks(&round)))?;
        rounds.push(round);
        if stop.load(Ordering::Relaxed) {
            group.detach()?;
            bail!("the demo was interrupted; its program is detached and its server stopped");
        }
    }
    group.detach()?;
    screen.print(&format!("\n{}\n", report::summary(&rounds, screen.width())))?;
    screen.print(&report::conclusion(&rounds))?;
    screen.print(
        "\nNothing is left behind: the program is detached, the server stopped. To try it\n\
         on a running server: `reuseport ls`, then `reuseport attach GROUP`.\n",
    )?;
    Ok(())
}

fn heading(index: usize, stage: &Stage) -> String {
    format!("{} of {}: {}", index + 1, STAGES.len(), stage.title)
}

fn stop_on_signals() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .context("cannot install a handler for ^C")?;
    }
    Ok(stop)
}

fn specs() -> [WorkerSpec; WORKERS] {
    let hang = |w| (w == HANGS).then_some(HANG);
    std::array::from_fn(|w| WorkerSpec { service: SERVICE, hang: hang(w) })
}

fn introduction(server: &Server, seconds: u32) -> String {
    format!(
        "A server on {}: {WORKERS} workers, one listener each (SO_REUSEPORT).\n\
         An answer takes {} ms. Worker {HANGS} hangs again and again: it works for {} ms, then\n\
         stops for {} ms. {RATE} connections/s arrive for {seconds} s per round. Latency counts\n\
         from the scheduled time.\n",
        server.address(),
        SERVICE.as_millis(),
        HANG.every.as_millis(),
        HANG.lasts.as_millis(),
    )
}

/// One round of load, and what each worker got.
fn measure(
    stage: &Stage,
    server: &Server,
    group: &OwnGroup,
    seconds: u32,
    stop: &AtomicBool,
    screen: &mut Screen,
) -> Result<Round> {
    let steered = stage.policy.is_some();
    let picks_before = if steered { Some(group.picks()?) } else { None };
    let before = server.accepted();
    let plan = Plan {
        target: server.address(),
        rate: RATE,
        connections: RATE * seconds,
        clients: CLIENTS,
    };
    let outcome = load::run(&plan, stop, || {
        let round = blank(stage, &server.accepted(), &before);
        // Ignore an error: the end of the round draws again, and reports it.
        let _ = screen.show(&report::workers(&round, screen.width()));
    });
    let mut round = blank(stage, &server.accepted(), &before);
    round.add(outcome);
    if let Some(before) = picks_before {
        let after = group.picks()?;
        for (worker, (before, after)) in
            round.workers.iter_mut().zip(before.members.iter().zip(&after.members))
        {
            worker.picks = Some(after - before);
        }
        round.left_to_kernel = Some(after.left_to_kernel - before.left_to_kernel);
    }
    Ok(round)
}

/// A round with the workers' own counts only.
fn blank(stage: &Stage, accepted: &[u64], before: &[u64]) -> Round {
    let workers = specs().into_iter().enumerate().map(|(w, spec)| WorkerRound {
        service: spec.service,
        hangs: spec.hang.is_some(),
        accepted: accepted[w] - before[w],
        picks: None,
        latencies: Vec::new(),
    });
    Round {
        name: stage.name,
        workers: workers.collect(),
        latencies: Vec::new(),
        failed: 0,
        lags: Vec::new(),
        left_to_kernel: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_fit_80_columns() {
        for (index, stage) in STAGES.iter().enumerate() {
            let heading = heading(index, stage);
            assert!(heading.len() <= 80, "{}: {heading}", heading.len());
        }
    }
}
