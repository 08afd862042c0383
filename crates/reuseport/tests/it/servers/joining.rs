//! A second server next to the first, with `HoldNew::Accepting`: it gets its share once it accepts, and nothing before.

use std::net::SocketAddr;

use reuseport::id::State;
use reuseport::status::GroupStatus;
use reuseport::{HoldNew, Host, Policy, detach};
use test_support::client::{dns_query, http_answer, http_ask};
use test_support::server::{Gunicorn, Haproxy, Nginx, Unbound, free_port};
use test_support::wait;

use crate::common::steering::{Followed, answers, each, followed_as, picks_since};
use crate::common::world::{alone, key_at, with};

/// Runs `body` while a watcher follows the group at this address, in which newcomers are held until they accept.
fn joined(protocol: &str, address: SocketAddr, body: impl FnOnce(&Followed<'_>)) {
    let key = key_at(&Host::open().unwrap(), protocol, address);
    followed_as(&key, with(Policy::RoundRobin).hold_new(HoldNew::Accepting), body);
}

fn states(status: &GroupStatus) -> Vec<State> {
    status.members.iter().filter_map(|m| Some(m.enrolment.as_ref()?.state)).collect()
}

/// The status when this number of members serve.
fn all_serve(group: &Followed<'_>, members: usize) -> GroupStatus {
    wait::until_some("all members serve", wait::BOUND, || {
        let status = group.settled(members);
        (states(&status) == vec![State::Active; members]).then_some(status)
    })
}

/// How many connections wait at members on standby, or at the others.
fn waiting(group: &Followed<'_>, on_standby: bool) -> u32 {
    let of = |m: &&reuseport::status::MemberStatus| {
        let state = m.enrolment.as_ref().map(|enrolment| enrolment.state);
        (state == Some(State::Standby)) == on_standby
    };
    group.status().members.iter().filter(of).map(|m| m.member.queue.waiting).sum()
}

#[test]
fn no_connection_waits_for_a_gunicorn_that_imports_its_application() {
    const ASKED: usize = 20;

    for class in ["sync", "gthread"] {
        alone(|| {
            let port = free_port();
            let old = Gunicorn::start_importing(port, class);
            old.imports();
            let address = old.addr();
            answers(address, 1);
            let key = key_at(&Host::open().unwrap(), "tcp", address);

            // Half of them wait for the application without it, and none with it.
            followed_as(&key, with(Policy::RoundRobin), |group| {
                let new = Gunicorn::start_importing(port, class);
                group.settled(2);
                let mut clients: Vec<_> =
                    (0..ASKED).map(|_| http_ask(address, "/").unwrap()).collect();
                let waits = |group: &Followed<'_>| {
                    let waiting = |m: &reuseport::status::MemberStatus| m.member.queue.waiting;
                    group.status().members.iter().map(waiting).max().unwrap()
                };
                wait::until("half wait", wait::BOUND, || waits(group) == ASKED as u32 / 2);
                new.imports();
                clients.iter_mut().for_each(|client| drop(http_answer(client).unwrap()));
                new.kill();
                group.settled(1);
            });
            detach(&Host::open().unwrap(), &key).unwrap();

            let attach = with(Policy::RoundRobin).hold_new(HoldNew::Accepting);
            followed_as(&key, attach, |group| {
                let new = Gunicorn::start_importing(port, class);
                let status = group.settled(2);
                assert_eq!(states(&status), [State::Active, State::Standby], "{class}");
                assert_eq!(answers(address, ASKED), each([old.pid()], ASKED));
                assert_eq!(waiting(group, true), 0);
                new.imports();
                all_serve(group, 2);
                assert_eq!(answers(address, ASKED), each([old.pid(), new.pid()], ASKED / 2));
            });
        });
    }
}

#[test]
fn a_second_nginx_joins() {
    alone(|| {
        let first = Nginx::start(2);
        joined("tcp", first.addr(), |group| {
            let second = first.start_beside(2);
            let before = all_serve(group, 4);
            let pids = first.worker_pids().into_iter().chain(second.worker_pids());
            assert_eq!(answers(first.addr(), 40), each(pids, 10));
            assert_eq!(picks_since(&before, &group.status()), [10; 4]);
        });
    });
}

#[test]
fn a_second_haproxy_joins() {
    alone(|| {
        let first = Haproxy::start(2);
        joined("tcp", first.addr(), |group| {
            let _second = Haproxy::start_on(first.port(), 2);
            let before = all_serve(group, 4);
            // Both say which thread it is.
            assert_eq!(answers(first.addr(), 40), each(0..2, 20));
            assert_eq!(picks_since(&before, &group.status()), [10; 4]);
        });
    });
}

#[test]
fn a_second_unbound_joins() {
    alone(|| {
        let first = Unbound::start(2);
        joined("udp", first.addr(), |group| {
            let _second = Unbound::start_on(first.port(), 2);
            let before = all_serve(group, 4);
            (0..8).for_each(|_| drop(dns_query(first.addr(), Unbound::NAME)));
            assert_eq!(picks_since(&before, &group.status()), [2; 4]);
        });
    });
}

/// The last one that serves ends, and one that imports its application is left: it serves when it accepts, and nothing
/// is refused meanwhile.
#[test]
fn a_server_that_is_left_alone_takes_all_that_comes() {
    alone(|| {
        let old = Gunicorn::start_on(free_port());
        let address = old.addr();
        joined("tcp", address, |group| {
            let new = Gunicorn::start_importing(address.port(), "sync");
            group.settled(2);
            old.kill();
            let status = group.settled(1);
            assert_eq!(states(&status), [State::Standby]);
            let mut clients: Vec<_> = (0..4).map(|_| http_ask(address, "/").unwrap()).collect();
            wait::until("all wait there", wait::BOUND, || waiting(group, true) == 4);
            new.imports();
            for client in &mut clients {
                assert_eq!(http_answer(client).unwrap().trim(), new.pid().to_string());
            }
            all_serve(group, 1);
        });
    });
}

#[test]
fn a_server_that_restarts_as_a_whole_serves_when_it_accepts() {
    alone(|| {
        let old = Gunicorn::start_on(free_port());
        let address = old.addr();
        joined("tcp", address, |group| {
            old.kill();
            let first = Gunicorn::start_importing(address.port(), "sync");
            let second = Gunicorn::start_importing(address.port(), "sync");
            let status = group.settled(2);
            assert_eq!(states(&status), [State::Standby; 2]);
            first.imports();
            wait::until("one serves", wait::BOUND, || {
                states(&group.status()).contains(&State::Active)
            });
            assert_eq!(answers(address, 10), each([first.pid()], 10));
            second.imports();
            all_serve(group, 2);
            assert_eq!(answers(address, 10), each([first.pid(), second.pid()], 5));
        });
    });
}
