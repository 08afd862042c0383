//! `reuseport undrain`: end the draining of members.

use std::fmt::Write as _;

use anyhow::Result;
use clap::Args;
use reuseport::status::{GroupStatus, MemberStatus, State};

use crate::args::{self, FirstGroupArgs, GroupOr};
use crate::backend::{self, Members};
use crate::error::Failures;
use crate::output;
use crate::select::{self, Selector};

/// Give draining members new connections again
///
/// They keep their weights. All members of one call return in one step for each group. With several
/// groups, a member has to be in one of them.
#[derive(Debug, Args)]
#[command(override_usage = "reuseport undrain [OPTIONS] <GROUP>... <MEMBER>...")]
#[command(after_help = "\
Exit status:
  1   no such group or member, or none of our programs is attached
  2   another tool's program is attached, or any other failure
  Of several groups, the most serious decides: 2, then 1.

Examples:
  reuseport undrain :8080 slot:2
  reuseport undrain :8080 gen:1
")]
pub(crate) struct Undrain {
    #[command(flatten)]
    groups: FirstGroupArgs,

    /// Members, by slot:N, cookie:N, fd:N, pid:N (the owner) or gen:N, as `show` lists them
    ///
    /// pid selects all members that the process serves: those that its epoll watches, and those
    /// that no other process holds. gen selects all that entered together.
    #[arg(value_name = "MEMBER", required = true)]
    rest: Vec<GroupOr<Selector>>,
}

impl Undrain {
    pub(crate) fn run(self) -> Result<()> {
        let (targets, selectors) = self.groups.targets(self.rest)?;
        let selectors = args::required(selectors, "MEMBER")?;
        let groups = Members::open(&targets)?;
        let statuses: Vec<&GroupStatus> = groups.iter().map(|group| &group.status).collect();
        let wanted = select::in_each(&selectors, &statuses, select::members)?;
        let mut failures = Failures::default();
        for (members, wanted) in groups.iter().zip(wanted) {
            failures.note(undrain(members, wanted));
        }
        failures.worst()
    }
}

/// Makes members of one group active again, and says so.
fn undrain(members: &Members, wanted: Vec<&MemberStatus>) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    // One without a slot is refused.
    let back = wanted
        .iter()
        .filter(|member| matches!(backend::state(member), Some(State::Draining) | None));
    let shares = members.change(back.map(|member| (*member, None, Some(State::Active))))?;
    let key = &members.status.group.key;
    let mut out = String::new();
    for member in wanted {
        let weight = member.enrolment.as_ref().map_or(0, |enrolment| enrolment.weight.get());
        let what = match backend::state(member) {
            Some(State::Draining) if weight == 0 => {
                "active again, but its weight is 0: `reuseport weight` raises it".to_owned()
            }
            Some(State::Draining) => format!("active again, with weight {weight}"),
            Some(State::Standby) => {
                "on standby and stays so: `reuseport promote` lets it serve".to_owned()
            }
            _ => "active as before: it was not draining".to_owned(),
        };
        let _ = writeln!(out, "{key}: {} is {what}", select::name(member));
    }
    out.push_str(&output::none_active(key, &shares, output::width()));
    output::print(&out)?;
    Ok(())
}
