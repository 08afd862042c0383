//! `reuseport detach`: return a group to the kernel's hash.

use anyhow::Result;
use clap::Args;

use crate::args::GroupArgs;
use crate::backend;
use crate::output;

/// Detach our program from a group and remove its pinned state
///
/// The kernel's hash decides again, at once. Connections that are open or wait to be accepted stay
/// where they are; no socket is closed. Programs of other tools are not touched.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status:
  1   no such group, or none of our programs is attached to it
  2   another tool's program is attached, or any other failure

Examples:
  reuseport detach tcp:127.0.0.1:8080
  reuseport detach :53 --netns blue
")]
pub(crate) struct Detach {
    #[command(flatten)]
    group: GroupArgs,
}

impl Detach {
    pub(crate) fn run(self) -> Result<()> {
        let key = backend::detach(&self.group.target()?)?;
        output::print(&format!("detached from {key}: the kernel's hash decides again\n"))?;
        Ok(())
    }
}
