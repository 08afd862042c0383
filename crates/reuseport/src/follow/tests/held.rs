//! Members that are held until a thread waits for connections on them.

use std::collections::BTreeSet;

use super::world::{World, key, ms};
use crate::follow::pace::REGULARLY;

#[test]
fn it_is_looked_for_waiters_while_a_member_is_held_and_only_then() {
    let mut world = World::settled(3);
    world.passes(ms(500));
    assert_eq!(world.looks_for_waiters, 0);
    world.servers[1].holds_new = true;
    let new = world.joins(1, Some(ms(0)), false);
    world.passes(ms(1));
    assert_eq!(world.servers[1].held, BTreeSet::from([new]));
    (world.looks, world.updates) = (0, Vec::new());
    world.passes(ms(500));
    assert!((40..=50).contains(&world.looks_for_waiters), "{}", world.looks_for_waiters);
    assert!(world.looks <= 2 && world.updates.len() <= 2, "a look for waiters is no other look");
    // Later, less often.
    world.passes(ms(60_000));
    world.looks_for_waiters = 0;
    world.passes(ms(1000));
    assert!(world.looks_for_waiters <= 5, "{}", world.looks_for_waiters);
    // Another member that comes is looked for as often as the first was.
    let second = world.joins(1, Some(ms(0)), false);
    world.passes(ms(5));
    world.awaited = BTreeSet::from([second]);
    world.updates.clear();
    world.passes(ms(12));
    assert_eq!(world.servers[1].held, BTreeSet::from([new]));
    assert_eq!(world.updates.iter().filter(|(of, _)| *of == key(1)).count(), 1);
    world.awaited.insert(new);
    world.passes(ms(260));
    assert_eq!(world.servers[1].held, BTreeSet::new());
    world.looks_for_waiters = 0;
    world.passes(ms(5000));
    assert_eq!(world.looks_for_waiters, 0);
}

#[test]
fn an_update_that_fails_is_not_tried_again_with_each_look_for_waiters() {
    let mut world = World::settled(1);
    world.servers[0].holds_new = true;
    let new = world.joins(0, Some(ms(0)), false);
    world.passes(ms(5));
    world.servers[0].fails_with = Some("it fails".to_owned());
    world.awaited = BTreeSet::from([new]);
    world.updates.clear();
    world.passes(ms(1000));
    assert!(world.updates.len() <= 4, "{:?}", world.updates);
    world.servers[0].fails_with = None;
    world.passes(REGULARLY + ms(500));
    assert_eq!(world.servers[0].held, BTreeSet::new());
}

#[test]
fn it_is_not_looked_for_waiters_of_a_group_that_is_gone() {
    let mut world = World::resting(1);
    world.servers[0].holds_new = true;
    world.joins(0, Some(ms(0)), false);
    world.passes(ms(100));
    assert!(world.looks_for_waiters > 0);
    while !world.servers[0].sockets.is_empty() {
        world.leaves(0, false);
    }
    world.passes(ms(1000));
    world.looks_for_waiters = 0;
    world.passes(ms(60_000));
    assert_eq!(world.looks_for_waiters, 0);
}

#[test]
fn a_look_for_waiters_that_fails_is_told_by_an_update() {
    let mut world = World::settled(1);
    world.servers[0].holds_new = true;
    let new = world.joins(0, Some(ms(0)), false);
    world.passes(ms(5));
    world.is_blind = true;
    world.servers[0].fails_with = Some("not allowed".to_owned());
    world.awaited = BTreeSet::from([new]);
    (world.looks_for_waiters, world.updates) = (0, Vec::new());
    world.log.clear();
    world.passes(4 * REGULARLY);
    assert!((3..=5).contains(&world.looks_for_waiters), "{}", world.looks_for_waiters);
    assert!(world.updates.len() <= 12, "{:?}", world.updates);
    let told = world.log.iter().filter(|(_, said)| said.contains("not allowed")).count();
    assert_eq!(told, 1, "{:?}", world.log);
    (world.is_blind, world.servers[0].fails_with) = (false, None);
    world.passes(2 * REGULARLY);
    assert_eq!(world.servers[0].held, BTreeSet::new());
}
