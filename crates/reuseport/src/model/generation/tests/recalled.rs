//! Generations of which all members had left, and that come back.

use super::*;

#[test]
fn a_generation_that_was_rolled_back_comes_back_on_standby_also_if_all_of_it_had_left() {
    let mut world = World::new();
    let old = world.comes(1, 2, false);
    let new = world.comes(2, 2, true);
    world.leave(&new[..1]);
    world.rollback();
    world.leave(&new[1..]);
    // Others take other slots, while there are any.
    world.leave(&old[..1]);
    world.comes(1, 3, true);
    let again = world.comes(2, 2, true);
    assert_eq!(world.all(&again), [(2, Standby); 2]);
    assert_eq!(world.of(old[1]), (1, Active));
    // Another server is newer, and nothing was said about it.
    let third = world.comes(3, 1, true);
    assert_eq!(world.of(third[0]), (3, Active));
    // So is one that was promoted again.
    world.leave(&third);
    world.promote();
    world.leave(&again);
    let again = world.comes(2, 1, true);
    assert_eq!(world.of(again[0]), (2, Active));
}

#[test]
fn an_older_generation_that_was_not_replaced_serves_also_if_all_of_it_is_started_again() {
    for holds_new in [false, true] {
        let mut world = World::new();
        let old = world.comes(1, 1, false);
        let new = world.comes(2, 1, false);
        world.holds_new(holds_new);
        world.leave(&old);
        let again = world.comes(1, 1, true);
        assert_eq!((world.of(again[0]), world.of(new[0])), ((1, Active), (2, Active)));
        // One that was replaced drains.
        world.promote();
        world.leave(&again);
        let again = world.comes(1, 1, true);
        assert_eq!(world.of(again[0]), (1, Draining));
    }
}

#[test]
fn a_generation_whose_trial_ended_comes_back_on_standby() {
    let mut world = World::new();
    world.comes(1, 2, false);
    let new = world.comes(2, 1, true);
    world.roster = try_out(&world.roster, Percent::new(10).unwrap()).unwrap();
    world.leave(&new);
    assert!(world.rollback());
    let again = world.comes(2, 1, true);
    assert_eq!(world.of(again[0]), (2, Standby));
}

#[test]
fn a_generation_that_was_rolled_back_serves_if_no_other_does() {
    let mut world = World::new();
    let old = world.comes(1, 2, false);
    let new = world.comes(2, 1, true);
    world.rollback();
    world.leave(&new);
    world.leave(&old);
    let again = world.comes(2, 1, true);
    assert_eq!(world.of(again[0]), (2, Active));
    // A generation that served and ended, while what it had retired goes on, serves again.
    world = World::new();
    world.comes(1, 2, false);
    let new = world.comes(2, 1, true);
    world.promote();
    world.leave(&new);
    let again = world.comes(2, 1, true);
    assert_eq!(world.of(again[0]), (2, Active));
}
