//! Turns records into groups and owners: joins and sorts, no I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;

use crate::model::group::{Device, Group, GroupKey, KernelAddress, Member, Protocol};
use crate::model::id::{Cookie, Netns};
use crate::wire::records::{MemberRecord, Record};

/// The fields that identify a group among the records, in the order in which groups are listed.
///
/// The kernel's id of a group comes last. It alone is not enough: the kernel reuses it once a group is gone,
/// perhaps during the walk. Device and user are left out: the kernel compares them only when a socket joins,
/// and both can change afterwards.
type Identity = (Protocol, u16, SocketAddr, Netns, u32);

fn identity(record: &MemberRecord) -> Identity {
    (record.protocol, record.address.port(), record.address, record.netns, record.reuseport_id)
}

/// The groups that `records` describe, sorted by protocol, port, address and namespace, members by
/// cookie. `device_name` resolves an interface index in a namespace.
pub(super) fn groups(
    records: Vec<Record>,
    device_name: impl Fn(Netns, u32) -> Option<String>,
) -> Vec<Group> {
    let mut groups: BTreeMap<Identity, Vec<MemberRecord>> = BTreeMap::new();
    for record in records {
        if let Record::Member(record) = record {
            groups.entry(identity(&record)).or_default().push(record);
        }
    }
    groups.into_values().filter_map(|records| group(records, &device_name)).collect()
}

/// One group; `None` without records.
fn group(
    mut records: Vec<MemberRecord>,
    device_name: impl Fn(Netns, u32) -> Option<String>,
) -> Option<Group> {
    records.sort_by_key(|r| r.cookie);
    let first = records.first()?;
    let key = GroupKey {
        netns: first.netns,
        protocol: first.protocol,
        address: first.address,
        v6only: first.v6only,
        device: first.device.map(|index| Device { index, name: device_name(first.netns, index) }),
        uid: first.uid,
    };
    let program = first.program.clone();
    let members = records.chunk_by(|a, b| a.cookie == b.cookie).map(member).collect();
    Some(Group { key, members, program })
}

/// One member from the records of all its descriptors, of which there is at least one.
fn member(records: &[MemberRecord]) -> Member {
    let mut holders: Vec<_> = records.iter().filter_map(|r| r.holder.clone()).collect();
    holders.sort();
    holders.dedup();
    let MemberRecord { cookie, queue, sock_address, protocol, .. } = records[0];
    Member { cookie, holders, queue, sock_address: KernelAddress(sock_address), protocol }
}

/// The owner of each of these members: the process whose epoll instance watches it, if there is exactly
/// one.
pub(super) fn owners(records: &[Record], of: &BTreeSet<Cookie>) -> HashMap<Cookie, u32> {
    let mut processes: HashMap<u64, BTreeSet<Option<u32>>> = HashMap::new();
    let mut watches: HashMap<Cookie, BTreeSet<Option<u64>>> = HashMap::new();
    for record in records {
        match *record {
            Record::Epoll { epoll, pid } => {
                processes.entry(epoll).or_default().insert(pid);
            }
            Record::Watch { cookie, epoll } if of.contains(&cookie) => {
                watches.entry(cookie).or_default().insert(epoll);
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
    use crate::model::group::{Holder, Queue};

    fn cookie(n: u64) -> Cookie {
        Cookie::new(n).unwrap()
    }

    fn record(id: u32, n: u64, address: &str, holder: (u32, u32)) -> MemberRecord {
        MemberRecord {
            cookie: cookie(n),
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
            holder: Some(Holder { pid: holder.0, fd: holder.1, comm: "a".into() }),
        }
    }

    fn assemble(records: &[MemberRecord]) -> Vec<Group> {
        let device_name = |_, index| Some(format!("if{index}"));
        groups(records.iter().cloned().map(Record::Member).collect(), device_name)
    }

    #[test]
    fn descriptors_of_one_socket_are_one_member_with_each_holder_once() {
        let a = record(1, 5, "127.0.0.1:80", (30, 4));
        let b = record(1, 5, "127.0.0.1:80", (20, 4));
        let groups = assemble(&[a.clone(), b, a]);
        assert_eq!(groups.len(), 1);
        let [member] = &groups[0].members[..] else { panic!("{groups:?}") };
        let holders: Vec<_> = member.holders.iter().map(|h| (h.pid, h.fd)).collect();
        assert_eq!(holders, [(20, 4), (30, 4)]);
        assert_eq!(member.sock_address, KernelAddress(5 << 8));
    }

    #[test]
    fn groups_are_sorted_by_port_then_address_and_members_by_cookie() {
        let groups = assemble(&[
            record(3, 9, "127.0.0.2:80", (1, 1)),
            record(2, 8, "127.0.0.1:90", (1, 2)),
            record(1, 7, "127.0.0.1:80", (1, 3)),
            record(1, 6, "127.0.0.1:80", (1, 4)),
        ]);
        let seen: Vec<_> = groups
            .iter()
            .map(|g| {
                let cookies: Vec<_> = g.members.iter().map(|m| m.cookie.get()).collect();
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
        let plain = record(1, 1, "0.0.0.0:80", (1, 1));
        let bound =
            MemberRecord { device: Some(3), reuseport_id: 2, ..record(2, 2, "0.0.0.0:80", (1, 2)) };
        let netns = Netns { cookie: 7, inode: 8 };
        let elsewhere = MemberRecord { netns, ..record(3, 3, "0.0.0.0:80", (1, 3)) };
        let groups = assemble(&[plain, bound, elsewhere]);
        assert_eq!(groups.len(), 3);
        let device = groups.iter().find_map(|g| g.key.device.clone()).unwrap();
        assert_eq!(device, Device { index: 3, name: Some("if3".into()) });
    }

    #[test]
    fn the_owner_is_the_only_process_whose_epoll_watches() {
        let watch = |n, epoll| Record::Watch { cookie: cookie(n), epoll };
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
        let asked: BTreeSet<_> = (1..7).map(cookie).collect();
        assert_eq!(owners(&records, &asked), HashMap::from([(cookie(1), 10)]));
    }
}
