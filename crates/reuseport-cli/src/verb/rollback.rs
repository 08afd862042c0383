//! `reuseport rollback`: the version of a server before serves again.

use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::promote::switch_and_wait;
use crate::args::{self, GroupsArgs};
use crate::backend::{Generation, Members};
use crate::error::Failures;

/// Let the generation before serve again, and put the newer one on standby
///
/// The way back from `promote`, in one step for the traffic, as long as members of the older
/// generation are there. Newer ones get nothing from then on, and finish what they have; `promote`
/// lets the newest serve again.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status:
  1   nothing to do: no such group, none of our programs is attached, or no
      member of an older generation is left
  2   another tool's program is attached, or any other failure
  3   with --wait: not drained in time
  Of several groups, the most serious decides: 2, then 3, then 1.

Examples:
  reuseport rollback :8080
  reuseport rollback tcp::80 tcp::443 --wait 30s
")]
pub(crate) struct Rollback {
    #[command(flatten)]
    groups: GroupsArgs,

    /// Return when the newer ones are drained, or after TIME (30, 30s, 5m) with exit status 3
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, value_parser = args::time)]
    wait: Option<Option<Duration>>,
}

impl Rollback {
    pub(crate) fn run(self) -> Result<()> {
        let groups = Members::open(&self.groups.targets()?)?;
        let turns = groups.iter().map(|members| (members, Generation::Before));
        switch_and_wait(turns, self.wait, Failures::default())
    }
}
