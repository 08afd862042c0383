//! The policies: what they pick, what they count, what they do about members that are not there.

mod least_loaded;
mod server;

use policy_model::{Arrival, Candidate, Config, Model, Packet, Policy, Queue, Reason, Table};
use test_support::btf::Btf;

/// A group with members 0, 1, … in it, of equal weight.
fn group(config: Config, members: u16) -> Model {
    let mut model = Model::new(config, 2 * members);
    model.set_table(&Table::equal(members));
    (0..members).for_each(|slot| model.fill(slot));
    model
}

fn least_loaded(members: u16) -> Model {
    group(Config::tcp(Policy::LeastLoaded), members)
}

fn new(hash: u32) -> Packet<'static> {
    Packet { hash, ..Packet::default() }
}

/// How often each member got one of as many new connections.
fn deal(model: &mut Model, connections: u32, members: u16) -> Vec<u32> {
    let mut dealt = vec![0; members.into()];
    for hash in 0..connections {
        let slot = model.run(&new(hash)).expect("a member is there");
        dealt[usize::from(slot)] += 1;
    }
    dealt
}

/// The enumerations of this crate against those that the compiled program describes.
#[test]
fn policies_and_reasons_have_the_programs_numbers() {
    let btf = Btf::of(include_bytes!("../../../reuseport/bpf/select.bpf.o"));
    let name = |prefix: &str, variant: String| {
        variant.chars().fold(prefix.to_owned(), |name, c| match c.is_uppercase() {
            true => format!("{name}_{c}"),
            false => format!("{name}{}", c.to_ascii_uppercase()),
        })
    };
    let ours = Policy::ALL.map(|policy| (name("POLICY", format!("{policy:?}")), policy as i64));
    assert_eq!(btf.enumeration("policy").unwrap(), ours.to_vec());
    for (reason, code) in btf.enumeration("reason").unwrap() {
        let found = REASONS.iter().find(|other| name("REASON", format!("{other:?}")) == reason);
        match found {
            Some(found) => assert_eq!(*found as i64, code, "{reason}"),
            None => assert_eq!((reason.as_str(), code), ("REASONS", REASONS.len() as i64)),
        }
    }
}

/// In the program's order.
const REASONS: [Reason; 15] = [
    Reason::Pick,
    Reason::FallbackActive,
    Reason::FallbackDraining,
    Reason::FallbackKernel,
    Reason::Stray,
    Reason::Migration,
    Reason::MigrationKernel,
    Reason::EmptySlot,
    Reason::SelectError,
    Reason::QueueFull,
    Reason::ShareCapped,
    Reason::PayloadShort,
    Reason::Stale,
    Reason::Repeated,
    Reason::FallbackFull,
];

#[test]
fn each_policy_picks_a_member_and_counts_it() {
    for policy in Policy::ALL {
        for config in [Config::tcp(policy), Config::udp(policy)] {
            let mut model = group(config, 4);
            let packet = Packet { payload: b"x", ..new(7) };
            let slot = model.run(&packet).unwrap_or_else(|| panic!("{policy:?} picks none"));
            assert_eq!(model.counter(Reason::Pick), 1, "{policy:?}");
            assert_eq!(model.picks(slot), 1, "{policy:?}");
        }
    }
}

#[test]
fn flows_keep_to_their_members_and_spread() {
    let mut model = group(Config::tcp(Policy::Hash), 4);
    let first: Vec<_> = (0..64).map(|hash| model.run(&new(hash))).collect();
    let again: Vec<_> = (0..64).map(|hash| model.run(&new(hash))).collect();
    assert_eq!(first, again);
    let dealt = deal(&mut model, 4000, 4);
    assert!(dealt.iter().all(|dealt| (850..1150).contains(dealt)), "{dealt:?}");
}

#[test]
fn sources_and_payloads_decide_whatever_the_port() {
    let mut model = group(Config::udp(Policy::Source), 16);
    let from = |last, hash| Packet {
        source: [10, 0, 0, last, 9, 9, 9, 9, 0, 0, 0, 0, 0, 0, 0, 0],
        ..new(hash)
    };
    let of: Vec<_> = (0..32).map(|last| model.run(&from(last, 1))).collect();
    assert_eq!(of, (0..32).map(|last| model.run(&from(last, 2))).collect::<Vec<_>>());
    assert!(of.windows(2).any(|pair| pair[0] != pair[1]));

    let mut model = group(Config { payload: (1, 2), ..Config::udp(Policy::Payload) }, 16);
    let with = |payload, hash| Packet { payload, ..new(hash) };
    assert_eq!(model.run(&with(b"?ab?", 1)), model.run(&with(b"!ab!", 2)));
    assert_eq!(model.counter(Reason::PayloadShort), 0);
    model.run(&with(b"?a", 3));
    assert_eq!((model.counter(Reason::PayloadShort), model.counter(Reason::Pick)), (1, 3));
}

#[test]
fn turns_are_for_what_is_new() {
    let mut model = group(Config::tcp(Policy::RoundRobin), 3);
    let stray = Packet { arrival: Arrival::Stray, ..new(1) };
    let migration = Packet { arrival: Arrival::Migration, ..new(1) };
    let picks: Vec<_> = (0..3)
        .map(|_| {
            model.run(&stray);
            model.run(&migration);
            model.run(&new(9)).unwrap()
        })
        .collect();
    assert_eq!(picks, [0, 1, 2]);
    let counted =
        [Reason::Pick, Reason::Stray, Reason::Migration].map(|reason| model.counter(reason));
    assert_eq!(counted, [3, 3, 3]);
    assert_eq!((0..3).map(|slot| model.picks(slot)).sum::<u64>(), 3);
}

#[test]
fn a_cpu_has_its_entry() {
    let mut model = group(Config { cpus: 4, ..Config::udp(Policy::Cpu) }, 4);
    for cpu in [2, 0, 3, 1] {
        model.set_cpu(cpu);
        assert_eq!(model.run(&new(cpu * 77)), Some(cpu as u16));
    }
}

#[test]
fn empty_and_full_members_are_passed_over_in_every_policy() {
    for policy in Policy::ALL {
        let mut model = group(Config::tcp(policy), 2);
        let packet = Packet { payload: b"x", ..new(0) };
        model.empty(1);
        for hash in 0..8 {
            assert_eq!(model.run(&Packet { hash, ..packet }), Some(0), "{policy:?}");
        }
        model.fill(1);
        model.set_queue(0, Queue { waiting: 2, half_open: 0, limit: 1 });
        for hash in 0..8 {
            assert_eq!(model.run(&Packet { hash, ..packet }), Some(1), "{policy:?}");
        }
        let outcomes = [Reason::Pick, Reason::FallbackActive].map(|reason| model.counter(reason));
        assert_eq!(outcomes.iter().sum::<u64>(), 16, "{policy:?}: {outcomes:?}");
        let passed = model.counter(Reason::EmptySlot) + model.counter(Reason::QueueFull);
        assert!(policy == Policy::LeastLoaded || passed == outcomes[1], "{policy:?}: {passed}");
    }
}

#[test]
fn a_datagram_goes_where_it_fits_in_every_policy() {
    let bytes = |waiting, limit| Queue { waiting, half_open: 0, limit };
    let cases = [
        (bytes(1000, 1832), 832, true),
        (bytes(1000, 1832), 833, false),
        (bytes(5000, 1832), 1, false),
        (bytes(0, 1832), 70_000, true),
        (bytes(1, i32::MAX as u32), 70_000, true),
    ];
    for (policy, (first, size, fits)) in
        Policy::ALL.into_iter().flat_map(|policy| cases.map(|case| (policy, case)))
    {
        let mut model = group(Config::udp(policy), 2);
        let packet = Packet { payload: b"x", truesize: size, ..new(0) };
        let what = format!("{policy:?}, {size} in {first:?}");
        // Least-loaded prefers the first one, of which there is less to read.
        model.set_queue(0, first);
        model.set_queue(1, bytes(100_000, 1 << 20));
        let to = (0..32).map(|hash| model.run(&Packet { hash, ..packet }));
        assert_eq!(to.filter(|slot| *slot == Some(0)).count() > 0, fits, "{what}");
        let passed = model.counter(Reason::QueueFull);
        assert_eq!(passed > 0, !fits && policy != Policy::LeastLoaded, "{what}");
        model.empty(1);
        // If no other one is there, the kernel decides; least-loaded picks it all the same.
        let alone = (fits || policy == Policy::LeastLoaded).then_some(0);
        assert_eq!(model.run(&packet), alone, "{what}");
    }
}

/// A member that does not accept trains gets 10 datagrams, each of which takes 1024 bytes more.
#[test]
fn a_train_goes_where_all_its_datagrams_fit() {
    for policy in Policy::ALL {
        let mut model = group(Config::udp(policy), 1);
        let train = Packet { payload: &[0; 200], truesize: 1000, train: 20, ..new(0) };
        let mut count_picks = |limit| {
            model.set_queue(0, Queue { waiting: 500, half_open: 0, limit });
            model.run(&train);
            model.counter(Reason::Pick)
        };
        let picks = [11_740, 11_739, 1500].map(&mut count_picks);
        let expected = if policy == Policy::LeastLoaded { [1, 2, 3] } else { [1, 1, 1] };
        assert_eq!(picks, expected, "{policy:?}");
    }
}

#[test]
fn who_is_draining_comes_last_and_then_the_kernel() {
    for policy in Policy::ALL {
        let mut model = group(Config::udp(policy), 2);
        let packet = Packet { payload: b"x", ..new(0) };
        model.set_table(&Table { draining: vec![3], ..Table::equal(2) });
        model.fill(3);
        (0..2).for_each(|slot| model.empty(slot));
        assert_eq!(model.run(&packet), Some(3), "{policy:?}");
        model.fill_with_stranger(3);
        assert_eq!(model.run(&packet), None, "{policy:?}");
        let fallbacks = [Reason::FallbackDraining, Reason::FallbackKernel];
        assert_eq!(fallbacks.map(|reason| model.counter(reason)), [1, 1], "{policy:?}");
        let migration = Packet { arrival: Arrival::Migration, ..packet };
        assert_eq!(model.run(&migration), None);
        assert_eq!(model.counter(Reason::MigrationKernel), 1, "{policy:?}");
    }
}

#[test]
fn a_stranger_in_a_slot_is_an_error_of_its_own() {
    let mut model = group(Config::tcp(Policy::RoundRobin), 2);
    model.fill_with_stranger(0);
    assert_eq!(model.run(&new(0)), Some(1));
    let counted = [Reason::SelectError, Reason::EmptySlot, Reason::FallbackActive];
    assert_eq!(counted.map(|reason| model.counter(reason)), [1, 0, 1]);
}

#[test]
fn an_empty_table_leaves_all_to_the_kernel() {
    for policy in Policy::ALL {
        let mut model = Model::new(Config::tcp(policy), 4);
        assert_eq!(model.run(&new(0)), None, "{policy:?}");
        assert_eq!(model.counter(Reason::FallbackKernel), 1, "{policy:?}");
    }
}

#[test]
fn connections_come_first_then_queues_and_turns_last() {
    let mut model = least_loaded(3);
    assert_eq!((0..6).map(|_| model.run(&new(0)).unwrap()).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2]);
    // Half-open ones are connections, and those that wait are open.
    model.set_queue(0, Queue::new(4, 5));
    model.count(0, 4, 0);
    model.count(1, 8, 0);
    model.set_queue(2, Queue::new(0, 1));
    model.count(2, 8, 0);
    assert_eq!(model.run(&new(0)), Some(1));
    model.count(1, 1, 0);
    for _ in 0..6 {
        assert_eq!(model.run(&new(0)), Some(1), "nothing waits there");
        model.count(1, 1, 1);
    }
}

#[test]
fn half_open_requests_count_up_to_their_bound() {
    let mut model = group(Config { half_open_bound: 4, ..Config::tcp(Policy::LeastLoaded) }, 2);
    model.set_queue(0, Queue::new(0, 900));
    model.set_queue(1, Queue::new(3, 0));
    assert_eq!(model.run(&new(0)), Some(1));
    model.set_queue(1, Queue::new(5, 0));
    assert_eq!(model.run(&new(0)), Some(0));
}

#[test]
fn loads_are_per_weight() {
    let mut model = least_loaded(2);
    let mut table = Table::equal(2);
    table.candidates[1] = Candidate { slot: 1, weight: 4, limit: 64 };
    model.set_table(&table);
    model.set_queue(0, Queue::new(1, 0));
    model.set_queue(1, Queue::new(3, 0));
    assert_eq!(model.run(&new(0)), Some(1));
    model.set_queue(1, Queue::new(5, 0));
    assert_eq!(model.run(&new(0)), Some(0));
}

#[test]
fn ties_are_not_always_broken_alike() {
    let mut model = least_loaded(4);
    // The member in turn is busy, and the other three are equal.
    model.set_queue(0, Queue::new(9, 0));
    let dealt = deal(&mut model, 4000, 4);
    assert_eq!(dealt[0], 0);
    assert!(dealt[1..].iter().all(|dealt| (1200..1500).contains(dealt)), "{dealt:?}");
}

#[test]
fn a_member_gets_twice_its_share_of_a_window_unless_others_are_stuck() {
    let mut model = least_loaded(4);
    (0..4).for_each(|slot| model.set_queue(slot, Queue::new(1, 0)));
    model.set_queue(2, Queue::new(0, 0));
    // A window of four members is 32 turns.
    assert_eq!(deal(&mut model, 32, 4)[2], 16);
    assert_eq!(model.counter(Reason::ShareCapped), 16);
    for slot in [0, 1, 3] {
        model.set_queue(slot, Queue::new(6, 0));
    }
    // They are picked once each at most; then their queues stand still.
    assert!(deal(&mut model, 32, 4)[2] >= 28);
}

#[test]
fn a_new_member_begins_slowly() {
    let mut model = least_loaded(4);
    (0..4).for_each(|slot| model.set_queue(slot, Queue::new(1, 0)));
    model.set_queue(3, Queue::new(0, 0));
    model.begin(3, true);
    let windows: Vec<u32> = (0..9).map(|_| deal(&mut model, 32, 4)[3]).collect();
    assert_eq!(windows, [2, 4, 6, 8, 10, 12, 14, 16, 16]);
    model.begin(3, false);
    assert_eq!(deal(&mut model, 32, 4)[3], 16);
}

#[test]
fn of_many_members_a_sample_is_examined() {
    let mut model = group(Config { sample: 4, ..Config::tcp(Policy::LeastLoaded) }, 100);
    let mut table = Table::equal(100);
    table.candidates.iter_mut().for_each(|candidate| candidate.limit = u16::MAX);
    model.set_table(&table);
    (0..100).for_each(|slot| model.set_queue(slot, Queue::new(5, 0)));
    model.set_queue(7, Queue::new(0, 0));
    let found = deal(&mut model, 10_000, 100)[7];
    // Every hundredth turn, and three hundredths of the others by chance.
    assert!((320..480).contains(&found), "{found}");
}

#[test]
fn of_full_members_the_best_is_taken_only_if_all_are_full() {
    let mut model = least_loaded(2);
    let full = |waiting| Queue { waiting, half_open: 0, limit: waiting - 1 };
    model.set_queue(0, full(2));
    model.set_queue(1, Queue::new(5, 0));
    assert_eq!(model.run(&new(0)), Some(1));
    model.set_queue(1, full(5));
    assert_eq!(model.run(&new(0)), Some(0));
    assert_eq!((model.counter(Reason::Pick), model.counter(Reason::QueueFull)), (2, 0));
}

#[test]
fn requests_in_flight_count_for_the_member_that_has_the_slot() {
    let mut model = least_loaded(2);
    let word = |epoch: u64, number: u64| epoch << 48 | number;
    model.set_report(0, 7, 0, word(7, 3));
    model.set_queue(1, Queue::new(2, 0));
    assert_eq!(model.run(&new(0)), Some(1));
    // The slot went to another member.
    model.set_report(0, 8, 0, word(7, 3));
    assert_eq!(model.run(&new(0)), Some(0));
}

#[test]
fn a_worker_that_is_busy_for_too_long_comes_after_all_others() {
    let mut model = least_loaded(2);
    let since = 1000;
    model.set_report(0, 1, 1 << 48 | since, 0);
    model.set_queue(1, Queue::new(50, 0));
    model.set_clock((since << 16) + 99_000_000);
    assert_eq!((model.run(&new(0)), model.counter(Reason::Stale)), (Some(0), 0));
    model.set_clock((since << 16) + 101_000_000);
    assert_eq!((model.run(&new(0)), model.counter(Reason::Stale)), (Some(1), 1));
    // Its clock is ahead of the kernel's.
    model.set_clock(0);
    assert_eq!(model.run(&new(0)), Some(0));
}

#[test]
fn open_connections_need_not_count() {
    let mut model = group(Config { load_open: false, ..Config::tcp(Policy::LeastLoaded) }, 2);
    model.count(0, 1000, 0);
    assert_eq!(model.run(&new(0)), Some(0));
    let mut model = group(Config { load_queue: false, ..Config::tcp(Policy::LeastLoaded) }, 2);
    model.set_queue(0, Queue::new(1000, 0));
    model.count(1, 1, 0);
    assert_eq!(model.run(&new(0)), Some(0));
}

#[test]
fn datagrams_go_where_the_fewest_bytes_wait() {
    let mut model = group(Config::udp(Policy::LeastLoaded), 3);
    [4000, 1000, 2000].into_iter().zip(0..).for_each(|(bytes, slot)| {
        model.set_queue(slot, Queue::new(bytes, 0));
    });
    assert_eq!(model.run(&new(0)), Some(1));
}
