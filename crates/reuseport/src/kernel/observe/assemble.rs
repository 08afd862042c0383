//! Turns records into groups and owners: joins and sorts, no I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;

use crate::model::group::{
    Device, Group, GroupKey, KernelAddress, Member, NotAsked, Protocol, Reach,
};
use crate::model::id::{Cookie, Netns};
use crate::model::split::tell_apart;
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

    /// The groups, sorted by protocol, port, address and namespace, members by cookie. `device_name`
    /// resolves an interface index in a namespace.
    pub(super) fn groups(&self, device_name: impl Fn(Netns, u32) -> Option<String>) -> Vec<Group> {
        let mut holders: HashMap<u64, Vec<&HolderRecord>> = HashMap::new();
        for record in self.holders() {
            holders.entry(record.sock_address).or_default().push(record);
        }
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
            let sockets = groups.entry(identity(record)).or_default();
            sockets.place = sockets.place.or(place);
            // A descriptor's record is written after its cookie was assigned.
            sockets.records.entry(record.sock_address).or_insert(record);
        }
        let group = |sockets: Sockets<'_>| {
            let first = sockets.records.values().min_by_key(|record| order(record.cookie))?;
            let device =
                first.device.map(|index| Device { index, name: device_name(first.netns, index) });
            let key = GroupKey {
                netns: first.netns,
                protocol: first.protocol,
                address: first.address,
                v6only: first.v6only,
                device,
                uid: first.uid,
                of: None,
            };
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
    record.standing != Standing::Outside
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
        mptcp: record.standing == Standing::Mptcp,
        queue: record.queue,
        not_asked: not_asked(record),
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
/// one.
pub(super) fn owners(records: &[Record], of: &[Member]) -> HashMap<Cookie, u32> {
    let cookies: HashMap<u64, Cookie> =
        of.iter().filter_map(|m| Some((m.sock_address.0, m.cookie?))).collect();
    let mut processes: HashMap<u64, BTreeSet<Option<u32>>> = HashMap::new();
    let mut watches: HashMap<Cookie, BTreeSet<Option<u64>>> = HashMap::new();
    for record in records {
        match *record {
            Record::Epoll { epoll, pid } => {
                processes.entry(epoll).or_default().insert(pid);
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
    let watchers = |epolls: BTreeSet<Option<u64>>| -> BTreeSet<Option<u32>> {
        let of_one = |epoll: Option<u64>| epoll.and_then(|e| processes.get(&e)).unwrap_or(&unknown);
        epolls.into_iter().flat_map(of_one).copied().collect()
    };
    let only =
        |pids: BTreeSet<Option<u32>>| if pids.len() == 1 { pids.first().copied()? } else { None };
    watches
        .into_iter()
        .filter_map(|(cookie, epolls)| Some((cookie, only(watchers(epolls))?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::group::{Holder, Queue, Unborrowable};

    fn cookie(n: u64) -> Cookie {
        Cookie::new(n).unwrap()
    }

    fn record(id: u32, n: u64, address: &str) -> MemberRecord {
        MemberRecord {
            cookie: Cookie::new(n),
            sock_address: n << 8,
            netns: Netns { cookie: 1, inode: 2 },
            reuseport_id: id,
            uid: 0,
            device: None,
            protocol: Protocol::Tcp,
            address: address.parse().unwrap(),
            v6only: false,
            queue: Queue::default(),
            program: None,
            standing: Standing::Member,
            not_asked: Vec::new(),
        }
    }

    fn holder(n: u64, pid: u32, fd: u32, thread: Option<u32>) -> Record {
        let holder = Some(Holder { pid, fd, comm: "a".into(), thread });
        Record::Holder(HolderRecord { sock_address: n << 8, cookie: Cookie::new(n), holder })
    }

    fn listing(tables: &[MemberRecord], descriptors: &[Record]) -> Listing {
        let tables = Some(tables.iter().cloned().map(Record::Member).collect());
        Listing { tables, descriptors: descriptors.to_vec() }
    }

    fn name(listing: &Listing) -> Vec<Group> {
        listing.groups(|_, index| Some(format!("if{index}")))
    }

    fn assemble(records: &[MemberRecord]) -> Vec<Group> {
        name(&listing(records, &[]))
    }

    #[test]
    fn descriptors_of_one_socket_are_one_member_with_each_holder_once() {
        let holders = [holder(5, 30, 4, None), holder(5, 20, 4, None), holder(5, 30, 4, None)];
        let groups = name(&listing(&[record(1, 5, "127.0.0.1:80")], &holders));
        assert_eq!(groups.len(), 1);
        let [member] = &groups[0].members[..] else { panic!("{groups:?}") };
        let holders: Vec<_> = member.holders.iter().map(|h| (h.pid, h.fd)).collect();
        assert_eq!(holders, [(20, 4), (30, 4)]);
        assert_eq!(member.sock_address, KernelAddress(5 << 8));
        assert_eq!(member.unborrowable(), None);
    }

    #[test]
    fn threads_that_share_a_table_are_one_holder() {
        let threads = [holder(5, 30, 4, Some(33)), holder(5, 30, 4, Some(31))];
        let groups = name(&listing(&[record(1, 5, "127.0.0.1:80")], &threads));
        let [holder] = &groups[0].members[0].holders[..] else { panic!("{groups:?}") };
        assert_eq!((holder.pid, holder.thread), (30, Some(31)));
    }

    #[test]
    fn a_socket_that_no_descriptor_leads_to_is_a_member_all_the_same() {
        let never_asked = MemberRecord { cookie: None, ..record(1, 9, "127.0.0.1:80") };
        let mptcp = MemberRecord { standing: Standing::Mptcp, ..record(1, 6, "127.0.0.1:80") };
        let seen = record(1, 5, "127.0.0.1:80");
        let found =
            listing(&[never_asked, mptcp, seen], &[holder(5, 1, 1, None), holder(6, 1, 2, None)]);
        assert!(found.has_hidden());
        let [group] = &name(&found)[..] else { panic!("no group") };
        let members: Vec<_> =
            group.members.iter().map(|m| (m.cookie.map(Cookie::get), m.unborrowable())).collect();
        let expected = [
            (Some(5), None),
            (Some(6), Some(Unborrowable::Mptcp)),
            (None, Some(Unborrowable::NoHolder)),
        ];
        assert_eq!(members, expected);
        assert!(group.complete);
    }

    #[test]
    fn a_socket_that_closed_between_the_walks_is_not_hidden() {
        let mut found = listing(
            &[record(1, 5, "127.0.0.1:80"), record(1, 6, "127.0.0.1:80")],
            &[holder(5, 1, 1, None)],
        );
        assert!(found.has_hidden());
        found.confirm_hidden(&[]);
        assert!(!found.has_hidden());
        assert_eq!(name(&found)[0].members.len(), 1);
    }

    #[test]
    fn a_holder_of_another_socket_at_the_same_address_is_none() {
        let earlier = Record::Holder(HolderRecord {
            sock_address: 5 << 8,
            cookie: Cookie::new(4),
            holder: Some(Holder { pid: 1, fd: 1, comm: "a".into(), thread: None }),
        });
        let groups = name(&listing(&[record(1, 5, "127.0.0.1:80")], &[earlier]));
        assert_eq!(groups[0].members[0].holders, []);
    }

    #[test]
    fn a_udp_socket_outside_is_named_with_the_group_on_its_address() {
        let udp = |record| MemberRecord { protocol: Protocol::Udp, ..record };
        let outside =
            |n, address| MemberRecord { standing: Standing::Outside, ..udp(record(0, n, address)) };
        let groups = assemble(&[
            udp(record(1, 5, "127.0.0.1:53")),
            outside(6, "127.0.0.1:53"),
            outside(7, "127.0.0.2:53"),
        ]);
        assert_eq!(groups.len(), 1);
        let outside: Vec<_> = groups[0].outside.iter().map(|m| m.cookie).collect();
        assert_eq!((groups[0].members.len(), outside), (1, vec![Cookie::new(6)]));
    }

    #[test]
    fn what_reaches_members_unasked_is_collected_and_a_multicast_address_says_it_too() {
        let udp = |n, address, not_asked| MemberRecord {
            protocol: Protocol::Udp,
            not_asked,
            ..record(1, n, address)
        };
        let (multicast, transparent) = (NotAsked::Multicast, NotAsked::Transparent);
        let of = |records: &[MemberRecord]| assemble(records)[0].not_asked();
        assert_eq!(of(&[udp(5, "127.0.0.1:53", vec![])]), []);
        let both = [
            udp(5, "127.0.0.1:53", vec![transparent]),
            udp(6, "127.0.0.1:53", vec![multicast, transparent]),
        ];
        assert_eq!(of(&both), [multicast, transparent]);
        assert_eq!(of(&[udp(5, "224.0.0.251:5353", vec![])]), [multicast]);
        assert_eq!(of(&[udp(5, "[ff02::fb]:5353", vec![multicast])]), [multicast]);
    }

    #[test]
    fn without_the_tables_the_descriptors_say_who_is_a_member() {
        let descriptors = [Record::Member(record(1, 5, "127.0.0.1:80")), holder(5, 1, 1, None)];
        let groups = name(&Listing { tables: None, descriptors: descriptors.to_vec() });
        assert_eq!(groups[0].members[0].holders.len(), 1);
        assert!(!groups[0].complete);
    }

    #[test]
    fn groups_are_sorted_by_port_then_address_and_members_by_cookie() {
        let groups = assemble(&[
            record(3, 9, "127.0.0.2:80"),
            record(2, 8, "127.0.0.1:90"),
            record(1, 7, "127.0.0.1:80"),
            record(1, 6, "127.0.0.1:80"),
        ]);
        let seen: Vec<_> = groups
            .iter()
            .map(|g| {
                let cookies: Vec<_> = g.members.iter().map(|m| m.cookie.unwrap().get()).collect();
                (g.key.to_string(), cookies)
            })
            .collect();
        assert_eq!(
            seen,
            [
                ("tcp:127.0.0.1:80".to_string(), vec![6, 7]),
                ("tcp:127.0.0.2:80".to_string(), vec![9]),
                ("tcp:127.0.0.1:90".to_string(), vec![8]),
            ]
        );
    }

    #[test]
    fn another_device_or_namespace_is_another_group() {
        let plain = record(1, 1, "0.0.0.0:80");
        let bound = MemberRecord { device: Some(3), reuseport_id: 2, ..record(2, 2, "0.0.0.0:80") };
        let netns = Netns { cookie: 7, inode: 8 };
        let elsewhere = MemberRecord { netns, ..record(3, 3, "0.0.0.0:80") };
        let groups = assemble(&[plain, bound, elsewhere]);
        assert_eq!(groups.len(), 3);
        let device = groups.iter().find_map(|g| g.key.device.clone()).unwrap();
        assert_eq!(device, Device { index: 3, name: Some("if3".into()) });
    }

    #[test]
    fn the_owner_is_the_only_process_whose_epoll_watches() {
        let watch = |n: u64, epoll| Record::Watch { sock_address: n << 8, epoll };
        let epoll = |epoll, pid| Record::Epoll { epoll, pid };
        let records = [
            // One process, two instances (threads); seen through two holders.
            watch(1, Some(0xa)),
            watch(1, Some(0xb)),
            watch(1, Some(0xa)),
            // Two processes.
            watch(2, Some(0xa)),
            watch(2, Some(0xc)),
            // One instance that a fork shares.
            watch(3, Some(0xd)),
            // An instance without a visible process, or only with an invisible one.
            watch(4, Some(0xa)),
            watch(4, Some(0xe)),
            watch(5, Some(0xf)),
            // More than the kernel program listed.
            watch(6, Some(0xa)),
            watch(6, None),
            // Not asked for.
            watch(7, Some(0xa)),
            epoll(0xa, Some(10)),
            epoll(0xb, Some(10)),
            epoll(0xc, Some(11)),
            epoll(0xd, Some(10)),
            epoll(0xd, Some(11)),
            epoll(0xf, None),
        ];
        let asked: Vec<_> = (1..7).map(|n| member(&record(1, n, "127.0.0.1:80"), &[])).collect();
        assert_eq!(owners(&records, &asked), HashMap::from([(cookie(1), 10)]));
    }
}
