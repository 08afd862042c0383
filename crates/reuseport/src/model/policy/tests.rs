//! The list of policies: names, numbers, suggestions, tables.

use super::*;
use crate::model::id::{Slot, State, Weight};
use crate::model::table::{Share, Topology};

const PAYLOAD: &str = "payload:4:8";

#[test]
fn names_and_codes_convert_back_to_the_policy() {
    for policy in Policy::ALL.iter().copied().chain([PAYLOAD.parse().unwrap()]) {
        assert_eq!(policy.to_string().parse(), Ok(policy));
        assert_eq!(Policy::from_code(policy.code(), policy.parameters()), Some(policy));
        assert!(!policy.help().is_empty() && !policy.without_queues().is_empty());
    }
    assert_eq!(PAYLOAD.parse::<Policy>().unwrap().to_string(), PAYLOAD);
    assert_eq!([0, 6, 7, 8, u32::MAX].map(|code| Policy::from_code(code, 0)), [None; 5]);
}

#[test]
fn each_policy_is_on_the_list_once() {
    for entry in LIST {
        let same = |other: &&Entry| discriminant(&other.default) == discriminant(&entry.default);
        assert_eq!(LIST.iter().filter(same).count(), 1, "{}", entry.rule.name);
        assert_eq!(entry.default.name(), entry.rule.name);
    }
}

#[test]
fn pinned_numbers_do_not_change() {
    let codes: Vec<u32> = Policy::ALL.iter().copied().map(Policy::code).collect();
    assert_eq!(codes, [6, 3, 1, 2, 4, 5]);
    assert_eq!("payload:0:1".parse::<Policy>().unwrap().code(), 7);
}

#[test]
fn a_misspelt_name_is_recognised() {
    let error = "round-robbin".parse::<Policy>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "unknown policy `round-robbin`: did you mean `round-robin`? \
         (known: least-loaded, round-robin, hash, source, random, cpu, \
         payload:OFFSET:LENGTH)"
    );
    for (misspelt, meant) in [
        ("roundrobin", "round-robin"),
        ("ROUND_ROBIN", "round-robin"),
        ("hahs", "hash"),
        ("rnadom", "random"),
        ("Hash", "hash"),
        ("paylod:0:8", "payload:OFFSET:LENGTH"),
    ] {
        assert_eq!(misspelt.parse::<Policy>().unwrap_err().nearest(), Some(meant), "{misspelt}");
    }
}

#[test]
fn a_different_word_gets_no_suggestion() {
    for word in ["", "maglev", "leastconn", "x\u{1b}[31m"] {
        let error = word.parse::<Policy>().unwrap_err();
        assert_eq!(error.nearest(), None, "{word}");
        assert!(!error.to_string().contains('\u{1b}'));
    }
}

#[test]
fn parameters_belong_to_the_policies_that_take_them() {
    assert!("hash:1:2".parse::<Policy>().is_err());
    let error = "payload".parse::<Policy>().unwrap_err();
    assert!(
        error.to_string().starts_with("`payload` is not a valid range of payload bytes"),
        "{error}"
    );
}

#[test]
fn the_alternate_form_shows_the_options() {
    let default = Policy::default_for(Protocol::Tcp);
    assert_eq!(default.to_string(), "least-loaded");
    assert_eq!(format!("{default:#}"), "least-loaded (queue,open; max share 2)");
    assert_eq!(format!("{:#}", Policy::Hash), "hash");
}

#[test]
fn only_least_loaded_with_its_term_compares_open_connections_and_only_of_tcp() {
    let with = |load: LoadTerms| Policy::LeastLoaded(LeastLoaded { load, ..LeastLoaded::DEFAULT });
    for (load, counts) in
        [(LoadTerms::QUEUE, false), (LoadTerms::OPEN, true), (LoadTerms::QUEUE_AND_OPEN, true)]
    {
        assert_eq!(with(load).counts_open(Protocol::Tcp), counts);
        assert!(!with(load).counts_open(Protocol::Udp));
    }
    let others = Policy::ALL.iter().copied().filter(|p| p.name() != "least-loaded");
    for policy in others.chain([PAYLOAD.parse().unwrap()]) {
        assert!(!policy.counts_open(Protocol::Tcp), "{policy}");
    }
}

/// The lengths of the tables for two members of equal weight: Maglev's is fixed and prime, a round of
/// turns is as short as the weights allow.
#[test]
fn flows_are_hashed_and_turns_are_exact() {
    let share =
        |slot| Share { slot: Slot::new(slot), weight: Weight::DEFAULT, state: State::Active };
    let members = Members {
        shares: &[share(0), share(1)],
        seed: 9,
        capacity: 64,
        host: &|_| None,
        cpu: &|slot| Some(slot.get()),
        topology: &|| Topology { nodes: vec![0; 4] },
    };
    let entries = |name: &str| name.parse::<Policy>().unwrap().table(&members).entries.len();
    for by_flow in ["hash", "source", PAYLOAD] {
        assert_eq!(entries(by_flow), 65_521, "{by_flow}");
    }
    for by_turn in ["round-robin", "random", "least-loaded"] {
        assert_eq!(entries(by_turn), 2, "{by_turn}");
    }
    assert_eq!(entries("cpu"), 8, "each of 4 CPUs has its members twice");
    assert_eq!(Policy::default_for(Protocol::Udp), Policy::Hash);
}
