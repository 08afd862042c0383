//! unbound with `so-reuseport`: a UDP socket and a TCP listener for each thread.

use std::net::UdpSocket;
use std::thread;

use reuseport::status::GroupStatus;
use reuseport::{Host, Policy};
use test_support::client::{dns_ask, dns_query};
use test_support::load::{self, Outcome};
use test_support::server::Unbound;
use test_support::wait;

use crate::common::steering::{Followed, attach, cookies, followed, picks, picks_since, steered};
use crate::common::world::{alone, key_at};

/// The rate of dnsperf in queries per second, which a busy machine manages too.
const RATE: u32 = 5000;

fn query(unbound: &Unbound, times: usize) {
    for _ in 0..times {
        let answer = dns_query(unbound.addr(), Unbound::NAME);
        assert_eq!(answer[answer.len() - 4..], Unbound::ANSWER.octets());
    }
}

/// Waits until more than 100 queries have arrived.
fn wait_for_load(group: &Followed<'_>, before: &GroupStatus) {
    wait::until("load", wait::BOUND, || {
        picks_since(before, &group.status()).iter().sum::<u64>() > 100
    });
}

#[test]
fn datagrams_are_dealt_exactly_and_none_is_lost() {
    alone(|| {
        let unbound = Unbound::start(2);
        let host = Host::open().unwrap();
        let key = key_at(&host, "udp", unbound.addr());
        let balancer = attach(&host, &key, Policy::RoundRobin);
        query(&unbound, 40);
        let before = steered(&host, &key).unwrap();
        assert_eq!(picks(&before), [20, 20]);
        assert!(before.members.iter().all(|member| member.owner == Some(unbound.pid())));

        let Outcome { answered, failed } = load::dnsperf(unbound.addr(), Unbound::NAME, 1, RATE);
        assert!(answered > 100 && failed == 0, "{answered} answered, {failed} lost");
        let dealt = picks_since(&before, &steered(&host, &key).unwrap());
        assert_eq!(dealt.iter().sum::<u64>(), answered);
        assert!(dealt[0].abs_diff(dealt[1]) <= 1, "{dealt:?}");

        balancer.detach().unwrap();
        query(&unbound, 20);
        // The threads count as many queries as the program dealt.
        let each: Vec<u64> = unbound.stop_and_count();
        assert_eq!(each.iter().sum::<u64>(), answered + 40 + 20);
        assert!(each[0].abs_diff(each[1]) <= 1 + 20, "{each:?}");
    });
}

#[test]
fn a_flow_keeps_its_thread_under_hash() {
    alone(|| {
        let unbound = Unbound::start(3);
        let host = Host::open().unwrap();
        let key = key_at(&host, "udp", unbound.addr());
        attach(&host, &key, Policy::Hash);
        let mut picked = Vec::new();
        for _ in 0..12 {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.connect(unbound.addr()).unwrap();
            socket.set_read_timeout(Some(wait::scaled(wait::BOUND))).unwrap();
            let before = steered(&host, &key).unwrap();
            (0..10).for_each(|_| drop(dns_ask(&socket, Unbound::NAME).unwrap()));
            picked.push(picks_since(&before, &steered(&host, &key).unwrap()));
        }
        assert!(picked.iter().all(|picks| picks.contains(&10)), "{picked:?}");
        assert!(picked.iter().any(|picks| picks != &picked[0]), "{picked:?}");
    });
}

#[test]
fn its_tcp_listeners_are_a_group_of_their_own() {
    alone(|| {
        let unbound = Unbound::start(2);
        let host = Host::open().unwrap();
        let (udp, tcp) =
            (key_at(&host, "udp", unbound.addr()), key_at(&host, "tcp", unbound.addr()));
        attach(&host, &udp, Policy::RoundRobin);
        attach(&host, &tcp, Policy::RoundRobin);
        assert_eq!(steered(&host, &tcp).unwrap().members.len(), 2);
        for _ in 0..10 {
            let answer = test_support::client::dns_query_tcp(unbound.addr(), Unbound::NAME);
            assert_eq!(answer[answer.len() - 4..], Unbound::ANSWER.octets());
        }
        query(&unbound, 4);
        assert_eq!(picks(&steered(&host, &tcp).unwrap()), [5, 5]);
        assert_eq!(picks(&steered(&host, &udp).unwrap()), [2, 2]);
        reuseport::detach(&host, &tcp).unwrap();
        query(&unbound, 4);
        assert_eq!(picks(&steered(&host, &udp).unwrap()), [4, 4]);
    });
}

#[test]
fn a_restart_under_dnsperf_is_followed() {
    alone(|| {
        let mut unbound = Unbound::start(2);
        let address = unbound.addr();
        let key = key_at(&Host::open().unwrap(), "udp", address);
        followed(&key, |group| {
            let before = group.settled(2);
            let during = thread::scope(|scope| {
                let perf = scope.spawn(|| load::dnsperf(address, Unbound::NAME, 1, RATE));
                wait_for_load(group, &before);
                unbound.restart();
                perf.join().unwrap()
            });
            assert!(during.answered > 100, "{during:?}");
            let after = group.settled(2);
            assert!(cookies(&after).iter().all(|cookie| !cookies(&before).contains(cookie)));
            let settled = load::dnsperf(address, Unbound::NAME, 1, RATE);
            assert!(settled.answered > 100 && settled.failed == 0, "{settled:?}");
            let dealt = picks_since(&after, &group.status());
            assert_eq!(dealt.iter().sum::<u64>(), settled.answered);
            assert!(dealt[0].abs_diff(dealt[1]) <= 1, "{dealt:?}");
        });
    });
}

#[test]
fn another_unbound_joins_under_dnsperf_and_nothing_is_lost() {
    alone(|| {
        let unbound = Unbound::start(2);
        let address = unbound.addr();
        let key = key_at(&Host::open().unwrap(), "udp", address);
        followed(&key, |group| {
            let before = group.settled(2);
            let mut other = None;
            let during = thread::scope(|scope| {
                let perf = scope.spawn(|| load::dnsperf(address, Unbound::NAME, 1, RATE));
                wait_for_load(group, &before);
                other = Some(Unbound::start_on(unbound.port(), 2));
                group.settled(4);
                perf.join().unwrap()
            });
            assert!(during.answered > 100 && during.failed == 0, "{during:?}");
            let before = group.status();
            query(&unbound, 40);
            assert_eq!(picks_since(&before, &group.status()), [10; 4]);
            drop(other);
            group.settled(2);
        });
    });
}
