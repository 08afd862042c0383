//! The model compared with queueing theory, and with itself.

use super::choose::{LeastLoaded, Policy};
use super::model::{Flood, Hang, KeepAlive, MS, Outcome, Scenario, Work, simulate};
use super::{Args, run};

const SERVERS: usize = 8;
const CONNECTIONS: u64 = 400_000;

/// Poisson arrivals, exponential service with a mean of 1 ms.
fn markov(utilisation: f64) -> Scenario {
    Scenario {
        workers: SERVERS,
        per_second: utilisation * SERVERS as f64 * 1000.0,
        connections: CONNECTIONS,
        work: Work { unit: MS as f64, exponential: true, long: (0.0, 1.0) },
        round_trip: 0,
        accepts: 1,
        hang: None,
        flood: None,
        keep_alive: None,
        failing: false,
        seed: 7,
    }
}

fn mean_in_ms(outcome: &Outcome) -> f64 {
    outcome.latencies.mean() / MS as f64
}

fn close(simulated: f64, known: f64) {
    assert!((simulated / known - 1.0).abs() < 0.03, "{simulated} is not about {known}");
}

/// The mean time in an M/M/c queue with a service of 1, by Erlang's C formula.
fn erlang_c(servers: usize, utilisation: f64) -> f64 {
    let offered = utilisation * servers as f64;
    let mut blocked = 1.0;
    for server in 1..=servers {
        blocked = offered * blocked / (server as f64 + offered * blocked);
    }
    let waits = blocked / (1.0 - utilisation * (1.0 - blocked));
    1.0 + waits / (servers as f64 * (1.0 - utilisation))
}

#[test]
fn a_central_queue_is_what_erlang_says() {
    for utilisation in [0.5, 0.8] {
        let outcome = simulate(&markov(utilisation), Policy::Central);
        close(mean_in_ms(&outcome), erlang_c(SERVERS, utilisation));
    }
}

#[test]
fn at_random_each_worker_is_a_queue_of_its_own() {
    for utilisation in [0.5, 0.8] {
        let outcome = simulate(&markov(utilisation), Policy::Hash);
        close(mean_in_ms(&outcome), 1.0 / (1.0 - utilisation));
    }
}

#[test]
fn the_shortest_queue_is_nearly_a_central_one() {
    let mean = |policy| mean_in_ms(&simulate(&markov(0.8), policy));
    let all = mean(Policy::LeastLoaded(LeastLoaded { window: None, ..LeastLoaded::AS_IS }));
    let (central, random) = (mean(Policy::Central), mean(Policy::Hash));
    assert!(central < all && all < 1.3 * central && all < random, "{central} {all} {random}");
}

#[test]
fn round_robin_is_better_than_random_and_deals_exactly() {
    let outcome = simulate(&markov(0.8), Policy::RoundRobin);
    assert!(mean_in_ms(&outcome) < 0.8 / (1.0 - 0.8));
    assert!(outcome.dealt.iter().all(|&dealt| dealt == CONNECTIONS / SERVERS as u64));
}

#[test]
fn every_request_is_served_once_whatever_happens() {
    let hang = Hang { workers: 2, every: 100 * MS, lasting: 40 * MS, drops: true };
    let plain = Scenario { connections: 20_000, round_trip: MS, ..markov(0.7) };
    let hanging = Scenario { hang: Some(hang), accepts: 64, ..plain };
    let flood = Some(Flood { per_second: 10_000.0, remembered: 50 * MS });
    let keep_alive = Some(KeepAlive { requests: 5.0, pause: 10.0 * MS as f64 });
    let scenarios = [
        plain,
        hanging,
        Scenario { flood, failing: true, ..hanging },
        Scenario { keep_alive, per_second: 1000.0, ..hanging },
    ];
    for scenario in scenarios {
        let least_loaded = Policy::LeastLoaded(LeastLoaded::AS_IS);
        for policy in [Policy::Central, Policy::Hash, Policy::RoundRobin, least_loaded] {
            if policy == Policy::Central && scenario.keep_alive.is_some() {
                continue;
            }
            let outcome = simulate(&scenario, policy);
            assert_eq!(outcome.arrived, scenario.connections);
            assert_eq!(outcome.served, outcome.arrived + outcome.further);
            assert_eq!(outcome.dealt.iter().sum::<u64>(), outcome.arrived);
            assert_eq!(outcome.further > 0, scenario.keep_alive.is_some());
        }
    }
}

#[test]
fn the_same_seed_gives_the_same() {
    let scenario = Scenario { connections: 50_000, ..markov(0.9) };
    let policy = Policy::LeastLoaded(LeastLoaded { sample: 4, ..LeastLoaded::AS_IS });
    let [first, again] = [(); 2].map(|()| simulate(&scenario, policy));
    assert_eq!(first.latencies, again.latencies);
    let other = simulate(&Scenario { seed: 8, ..scenario }, policy);
    assert_ne!(first.latencies, other.latencies);
}

#[test]
fn all_of_it_is_printed_and_written() {
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("json");
    let common = crate::Common { json: Some(json.clone()) };
    run(&Args { common, connections: 500, runs: 1, like_bench: false }).unwrap();
    let found: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    for section in ["sample-hang-70", "window", "half-open", "terms", "keep-alive", "like-bench"] {
        assert!(found["raw"][section].is_array(), "no {section}");
    }
}
