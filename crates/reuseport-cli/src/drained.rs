//! Waiting until members are drained: until nothing waits at them any more.

use std::fmt::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use reuseport::group::{GroupKey, Member, Protocol, Queue};
use reuseport::id::Cookie;
use reuseport::status::{GroupStatus, MemberStatus, State};
use reuseport::{ErrorKind, Stop};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::args;
use crate::backend::{self, Members};
use crate::error::Failure;
use crate::output::{self, by_number, count};
use crate::select;

/// Why members get nothing new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// A user drains them.
    ByHand,
    /// Another generation serves.
    Retired,
}

/// A wait, perhaps with a limit, that ^C ends.
#[derive(Debug)]
pub(crate) struct Waiting {
    begun: Instant,
    limit: Option<Duration>,
    stop: Stop,
}

impl Waiting {
    /// Begins to wait: now.
    ///
    /// # Errors
    ///
    /// If ^C cannot be handled.
    pub(crate) fn begin(limit: Option<Duration>) -> Result<Self> {
        let stop = Stop::default();
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, stop.flag())
                .context("cannot install a handler for ^C")?;
        }
        Ok(Self { begun: Instant::now(), limit, stop })
    }

    /// Whether ^C asked to stop.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.stop.is_set()
    }

    /// Whether the time is over.
    pub(crate) fn is_over(&self) -> bool {
        self.limit.is_some_and(|limit| self.begun.elapsed() >= limit)
    }

    /// Returns when the members are drained, or gone.
    ///
    /// # Errors
    ///
    /// If they are not in time, or get something again.
    pub(crate) fn until_drained(
        &self,
        members: &Members,
        cookies: &[Cookie],
        why: Leaving,
    ) -> Result<()> {
        wait(members, cookies, self, why)
    }
}

/// The members with these cookies.
pub(crate) fn those<'a>(
    group: &'a GroupStatus,
    cookies: &'a [Cookie],
) -> impl Iterator<Item = &'a MemberStatus> {
    group
        .members
        .iter()
        .filter(|member| member.member.cookie.is_some_and(|cookie| cookies.contains(&cookie)))
}

/// Whether nothing waits there.
pub(crate) fn is_drained(member: &MemberStatus) -> bool {
    let Queue { waiting, half_open, .. } = member.member.queue;
    waiting == 0 && half_open == 0
}

/// Whether draining members get what is new, because no other one is left.
fn draining_are_picked(group: &GroupStatus) -> bool {
    let enrolled = group.members.iter().filter_map(|member| member.enrolment.as_ref());
    !enrolled.into_iter().any(|e| e.state == State::Active && e.weight.get() > 0)
}

/// Describes what a member still has to finish.
pub(crate) fn describe(member: &MemberStatus, group: &GroupStatus) -> String {
    let name = select::name(member);
    if backend::state(member) == Some(State::Standby) && is_drained(member) {
        return format!("{name} is on standby: it gets nothing, also after `promote`");
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

fn wait(members: &Members, cookies: &[Cookie], waiting: &Waiting, why: Leaving) -> Result<()> {
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
            match why {
                Leaving::ByHand => {
                    bail!("{} of {key} was undrained in the meantime", select::name(member))
                }
                Leaving::Retired => bail!("{key}: another generation serves in the meantime"),
            }
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
        match waiting.limit {
            _ if waiting.stop.is_set() => {
                bail!("{key}: interrupted: {left}; draining continues")
            }
            Some(limit) if waiting.begun.elapsed() >= limit => {
                return Err(Failure::degraded(
                    format!("{key}: not drained in {}: {left}", args::show_time(limit)),
                    match why {
                        Leaving::ByHand => "draining continues; `reuseport undrain` ends it",
                        Leaving::Retired => {
                            "they go on to drain; `reuseport rollback` takes it back"
                        }
                    },
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
