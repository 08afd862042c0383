//! The library as its front page shows it: three lines for your own sockets, and the same for those
//! of a running server.

use crate::common::traffic::by_slot;
use std::fs::File;
use std::net::{TcpListener, TcpStream, UdpSocket};

use crate::common::rights::capable_of;
use crate::common::world::{alone, deal, nothing_pinned, one_line, theirs};
use reuseport::net::Bind;
use reuseport::{Attach, Balancer, ErrorKind, Host, MemberChange, Policy, State, Stats, Weight};
use rustix::thread::CapabilitySet;
use sk_reuseport::programs::SkReuseport;
use test_support::client::http_get;
use test_support::loopback;
use test_support::server::Nginx;
use test_support::wait;

/// The picks of each listener.
fn picks_of(stats: &Stats, listeners: &[TcpListener]) -> Vec<u64> {
    listeners.iter().map(|listener| stats.of(listener).unwrap().picks.unwrap()).collect()
}

#[test]
fn your_own_listeners_without_the_right_to_trace() {
    alone(|| {
        let listeners = by_slot(Bind::new(loopback(false)).nonblocking(true).listeners(3).unwrap());
        capable_of(CapabilitySet::BPF.union(CapabilitySet::PERFMON), || {
            let host = Host::open().unwrap();
            let group = host.group_of(&listeners[0]).unwrap();
            let (balancer, attached) =
                Balancer::attach(&host, &group.key, &Policy::RoundRobin.into()).unwrap();

            assert_eq!(attached.changes.enrolled.len(), 3);
            assert_eq!(deal(&listeners, 30), [10; 3]);
            let stats = balancer.stats().unwrap();
            assert_eq!(picks_of(&stats, &listeners), [10; 3]);
            assert_eq!((stats.picks(), stats.count("picks")), (30, Some(30)));
            assert_eq!(stats.skew, Some(0.0));

            changes_are_seen(&balancer, &listeners);
            balancer.detach().unwrap();
            assert!(nothing_pinned());
        });
    });
}

/// Changes a group of three listeners to each of which round-robin has dealt ten connections.
fn changes_are_seen(balancer: &Balancer, listeners: &[TcpListener]) {
    let slot =
        |listener: &TcpListener| balancer.stats().unwrap().of(listener).unwrap().slot.unwrap();
    balancer.set_weights(&[(slot(&listeners[0]), Weight::new(3).unwrap())]).unwrap();
    let drained = MemberChange::new(slot(&listeners[1])).state(State::Draining);
    balancer.change_members(&[drained]).unwrap();
    assert_eq!(deal(listeners, 40), [30, 0, 10]);
    let least_loaded = Policy::default_for(balancer.key().protocol);
    let set = balancer.set_policy(least_loaded).unwrap();
    assert!(set.degraded.is_empty(), "{set:?}");
    let clients: Vec<_> =
        (0..4).map(|_| TcpStream::connect(balancer.key().address).unwrap()).collect();
    // connect returns before the last packet of the handshake arrives.
    let stats = wait::until_some("four connections wait", wait::BOUND, || {
        let stats = balancer.stats().unwrap();
        let waiting = |n: usize| stats.of(&listeners[n]).unwrap().queue.waiting;
        (waiting(0) + waiting(2) == 4).then_some(stats)
    });
    let drained = stats.of(&listeners[1]).unwrap();
    assert_eq!((drained.state, drained.weight_share), (Some(State::Draining), Some(0.0)));
    assert_eq!((drained.picks, drained.queue.waiting), (Some(10), 0));
    let first = stats.of(&listeners[0]).unwrap();
    assert_eq!((first.weight.map(Weight::get), first.weight_share), (Some(3), Some(0.75)));
    assert_eq!(first.open, Some(first.queue.waiting.into()));
    // The four since the policy changed.
    assert_eq!(first.share, Some(first.recent_picks.unwrap() as f64 / 4.0));
    assert!(stats.picks() > 4);
    drop(clients);
}

#[test]
fn your_own_udp_sockets() {
    alone(|| {
        let sockets = by_slot(Bind::new(loopback(true)).udp_sockets(2).unwrap());
        let host = Host::open().unwrap();
        let group = host.group_of(&sockets[1]).unwrap();
        let (balancer, _) =
            Balancer::attach(&host, &group.key, &Policy::RoundRobin.into()).unwrap();

        let client = UdpSocket::bind(loopback(true)).unwrap();
        (0..8).for_each(|_| _ = client.send_to(b"x", group.key.address).unwrap());
        for socket in &sockets {
            (0..4).for_each(|_| _ = socket.recv(&mut [0]).unwrap());
        }
        let stats = balancer.stats().unwrap();
        assert!(stats.members.iter().all(|m| m.picks == Some(4) && m.open.is_none()), "{stats:?}");
        assert_eq!(stats.skew, Some(0.0));
    });
}

#[test]
fn a_running_server() {
    alone(|| {
        let nginx = Nginx::start(2);
        let host = Host::open().unwrap();
        let group = host.find(&format!("tcp:{}", nginx.addr()).parse().unwrap()).unwrap();
        let (balancer, _) =
            Balancer::attach(&host, &group.key, &Policy::RoundRobin.into()).unwrap();

        (0..20).for_each(|_| _ = http_get(nginx.addr()));
        let stats = balancer.stats().unwrap();
        let picks: Vec<_> = stats.members.iter().map(|member| member.picks).collect();
        assert_eq!(picks, [Some(10); 2]);
        let none_of_them = TcpListener::bind(loopback(false)).unwrap();
        assert_eq!(stats.of(&none_of_them), None);
        balancer.detach().unwrap();
    });
}

#[test]
fn a_socket_in_no_group_is_refused_with_the_reason() {
    alone(|| {
        let host = Host::open().unwrap();
        let alone = TcpListener::bind(loopback(false)).unwrap();
        let error = host.group_of(&alone).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(one_line(&error).contains("SO_REUSEPORT"), "{error}");

        let error = host.group_of(File::open("/dev/null").unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(one_line(&error).contains("SO_COOKIE"), "{error}");
    });
}

#[test]
fn there_are_no_statistics_without_a_policy() {
    alone(|| {
        let listeners = by_slot(Bind::new(loopback(false)).listeners(2).unwrap());
        let host = Host::open().unwrap();
        let group = host.group_of(&listeners[0]).unwrap();
        let (balancer, _) = Balancer::attach(&host, &group.key, &Attach::default()).unwrap();
        SkReuseport::detach(&listeners[0]).unwrap();
        let error = balancer.stats().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotAttached, "{error}");

        theirs("first").attach(&listeners[0]).unwrap();
        let error = balancer.stats().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Foreign, "{error}");
        assert!(one_line(&error).contains("another owner"), "{error}");
    });
}
