//! What is worth knowing about a group, found in its status. No I/O.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use super::finding::{Finding, Party};
use super::group::{Binary, Holder, Member, Origin, Protocol};
use super::id::State;
use super::policy::Policy;
use super::server::Server;
use super::status::{GroupStatus, MemberStatus};

/// What there is to say about a group. `server` recognises a process.
pub(crate) fn findings(
    status: &GroupStatus,
    server: impl Fn(&Holder) -> Option<&'static Server>,
) -> Vec<Finding> {
    let members = &status.group.members;
    let several = members.len() > 1;
    let found = [
        // Asking what a process was started with may wait for it.
        if several { None } else { one_socket(members, server) },
        several_servers(&serving(status)),
        unwaited(members),
        several_wait(members).filter(|_| several),
        not_accepting(status),
        full(members),
        drops(members),
        one_sided(status),
    ];
    found.into_iter().flatten().collect()
}

fn one_socket(
    members: &[Member],
    server: impl Fn(&Holder) -> Option<&'static Server>,
) -> Option<Finding> {
    let Member { holders, waiters, .. } = members.first()?;
    let pids: BTreeSet<u32> = holders.iter().map(|holder| holder.pid).collect();
    let server = holders.iter().find_map(server);
    Some(Finding::OneSocket { processes: pids.len(), waiters: *waiters, server })
}

/// Names of members, if there are any.
fn named(members: &[Member], which: impl Fn(&Member) -> bool) -> Option<Vec<String>> {
    let names: Vec<String> = members.iter().filter(|m| which(m)).map(Member::name).collect();
    (!names.is_empty()).then_some(names)
}

fn unwaited(all: &[Member]) -> Option<Finding> {
    let is_unwaited = |member: &Member| member.waiters == Some(0);
    let members = named(all, is_unwaited)?;
    let waiting = all.iter().filter(|m| is_unwaited(m)).map(|m| u64::from(m.queue.waiting)).sum();
    Some(Finding::Unwaited { members, waiting })
}

fn several_wait(members: &[Member]) -> Option<Finding> {
    let members = named(members, |member| member.waiters.is_some_and(|n| n > 1))?;
    Some(Finding::SeveralWait { members })
}

/// A member that came a moment ago is one, too: its server starts.
fn not_accepting(status: &GroupStatus) -> Option<Finding> {
    let held = status.members.iter().filter(|m| m.enrolment.as_ref().is_some_and(|e| e.is_held));
    let members: Vec<String> = held.map(|held| held.member.name()).collect();
    (!members.is_empty()).then_some(Finding::NotAccepting { members })
}

fn full(members: &[Member]) -> Option<Finding> {
    Some(Finding::QueueFull { members: named(members, Member::is_full)? })
}

/// A listener that defers accepting drops, by the kernel's count, the last packet of each handshake.
fn drops(members: &[Member]) -> Option<Finding> {
    let dropping = members.iter().filter(|member| member.drops > 0 && !member.defers_accept);
    let members: Vec<_> = dropping.map(|member| (member.name(), member.drops)).collect();
    (!members.is_empty()).then_some(Finding::Drops { members })
}

/// Fewer picks than this say nothing about shares.
const MANY_PICKS: u64 = 1000;
/// A member with this part of them has nearly all, in percent.
const NEARLY_ALL: u64 = 90;

fn one_sided(status: &GroupStatus) -> Option<Finding> {
    let policy = status.steering.policy()?;
    // A TCP client's connections have different ports, so different keys of `hash`.
    let keyed = match policy {
        Policy::Hash => status.group.key.protocol == Protocol::Udp,
        Policy::Source | Policy::Payload(_) => true,
        _ => false,
    };
    let active = || {
        let enrolled = |m: &'_ MemberStatus| {
            let enrolment = m.enrolment.as_ref()?;
            let serves = enrolment.state == State::Active && enrolment.weight.get() > 0;
            serves.then_some((enrolment.recent_picks?, u64::from(enrolment.weight.get())))
        };
        status.members.iter().filter_map(move |m| Some((m, enrolled(m)?)))
    };
    let (picks, weights) =
        active().fold((0, 0), |(p, w), (_, (picks, weight))| (p + picks, w + weight));
    let (member, (most, weight)) = active().max_by_key(|(_, (picks, _))| *picks)?;
    let expected = weight * 2 <= weights;
    if !keyed || !expected || picks < MANY_PICKS || most * 100 < picks * NEARLY_ALL {
        return None;
    }
    let percent = u8::try_from(most * 100 / picks).unwrap_or(100);
    Some(Finding::OneSided { member: member.member.name(), percent, policy })
}

/// The members that serve, without those of generations that wait, are on trial or were retired: there a roll-out is meant.
fn serving(status: &GroupStatus) -> Vec<&Member> {
    let serves = |member: &&MemberStatus| {
        let Some(enrolment) = &member.enrolment else { return true };
        match enrolment.state {
            State::Active => {
                status.trial.is_none() || Some(enrolment.generation) <= status.serving_generation
            }
            State::Draining => Some(enrolment.generation) >= status.serving_generation,
            State::Standby => false,
        }
    };
    status.members.iter().filter(serves).map(|member| &member.member).collect()
}

/// Servers that began within this time were started together.
const TOGETHER: Duration = Duration::from_secs(2);

/// The servers among which no socket is shared, if they run different files under different names or did not
/// begin together.
fn several_servers(members: &[&Member]) -> Option<Finding> {
    let mut found: Vec<Known<'_>> = Vec::new();
    for member in members {
        let Some(new) = Known::of(member) else { continue };
        let (shared, mut apart): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|known| !known.origins.is_disjoint(&new.origins));
        apart.push(shared.into_iter().fold(new, Known::with));
        found = apart;
    }
    found.sort_by_key(|known| (known.first.1, known.first.0.pid));
    let [first, .., last] = &found[..] else { return None };
    let differs = |known: &Known<'_>| {
        known.binaries().is_disjoint(&first.binaries()) && known.first.0.comm != first.first.0.comm
    };
    let different = found.iter().any(differs);
    if !different && last.first.1 - first.first.1 <= TOGETHER {
        return None;
    }
    let parties = found.iter().map(Known::party).collect();
    Some(Finding::SeveralServers { parties, different })
}

/// What is known of a server: of the processes that hold the same members.
struct Known<'a> {
    origins: BTreeSet<Origin>,
    /// The holder that comes from the earliest one, and when that one began.
    first: (&'a Holder, Duration),
    members: usize,
}

impl<'a> Known<'a> {
    fn of(member: &'a Member) -> Option<Self> {
        let known = || member.holders.iter().filter_map(|h| Some((h, h.origin?)));
        let (first, origin) = known().min_by_key(|(_, origin)| origin.started)?;
        let origins = known().map(|(_, origin)| origin).collect();
        Some(Self { origins, first: (first, origin.started), members: 1 })
    }

    fn with(mut self, other: Self) -> Self {
        self.origins.extend(other.origins);
        if other.first.1 < self.first.1 {
            self.first = other.first;
        }
        self.members += other.members;
        self
    }

    fn binaries(&self) -> BTreeSet<Binary> {
        self.origins.iter().map(|origin| origin.binary).collect()
    }

    fn party(&self) -> Party {
        let (holder, started) = self.first;
        let pid = holder.origin.and_then(|origin| origin.first).unwrap_or(holder.pid);
        Party { comm: holder.comm.clone(), pid, started, members: self.members }
    }
}
