//! nginx: a listener for each worker; the master and all workers hold all of them.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use reuseport::status::{GroupStatus, Steering};
use reuseport::{Host, Policy};
use test_support::load::{self, Outcome};
use test_support::server::{Nginx, free_port, open_descriptors};
use test_support::{client, wait};

use crate::common::steering::{
    answers, attach, cookies, count, each, followed, picks, picks_since, steered,
};
use crate::common::world::{alone, counter, key_at};

fn owners(status: &GroupStatus) -> BTreeSet<Option<u32>> {
    status.members.iter().map(|member| member.owner).collect()
}

fn pids(nginx: &Nginx) -> Vec<u32> {
    let mut pids = nginx.worker_pids();
    pids.push(nginx.master_pid());
    pids.sort_unstable();
    pids
}

#[test]
fn round_robin_deals_exactly_and_detaching_leaves_nothing() {
    alone(|| {
        let nginx = Nginx::start(2);
        let descriptors = || pids(&nginx).into_iter().map(open_descriptors).collect::<Vec<_>>();
        let (address, workers, before) = (nginx.addr(), nginx.worker_pids(), descriptors());
        let host = Host::open().unwrap();
        let key = key_at(&host, "tcp", address);
        let balancer = attach(&host, &key, Policy::RoundRobin);

        assert_eq!(answers(address, 200), each(workers.clone(), 100));
        let status = steered(&host, &key).unwrap();
        assert_eq!(picks(&status), [100, 100]);
        assert_eq!((counter(&status, "picks"), counter(&status, "fallback_kernel")), (200, 0));

        balancer.detach().unwrap();
        let status = host.status(&key).unwrap();
        assert_eq!((&status.steering, status.unsteered()), (&Steering::KernelHash, 0));
        assert!(status.group.program.is_none());
        // The hash of the kernel reaches both workers, except once in 2^99 runs.
        let served: Vec<u32> = answers(address, 100).into_keys().collect();
        assert_eq!(served.into_iter().collect::<BTreeSet<_>>(), workers.into_iter().collect());
        wait::until("nginx has as many descriptors as before", wait::BOUND, || {
            descriptors() == before
        });
    });
}

#[test]
fn workers_own_one_listener_each_and_hold_all_of_them() {
    alone(|| {
        let nginx = Nginx::start(3);
        let host = Host::open().unwrap();
        let key = key_at(&host, "tcp", nginx.addr());
        let _balancer = attach(&host, &key, Policy::RoundRobin);
        let status = steered(&host, &key).unwrap();
        assert_eq!(owners(&status), nginx.worker_pids().into_iter().map(Some).collect());
        // Until execve, a child of another test has copies of borrowed sockets.
        wait::until("master and workers are the only holders", wait::BOUND, || {
            let status = host.status(&key).unwrap();
            status.members.iter().all(|member| {
                let holders: Vec<u32> = member.member.holders.iter().map(|h| h.pid).collect();
                holders == pids(&nginx)
            })
        });
        // The owner of the picked member answers.
        let before = host.status(&key).unwrap();
        let answered: u32 = client::http_get(nginx.addr()).trim().parse().unwrap();
        let after = host.status(&key).unwrap();
        let picked = picks_since(&before, &after).iter().position(|picks| *picks == 1).unwrap();
        assert_eq!(after.members[picked].owner, Some(answered));
    });
}

#[test]
fn under_hash_a_flow_keeps_its_worker_and_under_random_it_does_not() {
    alone(|| {
        let nginx = Nginx::start(2);
        let address = nginx.addr();
        let host = Host::open().unwrap();
        let key = key_at(&host, "tcp", address);
        attach(&host, &key, Policy::Hash);
        let flow = |port: u16| count((0..20).map(|_| client::http_get_from(port, address)));
        let served: Vec<_> = (0..12).map(|_| flow(free_port())).collect();
        assert!(served.iter().all(|workers| workers.len() == 1), "{served:?}");
        // All flows reach the same worker once in 2^11 runs.
        assert!(served.iter().any(|workers| workers != &served[0]), "{served:?}");
        assert_eq!(picks(&steered(&host, &key).unwrap()).iter().sum::<u64>(), 12 * 20);

        attach(&host, &key, Policy::Random);
        let port = free_port();
        let served = count((0..100).map(|_| client::http_get_from(port, address)));
        // Six standard deviations about the mean.
        assert!(served.len() == 2 && served.values().all(|n| (20..=80).contains(n)), "{served:?}");
        assert_eq!(counter(&steered(&host, &key).unwrap(), "picks"), 12 * 20 + 100);
    });
}

#[test]
fn ipv4_and_ipv6_listeners_are_two_groups_steered_apart() {
    alone(|| {
        let nginx = Nginx::start_listening(&["127.0.0.1:PORT", "[::]:PORT ipv6only=on"], 2);
        let four = nginx.addr();
        let six: SocketAddr = format!("[::1]:{}", nginx.port()).parse().unwrap();
        let host = Host::open().unwrap();
        let (key4, key6) = (
            key_at(&host, "tcp", four),
            key_at(&host, "tcp", format!("[::]:{}", nginx.port()).parse().unwrap()),
        );
        assert!(key6.v6only);
        attach(&host, &key4, Policy::RoundRobin);
        attach(&host, &key6, Policy::RoundRobin);
        assert_eq!(answers(four, 20), each(nginx.worker_pids(), 10));
        assert_eq!(answers(six, 40), each(nginx.worker_pids(), 20));
        assert_eq!(picks(&steered(&host, &key4).unwrap()), [10, 10]);
        assert_eq!(picks(&steered(&host, &key6).unwrap()), [20, 20]);
        reuseport::detach(&host, &key4).unwrap();
        assert_eq!(answers(six, 10), each(nginx.worker_pids(), 5));
    });
}

#[test]
fn an_ipv6_listener_for_both_protocols_steers_both() {
    alone(|| {
        let nginx = Nginx::start_listening(&["[::]:PORT ipv6only=off"], 2);
        let six: SocketAddr = format!("[::1]:{}", nginx.port()).parse().unwrap();
        let host = Host::open().unwrap();
        let key = key_at(&host, "tcp", format!("[::]:{}", nginx.port()).parse().unwrap());
        assert!(!key.v6only);
        attach(&host, &key, Policy::RoundRobin);
        assert_eq!(answers(nginx.addr(), 20), each(nginx.worker_pids(), 10));
        assert_eq!(answers(six, 20), each(nginx.worker_pids(), 10));
        assert_eq!(picks(&steered(&host, &key).unwrap()), [20, 20]);
    });
}

#[test]
fn a_new_binary_that_takes_over_gets_the_same_listeners_and_loses_nothing() {
    alone(|| {
        let mut nginx = Nginx::start_daemon(2);
        let (address, old) = (nginx.addr(), nginx.worker_pids());
        let key = key_at(&Host::open().unwrap(), "tcp", address);
        followed(&key, |group| {
            let before = group.settled(2);
            let outcome = load::http_during(address, 2, || nginx.upgrade());
            assert_eq!(outcome.failed, 0, "{outcome:?}");
            let after = group.settled(2);
            assert_eq!(cookies(&after), cookies(&before));
            assert!(nginx.worker_pids().iter().all(|worker| !old.contains(worker)));
            assert_eq!(answers(address, 20), each(nginx.worker_pids(), 10));
            assert_eq!(owners(&after), nginx.worker_pids().into_iter().map(Some).collect());
        });
    });
}

#[test]
fn workers_killed_under_load_are_replaced_behind_the_same_listeners() {
    const CLIENTS: usize = 2;

    alone(|| {
        let mut nginx = Nginx::start(2);
        let address = nginx.addr();
        let key = key_at(&Host::open().unwrap(), "tcp", address);
        followed(&key, |group| {
            let before = group.settled(2);
            let mut kills = 0;
            let outcome = load::http_during(address, CLIENTS, || {
                for _ in 0..3 {
                    nginx.kill_worker(nginx.worker_pids()[0]);
                    kills += 1;
                }
            });
            // Connections that wait at a listener wait for the next worker. Only accepted ones end
            // with a worker: at most one request of each client.
            assert!(outcome.failed <= kills * CLIENTS as u64, "{outcome:?}");
            assert!(outcome.answered > 0);
            assert_eq!(cookies(&group.settled(2)), cookies(&before));
            assert_eq!(answers(address, 20), each(nginx.worker_pids(), 10));
        });
    });
}

/// The process that opened the sockets hands them to a child and ends while the watcher looks.
#[test]
fn a_daemon_that_restarts_is_steered_again() {
    alone(|| {
        let mut nginx = Nginx::start_daemon(3);
        let address = nginx.addr();
        let key = key_at(&Host::open().unwrap(), "tcp", address);
        followed(&key, |group| {
            for _ in 0..10 {
                nginx.restart();
                group.settled(3);
            }
            assert_eq!(answers(address, 30), each(nginx.worker_pids(), 10));
        });
    });
}

#[test]
fn after_a_restart_wrk_loses_nothing_and_connections_are_dealt_evenly() {
    alone(|| {
        let mut nginx = Nginx::start(2);
        let address = nginx.addr();
        let key = key_at(&Host::open().unwrap(), "tcp", address);
        followed(&key, |group| {
            nginx.restart();
            let before = group.settled(2);
            let Outcome { answered, failed } = load::wrk(address, 1);
            assert!(answered > 100 && failed == 0, "{answered} answered, {failed} failed");
            let dealt = picks_since(&before, &group.status());
            // A SYN that the kernel drops is sent and dealt again, in turn.
            assert!(dealt[0].abs_diff(dealt[1]) <= 1, "{dealt:?}");
            assert!(dealt.iter().sum::<u64>() >= answered, "{dealt:?}, {answered} answered");
        });
    });
}
