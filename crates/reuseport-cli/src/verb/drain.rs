//! `reuseport drain`: members that get nothing new and finish what they have.

use std::fmt::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use reuseport::group::{GroupKey, Member, Protocol, Queue};
use reuseport::id::Cookie;
use reuseport::status::{GroupStatus, MemberStatus, State};
use reuseport::{ErrorKind, Stop};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::args::{self, FirstGroupArgs, GroupOr};
use crate::backend::{self, Members};
use crate::error::{Failure, Failures};
use crate::output::{self, by_number, count};
use crate::select::{self, Selector};

/// Give members nothing new and let them finish what they have
///
/// A draining member keeps its socket, its slot and its weight, and open connections stay where
/// they are. It is drained when its accept queue is empty and no handshake is under way (udp: no
/// bytes wait). You can then stop it without losing a connection that was not yet accepted. Open
/// connections end when server or client end them; `show` counts them as OPEN.
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
        let stop = Stop::default();
        if self.wait.is_some() {
            for signal in [SIGINT, SIGTERM] {
                signal_hook::flag::register(signal, stop.flag())
                    .context("cannot install a handler for ^C")?;
            }
        }
        let (targets, selectors) = self.groups.targets(self.rest)?;
        let selectors = args::required(selectors, "MEMBER")?;
        let groups = Members::open(&targets)?;
        let statuses: Vec<&GroupStatus> = groups.iter().map(|group| &group.status).collect();
        let wanted = select::in_each(&selectors, &statuses, select::members)?;
        let begun = Instant::now();
        let mut failures = Failures::default();
        // All of them leave before the first is waited for.
        let mut leaving: Vec<(&Members, Vec<Cookie>)> = Vec::new();
        for (members, wanted) in groups.iter().zip(wanted).filter(|(_, wanted)| !wanted.is_empty())
        {
            let drained = drain(members, &wanted, self.wait.is_some());
            failures.note(drained.map(|cookies| leaving.push((members, cookies))));
        }
        if let Some(limit) = self.wait {
            for (members, cookies) in leaving {
                failures.note(wait(members, &cookies, begun, limit, &stop));
            }
        }
        failures.worst()
    }
}

/// Drains members of one group. Says what they have still to finish; who is drained already, not if that is waited
/// for: it is said at the end of the wait. Returns their cookies.
fn drain(members: &Members, wanted: &[&MemberStatus], waits: bool) -> Result<Vec<Cookie>> {
    // A standby member gets even less than a draining one. One without a slot is refused.
    let leaving =
        wanted.iter().filter(|member| matches!(backend::state(member), Some(State::Active) | None));
    let shares = members.change(leaving.map(|member| (*member, None, Some(State::Draining))))?;
    let cookies: Vec<Cookie> = wanted.iter().filter_map(|member| member.member.cookie).collect();
    let now = members.now()?;
    // First, because it says what the lines about the members mean.
    let mut out = output::none_active(&now.group.key, &shares, output::width());
    let said = |member: &&MemberStatus| !waits || !is_drained(member);
    for member in those(&now, &cookies).filter(said) {
        let _ = writeln!(out, "{}: {}", now.group.key, describe(member, &now));
    }
    output::print(&out)?;
    Ok(cookies)
}

fn those<'a>(
    group: &'a GroupStatus,
    cookies: &'a [Cookie],
) -> impl Iterator<Item = &'a MemberStatus> {
    group
        .members
        .iter()
        .filter(|member| member.member.cookie.is_some_and(|cookie| cookies.contains(&cookie)))
}

fn is_drained(member: &MemberStatus) -> bool {
    let Queue { waiting, half_open, .. } = member.member.queue;
    waiting == 0 && half_open == 0
}

/// Whether draining members get what is new, because no other one is left.
fn draining_are_picked(group: &GroupStatus) -> bool {
    let enrolled = group.members.iter().filter_map(|member| member.enrolment.as_ref());
    !enrolled.into_iter().any(|e| e.state == State::Active && e.weight.get() > 0)
}

/// Describes what a member still has to finish.
fn describe(member: &MemberStatus, group: &GroupStatus) -> String {
    let name = select::name(member);
    if backend::state(member) == Some(State::Standby) {
        return format!("{name} is on standby and gets nothing anyway");
    }
    let mut has = match group.group.key.protocol {
        _ if is_drained(member) && draining_are_picked(group) => {
            "drains: nothing waits now, but it still gets new ones: no other member is active"
                .to_owned()
        }
        _ if is_drained(member) => "is drained: nothing waits".to_owned(),
        Protocol::Udp => format!("drains: {} bytes wait to be read", member.member.queue.waiting),
        Protocol::Tcp => format!("drains: {}", connections(&member.member)),
    };
    if let Some(open) = member.enrolment.as_ref().and_then(|enrolment| enrolment.open) {
        // What waits is open, too; what is half-open is not yet.
        let accepted = open.saturating_sub(u64::from(member.member.queue.waiting));
        let _ = write!(has, "; {} open", count(accepted as usize, "accepted connection"));
    }
    for what in &member.member.not_asked {
        let _ = write!(has, "; {what} still reach it");
    }
    format!("{name} {has}")
}

/// The same of one that is drained.
fn drained_line(member: &MemberStatus) -> String {
    let name = select::name(member);
    match member.enrolment.as_ref().and_then(|enrolment| enrolment.open) {
        None | Some(0) => format!("{name} is drained"),
        Some(open) => format!("{name} is drained; {} open", count(open as usize, "connection")),
    }
}

/// The connections that a listener has not accepted.
fn connections(member: &Member) -> String {
    let Queue { waiting, half_open, .. } = member.queue;
    let (waiting, half_open) = (waiting as usize, half_open as usize);
    let to_accept = || {
        format!(
            "{} {} to be accepted",
            count(waiting, "connection"),
            by_number(waiting, "waits", "wait")
        )
    };
    let unsent = || {
        format!(
            "{} {} not sent anything yet, and the server defers accepting (TCP_DEFER_ACCEPT)",
            count(half_open, "connection"),
            by_number(half_open, "has", "have"),
        )
    };
    match (waiting, half_open) {
        (_, 0) => to_accept(),
        (0, _) if member.defers_accept => unsent(),
        _ if member.defers_accept => format!("{}; {}", to_accept(), unsent()),
        _ => format!("{}, {half_open} half-open", to_accept()),
    }
}

/// Not drained, though the queues are empty: datagrams come that the program does not decide on.
fn still_reached(members: &[MemberStatus], key: &GroupKey) -> Result<()> {
    let names: Vec<String> = members.iter().map(select::name).collect();
    let mut what: Vec<_> = members.iter().flat_map(|m| m.member.not_asked.clone()).collect();
    what.sort_unstable();
    what.dedup();
    let what: Vec<String> = what.iter().map(ToString::to_string).collect();
    Err(Failure::degraded(
        format!(
            "{key}: {} still reach {}, which {} nothing else",
            what.join(", "),
            names.join(", "),
            by_number(names.len(), "gets", "get"),
        ),
        "no program is asked about them: the server must close the socket, or leave the multicast group",
    )
    .into())
}

/// Returns when the members are drained, or gone.
fn wait(
    members: &Members,
    cookies: &[Cookie],
    begun: Instant,
    limit: Option<Duration>,
    stop: &Stop,
) -> Result<()> {
    /// Reading the host's groups takes some ten milliseconds.
    const PAUSE: Duration = Duration::from_millis(50);

    // A handshake may end between reading the two numbers, so nothing must wait twice in a row.
    const LOOKS: usize = 2;

    let mut drained = 0;
    let mut unasked: Vec<MemberStatus> = Vec::new();
    let mut still_picked = false;
    let mut done: Vec<String> = Vec::new();
    let key = &members.status.group.key;
    loop {
        let now = match members.now() {
            Err(error) if error.kind() == ErrorKind::NotFound => break,
            result => result?,
        };
        // If they are gone, the name may mean another group, which is not steered.
        let any_left = those(&now, cookies).next().is_some();
        if any_left && now.steering.selection().is_none() {
            bail!("{key} was detached in the meantime: any member may be picked again");
        }
        let drains = |member: &MemberStatus| backend::state(member) != Some(State::Active);
        if let Some(member) = those(&now, cookies).find(|member| !drains(member)) {
            bail!("{} of {key} was undrained in the meantime", select::name(member));
        }
        let left: Vec<String> = those(&now, cookies)
            .filter(|member| !is_drained(member))
            .map(|member| describe(member, &now))
            .collect();
        if left.is_empty() {
            drained += 1;
            if drained == LOOKS {
                still_picked = any_left && draining_are_picked(&now);
                done = those(&now, cookies).map(drained_line).collect();
                unasked = those(&now, cookies)
                    .filter(|member| !member.member.not_asked.is_empty())
                    .cloned()
                    .collect();
                break;
            }
            thread::sleep(PAUSE);
            continue;
        }
        drained = 0;
        let left = left.join(", ");
        match limit {
            _ if stop.is_set() => bail!("{key}: interrupted: {left}; draining continues"),
            Some(limit) if begun.elapsed() >= limit => {
                return Err(Failure::degraded(
                    format!("{key}: not drained in {}: {left}", args::show_time(limit)),
                    "draining continues; `reuseport undrain` ends it",
                )
                .into());
            }
            _ => thread::sleep(PAUSE),
        }
    }
    if still_picked {
        return Err(Failure::degraded(
            format!("{key}: nothing waits now, but draining members still get what is new: no member is active"),
            "make another member active, or stop the whole server",
        )
        .into());
    }
    if !unasked.is_empty() {
        return still_reached(&unasked, key);
    }
    if done.is_empty() {
        // They have closed.
        done.push("drained".to_owned());
    }
    let out: String = done.iter().map(|line| format!("{key}: {line}\n")).collect();
    output::print(&out)?;
    Ok(())
}
