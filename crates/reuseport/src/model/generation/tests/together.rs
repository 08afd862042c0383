//! Servers that come one after another: when they are one generation.

use super::*;

#[test]
fn instances_that_come_one_by_one_are_one_generation_to_a_follower() {
    let mut world = World::new();
    world.comes(1, 1, true);
    world.holds_new(true);
    let second = world.comes(2, 1, true);
    assert_eq!(world.of(second[0]), (1, Active));
    world.now += TOGETHER;
    let late = world.comes(3, 1, true);
    assert_eq!(world.of(late[0]), (2, Standby));
    // A request says that what is there is one generation.
    let asked = world.comes(4, 1, false);
    assert_eq!(world.of(asked[0]), (3, Standby));
    let then = world.comes(5, 1, true);
    assert_eq!(world.of(then[0]), (4, Standby));
    // So does a promotion.
    world = World::new();
    world.comes(1, 1, true);
    assert!(!world.promote());
    world.holds_new(true);
    let second = world.comes(2, 1, true);
    assert_eq!(world.of(second[0]), (1, Active));
    world.now += TOGETHER;
    let third = world.comes(3, 1, true);
    world.promote();
    let fourth = world.comes(4, 1, true);
    assert_eq!(world.all(&[third[0], fourth[0]]), [(2, Active), (3, Standby)]);
    // What comes together is together.
    world = World::new();
    let first = world.comes(0, 3, false);
    assert_eq!(world.all(&first), [(1, Active); 3]);
}

#[test]
fn a_server_that_began_much_later_is_newer_although_a_follower_has_just_found_the_first() {
    let mut world = World::new();
    world.holds_new(true);
    let old = 1_000_000;
    world.comes(old, 1, true);
    let late = world.comes(old + TOGETHER * 1000 + 1, 1, true);
    assert_eq!(world.all(&late), [(2, Standby)]);
}

#[test]
fn a_request_of_the_user_ends_a_generation() {
    let mut world = World::new();
    world.holds_new(true);
    world.comes(1, 1, true);
    world.comes(9, 0, false);
    let next = world.comes(2, 1, true);
    assert_eq!(world.all(&next), [(2, Standby)]);
}
