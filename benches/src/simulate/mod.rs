//! `cargo xtask simulate`: policies compared with more workers and connections than this machine can
//! have, to choose the constants of `least-loaded`. docs/simulation.md has what came out.
//!
//! [`model`] is the server, [`choose`] the policies, [`sections`] what is compared. All is simulated, so
//! the same options give the same numbers on any machine.

mod choose;
mod model;
mod random;
mod runs;
mod sections;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::Common;
use crate::report::Report;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    effort: Effort,
    /// Only what the bench of latencies measures as well
    #[arg(long)]
    like_bench: bool,
    /// Draw p99 over the number of members that are looked at, one plot for each kind of work
    #[arg(long, value_name = "DIRECTORY")]
    plots: Option<PathBuf>,
}

/// How much is simulated.
#[derive(Debug, Clone, Copy, clap::Args)]
struct Effort {
    /// Connections to a simulation; with more than 750 workers, as many for each as 750 have
    #[arg(long, value_name = "NUMBER", default_value_t = 300_000)]
    connections: u64,
    /// Simulations of each case, with seeds of their own
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    runs: u64,
    /// The first seed
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut report = Report::new("simulate")?;
    if !args.like_bench {
        if let Some(directory) = &args.plots {
            let error = || format!("cannot create {}", directory.display());
            fs::create_dir_all(directory).with_context(error)?;
        }
        sections::look_at(&mut report, args.effort, args.plots.as_deref())?;
        sections::window(&mut report, args.effort)?;
        sections::half_open(&mut report, args.effort)?;
        sections::terms(&mut report, args.effort)?;
        sections::keep_alive(&mut report, args.effort)?;
    }
    sections::like_bench(&mut report, args.effort)?;
    report.finish(args.common.json.as_deref())
}
