//! `reuseport detach`: the group as it was.

use anyhow::Result;
use clap::Args;

use crate::args::GroupArgs;
use crate::backend;
use crate::output;

/// Take our program off a group and remove what was pinned for it
///
/// The kernel's hash decides again, at once. Connections that are open or wait to be accepted stay
/// where they are; no socket is closed. A program that somebody else attached is left alone.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status:
  1   nothing of ours is attached to the group, or there is no such group
  2   somebody else's program decides there, or any other failure

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
