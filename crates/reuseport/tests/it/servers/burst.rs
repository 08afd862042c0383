//! Clients that connect at once and stay, as after a restart of what is in front of a proxy. The worker
//! that wakes first has an empty queue: it must not get all of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use reuseport::policy::LeastLoaded;
use reuseport::{Host, Policy};
use test_support::burst::{ask_all, connect_at_once};
use test_support::server::{Haproxy, Nginx};

use crate::common::steering::{attach, picks};
use crate::common::world::{alone, key_at};

const WORKERS: usize = 4;
const CLIENTS: usize = 400;
/// The median of these bursts is compared: a worker may be kept from its processor for longer than a burst takes.
const BURSTS: usize = 5;

/// The standard deviation of connections per worker. The kernel's hash has about 8.7, a program that looks
/// at queues alone as much and more.
fn deviation(answers: &[String]) -> f64 {
    let mut dealt = BTreeMap::new();
    answers.iter().for_each(|answer| *dealt.entry(answer).or_insert(0.0) += 1.0);
    let mean = answers.len() as f64 / WORKERS as f64;
    let seen: f64 = dealt.values().map(|dealt| (dealt - mean) * (dealt - mean)).sum();
    let unseen = (WORKERS - dealt.len()) as f64 * mean * mean;
    ((seen + unseen) / WORKERS as f64).sqrt()
}

fn bursts_are_even(address: SocketAddr) {
    let host = Host::open().unwrap();
    let key = key_at(&host, "tcp", address);
    let _balancer = attach(&host, &key, Policy::LeastLoaded(LeastLoaded::DEFAULT));
    let mut deviations = Vec::new();
    for burst in 1..=BURSTS {
        let clients = connect_at_once(address, CLIENTS).unwrap();
        deviations.push(deviation(&ask_all(&clients).unwrap()));
        // The program decided on every one of them.
        let picks = picks(&host.status(&key).unwrap());
        assert_eq!(picks.iter().sum::<u64>(), (burst * CLIENTS) as u64);
    }
    deviations.sort_by(f64::total_cmp);
    // Half of the hash's: on a busy machine, workers are late.
    assert!(deviations[BURSTS / 2] <= 4.0, "{deviations:?}");
}

#[test]
fn a_burst_is_even_among_workers_of_nginx() {
    alone(|| {
        let nginx = Nginx::start_listening(&["127.0.0.1:PORT backlog=4096"], WORKERS);
        bursts_are_even(nginx.addr());
    });
}

#[test]
fn a_burst_is_even_among_threads_of_haproxy() {
    alone(|| {
        let haproxy = Haproxy::start(WORKERS);
        bursts_are_even(haproxy.addr());
    });
}
