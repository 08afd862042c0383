//! Measures what this project costs. `cargo xtask bench` builds this and runs it; each sub-command is
//! one bench, in a network namespace and with a bpffs of its own.
//!
//! The machine need not be idle: what is compared is measured in turn, in many short rounds, and
//! compared round by round. Nothing here fails because something is slow.

mod load;
mod machine;
mod report;
mod select;
mod stats;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Measures loading, selecting and listing")]
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
    /// One load in a fresh process: a part of `load`
    #[command(hide = true)]
    LoadOnce(load::once::Args),
}

/// What all benches take.
#[derive(clap::Args)]
struct Common {
    /// Write every measurement to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let result = match Args::parse().bench {
        Bench::Load(args) => alone(|| load::run(&args)),
        Bench::Select(args) => alone(|| select::run(&args)),
        Bench::LoadOnce(args) => alone(|| load::once::run(&args)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// In a network and with a bpffs of one's own.
fn alone(bench: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    test_support::netns::isolated(|| {
        test_support::bpffs::private();
        bench()
    })
}
