//! What is worth knowing about a group beyond its sockets: who follows it, what became of its program, what the kernel's
//! settings mean for it. [`diagnosis`](super::diagnosis) looks at its sockets. No I/O.

#[cfg(test)]
mod tests;

use super::advice;
use super::finding::{Finding, is_half};
use super::group::{Member, NotAsked, Protocol, Unborrowable};
use super::id::State;
use super::selection::{Program, Steering};
use super::settings::NetSettings;
use super::status::{GroupStatus, MemberStatus};

/// What was looked at besides the group's status. What is `None` is not known.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// Whether a process follows the group.
    pub(crate) watched: Option<bool>,
    /// Whether state of this tool is pinned under the group's name, and the group's is not another of the name.
    pub(crate) has_state: Option<bool>,
    /// The settings of the group's network namespace.
    pub(crate) settings: NetSettings,
    /// UDP: how many sockets on the group's address are connected.
    pub(crate) connected: usize,
}

/// An accept queue with a limit below this one is short: the kernel's own default for `net.core.somaxconn` until Linux
/// 5.4.
const SHORT: u32 = 128;

/// What there is to say.
pub(crate) fn circumstances(status: &GroupStatus, facts: &Facts) -> Vec<Finding> {
    let members = &status.group.members;
    let steered = status.steering.is_ours() && status.decides();
    let hidden = unenrolled(status, |member| member.unborrowable() == Some(Unborrowable::NoHolder));
    let mptcp = unenrolled(status, |member| member.unborrowable() == Some(Unborrowable::Mptcp));
    let transparent = names(members, |member| member.transparent);
    let reach = status.group.reach;
    let found = [
        program(status, facts),
        undecided(status),
        none_active(status),
        joined_later(status),
        hidden.map(|members| Finding::HiddenMember { members, steered }),
        mptcp.map(|members| Finding::Mptcp { members, steered }),
        connected_udp(status, facts),
        reach.is_split().then_some(Finding::Split { reach }),
        small_backlog(members, facts),
        no_watcher(status, facts),
        no_migration(status, facts),
        status.uncounted.map(|why| Finding::Uncounted { why }),
        queues_unread(status),
        not_asked(members, NotAsked::Multicast),
        not_asked(members, NotAsked::Broadcast),
        not_asked(members, NotAsked::Transparent),
        transparent.map(|members| Finding::Transparent { members }),
    ];
    let policy = status.steering.policy();
    let unsuited = advice::notes(&status.group, policy).into_iter();
    let unsuited = unsuited.map(|text| Finding::UnsuitedPolicy { text });
    found.into_iter().flatten().chain(unsuited).collect()
}

/// Names of members, if there are any.
fn names(members: &[Member], which: impl Fn(&Member) -> bool) -> Option<Vec<String>> {
    let names: Vec<String> = members.iter().filter(|m| which(m)).map(Member::name).collect();
    (!names.is_empty()).then_some(names)
}

/// Names of members without a slot, if there are any.
fn unenrolled(status: &GroupStatus, which: impl Fn(&Member) -> bool) -> Option<Vec<String>> {
    let has_none = |m: &&MemberStatus| m.enrolment.is_none() && which(&m.member);
    let names: Vec<String> =
        status.members.iter().filter(has_none).map(|m| m.member.name()).collect();
    (!names.is_empty()).then_some(names)
}

/// Whether this tool's program is the one that its state asks for.
fn program(status: &GroupStatus, facts: &Facts) -> Option<Finding> {
    match (&status.steering, facts.has_state) {
        (Steering::KernelHash, Some(true)) => Some(Finding::ProgramLost),
        (Steering::Foreign, Some(true)) => Some(Finding::ProgramReplaced),
        (Steering::Elsewhere(_), _) => Some(Finding::StateElsewhere),
        _ => None,
    }
}

fn undecided(status: &GroupStatus) -> Option<Finding> {
    let of_policy = matches!(
        status.steering,
        Steering::Ours(Program::Selection(_)) | Steering::Emptied(Some(Program::Selection(_)))
    );
    if !of_policy || status.decides() {
        return None;
    }
    let in_state =
        |m: &&MemberStatus| m.enrolment.as_ref().is_some_and(|e| e.state == State::Standby);
    let free = |m: &&MemberStatus| m.enrolment.is_none() && m.member.unborrowable().is_none();
    Some(Finding::Undecided {
        standby: status.members.iter().filter(in_state).count(),
        joinable: status.members.iter().filter(free).count(),
    })
}

fn none_active(status: &GroupStatus) -> Option<Finding> {
    status.steering.policy()?;
    let enrolments = || status.members.iter().filter_map(|m| m.enrolment.as_ref());
    let serves = enrolments().any(|e| e.state == State::Active && e.weight.get() > 0);
    (status.decides() && !serves).then_some(Finding::NoneActive)
}

fn joined_later(status: &GroupStatus) -> Option<Finding> {
    if !status.steering.is_ours() || !status.decides() {
        return None;
    }
    let members = unenrolled(status, |member| member.unborrowable().is_none())?;
    Some(Finding::JoinedLater { members })
}

fn connected_udp(status: &GroupStatus, facts: &Facts) -> Option<Finding> {
    let sockets: Vec<String> = status.group.outside.iter().map(Member::name).collect();
    let connected = facts.connected;
    (connected > 0 || !sockets.is_empty()).then_some(Finding::ConnectedUdp { sockets, connected })
}

fn small_backlog(all: &[Member], facts: &Facts) -> Option<Finding> {
    let somaxconn = facts.settings.somaxconn;
    let is_small = |member: &Member| {
        let queue = member.queue;
        let is_tcp = member.protocol == Protocol::Tcp;
        // One that is full is said to be full.
        is_tcp && !member.is_full() && (queue.limit < SHORT || is_half(queue.waiting, queue.limit))
    };
    let members = names(all, is_small)?;
    let queues = || all.iter().filter(|m| is_small(m)).map(|m| m.queue);
    let limit = queues().map(|queue| queue.limit).min()?;
    let part = |waiting: u32, limit: u32| u64::from(waiting) * 1000 / u64::from(limit.max(1));
    let fullest = queues().max_by_key(|queue| part(queue.waiting, queue.limit))?;
    let fullest = (fullest.waiting, fullest.limit);
    Some(Finding::SmallBacklog { members, limit, fullest, somaxconn })
}

fn no_watcher(status: &GroupStatus, facts: &Facts) -> Option<Finding> {
    let lacks = status.steering.is_ours() && facts.watched == Some(false);
    lacks.then_some(Finding::NoWatcher)
}

fn no_migration(status: &GroupStatus, facts: &Facts) -> Option<Finding> {
    let is_alone = status.group.members.len() < 2;
    let resets = status.group.key.protocol == Protocol::Tcp
        && status.steering == Steering::KernelHash
        && facts.settings.tcp_migrate_req == Some(0);
    (resets && !is_alone).then_some(Finding::NoMigration)
}

fn queues_unread(status: &GroupStatus) -> Option<Finding> {
    status.steering.policy()?;
    (!status.reads_queues).then_some(Finding::QueuesUnread)
}

fn not_asked(members: &[Member], what: NotAsked) -> Option<Finding> {
    let members = names(members, |member| member.not_asked.contains(&what))?;
    Some(Finding::NotAsked { what, members })
}
