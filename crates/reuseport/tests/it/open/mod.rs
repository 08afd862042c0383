//! Counting open connections in the kernel. However connections end, the counts return to 0, of
//! every member and at every index that a member ever had.

mod closes;
mod counting;
mod handshakes;
mod layer;
mod members;
mod optional;
mod storm;

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::common::traffic::by_slot;
use crate::common::world::{BY_OPEN, alone, open_by_index};
use reuseport::net::Bind;
use reuseport::{Balancer, Host};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt};
use test_support::loopback;
use test_support::wait::{self, BOUND};

/// A steered group, and a listener of another one, which keeps the host layer when the first group
/// ends.
struct Scene {
    host: Host,
    at: SocketAddr,
    members: Vec<TcpListener>,
    other: TcpListener,
}

/// Both ends of a connection.
struct Pair {
    client: TcpStream,
    server: TcpStream,
}

/// Runs a case over IPv4 and over IPv6, each in its own namespace, and asserts that no connection
/// is counted as open at the end.
fn ends_at_zero(members: usize, case: impl Fn(&mut Scene) + Sync) {
    ends_at_zero_at(loopback(false), members, &case);
    ends_at_zero_at(loopback(true), members, &case);
}

fn ends_at_zero_at(at: SocketAddr, members: usize, case: impl Fn(&mut Scene) + Sync) {
    alone(|| {
        let mut scene = Scene::new(at, members);
        case(&mut scene);
        none_open();
    });
}

/// Waits until no connection is counted as open. A count below 0 never gets there, because recounts
/// only subtract.
#[track_caller]
fn none_open() {
    wait::poll(BOUND, || open_by_index().is_empty().then_some(()));
    assert_eq!(open_by_index(), [], "(index, open)");
}

impl Scene {
    fn new(at: SocketAddr, members: usize) -> Self {
        let host = Host::open().unwrap();
        let other = Bind::new(at).listeners(1).unwrap().remove(0);
        attach(&host, &other);
        let members = by_slot(Bind::new(at).nonblocking(true).listeners(members).unwrap());
        let at = members[0].local_addr().unwrap();
        attach(&host, &members[0]);
        Self { host, at, members, other }
    }

    fn balancer(&self) -> Balancer {
        let key = self.host.group_of(&self.members[0]).unwrap().key;
        Balancer::open(&self.host, &key).unwrap()
    }

    /// Attaches to the group, whether it is steered already or not.
    fn attach(&self) -> Balancer {
        attach(&self.host, &self.members[0])
    }

    /// Open connections by slot.
    fn open(&self) -> Vec<u64> {
        let stats = self.balancer().stats().unwrap();
        stats.members.iter().filter_map(|member| member.open).collect()
    }

    /// Waits until `count` connections are counted as open, of all members.
    #[track_caller]
    fn opens(&self, count: u64) {
        wait::poll(BOUND, || (self.counted() == count).then_some(()));
        assert_eq!(self.counted(), count, "{:?}", open_by_index());
    }

    /// How many connections are counted as open, of all members.
    #[expect(clippy::unused_self, reason = "it reads the namespace of this scene")]
    fn counted(&self) -> u64 {
        open_by_index().iter().map(|(_, open)| u64::from(*open)).sum()
    }

    fn connect(&self, count: usize) -> Vec<TcpStream> {
        (0..count).map(|_| TcpStream::connect(self.at).unwrap()).collect()
    }

    /// Accepts `count` connections at any members.
    #[track_caller]
    fn accept(&self, count: usize) -> Vec<TcpStream> {
        let mut accepted = Vec::new();
        wait::until("all are accepted", BOUND, || {
            let waiting = |member: &TcpListener| Some(member.accept().ok()?.0);
            let all = self.members.iter().flat_map(|m| std::iter::from_fn(move || waiting(m)));
            accepted.extend(all);
            accepted.len() >= count
        });
        assert_eq!(accepted.len(), count);
        accepted
    }

    /// Opens connections, accepts them, and waits until they are counted.
    #[track_caller]
    fn pairs(&self, count: usize) -> Vec<Pair> {
        let before = self.counted();
        let clients = self.connect(count);
        let mut servers = self.accept(count);
        self.opens(before + count as u64);
        let pair = |client: TcpStream| {
            let port = client.local_addr().unwrap().port();
            let of_client = |s: &TcpStream| s.peer_addr().is_ok_and(|peer| peer.port() == port);
            let server = servers.iter().position(of_client).expect("every connection is accepted");
            Pair { client, server: servers.remove(server) }
        };
        clients.into_iter().map(pair).collect()
    }
}

fn attach(host: &Host, member: &TcpListener) -> Balancer {
    let key = host.group_of(member).unwrap().key;
    let (balancer, attached) = Balancer::attach(host, &key, &BY_OPEN.into()).unwrap();
    assert!(attached.changes.left_out.is_empty(), "{attached:?}");
    balancer
}

/// Closes a connection with RST instead of FIN.
fn reset(stream: TcpStream) {
    sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
}

fn stream_socket(to: SocketAddr) -> OwnedFd {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap()
}

/// Sets a number below /proc/sys/net/ipv4, in the namespace of the test alone.
fn sysctl(name: &str, value: u32) {
    fs::write(format!("/proc/sys/net/ipv4/{name}"), value.to_string()).unwrap();
}
