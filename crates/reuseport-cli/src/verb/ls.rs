//! `reuseport ls`: every group on the host.

use anyhow::Result;
use clap::Args;
use reuseport::netns_names;

use crate::args::NetnsArgs;
use crate::backend;
use crate::output::view::GroupLine;
use crate::output::{self, Reader};
use crate::process::Names;

/// List every group of sockets on the host
///
/// One line per group, in all network namespaces: the program that decides (`kernel hash`: none),
/// the number of sockets, what waits in their queues, and the processes that hold them.
///
/// A GROUP can be pasted into every verb: it has what tells it apart from groups on the same address,
/// such as `,uid=33` or `,v6only`. `unsteered` sockets get nothing: they joined after `attach`, or
/// cannot be enrolled. SKEW is the largest difference between a member's share of picks and its share
/// of weight. Narrow terminals hide SKEW, shorten PROGRAM, and show the processes below.
#[derive(Debug, Args)]
#[command(after_help = "\
Queue, the sum of all members:
  tcp   connections that wait to be accepted (+ half-open) / limit
  udp   bytes that wait to be read / receive buffer
  and how many members' queues are full, as in `17/256, 1 full`

Examples:
  reuseport ls
  reuseport ls --netns blue
  reuseport ls --json | jq -r '.[] | select(.unsteered > 0) | .group'
")]
pub(crate) struct Ls {
    /// Print JSON, for programs; docs/json.md describes it
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    netns: NetnsArgs,
}

impl Ls {
    pub(crate) fn run(self) -> Result<()> {
        let reader = Reader::of_stdout();
        let names = netns_names();
        let processes = Names::default();
        let groups = backend::statuses(self.netns.resolve()?)?;
        let mut lines: Vec<GroupLine> = groups
            .iter()
            .map(|status| {
                GroupLine::new(
                    status,
                    names.get(&status.group.key.netns.inode).cloned(),
                    &processes,
                )
            })
            .collect();
        // Our own namespace first: that is where most readers look.
        lines.sort_by(|a, b| {
            let place = |line: &GroupLine| reader.own_netns != Some(line.identity.netns);
            place(a).cmp(&place(b)).then_with(|| a.identity.order().cmp(&b.identity.order()))
        });
        if self.json {
            output::print_json(&lines)?;
        } else {
            output::print(&output::ls(&lines, &reader))?;
        }
        Ok(())
    }
}
