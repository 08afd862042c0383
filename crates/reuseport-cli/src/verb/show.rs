//! `reuseport show`: one group and its members.

use anyhow::Result;
use clap::Args;
use reuseport::netns_names;

use crate::args::GroupArgs;
use crate::backend;
use crate::output::view::GroupView;
use crate::output::{self, Reader};

/// Show one group: its program, its members and what each of them gets
///
/// First the program that decides and its counters by reason, then one line per member (socket) of
/// the group.
#[derive(Debug, Args)]
#[command(after_help = "\
Columns:
  SLOT      the index by which the kernel program selects it
  STATE     active: gets new connections; draining: finishes what it has;
            standby: gets nothing yet;
            unsteered: has no slot, gets nothing; a line below says why
  CPU       with policy cpu: the CPU whose packets it receives
  WEIGHT    its relative share of the picks
  COOKIE    the socket's number, unique on the host (`ss -e`: sk:, in hex)
  OWNER     the process whose epoll watches the socket, if exactly one does
  QUEUE     tcp: connections (+ half-open) / limit; udp: bytes / limit
  OPEN      connections open now
  PICKS     how often the program chose it
  SHARE     its share of the picks since the last change of members, weights,
            states or policy, of the share that its weight asks for
  HELD BY   every visible process that holds the socket, with its descriptor

Examples:
  reuseport show :8080
  reuseport show udp:[::]:53 --json | jq '.members[] | {slot, picks}'
")]
pub(crate) struct Show {
    #[command(flatten)]
    group: GroupArgs,

    /// Print JSON, for programs; docs/json.md describes it
    #[arg(long)]
    json: bool,
}

impl Show {
    pub(crate) fn run(self) -> Result<()> {
        let status = backend::status(&self.group.target()?)?;
        let name = netns_names().remove(&status.group.key.netns.inode);
        let view = GroupView::new(&status, name);
        if self.json {
            output::print_json(&view)?;
        } else {
            output::print(&output::show(&view, &Reader::of_stdout()))?;
        }
        Ok(())
    }
}
