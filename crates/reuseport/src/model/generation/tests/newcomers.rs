//! Newcomers of servers that are not known, and in state that is built anew.

use super::*;
use crate::model::succession::Role;

#[test]
fn what_comes_in_the_step_that_builds_state_anew_follows_what_was_recorded() {
    let mut world = World::new();
    world.comes(1, 1, false);
    world.holds_new(true);
    let second = world.comes(2, 1, false);
    world.promote();
    let third = world.comes(3, 1, false);
    let known: Vec<(Cookie, Record)> =
        world.roster.occupied().map(|(_, cookie, record)| (cookie, record)).collect();
    let one = |cookie: u64, server: u64| Newcomer {
        cookie: Cookie::new(cookie).unwrap(),
        host_member: None,
        began: Began::new(server),
    };
    let again = known.iter().map(|(cookie, _)| one(cookie.get(), 0));
    let newcomers: Vec<Newcomer> =
        [one(90, 4), one(91, 2), one(92, 0)].into_iter().chain(again).collect();
    let wishes = Wishes { known: &known, hold_new: Some(HoldNew::On), ..Wishes::default() };
    let draft = draft(&Roster::empty(SLOTS), &newcomers, wishes, world.now);
    let order: Vec<Cookie> = newcomers.iter().map(|newcomer| newcomer.cookie).collect();
    assert_eq!(draft.entering.iter().map(|one| one.cookie).collect::<Vec<_>>(), order);
    world.roster = draft.roster;
    let came = [newcomers[0].cookie, newcomers[1].cookie, newcomers[2].cookie];
    assert_eq!(world.all(&came), [(4, Standby), (2, Active), (3, Standby)]);
    assert_eq!((world.of(second[0]), world.of(third[0])), ((2, Active), (3, Standby)));
}

#[test]
fn a_newcomer_of_an_unknown_server_does_not_wait_where_no_generation_is_known() {
    let mut world = World::new();
    let record = Record { cookie: Cookie::new(90), role: Some(Role::NEW), ..Record::free(0) };
    world.roster.set(Slot::new(0), record);
    world.holds_new(true);
    let unknown = world.comes(0, 1, true);
    assert_eq!(world.all(&unknown), [(0, Active)]);
    let new = world.comes(1, 1, true);
    assert_eq!(world.all(&new), [(1, Standby)]);
}
