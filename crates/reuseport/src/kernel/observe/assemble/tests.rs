use super::*;
use crate::model::group::{Device, Holder, Queue, Unborrowable};
use crate::wire::records::Made;

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
        made: Made::default(),
        drops: 0,
        waiters: None,
    }
}

fn holder(n: u64, pid: u32, fd: u32, thread: Option<u32>) -> Record {
    let holder = Some(Holder { pid, fd, comm: "a".into(), thread, origin: None });
    Record::Holder(HolderRecord { sock_address: n << 8, cookie: Cookie::new(n), holder })
}

fn listing(tables: &[MemberRecord], descriptors: &[Record]) -> Listing {
    let tables = Some(tables.iter().cloned().map(Record::Member).collect());
    Listing { tables, descriptors: descriptors.to_vec() }
}

fn name(listing: &Listing) -> Vec<Group> {
    listing.groups()
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
    let mptcp = MemberRecord {
        standing: Standing::Mptcp,
        made: Made { mptcp: true, ..Made::default() },
        ..record(1, 6, "127.0.0.1:80")
    };
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
        holder: Some(Holder { pid: 1, fd: 1, comm: "a".into(), thread: None, origin: None }),
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
    let eth0 = Device { index: 3, name: Some("eth0".into()) };
    let device = Some(eth0.clone());
    let bound = MemberRecord { device, reuseport_id: 2, ..record(2, 2, "0.0.0.0:80") };
    let netns = Netns { cookie: 7, inode: 8 };
    let elsewhere = MemberRecord { netns, ..record(3, 3, "0.0.0.0:80") };
    let groups = assemble(&[plain, bound, elsewhere]);
    assert_eq!(groups.len(), 3);
    let device = groups.iter().find_map(|g| g.key.device.clone()).unwrap();
    assert_eq!(device, eth0);
}

#[test]
fn the_owner_is_the_only_process_whose_epoll_watches() {
    let watch = |n: u64, epoll| Record::Watch { sock_address: n << 8, epoll };
    let epoll = |epoll, pid| Record::Epoll { epoll, pid };
    let waiter = |object, thread| Record::Waiter { object, thread };
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
        // Threads in epoll_wait, and one in accept.
        waiter(0xb, Some(Thread { pid: 10, tid: 12 })),
        waiter(0xd, None),
        waiter(6 << 8, Some(Thread { pid: 10, tid: 10 })),
        // A queue that was not seen to its end.
        waiter(5 << 8, Some(Thread { pid: 10, tid: 10 })),
        waiter(5 << 8, None),
        waiter(7 << 8, Some(Thread { pid: 10, tid: 10 })),
    ];
    let asked: Vec<_> = (1..7).map(|n| member(&record(1, n, "127.0.0.1:80"), &[])).collect();
    let owner =
        |pid, tid: u32, unseen| Owner { pid, waiting: [Thread { pid: 10, tid }].into(), unseen };
    let expected = HashMap::from([
        (cookie(1), owner(Some(10), 12, false)),
        (cookie(3), Owner { unseen: true, ..Owner::default() }),
        (cookie(5), owner(None, 10, true)),
        (cookie(6), owner(None, 10, true)),
    ]);
    assert_eq!(owners(&records, &asked), expected);
}

#[test]
fn sockets_in_no_group_are_told_from_groups_with_why_they_are_in_none() {
    let plain = |n, made| MemberRecord {
        standing: Standing::Plain,
        reuseport_id: 0,
        made,
        ..record(0, n, "127.0.0.1:80")
    };
    let reuseaddr = Made { reuseaddr: true, ..Made::default() };
    let found = listing(
        &[
            record(1, 5, "127.0.0.1:80"),
            plain(6, reuseaddr),
            plain(7, Made::default()),
            plain(8, Made { reuseport: true, mptcp: true, ..reuseaddr }),
        ],
        &[holder(6, 30, 4, None)],
    );
    assert_eq!(name(&found).len(), 1, "they are in no group");
    let there = found.ungrouped(80);
    let seen: Vec<_> = there.iter().map(|one| (one.why, one.socket.holders.len())).collect();
    let expected = [
        (WhyUngrouped::ReuseaddrAlone, 1),
        (WhyUngrouped::NoReuseport, 0),
        (WhyUngrouped::TooLate, 0),
    ];
    assert_eq!(seen, expected);
    assert!(there[2].socket.mptcp && !there[1].socket.mptcp);
    assert!(found.ungrouped(81).is_empty());
}
