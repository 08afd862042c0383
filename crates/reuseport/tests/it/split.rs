//! Groups of one name, which the kernel makes when a socket is bound next to one that left its group.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use reuseport::group::{Group, GroupKey, Reach};
use reuseport::{Attach, Balancer, ErrorKind, Host, Policy};
use sk_reuseport::net::Bind;
use test_support::process::close;
use test_support::split::{before_split, loopback, split_off};
use test_support::{netns, wait};

use crate::bad_input::refused;
use crate::common::steering::{Followed, cookies, followed, picks, steered};
use crate::common::world::{alone, key_at, nothing_pinned, theirs, with};
use crate::common::{cookie, groups_here};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// Sends datagrams, each of another client, and counts those that each of the groups gets.
fn deal(to: SocketAddr, groups: [&[UdpSocket]; 2]) -> [usize; 2] {
    const DATAGRAMS: usize = 30;
    for _ in 0..DATAGRAMS {
        let client = UdpSocket::bind((loopback(to).ip(), 0)).unwrap();
        client.send_to(b"q", loopback(to)).unwrap();
    }
    let received =
        |socket: &UdpSocket| std::iter::from_fn(|| socket.recv_from(&mut [0; 8]).ok()).count();
    let got = groups.map(|sockets| sockets.iter().map(received).sum());
    assert_eq!(got.iter().sum::<usize>(), DATAGRAMS);
    got
}

/// The group of these sockets, among groups.
fn of<'a>(groups: &'a [Group], sockets: &[UdpSocket]) -> &'a Group {
    let member = cookie(&sockets[0]);
    groups.iter().find(|group| group.member(member).is_some()).unwrap()
}

/// Two groups of one name: an old one, and a new one that gets the traffic.
struct Split {
    host: Host,
    at: SocketAddr,
    old: Vec<UdpSocket>,
    new: Vec<UdpSocket>,
}

impl Split {
    fn new() -> Self {
        let (old, leaver) = before_split(V4, 2);
        let at = old[0].local_addr().unwrap();
        Self { host: Host::open().unwrap(), at, old, new: split_off(leaver) }
    }

    fn key(&self, sockets: &[UdpSocket]) -> GroupKey {
        self.host.group_of(&sockets[0]).unwrap().key
    }

    fn name(&self) -> GroupKey {
        self.key(&self.old).name_only()
    }
}

#[test]
fn groups_of_one_name_are_told_apart_and_the_first_one_gets_the_traffic() {
    for wildcard in [V4, V6] {
        netns::isolated(|| told_apart(wildcard));
    }
}

fn told_apart(wildcard: IpAddr) {
    let host = Host::open().unwrap();
    let (old, leaver) = before_split(wildcard, 2);
    let at = old[0].local_addr().unwrap();
    assert_eq!(groups_here(&host).len(), 1);
    let mut new = split_off(leaver);

    let groups = groups_here(&host);
    assert_eq!(groups.len(), 2, "{groups:#?}");
    for (sockets, reach) in [(&old, Reach::Behind), (&new, Reach::First)] {
        let group = of(&groups, sockets);
        assert_eq!((group.members.len(), group.reach), (2, reach), "{group:#?}");
        let member = sockets.iter().map(cookie).min();
        assert_eq!(group.key.of, member);
        let spec = group.key.to_string().parse::<reuseport::GroupSpec>().unwrap();
        assert_eq!(spec.choose(&groups, None).unwrap(), group);
    }
    assert_eq!(deal(at, [&old, &new]), [0, 30]);

    // Without its oldest socket, the new group on IPv6 comes last.
    close(new.remove(0));
    let groups = groups_here(&host);
    let old_is_first = of(&groups, &old).reach == Reach::First;
    assert_eq!(old_is_first, wildcard.is_ipv6());
    let expected = if old_is_first { [30, 0] } else { [0, 30] };
    assert_eq!(deal(at, [&old, &new]), expected);

    close(new);
    let groups = groups_here(&host);
    assert_eq!((groups.len(), groups[0].reach, groups[0].key.of), (1, Reach::Alone, None));
}

#[test]
fn a_name_alone_is_refused_until_one_of_the_groups_is_steered() {
    alone(|| {
        let split = Split::new();
        let Split { host, old, new, .. } = &split;
        let spec = split.name().to_string().parse().unwrap();
        let names = [split.key(old).to_string(), split.key(new).to_string()];
        let words = [names[0].as_str(), &names[1], "gets the traffic", "2 members"];
        refused(host.find(&spec).unwrap_err(), ErrorKind::Ambiguous, &words);
        refused(host.find_steered(&spec).unwrap_err(), ErrorKind::Ambiguous, &words);
        refused(host.status(&split.name()).unwrap_err(), ErrorKind::Ambiguous, &words);
        let attach = with(Policy::RoundRobin);
        let error = Balancer::attach(host, &split.name(), &attach).unwrap_err();
        refused(error, ErrorKind::Ambiguous, &words);
        refused(reuseport::detach(host, &split.name()).unwrap_err(), ErrorKind::Ambiguous, &words);
        assert!(nothing_pinned());

        let (balancer, attached) = Balancer::attach(host, &split.key(new), &attach).unwrap();
        assert_eq!(attached.changes.enrolled.len(), 2);
        assert_eq!(deal(split.at, [old, new]), [0, 30]);
        let status = host.status(&split.name()).unwrap();
        assert_eq!(picks(&status), [15, 15]);
        // To attach, the name alone does not do.
        refused(host.find(&spec).unwrap_err(), ErrorKind::Ambiguous, &words);
        assert_eq!(host.find_steered(&spec).unwrap().key, split.key(new));
        balancer.set_policy(Policy::Hash).unwrap();
        assert_eq!(deal(split.at, [old, new]), [0, 30]);
        balancer.detach().unwrap();
        assert!(nothing_pinned());
    });
}

#[test]
fn of_groups_of_one_name_one_is_steered_and_the_other_one_leaves_it_alone() {
    alone(|| {
        let split = Split::new();
        let Split { host, old, new, .. } = &split;
        let (steered, other) = (split.key(new), split.key(old));
        let attach = with(Policy::RoundRobin);
        let (balancer, _) = Balancer::attach(host, &steered, &attach).unwrap();
        let id = host.status(&steered).unwrap().group.program;

        let detach = format!("reuseport detach {steered}");
        let forced = with(Policy::Hash).force(true);
        for attach in [&attach, &Attach::default(), &forced] {
            let error = Balancer::attach(host, &other, attach).unwrap_err();
            refused(error, ErrorKind::Busy, &["of this name is steered already", &detach]);
        }
        let words = ["no program of this tool is attached", &other.to_string()];
        refused(reuseport::detach(host, &other).unwrap_err(), ErrorKind::NotAttached, &words);
        refused(Balancer::open(host, &other).unwrap_err(), ErrorKind::NotAttached, &words);
        assert_eq!(host.status(&other).unwrap().group.program, None);
        let status = host.status(&steered).unwrap();
        assert_eq!((status.unsteered(), status.group.program), (0, id));
        assert_eq!(deal(split.at, [old, new]), [0, 30]);
        assert_eq!(picks(&host.status(&steered).unwrap()), [15, 15]);

        // The member in the key may leave, and the key of another group names no group by then.
        balancer.detach().unwrap();
        let (balancer, _) = Balancer::attach(host, &other, &attach).unwrap();
        assert_eq!(balancer.stats().unwrap().members.len(), 2);
        let gone = steered;
        let Split { host, old, new, .. } = split;
        close(new);
        for error in [
            Balancer::attach(&host, &gone, &attach).unwrap_err(),
            reuseport::detach(&host, &gone).unwrap_err(),
        ] {
            refused(error, ErrorKind::NotFound, &["there is no group", &gone.to_string()]);
        }
        assert_eq!(host.status(&other.name_only()).unwrap().unsteered(), 0);
        balancer.detach().unwrap();
        drop(old);
    });
}

/// Waits until the members of the steered group are these sockets. Not by the watcher's reports: an update during
/// which all members of the old group close may fail first.
#[track_caller]
fn wait_until_steered(host: &Host, key: &GroupKey, sockets: &[UdpSocket]) {
    let mut expected: Vec<_> = sockets.iter().map(cookie).collect();
    expected.sort_unstable();
    wait::until("they are steered", wait::BOUND, || {
        steered(host, key).is_some_and(|status| cookies(&status) == expected)
    });
}

/// Whether the watcher did not know at some time which group it follows.
fn is_ambiguous(group: &Followed<'_>) -> bool {
    group.reports().iter().any(|report| report.contains("kind: Ambiguous"))
}

#[test]
fn a_watcher_reports_once_that_its_group_is_split_and_goes_on_with_it() {
    alone(|| {
        let (mut old, leaver) = before_split(V4, 3);
        let at = old[0].local_addr().unwrap();
        let host = Host::open().unwrap();
        let key = key_at(&host, "udp", at);
        followed(&key, |group| {
            let gone = cookie(&old[2]);
            let splits = || group.reports().iter().filter(|r| r.starts_with("Split(")).count();
            let mut new = split_off(leaver);
            wait::until("the split is reported", wait::BOUND, || splits() == 1);
            close(old.pop());
            wait::until("the slot of a member that closed is free", wait::BOUND, || {
                let released = format!("released: [{gone:?}]");
                group.reports().iter().any(|report| report.contains(&released))
            });
            // Sockets of the other group are none of its business.
            new.extend(Bind::new(at).udp_sockets(1).unwrap());
            let status = host.status(&key).unwrap();
            let members: Vec<_> = status.members.iter().map(|m| m.member.cookie).collect();
            assert_eq!(members, [Some(cookie(&old[0])), Some(cookie(&old[1]))]);
            assert_eq!(status.unsteered(), 0);

            // The next socket of the server joins it again.
            close(new);
            wait::until("the other group is gone", wait::BOUND, || {
                host.status(&key).unwrap().group.reach == Reach::Alone
            });
            old.extend(Bind::new(at).nonblocking(true).udp_sockets(1).unwrap());
            wait_until_steered(&host, &key, &old);
            assert_eq!(deal(at, [&old, &[]]), [30, 0]);

            // If it ends, the other one has the name alone.
            let new = split_off(old.pop().unwrap());
            close(old);
            wait_until_steered(&host, &key, &new);
            assert_eq!(deal(at, [&[], &new]), [0, 30]);
            assert_eq!(splits(), 1);
            assert!(!is_ambiguous(group), "{:#?}", group.reports());
        });
    });
}

/// Neither group has our program then, and the members in our slots tell which one is meant.
#[test]
fn a_watcher_of_a_split_group_says_that_its_program_was_replaced() {
    alone(|| {
        let (old, leaver) = before_split(V4, 2);
        let host = Host::open().unwrap();
        let key = key_at(&host, "udp", old[0].local_addr().unwrap());
        followed(&key, |group| {
            let new = split_off(leaver);
            theirs("first").attach(&old[0]).unwrap();
            let reported = |what: &str| group.reports().iter().any(|r| r.starts_with(what));
            wait::until("it is reported", wait::BOUND, || reported("Replaced"));
            let named = host.find_steered(&key.to_string().parse().unwrap()).unwrap();
            assert!(named.member(cookie(&old[0])).is_some());
            let detached = reuseport::detach(&host, &key).unwrap();
            assert!(detached.displaced_by.is_some());
            wait::until("the watcher ends", wait::BOUND, || reported("Detached"));
            assert!(!is_ambiguous(group), "{:#?}", group.reports());
            drop(new);
        });
        assert!(nothing_pinned());
    });
}

/// What a DTLS server does that binds a socket per client and connects it. Since Linux 6.13 a connected socket
/// leaves its group, before that it stays, and so does the next one.
#[test]
fn a_socket_bound_next_to_a_connected_one_is_in_the_group_that_the_kernel_put_it_into() {
    alone(|| {
        let host = Host::open().unwrap();
        let localhost = "127.0.0.1:0".parse().unwrap();
        let old = Bind::new(localhost).nonblocking(true).udp_sockets(2).unwrap();
        let at = old[0].local_addr().unwrap();
        let more = || Bind::new(at).nonblocking(true).udp_sockets(1).unwrap();
        let connected = more();
        connected[0].connect("127.0.0.1:9").unwrap();
        let new = more();
        let group = host.group_of(&new[0]).unwrap();
        let split = group.reach.is_split();
        assert_eq!(group.members.len(), if split { 1 } else { 3 }, "{group:#?}");
        if split {
            assert_eq!(deal(at, [&old, &new]), [0, 30]);
        }
        Balancer::attach(&host, &group.key, &with(Policy::RoundRobin)).unwrap();
        assert_eq!(deal(at, [&old, &new]), if split { [0, 30] } else { [20, 10] });
        reuseport::detach(&host, &group.key).unwrap();
    });
}
