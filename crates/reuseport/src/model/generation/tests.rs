//! Rosters in which servers start, end, restart workers, and are promoted and rolled back, in any order.

mod given;
mod newcomers;
mod recalled;
mod together;

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::model::id::{Cookie, State};
use crate::model::plan::{Newcomer, Wishes, draft};

const SLOTS: usize = 12;

/// The server of all members whose generations are given.
const SUPERVISOR: u64 = 77;

/// A group: its roster, and which member is of which server.
#[derive(Debug, Clone)]
struct World {
    roster: Roster,
    servers: BTreeMap<Cookie, u64>,
    next: u64,
    now: u64,
}

impl World {
    fn new() -> Self {
        Self { roster: Roster::empty(SLOTS), servers: BTreeMap::new(), next: 1, now: 1_000_000 }
    }

    /// Members of this server come; with `follows`, a watcher enrols them.
    fn comes(&mut self, server: u64, members: usize, follows: bool) -> Vec<Cookie> {
        self.now += 1;
        let newcomers: Vec<Newcomer> = (0..members)
            .map(|_| {
                self.next += 1;
                let cookie = Cookie::new(self.next).unwrap();
                Newcomer { cookie, host_member: None, began: Began::new(server) }
            })
            .collect();
        let wishes = Wishes { follows, ..Wishes::default() };
        let draft = draft(&self.roster, &newcomers, wishes, self.now);
        self.roster = draft.roster;
        let came: Vec<Cookie> = draft.entering.iter().map(|one| one.cookie).collect();
        self.servers.extend(came.iter().map(|cookie| (*cookie, server)));
        came
    }

    /// Members come of which the request says the generation.
    fn comes_as(&mut self, generation: u32, members: usize) -> Vec<Cookie> {
        self.now += 1;
        let cookies: Vec<Cookie> = (0..members)
            .map(|_| {
                self.next += 1;
                Cookie::new(self.next).unwrap()
            })
            .collect();
        // All are held by one process.
        let newcomer = |cookie: &Cookie| Newcomer {
            cookie: *cookie,
            host_member: None,
            began: Began::new(SUPERVISOR),
        };
        let newcomers: Vec<Newcomer> = cookies.iter().map(newcomer).collect();
        let generations: Vec<_> = cookies.iter().map(|cookie| (*cookie, generation)).collect();
        let wishes = Wishes { generations: &generations, ..Wishes::default() };
        let draft = draft(&self.roster, &newcomers, wishes, self.now);
        self.roster = draft.roster;
        let came: Vec<Cookie> = draft.entering.iter().map(|one| one.cookie).collect();
        self.servers.extend(came.iter().map(|cookie| (*cookie, SUPERVISOR)));
        came
    }

    /// A request says of which generation present members are.
    fn assign(&mut self, generations: &[(Cookie, u32)]) {
        self.now += 1;
        let wishes = Wishes { generations, ..Wishes::default() };
        self.roster = draft(&self.roster, &[], wishes, self.now).roster;
    }

    fn holds_new(&mut self, holds_new: bool) {
        let hold_new = if holds_new { HoldNew::On } else { HoldNew::Off };
        let wishes = Wishes { hold_new: Some(hold_new), follows: true, ..Wishes::default() };
        self.roster = draft(&self.roster, &[], wishes, self.now).roster;
    }

    fn leave(&mut self, cookies: &[Cookie]) {
        self.now += 1;
        let slots: Vec<Slot> = self
            .roster
            .occupied()
            .filter(|(_, cookie, _)| cookies.contains(cookie))
            .map(|(slot, ..)| slot)
            .collect();
        self.roster.leave(&slots, self.now);
    }

    fn promote(&mut self) -> bool {
        promote(&self.roster).map(|roster| self.roster = roster).is_some()
    }

    fn rollback(&mut self) -> bool {
        rollback(&self.roster).map(|roster| self.roster = roster).is_some()
    }

    fn drain(&mut self, cookie: Cookie) {
        let (slot, _, record) = self.roster.occupied().find(|(_, of, _)| *of == cookie).unwrap();
        let role = crate::model::succession::Role { state: State::Draining, ..record.role() };
        self.roster.assign(slot, role);
    }

    fn of(&self, cookie: Cookie) -> (u32, State) {
        let (.., record) = self.roster.occupied().find(|(_, of, _)| *of == cookie).unwrap();
        (record.generation, record.state())
    }

    fn all(&self, cookies: &[Cookie]) -> Vec<(u32, State)> {
        cookies.iter().map(|cookie| self.of(*cookie)).collect()
    }
}

use State::{Active, Draining, Standby};

#[test]
fn a_new_server_waits_until_it_is_promoted_and_can_be_rolled_back() {
    let mut world = World::new();
    let old = world.comes(1, 2, false);
    world.holds_new(true);
    let new = world.comes(2, 2, true);
    assert_eq!(world.all(&old), [(1, Active); 2]);
    assert_eq!(world.all(&new), [(2, Standby); 2]);
    assert!(!world.rollback(), "there is nothing behind the first generation");
    assert!(world.promote());
    assert_eq!(world.all(&old), [(1, Draining); 2]);
    assert_eq!(world.all(&new), [(2, Active); 2]);
    assert!(!world.promote(), "it serves already");
    assert!(world.rollback());
    assert_eq!(world.all(&old), [(1, Active); 2]);
    assert_eq!(world.all(&new), [(2, Standby); 2]);
    assert!(!world.rollback());
    assert!(world.promote());
}

#[test]
fn without_the_wish_a_new_server_serves_at_once_and_both_can_be_told_apart() {
    let mut world = World::new();
    let (old, new) = (world.comes(1, 1, false), world.comes(2, 1, true));
    assert_eq!((world.of(old[0]), world.of(new[0])), ((1, Active), (2, Active)));
    let before = world.clone();
    assert!(world.promote());
    assert_eq!((world.of(old[0]), world.of(new[0])), ((1, Draining), (2, Active)));
    world = before;
    assert!(world.rollback());
    assert_eq!((world.of(old[0]), world.of(new[0])), ((1, Active), (2, Standby)));
}

#[test]
fn a_worker_that_is_started_again_belongs_to_the_generation_of_its_server() {
    let mut world = World::new();
    let old = world.comes(1, 2, false);
    world.holds_new(true);
    let new = world.comes(2, 2, true);
    world.leave(&new[..1]);
    let again = world.comes(2, 1, true);
    assert_eq!(world.of(again[0]), (2, Standby));
    world.leave(&old[..1]);
    let again = world.comes(1, 1, true);
    assert_eq!(world.of(again[0]), (1, Active));
    world.promote();
    // Also if no other worker of its server is there.
    world.leave(&[old[1], again[0]]);
    let again = world.comes(1, 1, true);
    assert_eq!(world.of(again[0]), (1, Draining));
}

#[test]
fn if_no_other_is_left_the_newest_generation_serves() {
    let mut world = World::new();
    let old = world.comes(1, 2, false);
    world.holds_new(true);
    let (second, third) = (world.comes(2, 1, false), world.comes(3, 1, false));
    world.leave(&old[..1]);
    assert_eq!(world.all(&[second[0], third[0]]), [(2, Standby), (3, Standby)]);
    world.leave(&old[1..]);
    assert_eq!(world.all(&[second[0], third[0]]), [(2, Draining), (3, Active)]);
    // The next one waits again.
    let fourth = world.comes(4, 1, false);
    assert_eq!(world.of(fourth[0]), (4, Standby));
}

#[test]
fn if_those_that_serve_end_the_newest_serves_also_before_one_that_drains() {
    let mut world = World::new();
    let old = world.comes(1, 2, false);
    world.holds_new(true);
    let second = world.comes(2, 2, true);
    world.promote();
    // The last one that serves ends, and a worker that is retired is started again at that moment.
    let third = world.comes(3, 1, true);
    assert_eq!(world.all(&third), [(3, Standby)]);
    world.leave(&second);
    assert_eq!(world.all(&old), [(1, Draining); 2]);
    assert_eq!(world.all(&third), [(3, Active)]);
    // If only retired ones are left, the newest of them serves, and not what is started again of an older one.
    world.leave(&third);
    assert_eq!(world.all(&old), [(1, Active); 2]);
}

#[test]
fn a_worker_of_a_retired_server_that_is_started_again_does_not_serve_alone() {
    let mut roster = Roster::empty(3);
    let record = |cookie, generation, standing| Record {
        cookie: Cookie::new(cookie),
        generation,
        standing,
        ..Record::free(0)
    };
    roster.set(Slot::new(0), record(1, 1, Standing::Retired));
    roster.set(Slot::new(1), record(2, 2, Standing::Standby));
    assert_eq!(standing(&roster, 1), Standing::Retired);
    roster.serve_by_itself();
    assert_eq!(serving(&roster), Some(2));
}

#[test]
fn a_member_whose_server_was_not_known_is_told_apart_once_it_is() {
    let mut world = World::new();
    let old = world.comes(0, 2, false);
    world.holds_new(true);
    let servers = [(old[0], Began::new(1).unwrap()), (old[1], Began::new(1).unwrap())];
    let wishes = Wishes { servers: &servers, follows: true, ..Wishes::default() };
    world.now += 1;
    // A worker is started again in the step in which its server becomes known, and later.
    world.leave(&old[..1]);
    let newcomer =
        Newcomer { cookie: Cookie::new(90).unwrap(), host_member: None, began: Began::new(1) };
    world.roster = draft(&world.roster, &[newcomer], wishes, world.now).roster;
    assert_eq!(world.of(newcomer.cookie), (1, Active));
    world.leave(&[newcomer.cookie]);
    let again = world.comes(1, 1, true);
    assert_eq!(world.of(again[0]), (1, Active));
    // What is known stays.
    let other = [(again[0], Began::new(5).unwrap())];
    let wishes = Wishes { servers: &other, follows: true, ..Wishes::default() };
    assert_eq!(draft(&world.roster, &[], wishes, world.now).roster, world.roster);
}

#[test]
fn a_trial_goes_on_in_new_state() {
    let percent = Percent::new(10).unwrap();
    let mut world = World::new();
    let old = world.comes(1, 2, false);
    world.holds_new(true);
    let new = world.comes(2, 1, true);
    world.roster = try_out(&world.roster, percent).unwrap();
    let known: Vec<(Cookie, Record)> =
        world.roster.occupied().map(|(_, cookie, record)| (cookie, record)).collect();
    let newcomers: Vec<Newcomer> = known
        .iter()
        .map(|(cookie, _)| Newcomer { cookie: *cookie, host_member: None, began: None })
        .collect();
    let wishes = Wishes {
        known: &known,
        hold_new: Some(HoldNew::On),
        trial: world.roster.trial(),
        ..Wishes::default()
    };
    let before = world.roster.shares_of_picks();
    world.roster = draft(&Roster::empty(SLOTS), &newcomers, wishes, world.now).roster;
    assert_eq!(world.roster.shares_of_picks(), before);
    assert_eq!(world.all(&[old[0], new[0]]), [(1, Active), (2, Active)]);
    // It can be told from which servers they are, too.
    let again = world.comes(2, 1, true);
    assert_eq!(world.of(again[0]), (2, Active));
    assert_eq!(world.roster.trial(), Some(percent));
}

#[test]
fn what_was_drained_by_hand_stays_so() {
    let mut world = World::new();
    let old = world.comes(1, 2, false);
    world.drain(old[0]);
    world.holds_new(true);
    let new = world.comes(2, 2, false);
    world.promote();
    world.drain(new[1]);
    world.rollback();
    assert_eq!(world.all(&old), [(1, Draining), (1, Active)]);
    assert_eq!(world.all(&new), [(2, Standby); 2]);
    world.promote();
    assert_eq!(world.all(&new), [(2, Active), (2, Draining)]);
}

#[test]
fn a_server_that_restarts_as_a_whole_serves() {
    let mut world = World::new();
    let old = world.comes(1, 2, false);
    world.holds_new(true);
    world.leave(&old);
    let new = world.comes(2, 2, true);
    assert_eq!(world.all(&new), [(2, Active); 2]);
    assert_eq!(world.roster.hold_new(), HoldNew::On, "the wish is state");
}

#[test]
fn a_trial_ends_with_a_promotion_or_a_rollback() {
    let percent = Percent::new(10).unwrap();
    let mut world = World::new();
    let old = world.comes(1, 2, false);
    assert!(try_out(&world.roster, percent).is_none(), "there is no newer one");
    world.holds_new(true);
    let new = world.comes(2, 1, true);
    world.roster = try_out(&world.roster, percent).unwrap();
    let states = |world: &World| (world.all(&old), world.all(&new));
    assert_eq!(states(&world), (vec![(1, Active); 2], vec![(2, Active)]));
    assert_eq!(serving(&world.roster), Some(1));
    let weights: Vec<u16> =
        world.roster.shares_of_picks().iter().map(|share| share.weight.get()).collect();
    assert_eq!(weights, [1000, 1000, 222]);
    assert!(world.roster.shares().iter().all(|share| share.weight.get() == 1));
    // A worker that is started again is on trial, too; another server waits.
    world.leave(&new);
    let again = world.comes(2, 1, true);
    assert_eq!(world.of(again[0]), (2, Active));
    let third = world.comes(3, 1, true);
    assert_eq!(world.of(third[0]), (3, Standby));
    world.leave(&third);
    let before = world.clone();
    assert!(world.rollback());
    assert_eq!((world.of(old[0]), world.of(again[0])), ((1, Active), (2, Standby)));
    assert_eq!(world.roster.trial(), None);
    world = before.clone();
    assert!(world.promote());
    assert_eq!((world.of(old[0]), world.of(again[0])), ((1, Draining), (2, Active)));
    assert_eq!(world.roster.trial(), None);
    // If the others end, it serves.
    world = before;
    world.leave(&old);
    assert_eq!((serving(&world.roster), world.roster.trial()), (Some(2), None));
}

#[derive(Debug, Clone)]
enum Step {
    ComesAs(u32, usize),
    Assign(usize, u32),
    Comes(u64, usize, bool),
    Leave(Vec<usize>),
    HoldsNew(bool),
    Promote,
    Rollback,
    TryOut(u8),
    Drain(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..6u64, 1..3usize, any::<bool>()).prop_map(|(s, n, f)| Step::Comes(s, n, f)),
        2 => (1..9u32, 1..3usize).prop_map(|(g, n)| Step::ComesAs(g, n)),
        1 => (0..SLOTS, 1..9u32).prop_map(|(n, g)| Step::Assign(n, g)),
        3 => vec(0..SLOTS, 1..4).prop_map(Step::Leave),
        1 => any::<bool>().prop_map(Step::HoldsNew),
        2 => Just(Step::Promote),
        2 => Just(Step::Rollback),
        2 => (1..100u8).prop_map(Step::TryOut),
        1 => (0..SLOTS).prop_map(Step::Drain),
    ]
}

fn members_of(roster: &Roster, generation: u32) -> bool {
    members(roster).any(|record| record.generation == generation)
}

proptest! {
    /// 1. As long as a member is left, one serves. 2. A server has its generation for good while it has
    /// members. 3. While newer ones wait, a newcomer changes nothing for those that serve, and none of a new server gets
    /// anything. 4. `promote` and `rollback` leave one generation serving: older ones drain, newer ones wait, and what
    /// was drained by hand stays so; each takes the other back, unless a generation stands between.
    #[test]
    fn any_sequence_keeps_the_promises(steps in vec(step(), 0..60)) {
        let mut world = World::new();
        for step in &steps {
            let before = world.clone();
            let nth = |n: &usize| before.servers.keys().nth(n % before.servers.len().max(1)).copied();
            match step {
                Step::Comes(server, members, follows) => {
                    let came = world.comes(*server, *members, *follows);
                    let is_new = generation_of(before.roster.records(), Began::new(*server).unwrap()).is_none();
                    for (_, cookie, record) in before.roster.occupied() {
                        prop_assert_eq!(world.of(cookie).1, record.state(), "{:?}", step);
                    }
                    let served = serving(&before.roster);
                    for cookie in came {
                        let (generation, state) = world.of(cookie);
                        if is_new && before.roster.hold_new() == HoldNew::On && served.is_some_and(|s| generation > s) {
                            prop_assert_eq!(state, Standby);
                        }
                    }
                }
                Step::ComesAs(generation, members) => {
                    let came = world.comes_as(*generation, *members);
                    let served = serving(&before.roster);
                    let has_mates = members_of(&before.roster, *generation);
                    for (_, cookie, record) in before.roster.occupied() {
                        prop_assert_eq!(world.of(cookie).1, record.state(), "{:?}", step);
                    }
                    for cookie in came {
                        let (of, state) = world.of(cookie);
                        prop_assert_eq!(of, *generation);
                        let is_newer = served.is_some_and(|served| of > served);
                        if is_newer && !has_mates && before.roster.hold_new() == HoldNew::On && before.roster.trial().is_none() {
                            prop_assert_eq!(state, Standby);
                        }
                    }
                }
                Step::Assign(n, generation) => {
                    let Some(cookie) = nth(n) else { continue };
                    world.assign(&[(cookie, *generation)]);
                    prop_assert_eq!(world.of(cookie).0, *generation);
                    let serves = |world: &World, cookie| {
                        world.roster.occupied().any(|(_, of, r)| of == cookie && r.standing == Standing::Serving)
                    };
                    for (_, other, record) in before.roster.occupied().filter(|(_, of, _)| *of != cookie) {
                        let served = record.standing == Standing::Serving;
                        prop_assert!(!served || serves(&world, other), "those that serve go on");
                    }
                }
                Step::Leave(which) => {
                    let leaving: Vec<Cookie> = which.iter().filter_map(nth).collect();
                    world.leave(&leaving);
                    world.servers.retain(|cookie, _| !leaving.contains(cookie));
                }
                Step::HoldsNew(holds_new) => world.holds_new(*holds_new),
                Step::Promote | Step::Rollback => {
                    let changed = match step {
                        Step::Promote => world.promote(),
                        _ => world.rollback(),
                    };
                    let ended_trial = matches!(step, Step::Rollback) && before.roster.trial().is_some();
                    prop_assert!(!changed || world.roster.trial().is_none());
                    if changed && !ended_trial {
                        let now = serving(&world.roster).unwrap();
                        for (.., record) in world.roster.occupied() {
                            let expected = match record.generation.cmp(&now) {
                                std::cmp::Ordering::Less => Draining,
                                std::cmp::Ordering::Equal => record.role().state,
                                std::cmp::Ordering::Greater => Standby,
                            };
                            prop_assert_eq!(record.state(), expected);
                        }
                    } else if !changed {
                        prop_assert_eq!(&world.roster, &before.roster);
                    }
                }
                Step::TryOut(percent) => {
                    if let Some(roster) = try_out(&world.roster, Percent::new(*percent).unwrap()) {
                        prop_assert_eq!(serving(&roster).is_some(), true);
                        world.roster = roster;
                    }
                }
                Step::Drain(n) => nth(n).into_iter().for_each(|cookie| world.drain(cookie)),
            }
            let is_empty = world.roster.occupied().next().is_none();
            prop_assert!(is_empty || serving(&world.roster).is_some(), "{:?}", step);
            for (slot, cookie, record) in world.roster.occupied() {
                let old = before.roster.record(slot);
                if old.cookie == Some(cookie) {
                    let is_assigned = matches!(step, Step::Assign(..));
                    prop_assert!(is_assigned || old.generation == record.generation);
                    prop_assert_eq!(old.role(), if matches!(step, Step::Drain(_)) { old.role() } else { record.role() });
                }
            }
        }
    }
}
