//! Generations that a request gives to members.

use super::*;

#[test]
fn a_request_says_of_which_generation_members_are_whatever_process_holds_them() {
    let mut world = World::new();
    world.holds_new(true);
    let old = world.comes_as(1, 2);
    let new = world.comes_as(2, 2);
    assert_eq!(world.all(&old), [(1, Active); 2]);
    assert_eq!(world.all(&new), [(2, Standby); 2]);
    world.promote();
    // A member of the old one may still come.
    let late = world.comes_as(1, 1);
    assert_eq!(world.of(late[0]), (1, Draining));
    assert!(world.rollback());
    assert_eq!(world.all(&old), [(1, Active); 2]);
    // What the same server opens unasked is of its newest generation.
    let other = world.comes(SUPERVISOR, 1, true);
    assert_eq!(world.of(other[0]), (2, Standby));
    // A follower was faster than the request.
    let mut world = World::new();
    world.holds_new(true);
    let all = world.comes(SUPERVISOR, 4, true);
    assert_eq!(world.all(&all), [(1, Active); 4]);
    let of_second = [(all[2], 2), (all[3], 2)];
    world.assign(&of_second);
    assert_eq!(world.all(&all), [(1, Active), (1, Active), (2, Standby), (2, Standby)]);
    let before = world.clone();
    world.assign(&of_second);
    assert_eq!(world.roster, before.roster);
    // Those that serve may be renumbered, and serve.
    world.leave(&all[..2]);
    world.assign(&[(all[2], 3), (all[3], 3)]);
    assert_eq!(world.all(&all[2..]), [(3, Active); 2]);
}

#[test]
fn members_whose_generation_is_given_take_no_drain_over() {
    let mut world = World::new();
    let old = world.comes_as(1, 2);
    world.drain(old[0]);
    // A restart of the whole server.
    world.leave(&old);
    let before = world.clone();
    let inherit = world.comes(SUPERVISOR, 2, true);
    assert_eq!(world.all(&inherit), [(1, Active), (1, Draining)]);
    world = before;
    let new = world.comes_as(2, 2);
    assert_eq!(world.all(&new), [(2, Active); 2]);
}
