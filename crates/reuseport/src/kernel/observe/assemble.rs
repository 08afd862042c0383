//! Turns records into groups and owners: joins and sorts, no I/O.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;

use crate::model::group::{Group, GroupKey, KernelAddress, Member, NotAsked, Protocol, Reach};
use crate::model::id::{Cookie, Netns};
use crate::model::owner::{Owner, Thread};
use crate::model::split::tell_apart;
use crate::model::ungrouped::{Ungrouped, WhyUngrouped};
use crate::wire::records::{HolderRecord, MemberRecord, Record, Standing};

/// The fields that identify a group among the records, in the order in which groups are listed.
///
/// The kernel's id of a group comes last. It alone is not enough: the kernel reuses it once a group is gone,
/// perhaps during the walk. Device and user are left out: the kernel compares them only when a socket joins,
/// and both can change afterwards.
type Identity = (Protocol, u16, SocketAddr, Netns, u32);

fn identity(record: &MemberRecord) -> Identity {
    (record.protocol, record.address.port(), record.address, record.netns, record.reuseport_id)
}

/// The records of one listing, by the tables that they come from.
pub(super) struct Listing {
    /// From the kernel's tables; `None` if they cannot be read.
    pub(super) tables: Option<Vec<Record>>,
    /// From the descriptors.
    pub(super) descriptors: Vec<Record>,
}

impl Listing {
    /// Whether a socket of the tables has no holder. It may have closed, or come, between the two walks.
    pub(super) fn has_hidden(&self) -> bool {
        let held: HashSet<u64> = self.holders().map(|record| record.sock_address).collect();
        let tables = self.tables.as_ref().into_iter().flatten();
        members(tables).any(|record| !held.contains(&record.sock_address))
    }

    /// Keeps, of the sockets without a holder, those that are still in the tables.
    pub(super) fn confirm_hidden(&mut self, again: &[Record]) {
        let held: HashSet<u64> = self.holders().map(|record| record.sock_address).collect();
        let still: HashSet<(u64, Option<Cookie>)> =
            members(again).map(|record| (record.sock_address, record.cookie)).collect();
        self.tables.iter_mut().for_each(|tables| {
            tables.retain(|record| match record {
                Record::Member(record) => {
                    held.contains(&record.sock_address)
                        || still.contains(&(record.sock_address, record.cookie))
                }
                _ => true,
            });
        });
    }

    fn holders(&self) -> impl Iterator<Item = &HolderRecord> {
        self.descriptors.iter().filter_map(|record| match record {
            Record::Holder(record) => Some(record),
            _ => None,
        })
    }

    /// The groups, sorted by protocol, port, address and namespace, members by cookie.
    pub(super) fn groups(&self) -> Vec<Group> {
        let holders = self.holders_by_socket();
        let mut groups: BTreeMap<Identity, Sockets<'_>> = BTreeMap::new();
        let mut outside: HashMap<(Netns, SocketAddr), BTreeMap<u64, &MemberRecord>> =
            HashMap::new();
        let walked = members(&self.descriptors).map(|record| (record, None));
        // The kernel's lookup goes through its tables in the same order.
        let listed = members(self.tables.iter().flatten()).enumerate();
        let listed = listed.map(|(place, record)| (record, Some(place)));
        for (record, place) in listed.chain(walked) {
            if record.standing == Standing::Outside {
                let there = outside.entry((record.netns, record.address)).or_default();
                there.insert(record.sock_address, record);
                continue;
            }
            if record.standing == Standing::Plain {
                continue;
            }
            let sockets = groups.entry(identity(record)).or_default();
            sockets.place = sockets.place.or(place);
            // A descriptor's record is written after its cookie was assigned.
            sockets.records.entry(record.sock_address).or_insert(record);
        }
        let group = |sockets: Sockets<'_>| {
            let first = sockets.records.values().min_by_key(|record| order(record.cookie))?;
            let key = key(first);
            let aside = (key.protocol == Protocol::Udp)
                .then(|| outside.get(&(key.netns, key.address)))
                .flatten();
            let group = Group {
                program: first.program.clone(),
                members: sorted(sockets.records.values().copied(), &holders),
                outside: sorted(aside.into_iter().flat_map(BTreeMap::values).copied(), &holders),
                complete: sockets.place.is_some(),
                reach: Reach::Alone,
                key,
            };
            Some((group, sockets.place))
        };
        tell_apart(groups.into_values().filter_map(group).collect())
    }

    fn holders_by_socket(&self) -> HashMap<u64, Vec<&HolderRecord>> {
        let mut holders: HashMap<u64, Vec<&HolderRecord>> = HashMap::new();
        for record in self.holders() {
            holders.entry(record.sock_address).or_default().push(record);
        }
        holders
    }

    /// The sockets on a port that are in no group.
    pub(super) fn ungrouped(&self, port: u16) -> Vec<Ungrouped> {
        let holders = self.holders_by_socket();
        let is_one = |record: &&MemberRecord| {
            matches!(record.standing, Standing::Outside | Standing::Plain)
                && record.address.port() == port
        };
        let one = |record: &MemberRecord| {
            let held = holders.get(&record.sock_address).map_or(&[][..], Vec::as_slice);
            Ungrouped {
                key: key(record),
                why: match (record.made.reuseport, record.made.reuseaddr) {
                    (true, _) => WhyUngrouped::TooLate,
                    (false, true) => WhyUngrouped::ReuseaddrAlone,
                    (false, false) => WhyUngrouped::NoReuseport,
                },
                socket: member(record, held),
            }
        };
        members(self.tables.iter().flatten()).filter(is_one).map(one).collect()
    }
}

fn key(record: &MemberRecord) -> GroupKey {
    let mut key = GroupKey::new(record.netns, record.protocol, record.address);
    (key.v6only, key.uid) = (record.v6only, record.uid);
    key.device.clone_from(&record.device);
    key
}

/// The sockets of one group, by address in the kernel.
#[derive(Default)]
struct Sockets<'a> {
    records: BTreeMap<u64, &'a MemberRecord>,
    /// Where the first of them is in the kernel's tables.
    place: Option<usize>,
}

/// The sockets among these records.
pub(super) fn members<'a>(
    records: impl IntoIterator<Item = &'a Record>,
) -> impl Iterator<Item = &'a MemberRecord> {
    records.into_iter().filter_map(|record| match record {
        Record::Member(record) => Some(record),
        _ => None,
    })
}

/// Whether a socket may be a member of this group: it is one of a group at the same address. As in
/// [`Identity`], device and user do not tell.
pub(super) fn may_be_member(record: &MemberRecord, group: &GroupKey) -> bool {
    matches!(record.standing, Standing::Member | Standing::Mptcp)
        && (record.netns, record.protocol, record.address)
            == (group.netns, group.protocol, group.address)
}

/// Sockets without a cookie come last.
fn order(cookie: Option<Cookie>) -> (bool, Option<Cookie>) {
    (cookie.is_none(), cookie)
}

fn sorted<'a>(
    records: impl Iterator<Item = &'a MemberRecord>,
    holders: &HashMap<u64, Vec<&HolderRecord>>,
) -> Vec<Member> {
    let of =
        |record: &MemberRecord| holders.get(&record.sock_address).map_or(&[][..], Vec::as_slice);
    let mut members: Vec<Member> = records.map(|record| member(record, of(record))).collect();
    members.sort_by_key(|member| order(member.cookie));
    members
}

/// One member with all its descriptors. Holders with another cookie are of an earlier or later socket at the
/// same address.
fn member(record: &MemberRecord, descriptors: &[&HolderRecord]) -> Member {
    let same = |holder: &&&HolderRecord| match (record.cookie, holder.cookie) {
        (Some(ours), Some(theirs)) => ours == theirs,
        _ => true,
    };
    let of_it = || descriptors.iter().filter(same);
    let mut holders: Vec<_> = of_it().filter_map(|r| r.holder.clone()).collect();
    // All threads of a process whose main thread has ended may share one table: one of them is enough.
    holders.sort();
    holders.dedup_by(|a, b| (a.pid, a.fd) == (b.pid, b.fd));
    Member {
        cookie: record.cookie.or_else(|| of_it().find_map(|r| r.cookie)),
        holders,
        mptcp: record.made.mptcp || record.standing == Standing::Mptcp,
        queue: record.queue,
        not_asked: not_asked(record),
        drops: record.drops,
        waiters: record.waiters,
        defers_accept: record.made.deferring,
        transparent: record.made.transparent,
        sock_address: KernelAddress(record.sock_address),
        protocol: record.protocol,
    }
}

/// A socket that is bound to a multicast address gets nothing else, whether it has joined or not.
fn not_asked(record: &MemberRecord) -> Vec<NotAsked> {
    let mut all = record.not_asked.clone();
    if record.protocol == Protocol::Udp && record.address.ip().is_multicast() {
        all.push(NotAsked::Multicast);
        all.sort_unstable();
        all.dedup();
    }
    all
}

/// The owner of each of these members: the process whose epoll instance watches it, if there is exactly
/// one, and the threads that wait for it.
pub(super) fn owners<'a>(
    records: &[Record],
    of: impl IntoIterator<Item = &'a Member>,
) -> HashMap<Cookie, Owner> {
    let cookies: HashMap<u64, Cookie> =
        of.into_iter().filter_map(|m| Some((m.sock_address.0, m.cookie?))).collect();
    let mut processes: HashMap<u64, BTreeSet<Option<u32>>> = HashMap::new();
    let mut waiting: HashMap<u64, BTreeSet<Option<Thread>>> = HashMap::new();
    let mut watches: HashMap<Cookie, BTreeSet<Option<u64>>> = HashMap::new();
    for record in records {
        match *record {
            Record::Epoll { epoll, pid } => {
                processes.entry(epoll).or_default().insert(pid);
            }
            Record::Waiter { object, thread } => {
                waiting.entry(object).or_default().insert(thread);
            }
            Record::Watch { sock_address, epoll } => {
                if let Some(cookie) = cookies.get(&sock_address) {
                    watches.entry(*cookie).or_default().insert(epoll);
                }
            }
            _ => {}
        }
    }
    // An instance without a visible process counts as one unknown process.
    let unknown = BTreeSet::from([None]);
    let watchers = |epolls: &BTreeSet<Option<u64>>| -> BTreeSet<Option<u32>> {
        let of_one =
            |epoll: &Option<u64>| epoll.and_then(|e| processes.get(&e)).unwrap_or(&unknown);
        epolls.iter().flat_map(of_one).copied().collect()
    };
    let only =
        |pids: BTreeSet<Option<u32>>| if pids.len() == 1 { pids.first().copied()? } else { None };
    let owner = |(address, cookie): (u64, Cookie)| {
        let epolls = watches.remove(&cookie).unwrap_or_default();
        let objects = epolls.iter().flatten().chain([&address]);
        let threads: BTreeSet<Option<Thread>> =
            objects.filter_map(|object| waiting.get(object)).flatten().copied().collect();
        let unseen = threads.contains(&None) || epolls.contains(&None);
        let waiting = threads.into_iter().flatten().collect();
        (cookie, Owner { pid: only(watchers(&epolls)), waiting, unseen })
    };
    cookies.into_iter().map(owner).filter(|(_, owner)| *owner != Owner::default()).collect()
}
