//! `reuseport weight`: members' shares.

use std::fmt::Write as _;

use anyhow::Result;
use clap::Args;
use reuseport::status::{GroupStatus, MemberStatus};

use crate::args::{self, FirstGroupArgs, GroupOr};
use crate::backend::{self, Members};
use crate::error::Failures;
use crate::output::{self, percent};
use crate::select::{self, WeightOf};

/// Change members' shares of new connections
///
/// A member's share is its weight divided by the sum of the active members' weights; at first, each
/// weight is 1. least-loaded compares queues per weight, so a member of weight 2 may have twice the
/// queue. A member of weight 0 gets nothing new as long as there is another; `drain` has the same
/// effect and keeps the weight.
///
/// All changes of one call take effect in one step for each group. Open connections stay where they
/// are. With several groups, a member has to be in one of them.
#[derive(Debug, Args)]
#[command(override_usage = "reuseport weight [OPTIONS] <GROUP>... <MEMBER=WEIGHT>...")]
#[command(after_help = "\
Exit status:
  1   no such group or member, or none of our programs is attached
  2   another tool's program is attached, or any other failure
  Of several groups, the most serious decides: 2, then 1.

Examples:
  reuseport weight :8080 slot:3=0
  reuseport weight :8080 pid:1234=10 pid:1235=10 slot:2=1
  reuseport weight :8080 gen:2=5
")]
pub(crate) struct Weight {
    #[command(flatten)]
    groups: FirstGroupArgs,

    /// Members, by slot:N, cookie:N, fd:N, pid:N (the owner) or gen:N; and a weight, 0 to 1000
    ///
    /// `show` lists them. pid selects all members that the process serves: those that its epoll
    /// watches, and those that no other process holds. gen selects all that entered together. Each
    /// gets that weight.
    #[arg(value_name = "MEMBER=WEIGHT", required = true)]
    rest: Vec<GroupOr<WeightOf>>,
}

impl Weight {
    pub(crate) fn run(self) -> Result<()> {
        let (targets, weights) = self.groups.targets(self.rest)?;
        let weights = args::required(weights, "MEMBER=WEIGHT")?;
        let groups = Members::open(&targets)?;
        let statuses: Vec<&GroupStatus> = groups.iter().map(|group| &group.status).collect();
        let wanted = select::in_each(&weights, &statuses, select::weights)?;
        let mut failures = Failures::default();
        for (members, wanted) in groups.iter().zip(wanted) {
            failures.note(weigh(members, &wanted));
        }
        failures.worst()
    }
}

/// Changes the weights in one group, and says so.
fn weigh(members: &Members, wanted: &[(&MemberStatus, reuseport::id::Weight)]) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let changes = wanted.iter().map(|(member, weight)| (*member, Some(*weight), None));
    let shares = members.change(changes)?;
    let total: u32 = shares.iter().filter_map(backend::active_weight).sum();
    let mut out = String::new();
    let key = &members.status.group.key;
    for (member, weight) in wanted {
        let enrolment = member.enrolment.as_ref();
        let share = shares.iter().find(|share| enrolment.is_some_and(|e| e.slot == share.slot));
        let part = f64::from(share.and_then(backend::active_weight).unwrap_or(0));
        // Without a weight above 0, who is picked is said below.
        let part = match total {
            0 => String::new(),
            total => format!(": {} of new picks", percent(part / f64::from(total))),
        };
        let was = enrolment.map_or(String::new(), |e| format!(", was {}", e.weight));
        let name = select::name(member);
        let _ = writeln!(out, "{key}: {name} has weight {weight}{was}{part}");
    }
    out.push_str(&output::none_active(key, &shares, output::width()));
    output::print(&out)?;
    Ok(())
}
