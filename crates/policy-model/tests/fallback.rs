//! What a member cannot take goes to the others in proportion to their weights, in every policy.

use policy_model::{Candidate, Config, Model, Packet, Policy, Queue, Reason, Table};

const POLICIES: [Policy; 5] =
    [Policy::Hash, Policy::Source, Policy::RoundRobin, Policy::Random, Policy::Payload];

const CONNECTIONS: u32 = 4000;

/// Members of these weights, with as many entries each: those of a member one after the other (`shuffled` is
/// false), which is the worst for the member behind it, or in no order.
fn table(weights: &[u16], shuffled: bool) -> Table {
    let of = |(slot, weight): (u16, &u16)| vec![slot; usize::from(*weight)];
    let mut entries: Vec<u16> = (0..).zip(weights).flat_map(of).collect();
    if shuffled {
        let key = |place: usize| (place as u32 + 1).wrapping_mul(0x9e37_79b1).rotate_left(11);
        let mut places: Vec<_> = (0..entries.len()).collect();
        places.sort_by_key(|place| key(*place));
        entries = places.into_iter().map(|place| entries[place]).collect();
    }
    let candidate = |(slot, weight): (u16, &u16)| Candidate { slot, weight: *weight, limit: 1000 };
    let active = (0..weights.len() as u16).collect();
    let candidates = (0..).zip(weights).map(candidate).collect();
    Table { entries, active, candidates, ..Table::default() }
}

#[derive(Debug, Clone, Copy)]
enum Unable {
    Full,
    Empty,
}

/// A group in which some members can take no connection.
fn group(config: Config, table: &Table, unable: &[u16], why: Unable) -> Model {
    let members = table.active.len() as u16;
    let mut model = Model::new(config, members.max(8));
    model.set_table(table);
    (0..members).for_each(|slot| model.fill(slot));
    for slot in unable {
        match why {
            Unable::Full => {
                model.set_queue(*slot, Queue { waiting: 9000, half_open: 0, limit: 8999 });
            }
            Unable::Empty => model.empty(*slot),
        }
    }
    model
}

/// The member of a flow, source and payload of this number.
fn connect(model: &mut Model, number: u32) -> Option<u16> {
    let mut source = [0; 16];
    source[..4].copy_from_slice(&number.to_le_bytes());
    let payload = number.to_le_bytes();
    model.run(&Packet { hash: number, source, payload: &payload, ..Packet::default() })
}

/// How many connections each member gets.
fn deal(config: Config, table: &Table, unable: &[u16], why: Unable) -> (Model, Vec<u32>) {
    let mut model = group(config, table, unable, why);
    let mut dealt = vec![0; table.active.len()];
    for number in 0..CONNECTIONS {
        model.set_cpu(number % config.cpus);
        dealt[usize::from(connect(&mut model, number).expect("a member is there"))] += 1;
    }
    (model, dealt)
}

/// Each share is what the weight asks for, within the error of drawing: 4 deviations, and `error`.
#[track_caller]
fn assert_shares(what: &str, dealt: &[u32], weights: &[u16], unable: &[u16], error: f64) {
    let able = |slot: &usize| !unable.contains(&(*slot as u16));
    let sum: u16 = (0..weights.len()).filter(able).map(|slot| weights[slot]).sum();
    let all = f64::from(CONNECTIONS);
    for (slot, dealt) in dealt.iter().enumerate() {
        if !able(&slot) {
            assert_eq!(*dealt, 0, "{what}: {slot} is unable");
            continue;
        }
        let share = f64::from(weights[slot]) / f64::from(sum);
        let bound = 4.0 * (all * share * (1.0 - share)).sqrt() + error * all * share;
        let off = (f64::from(*dealt) - all * share).abs();
        assert!(off <= bound, "{what}: {slot} is {off:.0} off, beyond {bound:.0}");
    }
}

/// All weights, all members and pairs of members.
#[test]
fn what_one_or_two_members_cannot_take_goes_to_the_others_by_weight() {
    let weightings: [&[u16]; 5] =
        [&[1; 5], &[1, 2, 3, 4, 5], &[9, 1, 1, 5], &[1; 16], &[100, 1, 50, 2, 30, 3, 7]];
    for weights in weightings {
        let members = weights.len() as u16;
        let pairs = (0..members).flat_map(|a| (0..members).map(move |b| [a, b]));
        for policy in POLICIES {
            for (unable, why) in
                pairs.clone().zip([Unable::Full, Unable::Empty].into_iter().cycle())
            {
                for shuffled in [false, true] {
                    let config = Config { payload: (0, 4), ..Config::udp(policy) };
                    let (model, dealt) = deal(config, &table(weights, shuffled), &unable, why);
                    let what = format!("{policy:?} {weights:?} without {unable:?}: {dealt:?}");
                    // Where a member comes in long runs, a turn that is drawn is not the next.
                    assert_shares(&what, &dealt, weights, &unable, 0.02);
                    // Each connection is counted once, whatever was tried for it.
                    let outcomes = [Reason::Pick, Reason::FallbackActive].map(|r| model.counter(r));
                    assert_eq!(outcomes.iter().sum::<u64>(), CONNECTIONS.into(), "{what}");
                    let noted = [Reason::QueueFull, Reason::EmptySlot].map(|r| model.counter(r));
                    assert_eq!(noted.iter().sum::<u64>(), outcomes[1], "{what}");
                }
            }
        }
    }
}

/// Turns go on exactly: each of the others gets the next one.
#[test]
fn turns_of_a_full_member_are_taken_by_all_others_in_turn() {
    let table = Table::equal(5);
    let (_, dealt) = deal(Config::tcp(Policy::RoundRobin), &table, &[2], Unable::Full);
    assert_eq!(dealt, [1000, 1000, 0, 1000, 1000]);
    let (_, dealt) = deal(Config::tcp(Policy::RoundRobin), &table, &[1, 2, 3], Unable::Empty);
    assert_eq!(dealt, [2000, 0, 0, 0, 2000]);
}

/// Without an active member they take turns. If active ones are unable, none of them gets all.
#[test]
fn draining_members_share_what_no_active_one_can_take() {
    for draining in [2, 3, 4, 5] {
        let config = Config::tcp(Policy::RoundRobin);
        for active in [0, 1, 3] {
            let table = Table { draining: (3..3 + draining).collect(), ..Table::equal(active) };
            let mut model = Model::new(config, 8);
            model.set_table(&table);
            table.draining.iter().for_each(|slot| model.fill(*slot));
            let mut dealt = [0u32; 8];
            for number in 0..CONNECTIONS {
                dealt[usize::from(connect(&mut model, number).unwrap())] += 1;
            }
            let share = CONNECTIONS / u32::from(draining);
            for dealt in &dealt[3..usize::from(3 + draining)] {
                let bound = if active == 0 { 1 } else { share / 5 };
                assert!(dealt.abs_diff(share) <= bound, "{active} active: {dealt:?}");
            }
        }
    }
}

/// A flow finds the same member again as long as the same members are unable.
#[test]
fn a_flow_that_is_passed_on_keeps_to_its_member() {
    for policy in [Policy::Hash, Policy::Source, Policy::Payload] {
        let config = Config { payload: (0, 4), ..Config::udp(policy) };
        let mut model = group(config, &Table::equal(5), &[0, 3], Unable::Empty);
        let mut of = |number| connect(&mut model, number).unwrap();
        let first: Vec<_> = (0..64).map(&mut of).collect();
        assert_eq!(first, (0..64).rev().map(&mut of).rev().collect::<Vec<_>>(), "{policy:?}");
    }
}

/// Four CPUs with two members each. The other member of the CPU takes over; if both are unable, the members of
/// the other CPUs do, equally.
#[test]
fn members_of_the_cpu_come_first_and_then_those_of_all_others() {
    let entries = vec![0, 2, 4, 6, 1, 3, 5, 7];
    let table = Table { entries, ..Table::equal(8) };
    let config = Config { cpus: 4, ..Config::tcp(Policy::Cpu) };
    for why in [Unable::Full, Unable::Empty] {
        let (_, dealt) = deal(config, &table, &[2], why);
        // Four attempts in a row may find the one that is unable.
        assert_shares(&format!("{dealt:?}"), &dealt, &[1, 1, 1, 2, 1, 1, 1, 1], &[2], 0.08);
        let (_, dealt) = deal(config, &table, &[2, 3], why);
        assert_shares(&format!("{dealt:?}"), &dealt, &[1; 8], &[2, 3], 0.02);
    }
}

/// Members of equal load are picked by weight.
#[test]
fn least_loaded_spreads_what_a_member_cannot_take_by_weight() {
    let mut many = [1; 20]; // of which a sample is compared
    (many[3], many[7]) = (10, 5);
    for weights in [&[1; 5][..], &[9, 1, 1, 5], &[1, 196, 1], &[100, 1, 50, 2, 30, 3, 7], &many] {
        let members = weights.len() as u16;
        for unable in (0..members).map(|slot| [slot, (slot + 2) % members]) {
            for (why, shuffled) in [(Unable::Full, false), (Unable::Empty, true)] {
                for config in [Config::tcp, Config::udp].map(|config| config(Policy::LeastLoaded)) {
                    let (_, dealt) = deal(config, &table(weights, shuffled), &unable, why);
                    let what = format!("{weights:?} without {unable:?}: {dealt:?}");
                    assert_shares(&what, &dealt, weights, &unable, 0.02);
                }
            }
        }
    }
}

/// Nearly all of the weight is unable: hardly any draw finds one of the others, which still share alike.
#[test]
fn those_that_are_left_share_alike_if_hardly_any_draw_finds_them() {
    for policy in POLICIES {
        let config = Config { payload: (0, 4), ..Config::udp(policy) };
        for weights in [[196, 1, 1], [1, 196, 1], [1, 1, 196]] {
            let big = weights.iter().position(|weight| *weight > 1).unwrap() as u16;
            let (_, dealt) = deal(config, &table(&weights, true), &[big], Unable::Full);
            let what = format!("{policy:?} {weights:?}: {dealt:?}");
            assert_shares(&what, &dealt, &weights, &[big], 0.1);
        }
    }
}

/// Of a hundred members 95 are unable, and not all of the rest are tried one after the other.
#[test]
fn most_of_many_members_are_unable() {
    let unable: Vec<u16> = (0..100).filter(|slot| slot % 20 != 0).collect();
    for policy in POLICIES {
        let config = Config { payload: (0, 4), ..Config::udp(policy) };
        let mut model = group(config, &table(&[1; 100], true), &unable, Unable::Empty);
        let found =
            (0..CONNECTIONS).filter(|number| connect(&mut model, *number).is_some()).count();
        // 17 draws, of which one in twenty succeeds; and 16 members in a row, with one that is able in most.
        assert!(found > CONNECTIONS as usize * 8 / 10, "{policy:?}: {found}");
    }
}

/// The kernel's hash might choose a member on standby: a full one is selected, and the kernel drops there.
#[test]
fn where_members_are_on_standby_a_full_one_is_selected_and_counted_apart() {
    let full = Queue { waiting: 9000, half_open: 0, limit: 8999 };
    for policy in Policy::ALL {
        for (standby, draining) in [(true, vec![]), (true, vec![2, 3]), (false, vec![2])] {
            let config = Config { payload: (0, 4), ..Config::udp(policy) };
            let table = Table { standby, draining: draining.clone(), ..Table::equal(2) };
            let mut model = Model::new(config, 8);
            model.set_table(&table);
            let serving: Vec<u16> = [0, 1].into_iter().chain(draining).collect();
            for slot in &serving {
                model.fill(*slot);
                model.set_queue(*slot, full);
            }
            // Standby: its socket is in the array, and no list names it.
            model.fill(5);
            let got: Vec<_> = (0..100).map(|number| connect(&mut model, number)).collect();
            let of_full = model.counter(Reason::FallbackFull);
            // Least-loaded picks a full member if all are: it has compared them.
            match (standby, policy) {
                (_, Policy::LeastLoaded) => assert_eq!(of_full, 0),
                (true, _) => assert_eq!(of_full, 100, "{policy:?}"),
                (false, _) => {
                    assert_eq!(model.counter(Reason::FallbackKernel), 100, "{policy:?}");
                    continue;
                }
            }
            for slot in got {
                assert!(slot.is_some_and(|slot| serving.contains(&slot)), "{policy:?}: {slot:?}");
            }
            let picks: u64 = serving.iter().map(|slot| model.picks(*slot)).sum();
            assert_eq!(picks, model.counter(Reason::Pick), "{policy:?}: dropped is not picked");
            // As soon as one has room, it gets everything.
            model.set_queue(1, Queue::new(0, 0));
            for number in 0..50 {
                assert_eq!(connect(&mut model, number), Some(1), "{policy:?}");
            }
            // Without any socket that serves, the kernel's hash decides: standby members then serve.
            serving.iter().for_each(|slot| model.empty(*slot));
            assert_eq!(connect(&mut model, 1), None, "{policy:?}");
            assert_eq!(model.counter(Reason::FallbackKernel), 1, "{policy:?}");
        }
    }
}

/// The sockets of most members are closed, and those that are left are full: they are found however far they are.
#[test]
fn where_members_are_on_standby_a_full_one_is_found_behind_many_empty_slots() {
    let full = Queue { waiting: 9000, half_open: 0, limit: 8999 };
    for (active, draining) in [(600, 0), (0, 600), (20, 600)] {
        let config = Config { payload: (0, 4), ..Config::udp(Policy::Random) };
        let last = active + draining - 1;
        let mut model = Model::new(config, 700);
        let draining = (active..active + draining).collect();
        model.set_table(&Table { standby: true, draining, ..Table::equal(active) });
        model.fill(last);
        model.set_queue(last, full);
        model.fill(650);
        for number in 0..200 {
            assert_eq!(connect(&mut model, number), Some(last), "{active} active");
        }
        assert_eq!(model.counter(Reason::FallbackFull), 200);
    }
}
