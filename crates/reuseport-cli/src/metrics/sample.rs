//! What one look at the host found, as the catalogue reads it.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use reuseport::group::{Holder, Protocol};
use reuseport::id::Netns;
use reuseport::netns_names;
use reuseport::status::{Enrolment, GroupStatus, MemberStatus};

use super::namespaces::{self, Counters};
use crate::output::safe;

/// What one look at the host found.
#[derive(Debug, Default)]
pub(crate) struct Scrape {
    pub(crate) groups: Vec<GroupSample>,
    pub(super) namespaces: Vec<NamespaceSample>,
    /// How long it took; `None`: it failed.
    pub(super) took: Option<Duration>,
}

/// A group, by a name that is its own.
#[derive(Debug)]
pub(crate) struct GroupSample {
    pub(super) name: String,
    /// Its network namespace: the name in `ip netns`, or the inode number.
    pub(super) netns: String,
    pub(crate) status: GroupStatus,
}

/// A network namespace that has groups.
#[derive(Debug)]
pub(super) struct NamespaceSample {
    pub(super) name: String,
    pub(super) counters: Counters,
}

/// A member, and the group that it is in.
#[derive(Clone, Copy)]
pub(super) struct MemberSample<'a> {
    pub(super) group: &'a GroupSample,
    pub(super) status: &'a MemberStatus,
}

/// What tells a member from the others of its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Stays when a worker is replaced by another one.
    Slot(u32),
    /// Of a member without a slot: another one for each socket.
    Cookie(u64),
}

impl Scrape {
    /// What was found since `start`, for a process in the network namespace `own`.
    pub(super) fn new(statuses: Vec<GroupStatus>, own: Netns, start: Instant) -> Self {
        let names = netns_names();
        let mut inodes: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        let mut known = HashSet::new();
        let mut groups = Vec::with_capacity(statuses.len());
        for status in statuses {
            let key = &status.group.key;
            let inode = key.netns.inode;
            // In every scrape the same: not only where the name is ambiguous.
            let name = if key.netns == own { key.to_string() } else { key.with_netns() };
            if !known.insert(name.clone()) {
                // Neither has a member with a cookie that would tell it apart. One series twice spoils a scrape.
                tracing::debug!("{name}: another group has this name; left out");
                continue;
            }
            inodes.entry(inode).or_default().extend(some_pids(&status));
            let netns = names.get(&inode).map_or_else(|| inode.to_string(), |name| safe(name));
            groups.push(GroupSample { name, netns, status });
        }
        let namespace = |(inode, pids): (u32, Vec<u32>)| {
            let of_it = groups.iter().find(|group| group.status.group.key.netns.inode == inode)?;
            let counters = namespaces::counters(inode, inode == own.inode, &pids)?;
            Some(NamespaceSample { name: of_it.netns.clone(), counters })
        };
        let namespaces = inodes.into_iter().filter_map(namespace).collect();
        Self { groups, namespaces, took: Some(start.elapsed()) }
    }

    /// Each member that has a place of its own, in all groups.
    pub(super) fn members(&self) -> impl Iterator<Item = (MemberSample<'_>, Place)> {
        self.groups.iter().flat_map(|group| {
            group.status.members.iter().filter_map(move |status| {
                let member = MemberSample { group, status };
                Some((member, member.place()?))
            })
        })
    }
}

/// Processes of which one is likely to be in the network namespace of its sockets.
fn some_pids(status: &GroupStatus) -> impl Iterator<Item = u32> {
    let holders = status.group.members.iter().filter_map(|member| member.holders.first());
    holders.map(|holder| holder.pid).take(4)
}

impl<'a> MemberSample<'a> {
    fn place(self) -> Option<Place> {
        match (&self.status.enrolment, self.status.member.cookie) {
            (Some(enrolment), _) => Some(Place::Slot(enrolment.slot.index())),
            (None, Some(cookie)) => Some(Place::Cookie(cookie.get())),
            (None, None) => None,
        }
    }

    pub(super) fn enrolment(self) -> Option<&'a Enrolment> {
        self.status.enrolment.as_ref()
    }

    pub(super) fn is(self, protocol: Protocol) -> bool {
        self.group.status.group.key.protocol == protocol
    }

    /// The process that serves it, as far as that is known: its owner, or the only one that holds it.
    pub(super) fn process(self) -> (Option<u32>, Option<&'a str>) {
        let holders = &self.status.member.holders;
        let first = holders.first();
        let only = first.filter(|first| holders.iter().all(|holder| holder.pid == first.pid));
        let pid = self.status.owner.or(only.map(|holder| holder.pid));
        let named = |holder: &&Holder| pid.is_none_or(|pid| holder.pid == pid);
        (pid, holders.iter().find(named).map(|holder| holder.comm.as_str()))
    }
}
