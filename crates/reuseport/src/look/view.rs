//! The status of groups: the kernel's view, joined with the pinned state and the counters.

use std::collections::HashMap;
use std::time::Duration;

use sk_reuseport::maps::MapError;

use crate::error::{Error, ErrorKind, Result};
use crate::kernel::cpus;
use crate::kernel::observe::Observer;
use crate::kernel::owners;
use crate::kernel::server::server_of;
use crate::model::diagnosis::findings as findings_of;
use crate::model::generation::serving;
use crate::model::group::{Group, GroupKey, Member, Unborrowable};
use crate::model::id::Slot;
use crate::model::lineage::Standing;
use crate::model::membership::Occupant;
use crate::model::policy::Policy;
use crate::model::roster::{Record, Roster};
use crate::model::selection::Program;
use crate::model::split::{Claim, named};
use crate::model::status::{
    Enrolment, GroupStatus, MemberStatus, Trial, Uncounted, without_member,
};
use crate::pins::bpffs::Root;
use crate::pins::group::GroupState;
use crate::pins::host_layer::HostLayer;
use crate::pins::place::Place;
use crate::pins::steering::{claim, steering};
use crate::pins::watcher::Locks;

/// The status of every group, without the members' owners and without watchers. A group whose pinned state cannot be
/// read is shown as one for which another owner's program decides.
pub(crate) fn statuses(observer: &Observer, place: &Place) -> Result<Vec<GroupStatus>> {
    let statuses = joined(observer, place, every)?;
    Ok(statuses.into_iter().map(diagnosed).collect())
}

/// The same with the watchers, and the owners unless each member is held by one process alone, as that is another walk
/// over all descriptors. The members' CPUs are not looked for.
pub(crate) fn statuses_in_full(observer: &Observer, place: &Place) -> Result<Vec<GroupStatus>> {
    let mut statuses = joined(observer, place, |groups, root, layer| {
        let locks = Locks::default();
        let watched = |status: GroupStatus| {
            let watcher = root.and_then(|root| locks.watcher_of(root, &status.group.key));
            GroupStatus { watcher, ..status }
        };
        Ok(every(groups, root, layer)?.into_iter().map(watched).collect::<Vec<_>>())
    })?;
    if !statuses.iter().flat_map(|status| &status.group.members).any(is_shared) {
        return Ok(statuses.into_iter().map(diagnosed).collect());
    }
    let owners = observer.owners_in(statuses.iter().map(|status| &status.group))?;
    for member in statuses.iter_mut().flat_map(|status| &mut status.members) {
        if let Some(owner) = member.member.cookie.and_then(|cookie| owners.get(&cookie)) {
            member.owner = owner.pid;
            member.owner_thread = owner.thread();
            member.threads_waiting = owner.waiting.len();
        }
    }
    Ok(statuses.into_iter().map(diagnosed).collect())
}

/// Whether several processes hold a member.
fn is_shared(member: &Member) -> bool {
    member.holders.windows(2).any(|pair| pair[0].pid != pair[1].pid)
}

/// The status of each of these groups.
fn every(
    groups: Vec<Group>,
    root: Option<&Root>,
    layer: &Result<HostLayer, Uncounted>,
) -> Result<Vec<GroupStatus>> {
    groups.into_iter().map(|group| join_or_warn(group, root, layer)).collect()
}

/// The status of one group among others: it must not hide them.
pub(super) fn join_or_warn(
    group: Group,
    root: Option<&Root>,
    layer: &Result<HostLayer, Uncounted>,
) -> Result<GroupStatus> {
    join(group.clone(), root, layer).or_else(|error| {
        error.report().warn();
        join(group, None, &Err(Uncounted::Unreadable))
    })
}

/// The status of one group.
pub(crate) fn status(observer: &Observer, place: &Place, key: &GroupKey) -> Result<GroupStatus> {
    let mut status = joined(observer, place, |groups, root, layer| {
        let group = named(key, &groups, |group| claim(group, root))?.clone();
        let watcher = root.and_then(|root| Locks::default().watcher_of(root, &group.key));
        Ok(GroupStatus { watcher, ..join(group, root, layer)? })
    })?;
    let mut owners = owners::of(observer, &status.group)?;
    for member in &mut status.members {
        let Some(placed) = member.member.cookie.and_then(|cookie| owners.remove(&cookie)) else {
            continue;
        };
        member.owner = placed.owner.pid;
        member.owner_thread = placed.owner.thread();
        member.threads_waiting = placed.owner.waiting.len();
        member.owner_cpu = placed.cpu;
    }
    look_again(observer, &mut status)?;
    Ok(diagnosed(status))
}

/// Joins the host's groups with what is pinned: under the lock, so that no operation is between the two, and nothing
/// else is, because every operation waits for it.
///
/// A member of a steered group that no process is seen to hold may be closing, or on its way from one process to
/// another: then the groups are listed once more after a moment.
pub(super) fn joined<T>(
    observer: &Observer,
    place: &Place,
    join: impl FnOnce(Vec<Group>, Option<&Root>, &Result<HostLayer, Uncounted>) -> Result<T>,
) -> Result<T> {
    const MOMENT: Duration = Duration::from_millis(15);

    let root = readable_root(place)?;
    let lock = || root.as_ref().map(Root::lock_shared).transpose();
    let unheld = |member: &Member| member.unborrowable() == Some(Unborrowable::NoHolder);
    let mut locked = lock()?;
    let mut groups = observer.groups()?;
    if groups.iter().any(|group| group.program.is_some() && group.members.iter().any(unheld)) {
        drop(locked);
        std::thread::sleep(MOMENT);
        locked = lock()?;
        groups = observer.groups()?;
    }
    let joined = join(groups, root.as_ref(), &layer(root.as_ref()));
    drop(locked);
    joined
}

/// The same with what is worth knowing. That takes what processes were started with, which the kernel may make the
/// reader wait for.
pub(super) fn diagnosed(status: GroupStatus) -> GroupStatus {
    GroupStatus { findings: findings_of(&status, server_of), ..status }
}

/// The group, in which a member that nothing waited for is one that nothing waits for now either: a worker that
/// has just taken a connection waits again soon.
fn look_again(observer: &Observer, status: &mut GroupStatus) -> Result<()> {
    let is_unwaited = |member: &Member| member.waiters == Some(0);
    if !status.group.members.iter().any(is_unwaited) {
        return Ok(());
    }
    let waiters = observer.waiters(&status.group.key)?;
    let members = status.members.iter_mut().map(|member| &mut member.member);
    for member in status.group.members.iter_mut().chain(members) {
        if is_unwaited(member) {
            member.waiters = waiters.get(&member.sock_address).copied();
        }
    }
    Ok(())
}

/// The kernel's view of a group.
pub(crate) fn group(observer: &Observer, place: &Place, key: &GroupKey) -> Result<Group> {
    named_at(place, key, &observer.groups()?).cloned()
}

/// The group that the key means, among these.
pub(crate) fn named_at<'a>(
    place: &Place,
    key: &GroupKey,
    groups: &'a [Group],
) -> Result<&'a Group> {
    named(key, groups, |group| claim_at(place, group))
}

/// The group's claim to the state that is pinned under its name at this place.
pub(crate) fn claim_at(place: &Place, group: &Group) -> Claim {
    let root = Root::existing(place).ok().flatten();
    claim(group, root.as_ref())
}

/// The state directory, if it exists and the caller may read it. A caller who may list sockets sees
/// every group; policies and slots are for those who may read the directory too.
fn readable_root(place: &Place) -> Result<Option<Root>> {
    match Root::existing(place) {
        Err(error) if is_unreadable(&error) => {
            error.report().warn_that("policies, slots and picks are not shown");
            Ok(None)
        }
        result => result,
    }
}

/// Whether the caller may not read the state, or cannot reach it.
fn is_unreadable(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Denied | ErrorKind::Unsupported)
}

/// Fails where the caller may not read what is pinned for the group, if anything is.
pub(crate) fn refuse_unreadable(place: &Place, key: &GroupKey) -> Result<()> {
    let read = || match Root::existing(place)? {
        Some(root) => GroupState::existing(&root, key, None).map(drop),
        None => Ok(()),
    };
    match read() {
        Err(error) if is_unreadable(&error) => Err(error),
        // The operation says the rest.
        _ => Ok(()),
    }
}

/// The host-wide layer, or why it does not count.
fn layer(root: Option<&Root>) -> Result<HostLayer, Uncounted> {
    let layer = root.map_or(Ok(None), HostLayer::existing).map_err(|error| {
        error.report().warn();
        Uncounted::Unreadable
    })?;
    let layer = layer.filter(HostLayer::counts).ok_or(Uncounted::NotAttached)?;
    if layer.is_trusted() {
        layer.recount();
    }
    Ok(layer)
}

/// The status of a group. Without a `root`, only the kernel's view.
fn join(
    group: Group,
    root: Option<&Root>,
    layer: &Result<HostLayer, Uncounted>,
) -> Result<GroupStatus> {
    let (steering, state) = steering(&group, root)?;
    let by_cpu = steering.policy().is_some_and(Policy::places_on_cpus);
    let protocol = group.key.protocol;
    let counts = |program: Program| program.counts_open(protocol);
    let layer = match &state {
        Some(state) if steering.program().is_some_and(counts) => Some(match layer {
            Ok(layer) if !state.is_in_layer(layer.id()) => Err(Uncounted::LayerReplaced),
            layer => layer.as_ref().map_err(|why| *why),
        }),
        _ => None,
    };
    let uncounted = layer.and_then(Result::err);
    let layer = layer.and_then(Result::ok);
    let mut enrolled = HashMap::new();
    if let Some(state) = &state {
        for (slot, cookie, record) in state.occupied() {
            // A listener that stopped and listens again keeps its record. The kernel has emptied its
            // slot: it gets nothing.
            let occupant = state.sockets.occupant(slot).map_err(unreadable)?;
            if matches!(occupant, Occupant::Unknown) || occupant == Occupant::Socket(cookie) {
                let mut enrolment = enrolment(state, layer, slot, &record)?;
                enrolment.cpu = record.cpu.filter(|_| by_cpu);
                enrolment.cpu_guessed = by_cpu && record.guessed;
                enrolled.insert(cookie, enrolment);
            }
        }
    }
    let mut members: Vec<MemberStatus> = group
        .members
        .iter()
        .map(|member| MemberStatus {
            member: member.clone(),
            owner: None,
            owner_thread: None,
            threads_waiting: 0,
            owner_cpu: None,
            enrolment: member.cookie.and_then(|cookie| enrolled.get(&cookie).cloned()),
        })
        .collect();
    members.sort_by_key(|status| {
        let slot = status.enrolment.as_ref().map(|enrolment| enrolment.slot);
        let cookie = status.member.cookie;
        (slot.is_none(), slot, cookie.is_none(), cookie)
    });
    let counters = match state.as_ref().and_then(|state| state.policy_maps.as_ref()) {
        Some(maps) => maps.counters().map_err(unreadable)?,
        None => Vec::new(),
    };
    let reads_queues = match (&state, steering.selection()) {
        (Some(state), Some(_)) => state.instance.setup.reads_queues(),
        _ => false,
    };
    let roster = state.as_ref().map(|state| &state.instance.roster);
    let serving_generation = roster.and_then(serving);
    let hold_new = roster.map(Roster::hold_new).unwrap_or_default();
    let cpus_without_member =
        if by_cpu { without_member(&cpus::online(), &members) } else { vec![] };
    Ok(GroupStatus {
        group,
        steering,
        members,
        reads_queues,
        uncounted,
        serving_generation,
        trial: roster.and_then(trial),
        hold_new,
        watcher: None,
        cpus_without_member,
        counters,
        findings: Vec::new(),
    })
}

/// The generation on trial.
fn trial(roster: &Roster) -> Option<Trial> {
    let tried = |record: &Record| record.standing == Standing::Trial;
    let member = roster.occupied().map(|(.., record)| record).find(tried);
    let generation = member.map(|record| record.generation);
    roster.trial().map(|share| Trial { generation, share })
}

fn enrolment(
    state: &GroupState,
    layer: Option<&HostLayer>,
    slot: Slot,
    record: &Record,
) -> Result<Enrolment> {
    let picks = state.policy_maps.as_ref().map(|maps| maps.picks_of(slot));
    let picks = picks.transpose().map_err(unreadable)?;
    Ok(Enrolment {
        slot,
        state: record.state(),
        is_held: record.standing == Standing::Held,
        weight: record.weight(),
        generation: record.generation,
        cpu: None,
        cpu_guessed: false,
        picks,
        recent_picks: picks.map(|picks| picks.saturating_sub(record.picks_before)),
        open: record.host_member.and_then(|index| layer?.open_connections(index)),
    })
}

fn unreadable(error: MapError) -> Error {
    Error::new(ErrorKind::System, "cannot read a group's counters").because(error)
}
