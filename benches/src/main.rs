//! Measures what this project costs. `cargo xtask bench` builds this and runs it; each sub-command is
//! one bench, in a network namespace and with a bpffs of its own.
//!
//! The machine need not be idle: what is compared is measured in turn, in many short rounds, and
//! compared round by round. A slow result is not a failure.

mod bursts;
mod hermes;
mod hold;
mod idle;
mod latency;
mod load;
mod ls;
mod machine;
mod memory;
mod metrics;
mod newcomer;
mod plot;
mod process;
mod report;
mod restarts;
mod select;
mod simulate;
mod stats;
mod watcher;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[derive(Parser)]
#[command(bin_name = "cargo xtask bench", about = "Measures what this project costs")]
#[command(after_help = "Needs root. docs/figures.md has results and aims.")]
struct Args {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// From an object's bytes to attached: ours and aya
    Load(load::Args),
    /// Datagrams and connections, with and without a program that selects
    Select(select::Args),
    /// `reuseport ls` on a host with many members, and with many other sockets
    Ls(ls::Args),
    /// `reuseport metrics` next to `reuseport ls`, and the size of a scrape
    Metrics(metrics::Args),
    /// How long a listener that joins a watched group gets nothing, among many other sockets
    Newcomer(newcomer::Args),
    /// What a watcher takes while nothing happens
    Idle(idle::Args),
    /// What a steered group takes in the kernel, what the command takes, and how big it is
    Memory(memory::Args),
    /// How long answers take, by who deals connections to workers
    Latency(latency::Args),
    /// How evenly clients are dealt that connect all at once and stay, to real servers
    Bursts(bursts::Args),
    /// What clients lose while servers restart, by who sees to it
    Restarts(restarts::Args),
    /// Thousands of restarts: `cargo xtask soak restarts` starts this
    #[command(hide = true)]
    SoakRestarts(restarts::SoakArgs),
    /// Policies among up to 1,024 workers, simulated
    Simulate(simulate::Args),
    /// One load in a fresh process: a part of `load`
    #[command(hide = true)]
    LoadOnce { subject: usize },
    /// A worker of a server: a part of `latency`
    #[command(hide = true)]
    LatencyWorker { role: String },
    /// The most memory that a command has: a part of `memory`
    #[command(hide = true)]
    Peak {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let result = match Args::parse().bench {
        Bench::Load(args) => alone(|| load::run(&args)),
        Bench::Select(args) => alone(|| select::run(&args)),
        Bench::Ls(args) => alone(|| ls::run(&args)),
        Bench::Metrics(args) => alone(|| metrics::run(&args)),
        Bench::Newcomer(args) => alone(|| newcomer::run(&args)),
        Bench::Idle(args) => alone(|| idle::run(&args)),
        Bench::Memory(args) => alone(|| memory::run(&args)),
        Bench::Latency(args) => alone(|| latency::run(&args)),
        Bench::Bursts(args) => alone(|| bursts::run(&args)),
        // Each run is in a network namespace of its own.
        Bench::Restarts(args) => restarts::run(&args),
        Bench::SoakRestarts(args) => restarts::soak(&args),
        Bench::LatencyWorker { role } => latency::worker::run(&role),
        Bench::Simulate(args) => simulate::run(&args),
        Bench::LoadOnce { subject } => alone(|| load::once(subject)),
        Bench::Peak { command } => process::print_peak(&command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a bench in a network namespace and with a bpffs of its own, without a soft limit of open files.
fn alone(bench: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files })
        .context("cannot raise the limit of open files")?;
    test_support::netns::isolated(|| {
        test_support::bpffs::private();
        bench()
    })
}
