//! `reuseport show`: groups and their members.

use anyhow::Result;
use clap::Args;
use reuseport::{Host, netns_names};

use crate::args::GroupsArgs;
use crate::backend::{self, Of};
use crate::output::view::GroupView;
use crate::output::{self, Reader};
use crate::process::Names;

/// Show groups: the program, the members and what each of them gets
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
  GEN       if there are several: members that entered together (gen:N)
  WEIGHT    its relative share of the picks
  COOKIE    the socket's number, unique on the host (`ss -e`: sk:, in hex)
  OWNER     the process whose epoll watches the socket, if exactly one does
  QUEUE     tcp: connections (+ half-open) / limit; udp: bytes / limit
  OPEN      connections open now
  PICKS     how often the program chose it
  SHARE     its share of the picks since the last change of members, weights,
            states or policy, of the share that its weight asks for
            (policy cpu asks for none)
  HELD BY   every visible process that holds the socket, with its descriptor;
            of an interpreter, the script or module that it runs

Examples:
  reuseport show :8080
  reuseport show udp:[::]:53 --json | jq '.members[] | {slot, picks}'
")]
pub(crate) struct Show {
    #[command(flatten)]
    groups: GroupsArgs,

    /// Print JSON, for programs; docs/json.md describes it
    ///
    /// One object; with --all or several GROUPs, an array of them.
    #[arg(long)]
    json: bool,
}

impl Show {
    pub(crate) fn run(self) -> Result<()> {
        let targets = self.groups.targets()?;
        let host = Host::open()?;
        let groups = targets.find(&host, Of::Steered)?;
        let names = netns_names();
        let processes = Names::default();
        let mut views: Vec<GroupView> = Vec::new();
        backend::for_each(&groups, targets.all, |group| {
            let name = names.get(&group.key.netns.inode).cloned();
            // With --all, one that is gone by now is passed over.
            views.push(GroupView::new(&host.status(&group.key)?, name, &processes));
            Ok(())
        })?;
        match (&views[..], self.json) {
            ([view], true) if !targets.are_several() => output::print_json(view)?,
            (_, true) => output::print_json(&views)?,
            (_, false) => {
                let reader = Reader::of_stdout();
                let texts: Vec<String> =
                    views.iter().map(|view| output::show(view, &reader)).collect();
                output::print(&texts.join("\n"))?;
            }
        }
        Ok(())
    }
}
