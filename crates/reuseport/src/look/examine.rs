//! All that is worth knowing about groups: their sockets, their program and state, who follows them, and what the
//! kernel's settings mean for them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::view::{diagnosed, join_or_warn, joined};
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::namespace::{self, Namespace};
use crate::kernel::observe::Observer;
use crate::model::circumstances::{Facts, circumstances};
use crate::model::finding::{Finding, NAMES};
use crate::model::group::{Group, GroupKey, KernelAddress, Member, Protocol, Unborrowable};
use crate::model::id::Netns;
use crate::model::settings::NetSettings;
use crate::model::split::Claim;
use crate::model::status::GroupStatus;
use crate::pins::bpffs::Root;
use crate::pins::group::GroupState;
use crate::pins::place::Place;
use crate::pins::steering::claim;
use crate::pins::watcher::Locks;

/// A group with all that is worth knowing about it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Examined {
    /// Its status, with its watcher and without the members' owners. Its findings are those of its sockets alone.
    pub status: GroupStatus,
    /// All findings: problems first, in the order of [`NAMES`](crate::finding::NAMES).
    pub findings: Vec<Finding>,
    /// What could not be looked at.
    pub unseen: Vec<Unseen>,
    /// The settings of its network namespace, as far as they are known.
    pub settings: NetSettings,
}

/// Something that could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unseen {
    /// What: "who waits for cookie:5".
    pub what: String,
    /// Why, in a clause.
    pub why: String,
}

impl Unseen {
    pub(crate) fn new(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { what: what.into(), why: why.into() }
    }
}

/// Between two looks at what may be a matter of a moment.
const MOMENT: Duration = Duration::from_millis(15);

/// Examines these groups, or all.
pub(crate) fn examine(
    observer: &Observer,
    place: &Place,
    of: Option<&[GroupKey]>,
) -> Result<Vec<Examined>> {
    let unreadable = Root::existing(place).err().map(|error| error.report().to_string());
    let mut found = joined(observer, place, |groups, root, layer| {
        let is_meant = |group: &Group| of.is_none_or(|keys| keys.iter().any(|key| has(key, group)));
        let meant = groups.into_iter().filter(is_meant);
        let locks = Locks::default();
        let look = |group: Group| {
            let watcher = root.and_then(|root| locks.watcher_of(root, &group.key));
            let mut state = State::of(&group, root);
            state.facts.watched = Some(watcher.is_some());
            if let Some(why) = &unreadable {
                (state.facts.watched, state.facts.has_state) = (None, None);
                state.unseen.push(Unseen::new("its state and its watcher", why));
            }
            let status = join_or_warn(group, root, layer)?;
            Ok((GroupStatus { watcher, ..status }, state))
        };
        meant.map(look).collect::<Result<Vec<_>>>()
    })?;
    if let Some(keys) = of
        && let Some(gone) = keys.iter().find(|key| !found.iter().any(|(s, _)| has(key, &s.group)))
    {
        return Err(Error::new(ErrorKind::NotFound, format!("{gone} is gone")));
    }
    look_again(observer, found.iter_mut().map(|(status, _)| status))?;
    let namespaces = namespaces(found.iter().map(|(status, _)| &status.group));
    let examined = found.into_iter().map(|(status, state)| {
        let known = &namespaces[&status.group.key.netns];
        judge(status, state, known)
    });
    Ok(examined.collect())
}

/// Whether a key that was found before means this group.
fn has(key: &GroupKey, group: &Group) -> bool {
    group.key.has_name_of(key) && key.of.is_none_or(|cookie| group.member(cookie).is_some())
}

/// What is known of a network namespace, or why nothing is.
type Known = std::result::Result<Namespace, String>;

/// The namespaces of these groups, each read once.
fn namespaces<'a>(groups: impl Iterator<Item = &'a Group>) -> HashMap<Netns, Known> {
    let mut pids: HashMap<Netns, Vec<u32>> = HashMap::new();
    for group in groups {
        pids.entry(group.key.netns).or_default().extend(group.pids());
    }
    let of = |netns: Netns, mut pids: Vec<u32>| {
        pids.sort_unstable();
        pids.dedup();
        namespace::of_netns(netns.inode, &pids).map_err(|error| error.to_string())
    };
    pids.into_iter().map(|(netns, pids)| (netns, of(netns, pids))).collect()
}

/// The findings, sorted.
fn judge(status: GroupStatus, state: State, namespace: &Known) -> Examined {
    let State { mut facts, mut unseen } = state;
    match namespace {
        Ok(Namespace { settings, connected }) => {
            facts.settings = *settings;
            facts.connected = connected_to(&status.group.key, connected);
        }
        Err(why) => unseen.push(Unseen::new("the settings of its network namespace", why)),
    }
    unseen.extend(unseen_members(&status.group));
    let status = diagnosed(status);
    let mut findings = status.findings.clone();
    findings.extend(circumstances(&status, &facts));
    findings.sort_by_key(|finding| {
        let place = NAMES.iter().position(|name| *name == finding.name());
        (finding.severity(), place)
    });
    Examined { status, findings, unseen, settings: facts.settings }
}

/// How many of these connected UDP sockets may have come from the group. One on a wildcard address gets another address
/// when it connects.
fn connected_to(group: &GroupKey, connected: &[SocketAddr]) -> usize {
    let GroupKey { protocol, address, .. } = group;
    let is_near = |other: &&SocketAddr| {
        other.port() == address.port()
            && (other.ip() == address.ip() || address.ip().is_unspecified())
    };
    match protocol {
        Protocol::Udp => connected.iter().filter(is_near).count(),
        Protocol::Tcp => 0,
    }
}

fn unseen_members(group: &Group) -> Option<Unseen> {
    (!group.complete).then(|| {
        Unseen::new(
            "members that no visible process holds",
            "the kernel's table of these sockets cannot be read",
        )
    })
}

/// What is pinned for a group, and who follows it.
struct State {
    facts: Facts,
    unseen: Vec<Unseen>,
}

impl State {
    fn of(group: &Group, root: Option<&Root>) -> Self {
        let mut facts = Facts { watched: Some(false), has_state: Some(false), ..Facts::default() };
        let mut unseen = Vec::new();
        if let Some(root) = root {
            facts.has_state = match GroupState::of(root, group) {
                Ok(state) => {
                    // Of several groups of a name, it is the state of one.
                    let is_of_it =
                        || !group.reach.is_split() || claim(group, Some(root)) > Claim::None;
                    Some(state.is_some() && is_of_it())
                }
                Err(error) => {
                    unseen.push(Unseen::new("its state", error.report().to_string()));
                    None
                }
            };
        }
        Self { facts, unseen }
    }
}

/// A worker that has just taken a connection waits again soon, and a socket that no process has may be on its way
/// from one to another: what one look shows and the next one does not is no finding.
fn look_again<'a>(
    observer: &Observer,
    statuses: impl Iterator<Item = &'a mut GroupStatus>,
) -> Result<()> {
    let is_momentary = |member: &Member| {
        member.waiters == Some(0) || member.unborrowable() == Some(Unborrowable::NoHolder)
    };
    let mut statuses: Vec<&mut GroupStatus> =
        statuses.filter(|status| status.group.members.iter().any(is_momentary)).collect();
    if statuses.is_empty() {
        return Ok(());
    }
    std::thread::sleep(MOMENT);
    let again = observer.groups()?;
    let members: HashMap<KernelAddress, &Member> =
        again.iter().flat_map(|group| &group.members).map(|m| (m.sock_address, m)).collect();
    for status in &mut statuses {
        let joined = status.members.iter_mut().map(|member| &mut member.member);
        for member in status.group.members.iter_mut().chain(joined) {
            let Some(now) = members.get(&member.sock_address) else { continue };
            if !is_momentary(member) || !member.is_still(now.cookie) {
                continue;
            }
            member.waiters = now.waiters;
            if member.holders.is_empty() {
                member.holders.clone_from(&now.holders);
            }
        }
    }
    Ok(())
}
