//! HAProxy with `shards by-thread`: one process with a listener for each thread.

use reuseport::{Host, Policy};
use test_support::load;
use test_support::server::{Haproxy, Transport, bound_sockets_here};

use crate::common::steering::{
    answers, attach, cookies, count, each, followed, picks, picks_since, steered,
};
use crate::common::world::{alone, counter, key_at};

#[test]
fn connections_are_dealt_exactly_to_threads() {
    alone(|| {
        let haproxy = Haproxy::start(4);
        let host = Host::open().unwrap();
        let key = key_at(&host, "tcp", haproxy.addr());
        let balancer = attach(&host, &key, Policy::RoundRobin);
        assert_eq!(answers(haproxy.addr(), 200), each(0..4, 50));
        let status = steered(&host, &key).unwrap();
        assert_eq!(picks(&status), [50; 4]);
        for member in &status.members {
            assert_eq!(
                member.owner,
                Some(haproxy.pid()),
                "the epoll instances of its threads watch it"
            );
            let holders: Vec<u32> = member.member.holders.iter().map(|h| h.pid).collect();
            assert_eq!(holders, [haproxy.pid()]);
        }
        balancer.detach().unwrap();
        assert_eq!(answers(haproxy.addr(), 20).values().sum::<usize>(), 20);
    });
}

#[test]
fn a_flow_keeps_its_thread_under_hash() {
    alone(|| {
        let haproxy = Haproxy::start(3);
        let host = Host::open().unwrap();
        let key = key_at(&host, "tcp", haproxy.addr());
        attach(&host, &key, Policy::Hash);
        let port = test_support::server::free_port();
        let from = |_| test_support::client::http_get_from(port, haproxy.addr());
        let served = count((0..20).map(from));
        assert_eq!(served.into_values().collect::<Vec<_>>(), [20]);
    });
}

/// The new worker gets the listeners of the old one through the master.
#[test]
fn a_reload_hands_the_listeners_over_and_loses_nothing() {
    alone(|| {
        let mut haproxy = Haproxy::start_reloadable(2);
        let (address, old) = (haproxy.addr(), haproxy.pid());
        let key = key_at(&Host::open().unwrap(), "tcp", address);
        followed(&key, |group| {
            let before = group.settled(2);
            let outcome = load::http_during(address, 2, || haproxy.reload(2));
            assert_eq!(outcome.failed, 0, "{outcome:?}");
            let after = group.settled(2);
            assert_eq!(cookies(&after), cookies(&before), "the same sockets in the new process");
            assert_ne!(haproxy.pid(), old);
            assert_eq!(answers(address, 20), each(0..2, 10));

            haproxy.reload(4);
            let more = group.settled(4);
            assert!(cookies(&before).iter().all(|cookie| cookies(&more).contains(cookie)));
            assert_eq!(answers(address, 40), each(0..4, 10));

            haproxy.reload(1);
            group.settled(1);
            assert_eq!(answers(address, 10), each([0], 10));
        });
    });
}

#[test]
fn a_restart_is_followed() {
    alone(|| {
        let mut haproxy = Haproxy::start(3);
        let address = haproxy.addr();
        let key = key_at(&Host::open().unwrap(), "tcp", address);
        followed(&key, |group| {
            let before = group.settled(3);
            haproxy.restart();
            let after = group.settled(3);
            assert!(cookies(&after).iter().all(|cookie| !cookies(&before).contains(cookie)));
            assert_eq!(answers(address, 30), each(0..3, 10));
            let outcome = load::wrk(address, 1);
            assert!(outcome.answered > 100 && outcome.failed == 0, "{outcome:?}");
            let dealt = picks_since(&after, &group.status());
            assert!(dealt.iter().max().unwrap() - dealt.iter().min().unwrap() <= 1, "{dealt:?}");
        });
    });
}

/// Two servers on one port, and the old one stops: connections that wait at its listeners migrate.
#[test]
fn another_haproxy_takes_over_under_load() {
    alone(|| {
        let old = Haproxy::start(2);
        let address = old.addr();
        let key = key_at(&Host::open().unwrap(), "tcp", address);
        followed(&key, |group| {
            group.settled(2);
            let mut new = None;
            let outcome = load::http_during(address, 2, || {
                new = Some(Haproxy::start_on(old.port(), 2));
                group.settled(4);
                old.stop();
                group.settled(2);
            });
            // The kernel loses a handshake that completes while its listener closes.
            assert!(outcome.failed <= 2, "{outcome:?}");
            assert_eq!(bound_sockets_here(Transport::Tcp, address.port()), 2);
            assert_eq!(answers(address, 20), each(0..2, 10));
            let status = group.status();
            assert_eq!(counter(&status, "migrations_kernel"), 0);
        });
    });
}
