//! The follower against a host that exists only here: groups, processes and failures at random.

mod held;
mod world;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;

use super::followed::Options;
use super::follower::{Action, Event, Follower};
use super::pace::{RARELY, REGULARLY};
use super::seen::{Observation, Port};
use crate::kernel::observe::Extent;
use crate::model::group::{AttachedProgram, Protocol};

use world::{World, cookie, key, key_of, ms, near};

#[test]
fn one_look_serves_all_groups_that_are_due() {
    let mut world = World::settled(20);
    world.passes(REGULARLY);
    assert_eq!((world.looks, world.updates.len()), (1, 0));
}

#[test]
fn groups_whose_updates_need_the_same_part_of_the_host_are_updated_together() {
    let start = Instant::now();
    let mut follower = Follower::new(start);
    let options = Options { interval: REGULARLY, retakes: false, rests: true };
    for n in 0..3 {
        follower.add(start, key(n), options, Vec::new());
    }
    let due = follower.deadline().unwrap();
    let Some(Action::Update { key: first, extent }) = follower.poll(due) else {
        panic!("an update is due")
    };
    let others: Vec<_> = follower.due_updates(&extent).cloned().collect();
    assert_eq!((first, &others[..]), (key(0), &[key(1), key(2)][..]));
    assert_eq!(follower.due_updates(&Extent::Whole).count(), 0);
    others.iter().for_each(|key| follower.begin_update(key));
    assert_eq!(follower.due_updates(&extent).count(), 0);
}

#[test]
fn groups_that_were_looked_at_alone_are_soon_looked_at_with_the_others() {
    let mut world = World::settled(20);
    for n in 0..20 {
        world.passes(ms(20));
        let event = Event::Went { port: World::port(n), cookie: cookie(1000) };
        world.follower.handle(world.now, event);
        world.acts();
    }
    world.looks = 0;
    world.passes(4 * REGULARLY);
    assert!(world.looks <= 5, "{} looks", world.looks);
}

#[test]
fn a_listener_is_enrolled_once_it_is_in_its_group_and_only_its_process_is_looked_at() {
    let mut world = World::settled(3);
    let new = world.joins(1, Some(ms(5)), false);
    world.passes(ms(4));
    assert_eq!(world.updates.len(), 0);
    world.passes(ms(4));
    let process = world.servers[1].sockets[&new].1;
    assert_eq!(world.updates, [(key(1), near(process))]);
    assert!(world.servers[1].slots.contains(&new));
}

#[test]
fn a_listener_that_joins_no_group_is_looked_for_seven_times() {
    let mut world = World::settled(2);
    world.joins(0, None, false);
    world.passes(ms(100));
    assert_eq!((world.looks, world.updates.len()), (7, 0));
    let deadline = world.follower.deadline().unwrap();
    assert!(deadline > world.now + ms(500), "{:?}", deadline - world.now);
}

#[test]
fn a_listener_of_another_group_on_the_port_causes_no_update() {
    let mut world = World::settled(2);
    let port = World::port(0);
    let of_other = *world.servers[1].sockets.first_key_value().unwrap().0;
    let event = Event::Came { port, cookie: cookie(of_other), process: 1 };
    world.follower.handle(world.now, event);
    world.passes(ms(100));
    assert_eq!((world.looks, world.updates.len()), (1, 0));
}

#[test]
fn a_member_that_listens_again_is_enrolled_again_although_the_group_looks_the_same() {
    let mut world = World::settled(1);
    let same = *world.servers[0].sockets.first_key_value().unwrap().0;
    for event in [
        Event::Went { port: World::port(0), cookie: cookie(same) },
        Event::Came { port: World::port(0), cookie: cookie(same), process: 1 },
    ] {
        world.follower.handle(world.now, event);
    }
    world.passes(ms(10));
    assert_eq!(world.updates.len(), 1);
}

#[test]
fn a_newcomer_whose_holder_was_not_looked_at_is_looked_for_everywhere() {
    let mut world = World::settled(1);
    world.joins(0, Some(ms(0)), true);
    world.passes(REGULARLY);
    assert_eq!(world.updates, [(key(0), Extent::Whole)]);
}

#[test]
fn a_group_that_fails_says_so_once_for_each_error_and_delays_no_other() {
    let mut world = World::settled(2);
    for text in ["first", "first", "second"] {
        world.servers[0].fails_with = Some(text.to_owned());
        world.joins(0, Some(ms(0)), false);
        let new = world.joins(1, Some(ms(0)), false);
        world.passes(ms(1));
        assert!(world.servers[1].slots.contains(&new));
        world.passes(ms(9000));
    }
    assert_eq!(world.said(0), ["first", "second"]);
    world.servers[0].fails_with = None;
    world.passes(REGULARLY);
    assert_eq!(world.servers[0].slots, world.servers[0].members(world.now));
}

#[test]
fn members_that_a_failed_update_released_are_reported_with_the_next() {
    let mut world = World::settled(1);
    world.joins(0, Some(ms(0)), false);
    world.passes(ms(100));
    let server = &mut world.servers[0];
    (server.fails_with, server.fails_late) = (Some("vanished".to_owned()), true);
    world.leaves(0, false);
    world.passes(ms(100));
    assert_eq!((world.servers[0].slots.len(), world.servers[0].reported.len()), (1, 2));
    world.servers[0].fails_with = None;
    world.leaves(0, false);
    world.joins(0, Some(ms(0)), false);
    world.passes(REGULARLY);
    assert_eq!(world.servers[0].reported, world.servers[0].members(world.now));
}

#[test]
fn a_server_that_restarts_is_said_to_be_gone_once_and_is_enrolled_again() {
    let mut world = World::settled(2);
    world.leaves(0, false);
    world.passes(ms(9000));
    assert_eq!(world.said(0), ["Gone"]);
    world.updates.clear();
    let new = world.joins(0, Some(ms(0)), false);
    world.passes(ms(1));
    assert_eq!(world.servers[0].slots, BTreeSet::from([new]));
    let process = world.servers[0].sockets[&new].1;
    assert_eq!(world.updates, [(key(0), near(process))]);
}

#[test]
fn a_detached_group_is_forgotten_and_the_last_one_ends_the_watch() {
    let mut world = World::settled(2);
    for n in 0..2 {
        assert!(!world.follower.is_done());
        world.servers[n].detached = true;
        world.leaves(n, false);
        world.passes(ms(10));
        assert_eq!(world.said(n), ["Detached"]);
    }
    assert!(world.follower.is_done());
}

#[test]
fn a_group_that_is_not_there_yet_is_looked_for_when_a_socket_comes_and_regularly() {
    let mut now = Instant::now();
    let mut follower = Follower::new(now);
    follower.expect(now, 7, vec![World::port(0)], false);
    let mut looks_until = |follower: &mut Follower, end: Duration, found: &[u32]| {
        let (mut looks, mut finds, end) = (0, 0, now + end);
        loop {
            while let Some(action) = follower.poll(now) {
                match action {
                    Action::Observe(extent) => {
                        assert_eq!(extent, Extent::Near { pids: vec![], udp: false });
                        assert_eq!(follower.looked_for().collect::<Vec<_>>(), [7]);
                        let found = found.to_vec();
                        let observation = Observation { found, ..Observation::default() };
                        follower.observed(now, Some(&observation));
                        looks += 1;
                    }
                    Action::Find { ids } if ids == [7] => finds += 1,
                    action => panic!("{action:?}"),
                }
            }
            let deadline = follower.deadline().unwrap();
            assert!(deadline > now);
            if deadline > end {
                now = end;
                return (looks, finds, now);
            }
            now = deadline;
        }
    };
    let (looks, finds, now) = looks_until(&mut follower, 3 * REGULARLY - ms(1), &[]);
    assert_eq!((looks, finds), (3, 0));
    follower.handle(now, Event::Came { port: World::port(0), cookie: cookie(1), process: 1 });
    let (looks, finds, _) = looks_until(&mut follower, ms(100), &[7]);
    assert_eq!((looks, finds), (7, 7), "until it is followed");
    follower.found(7);
    assert!(follower.is_done() && follower.deadline().is_none());
}

#[test]
fn regular_looks_at_groups_look_for_those_that_are_not_there_too() {
    let mut world = World::settled(3);
    world.follower.expect(world.now, 7, vec![World::port(9)], false);
    world.passes(10 * REGULARLY);
    assert!(world.looks <= 12, "{} looks", world.looks);
}

#[test]
fn udp_groups_that_only_their_descriptors_show_are_looked_for_on_the_whole_host_at_times() {
    let mut now = Instant::now();
    let mut follower = Follower::new(now);
    let port = Port { protocol: Protocol::Udp, ..World::port(0) };
    follower.expect(now, 7, vec![port], false);
    let mut whole = 0;
    for _ in 0..60 {
        while let Some(action) = follower.poll(now) {
            let Action::Observe(extent) = action else { panic!("{action:?}") };
            whole += usize::from(extent == Extent::Whole);
            follower.observed(now, Some(&Observation::default()));
        }
        now = follower.deadline().unwrap();
    }
    assert_eq!(whole, 4);
}

#[test]
fn a_udp_socket_is_enrolled_when_it_may_be_by_one_look_at_its_process() {
    let mut world = World::settled_of(Protocol::Udp, 2);
    let new = world.joins(1, Some(ms(0)), false);
    world.passes(ms(60));
    let second = world.joins(1, Some(ms(0)), false);
    world.passes(ms(39));
    assert_eq!((world.looks, world.updates.len()), (0, 0));
    world.passes(ms(1));
    assert_eq!((world.looks, world.updates.len()), (1, 1));
    let slots = &world.servers[1].slots;
    assert!(slots.contains(&new) && !slots.contains(&second));
    // Those that were bound within 50 ms are looked for together.
    world.passes(ms(99));
    assert!(!world.servers[1].slots.contains(&second));
    world.passes(ms(1));
    assert!(world.servers[1].slots.contains(&second));
    for (of, extent) in &world.updates {
        assert_eq!(*of, key_of(Protocol::Udp, 1));
        assert_ne!(*extent, Extent::Whole);
    }
}

#[test]
fn a_udp_socket_that_connects_at_once_causes_no_update() {
    let mut world = World::settled_of(Protocol::Udp, 1);
    let new = world.joins(0, Some(ms(0)), false);
    world.passes(ms(50));
    world.servers[0].sockets.remove(&new);
    world.passes(ms(200));
    assert_eq!((world.looks, world.updates.len()), (1, 0));
}

#[test]
fn looks_that_cost_much_are_rare() {
    let mut world = World::settled_every(ms(150));
    world.passes(ms(1500));
    assert!((9..=11).contains(&world.looks), "{} looks", world.looks);
    world.cost = ms(4);
    world.passes(ms(1000));
    world.looks = 0;
    world.passes(ms(6000));
    assert!((9..=11).contains(&world.looks), "{} looks", world.looks);
    world.cost = ms(60);
    world.passes(REGULARLY);
    world.looks = 0;
    world.passes(10 * REGULARLY);
    assert!((9..=11).contains(&world.looks), "{} looks", world.looks);
}

#[test]
fn groups_to_which_nothing_happens_rest() {
    let mut world = World::resting(20);
    world.passes(RARELY - 10 * REGULARLY);
    assert_eq!(world.looks, 0);
    world.passes(10 * REGULARLY);
    assert_eq!((world.looks, world.updates.len()), (1, 0));
}

#[test]
fn groups_to_which_connections_come_are_looked_at_together() {
    let mut world = World::resting(20);
    for n in 0..200 {
        let port = World::port(n % 20);
        world.follower.handle(world.now, Event::Busy { port });
        world.passes(ms(100));
    }
    assert!((9..=11).contains(&world.looks), "{} looks", world.looks);
    assert_eq!(world.updates.len(), 0);
}

#[test]
fn another_owners_program_is_noticed_with_the_next_connection_and_looked_at_until_it_is_gone() {
    let mut world = World::resting(1);
    let by = AttachedProgram { id: Some(9), name: "theirs".into() };
    world.servers[0].program = Some(by);
    world.follower.handle(world.now, Event::Busy { port: World::port(0) });
    world.passes(ms(1));
    assert_eq!(world.said(0).len(), 1);
    world.passes(RARELY);
    world.servers[0].program = None;
    world.updates.clear();
    world.passes(REGULARLY);
    assert_eq!(world.updates.len(), 1);
}

#[test]
fn a_program_that_comes_between_two_connections_is_noticed_although_the_second_is_not_told() {
    let mut world = World::resting(1);
    world.follower.handle(world.now, Event::Busy { port: World::port(0) });
    world.passes(ms(700));
    let by = AttachedProgram { id: Some(9), name: "theirs".into() };
    world.servers[0].program = Some(by);
    world.passes(REGULARLY);
    assert_eq!(world.said(0).len(), 1);
}

#[test]
fn a_group_that_is_gone_is_looked_for_when_a_socket_comes() {
    let mut world = World::resting(2);
    world.leaves(0, false);
    world.passes(10 * REGULARLY);
    assert_eq!(world.said(0), ["Gone"]);
    world.updates.clear();
    world.looks = 0;
    world.passes(RARELY / 2);
    assert_eq!((world.looks, world.updates.len()), (0, 0));
    world.joins(0, Some(ms(0)), false);
    world.passes(ms(1));
    assert_eq!(world.updates.len(), 1);
}

#[test]
fn a_group_that_is_gone_and_detached_is_forgotten() {
    let mut world = World::resting(2);
    world.leaves(0, false);
    world.passes(10 * REGULARLY);
    world.servers[0].detached = true;
    world.follower.handle(world.now, Event::Changed { port: World::port(0) });
    world.passes(ms(1));
    assert_eq!(world.said(0), ["Gone", "Detached"]);
}

#[test]
fn groups_that_are_expected_anywhere_are_looked_for_when_a_socket_comes() {
    let mut world = World::resting(1);
    let anywhere = Port { netns: Port::ANYWHERE, ..World::port(9) };
    world.follower.expect(world.now, 7, vec![anywhere], true);
    world.passes(10 * REGULARLY);
    world.looks = 0;
    world.passes(RARELY - 20 * REGULARLY);
    assert_eq!(world.looks, 0);
    let event = Event::Came { port: World::port(9), cookie: cookie(1), process: 1 };
    world.follower.handle(world.now, event);
    world.passes(ms(100));
    assert_eq!(world.looks, 7);
}

#[test]
fn a_stop_ends_everything() {
    let mut world = World::settled(2);
    world.joins(0, Some(ms(0)), false);
    world.follower.handle(world.now, Event::Stop);
    assert!(world.follower.poll(world.now).is_none() && world.follower.is_done());
}

#[test]
fn another_owners_program_is_reported_once_and_taken_away_if_asked() {
    let by = AttachedProgram { id: Some(9), name: "theirs".into() };
    for retakes in [false, true] {
        let mut world = World::settled(1);
        if retakes {
            world.follower.retake(true);
        }
        world.servers[0].program = Some(by.clone());
        world.passes(ms(9000));
        let said = world.said(0);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains(if retakes { "Now" } else { "Off" }), "{said:?}");
        assert_eq!(world.servers[0].program.is_none(), retakes);
    }
}

/// Something that happens to a group.
#[derive(Debug, Clone)]
enum Happens {
    Joins {
        after: Option<u64>,
        silently: bool,
    },
    Leaves {
        silently: bool,
    },
    /// Updates fail from now on, before or after they release members, or not.
    Fails(Option<(u8, bool)>),
    Detaches,
    Nothing,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        4 => (proptest::option::weighted(0.9, 0..80u64), any::<bool>())
            .prop_map(|(after, silently)| Happens::Joins { after, silently }),
        3 => any::<bool>().prop_map(|silently| Happens::Leaves { silently }),
        2 => proptest::option::of((0..2u8, any::<bool>())).prop_map(Happens::Fails),
        1 => Just(Happens::Detaches),
        3 => Just(Happens::Nothing),
    ]
}

proptest! {
    /// Whatever happens: healthy groups have the right slots in time, and these are reported, whether events were lost or other groups
    /// fail, no deadline is in the past, and nothing is done for a group that was detached.
    #[test]
    fn groups_are_updated_in_time(
        rests in any::<bool>(),
        steps in vec((0..4usize, happens(), prop_oneof![0..5u64, 0..300u64, 0..50_000u64]), 0..60),
    ) {
        let mut world = World::that_may_rest(4, rests);
        for (n, what, then) in steps {
            match what {
                Happens::Joins { after, silently } => {
                    world.joins(n, after.map(ms), silently);
                }
                Happens::Leaves { silently } => world.leaves(n, silently),
                Happens::Fails(how) => {
                    world.servers[n].fails_with = how.map(|(how, _)| format!("failure {how}"));
                    world.servers[n].fails_late = how.is_some_and(|(_, late)| late);
                }
                Happens::Detaches => {
                    world.servers[n].detached = true;
                    world.follower.handle(world.now, Event::Changed { port: World::port(n) });
                }
                Happens::Nothing => {}
            }
            world.passes(ms(then));
        }
        world.passes(2 * REGULARLY);
        for (n, server) in world.servers.iter().enumerate() {
            let followed = world.follower.keys().any(|known| *known == key(n));
            let members = server.members(world.now);
            if server.fails_with.is_none() && !server.detached && !members.is_empty() {
                prop_assert!(followed && server.slots == members && server.reported == members);
            }
            let log = world.log.iter().filter(|(of, _)| *of == n).map(|(_, said)| said);
            let log: Vec<&String> = log.collect();
            prop_assert!(
                log.windows(2).all(|pair| pair[0] != pair[1] || pair[0] == "ok"),
                "reported twice: {:?}", log
            );
            if !followed {
                prop_assert_eq!(log.last().map(|said| said.as_str()), Some("Detached"));
            }
        }
    }
}
