//! The model compared with queueing theory, and with itself.

use policy_model::{Config, Policy};

use super::model::{MS, Scenario, Work, simulate};

const SERVERS: usize = 8;

/// Poisson arrivals, exponential service with a mean of 1 ms.
fn markov(utilisation: f64) -> Scenario {
    Scenario {
        workers: SERVERS,
        per_second: utilisation * SERVERS as f64 * 1000.0,
        connections: 400_000,
        work: Work { unit: MS as f64, exponential: true, long: (0.0, 1.0) },
        seed: 7,
        ..Scenario::default()
    }
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
fn means_are_what_queueing_theory_says() {
    for utilisation in [0.5, 0.8] {
        let mean = |decider| simulate(&markov(utilisation), decider).latencies.mean() / MS as f64;
        let (central, random) = (mean(None), mean(Some(Config::tcp(Policy::Hash))));
        for (simulated, known) in
            [(central, erlang_c(SERVERS, utilisation)), (random, erlang_c(1, utilisation))]
        {
            assert!((simulated / known - 1.0).abs() < 0.03, "{simulated} is not about {known}");
        }
        let shortest = mean(Some(Config::tcp(Policy::LeastLoaded)));
        assert!(central < shortest && shortest < 1.3 * central, "{central} {shortest} {random}");
    }
}

#[test]
fn every_request_is_served_once_and_the_same_again_is_the_same() {
    let plain = Scenario { connections: 20_000, round_trip: MS, ..markov(0.7) };
    let hanging = Scenario { hanging: 2, ..plain };
    for scenario in [plain, hanging, Scenario { failing: true, ..hanging }] {
        let programs = [Policy::Hash, Policy::RoundRobin, Policy::LeastLoaded]
            .map(|policy| Some(Config::tcp(policy)));
        for decider in programs.into_iter().chain([None]) {
            let outcome = simulate(&scenario, decider);
            assert_eq!((outcome.arrived, outcome.served), (20_000, 20_000));
            assert_eq!(outcome.dealt.iter().sum::<u64>(), 20_000);
            assert_eq!(outcome.latencies, simulate(&scenario, decider).latencies);
        }
    }
}
