//! `cargo xtask simulate`: policies among more workers and connections than this machine can have, to
//! choose the constants of `least-loaded`. docs/simulation.md has the results.
//!
//! [`model`] is the server, [`choose`] runs the policies' own C, [`sections`] are the comparisons. All is
//! simulated, so the same options give the same numbers on any machine.

mod args;
mod choose;
mod model;
mod sections;
#[cfg(test)]
mod tests;

use anyhow::Result;

use crate::report::Report;

pub(crate) use args::Args;

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut report = Report::new("simulate")?;
    if !args.like_bench {
        sections::sample(&mut report, args)?;
        sections::window(&mut report, args)?;
        sections::half_open(&mut report, args)?;
        sections::terms(&mut report, args)?;
        sections::keep_alive(&mut report, args)?;
    }
    sections::like_bench(&mut report, args)?;
    report.finish(args.common.json.as_deref())
}
