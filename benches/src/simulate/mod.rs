//! `cargo xtask simulate`: policies among more workers and connections than this machine can have, to
//! choose the constants of `least-loaded`. docs/simulation.md has the results.
//!
//! [`model`] is the server, whose connections the policies' own C deals, and [`lasting`] one whose connections
//! stay; [`sections`] are the comparisons.
//! All is simulated, so the same options give the same numbers on any machine.

mod lasting;
mod model;
mod sections;
#[cfg(test)]
mod tests;

use anyhow::Result;

use crate::report::{Common, Report};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    common: Common,
    /// Connections in a simulation; with more than 750 workers, as many for each as 750 have
    #[arg(long, value_name = "NUMBER", default_value_t = 300_000)]
    connections: u64,
    /// Only what the bench of latencies measures as well
    #[arg(long)]
    like_bench: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut report = Report::new("simulate")?;
    if !args.like_bench {
        sections::sample(&mut report, args.connections)?;
        sections::window(&mut report, args.connections)?;
        sections::half_open(&mut report, args.connections)?;
        sections::terms(&mut report, args.connections)?;
        sections::lasting(&mut report)?;
    }
    sections::like_bench(&mut report, args.connections)?;
    report.finish(args.common.json.as_deref())
}
