//! `reuseport show`: one group and its members.

use anyhow::Result;
use clap::Args;
use reuseport::observe::netns_names;

use crate::args::GroupArgs;
use crate::backend;
use crate::output::view::GroupView;
use crate::output::{self, Reader};

/// Show one group: its program, its members and what each of them gets
///
/// Above, the program that decides and its counters by reason; below, a line for each member (each
/// socket) of the group.
#[derive(Debug, Args)]
#[command(after_help = "\
Columns:
  SLOT      the index that the kernel program selects it by
  STATE     active: gets new connections; draining: finishes what it has;
            standby: gets nothing yet; unsteered: came after `attach`, gets nothing
  CPU       with policy cpu: the CPU whose packets are its own
  WEIGHT    its share of the picks, in relation to the others'
  COOKIE    the socket's number, unique on the host (`ss -e` has it in hex, as sk:)
  OWNER     the process whose epoll watches the socket, where there is one
  QUEUE     tcp: waiting to be accepted (+ half-open) / limit; udp: bytes / limit
  OPEN      connections open now
  PICKS     how often the program chose it
  SHARE     its part of all picks, of the part that its weight entitles it to
  HELD BY   every process that has the socket, with its descriptor

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
