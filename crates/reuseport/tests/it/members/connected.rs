//! UDP sockets that were bound with `SO_REUSEPORT` and connected.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use reuseport::{Attach, Balancer, Host, Member, Policy};
use rustix::net::connect_unspec;
use sk_reuseport::fault::{Call, Verdict, intercept};
use sk_reuseport::net::Bind;
use sk_reuseport::util::KernelVersion;
use test_support::netns::isolated;

use crate::common::steering::followed;
use crate::common::world::{alone, key_at, with};
use crate::common::{cookie, only_group};

const LOCALHOST: &str = "127.0.0.1:0";

/// A peer that connected sockets belong to.
fn peer() -> UdpSocket {
    UdpSocket::bind(LOCALHOST).unwrap()
}

fn members(at: &str, count: usize) -> Vec<UdpSocket> {
    Bind::new(at.parse().unwrap()).nonblocking(true).udp_sockets(count).unwrap()
}

/// How many datagrams of others than its peer a socket has.
fn strangers(socket: &UdpSocket, peer: SocketAddr) -> usize {
    let received = std::iter::from_fn(|| socket.recv_from(&mut [0; 16]).ok());
    received.filter(|(_, from)| *from != peer).count()
}

/// Sends datagrams of strangers.
fn send(to: SocketAddr, count: usize) {
    for _ in 0..count {
        peer().send_to(b"q", to).unwrap();
    }
}

#[test]
fn a_connected_socket_is_no_member() {
    for address in [LOCALHOST, "0.0.0.0:0"] {
        isolated(|| {
            let host = Host::open().unwrap();
            let sockets = members(address, 3);
            sockets[0].connect(peer().local_addr().unwrap()).unwrap();
            let group = only_group(&host);
            let cookies: BTreeSet<_> = group.members.iter().filter_map(|m| m.cookie).collect();
            assert_eq!(cookies, sockets[1..].iter().map(cookie).collect());
            assert_eq!(group.outside, []);
        });
    }
}

#[test]
fn a_socket_that_disconnected_is_named_as_outside_of_its_group() {
    isolated(|| {
        let host = Host::open().unwrap();
        // Not the first one: a disconnect releases a port that the kernel chose.
        let first = members(LOCALHOST, 1).remove(0);
        let second = members(&first.local_addr().unwrap().to_string(), 1).remove(0);
        second.connect(peer().local_addr().unwrap()).unwrap();
        connect_unspec(&second).unwrap();
        let group = only_group(&host);
        let (is_member, is_outside) = (
            group.member(cookie(&second)).is_some(),
            group.outside.iter().any(|socket| socket.cookie == Some(cookie(&second))),
        );
        // Until then, connect(2) does not take it out of its group (net/ipv4/udp.c, udp_lib_hash4).
        let stays = KernelVersion::current().unwrap() < KernelVersion::new(6, 13, 0);
        assert_eq!((is_member, is_outside), (stays, !stays), "{group:?}");
        let own = std::process::id();
        let holders = |member: &Member| member.holders.iter().any(|holder| holder.pid == own);
        assert!(group.outside.iter().all(holders));
    });
}

#[test]
fn a_connected_socket_gets_no_slot_and_no_datagram_of_strangers() {
    alone(|| {
        let host = Host::open().unwrap();
        let mut sockets = members(LOCALHOST, 4);
        let peer = peer();
        let own = peer.local_addr().unwrap();
        let first = sockets.remove(0);
        first.connect(own).unwrap();
        let address = sockets[0].local_addr().unwrap();
        let key = key_at(&host, "udp", address);
        let (balancer, attached) =
            Balancer::attach(&host, &key, &with(Policy::RoundRobin)).unwrap();
        assert_eq!(attached.changes.enrolled.len(), 3);

        // One that connects after it was enrolled loses its slot at the next update, on any kernel.
        let second = sockets.remove(0);
        second.connect(own).unwrap();
        let (_, attached) = Balancer::attach(&host, &key, &Attach::default()).unwrap();
        assert_eq!(attached.changes.released, [cookie(&second)]);
        assert_eq!(host.status(&key).unwrap().unsteered(), 0);

        send(address, 30);
        let got: Vec<usize> = sockets.iter().map(|socket| strangers(socket, own)).collect();
        assert_eq!(got, [15, 15]);
        assert_eq!((strangers(&first, own), strangers(&second, own)), (0, 0));
        let status = host.status(&key).unwrap();
        let picks: u64 = status.members.iter().filter_map(|m| m.enrolment.as_ref()?.picks).sum();
        assert_eq!(picks, 30, "the program decided");
        // What the peer sends reaches them all the same.
        peer.send_to(b"own", address).unwrap();
        balancer.detach().unwrap();
    });
}

#[test]
fn a_watcher_does_not_enrol_sockets_that_bind_and_then_connect() {
    alone(|| {
        let host = Host::open().unwrap();
        let listeners = members(LOCALHOST, 2);
        let address = listeners[0].local_addr().unwrap();
        let key = key_at(&host, "udp", address);
        followed(&key, |group| {
            let peer = peer();
            let own = peer.local_addr().unwrap();
            let mut connected = Vec::new();
            for _ in 0..20 {
                let socket = members(&address.to_string(), 1).remove(0);
                // Longer than a handshake in user space takes: the watcher sees most of them.
                std::thread::sleep(Duration::from_millis(30));
                socket.connect(own).unwrap();
                connected.push(cookie(&socket));
                // While it is open, the kernel puts the next socket into a new group with this one
                // (reuseport_add_sock).
            }
            // A listener that comes now is enrolled.
            let third = members(&address.to_string(), 1).remove(0);
            let status = group.settled(3);
            let enrolled: BTreeSet<_> = status.members.iter().map(|m| m.member.cookie).collect();
            assert!(enrolled.contains(&Some(cookie(&third))));
            let reports = group.reports().join("\n");
            for cookie in &connected {
                assert!(!reports.contains(&format!("Cookie({cookie})")), "{reports}");
            }
            drop(third);
        });
    });
}

#[test]
fn a_socket_that_connects_while_it_is_enrolled_is_taken_back() {
    alone(|| {
        let host = Host::open().unwrap();
        let sockets = members(LOCALHOST, 3);
        let address = sockets[0].local_addr().unwrap();
        let key = key_at(&host, "udp", address);
        let peer = peer();
        // The group is listed by two iterators. One connects before the third, which looks once more, when all
        // are in the socket array and no table names them.
        let connecting = sockets[1].try_clone().unwrap();
        let own = peer.local_addr().unwrap();
        let mut looks = 0;
        let connects = move |call| {
            looks += usize::from(call == Call::BpfIterCreate);
            if looks == 3 {
                connecting.connect(own).unwrap();
            }
            Verdict::Allow
        };
        let attach = with(Policy::RoundRobin);
        let (balancer, attached) =
            intercept(connects, || Balancer::attach(&host, &key, &attach)).unwrap();
        let enrolled: BTreeSet<_> = attached.changes.enrolled.into_iter().collect();
        assert_eq!(enrolled, BTreeSet::from([cookie(&sockets[0]), cookie(&sockets[2])]));

        send(address, 20);
        let got: Vec<usize> = sockets.iter().map(|socket| strangers(socket, own)).collect();
        assert_eq!(got, [10, 0, 10]);
        let status = host.status(&key).unwrap();
        let picks: Vec<_> =
            status.members.iter().map(|m| m.enrolment.as_ref().unwrap().picks).collect();
        assert_eq!(picks, [Some(10), Some(10)]);
        balancer.detach().unwrap();
    });
}
