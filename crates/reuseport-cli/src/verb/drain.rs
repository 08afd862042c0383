//! `reuseport drain`: members that get nothing new and finish what they have.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use reuseport::id::Cookie;
use reuseport::status::{GroupStatus, MemberStatus, State};

use crate::args::{self, FirstGroupArgs, GroupOr};
use crate::backend::Members;
use crate::drained::{self, Leaving, Waiting};
use crate::error::Failures;
use crate::output;
use crate::select::{self, Selector};

/// Give members nothing new and let them finish what they have
///
/// A draining member keeps its socket, its slot and its weight, and open connections stay where
/// they are. It is drained when its accept queue is empty and no handshake is under way (udp: no
/// bytes wait). You can then stop it without losing a connection that was not yet accepted. Open
/// connections end when server or client end them; `show` counts them as OPEN.
///
/// A member that already gets nothing, because another generation serves, stays drained when its own
/// does again (`promote`, `rollback`).
///
/// All members of one call leave in one step for each group; with several groups, a member has to be
/// in one of them. If no other member is left, draining members get what is new after all. `undrain`
/// reverses it.
#[derive(Debug, Args)]
#[command(override_usage = "reuseport drain [OPTIONS] <GROUP>... <MEMBER>...")]
#[command(after_help = "\
Exit status:
  1   no such group or member, or none of our programs is attached
  2   another tool's program is attached, or any other failure
  3   with --wait: not drained in time; or nothing waits, but more may come:
      no other member is active, or datagrams reach a member of which no
      program is asked (multicast, broadcast, TPROXY)
  Of several groups, the most serious decides: 2, then 3, then 1.

Examples:
  reuseport drain :8080 slot:2
  reuseport drain :8080 pid:1234 --wait 30s && kill -QUIT 1234
  reuseport drain tcp::80 tcp::443 pid:1234    what that process serves
")]
pub(crate) struct Drain {
    #[command(flatten)]
    groups: FirstGroupArgs,

    /// Members, by slot:N, cookie:N, fd:N, pid:N (the owner) or gen:N, as `show` lists them
    ///
    /// pid selects all members that the process serves: those that its epoll watches, and those
    /// that no other process holds. gen selects all that entered together.
    #[arg(value_name = "MEMBER", required = true)]
    rest: Vec<GroupOr<Selector>>,

    /// Return when they are drained, or after TIME (30, 30s, 5m) with exit status 3
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, value_parser = args::time)]
    wait: Option<Option<Duration>>,
}

impl Drain {
    pub(crate) fn run(self) -> Result<()> {
        let waiting = self.wait.map(Waiting::begin).transpose()?;
        let (targets, selectors) = self.groups.targets(self.rest)?;
        let selectors = args::required(selectors, "MEMBER")?;
        let groups = Members::open(&targets)?;
        let statuses: Vec<&GroupStatus> = groups.iter().map(|group| &group.status).collect();
        let wanted = select::in_each(&selectors, &statuses, select::members)?;
        let mut failures = Failures::default();
        // All of them leave before the first is waited for.
        let mut leaving: Vec<(&Members, Vec<Cookie>)> = Vec::new();
        for (members, wanted) in groups.iter().zip(wanted).filter(|(_, wanted)| !wanted.is_empty())
        {
            let drained = drain(members, &wanted, waiting.is_some());
            failures.note(drained.map(|cookies| leaving.push((members, cookies))));
        }
        if let Some(waiting) = waiting {
            for (members, cookies) in leaving {
                failures.note(waiting.until_drained(members, &cookies, Leaving::ByHand));
            }
        }
        failures.worst()
    }
}

/// Drains members of one group. Says what they have still to finish; who is drained already, not if that is waited
/// for: it is said at the end of the wait. Returns their cookies.
fn drain(members: &Members, wanted: &[&MemberStatus], waits: bool) -> Result<Vec<Cookie>> {
    // Also those that get nothing now: they are not to serve when their generation does. One without a slot is refused.
    let leaving = wanted.iter().map(|member| (*member, None, Some(State::Draining)));
    let shares = members.change(leaving)?;
    let cookies: Vec<Cookie> = wanted.iter().filter_map(|member| member.member.cookie).collect();
    let now = members.now()?;
    // First, because it says what the lines about the members mean.
    let mut out = output::none_active(&now.group.key, &shares, output::width());
    let said = |member: &&MemberStatus| !waits || !drained::is_drained(member);
    for member in drained::those(&now, &cookies).filter(said) {
        let _ = writeln!(out, "{}: {}", now.group.key, drained::describe(member, &now));
    }
    output::print(&out)?;
    Ok(cookies)
}
