//! `reuseport detach`: return groups to the kernel's hash.

use anyhow::Result;
use clap::Args;
use reuseport::group::GroupKey;
use reuseport::{Host, Program};

use crate::args::GroupsArgs;
use crate::backend::{self, Of};
use crate::error::Failure;
use crate::output;

/// Detach our program from groups and remove their pinned state
///
/// The kernel's hash decides again, at once. Connections that are open or wait to be accepted stay
/// where they are; no socket is closed. Programs of other tools are not touched: if one has replaced
/// ours, this removes our state and takes the sockets out of our array.
///
/// Detaching takes one of the group's sockets. If none can be borrowed (no visible process has a
/// descriptor, for example), all state is removed, and the program stays attached without
/// members: it leaves every choice to the kernel's hash. (Your own program finds an empty array.)
/// It ends with the group.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status:
  1   no such group, or none of our programs is attached to it
  2   another tool's program is attached, and there is no state of this tool;
      or any other failure
  3   the state is removed, and the program stays attached without members
  Of several groups, the most serious decides: 2, then 3, then 1.

Examples:
  reuseport detach tcp:127.0.0.1:8080
  reuseport detach :53,netns=blue
  reuseport detach :443 --all                  both tcp and udp
")]
pub(crate) struct Detach {
    #[command(flatten)]
    groups: GroupsArgs,
}

impl Detach {
    pub(crate) fn run(self) -> Result<()> {
        let targets = self.groups.targets()?;
        let host = Host::open()?;
        let groups = targets.find(&host, Of::Steered)?;
        backend::for_each(&groups, targets.all, |group| detach(&host, &group.key))
    }
}

/// Detaches our program, or removes what is left of it, and says so.
fn detach(host: &Host, key: &GroupKey) -> Result<()> {
    let detached = reuseport::detach(host, key)?;
    if let Some(program) = &detached.displaced_by {
        output::print(&format!(
            "removed what was left of our program from {key}: {}, attached by another process, \
             stays and decides\n",
            output::program_name(program)
        ))?;
        return Ok(());
    }
    let Some(why) = detached.left_attached else {
        output::print(&format!("detached from {key}: the kernel's hash decides again\n"))?;
        return Ok(());
    };
    let decides = match detached.before.program() {
        Some(Program::Selection(_)) => {
            "the kernel's hash decides again, through a program without members"
        }
        _ => "the program has no members any more",
    };
    output::print(&format!("let go of {key}: {decides}\n"))?;
    Err(Failure::degraded(
        format!("the program stays attached to {key}: {}", why.report().causes()),
        "it ends with the group; or `reuseport detach` again, once a socket can be borrowed",
    )
    .into())
}
