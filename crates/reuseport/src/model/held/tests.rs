//! Servers that listen before they accept: who is held, and who serves from when on, whatever happens in between.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::model::generation::{promote, rollback, serving, try_out};
use crate::model::id::{Percent, State};
use crate::model::lineage::Began;
use crate::model::plan::{Newcomer, Wishes, draft};
use crate::model::succession::Role;

use State::{Active, Draining, Standby};

const SLOTS: usize = 12;
const LATER: u64 = 20_000;

#[derive(Debug, Clone)]
struct World {
    roster: Roster,
    next: u64,
    now: u64,
}

impl World {
    fn new() -> Self {
        let roster = Roster::empty(SLOTS).holding_new(HoldNew::Accepting);
        Self { roster, next: 0, now: 1_000_000 }
    }

    /// Members of this server come to a watcher, long after the last ones.
    fn comes(&mut self, server: u64, members: usize, awaited: bool) -> Vec<Cookie> {
        self.now += LATER;
        let cookies: Vec<Cookie> =
            (1..=members as u64).filter_map(|nth| Cookie::new(self.next + nth)).collect();
        self.next += members as u64;
        let newcomer = |cookie: &Cookie| Newcomer {
            cookie: *cookie,
            host_member: None,
            began: Began::new(server),
        };
        let newcomers: Vec<Newcomer> = cookies.iter().map(newcomer).collect();
        let seen = if awaited { &cookies[..] } else { &[] };
        self.updated(&newcomers, Wishes { awaited: seen, follows: true, ..Wishes::default() })
    }

    fn updated(&mut self, newcomers: &[Newcomer], wishes: Wishes<'_>) -> Vec<Cookie> {
        let draft = draft(&self.roster, newcomers, wishes, self.now);
        self.roster = draft.roster;
        draft.entering.iter().map(|one| one.cookie).collect()
    }

    /// A thread waits for these. Returns those that were held and serve now.
    fn waits(&mut self, awaited: &[Cookie]) -> Vec<Cookie> {
        let wishes = Wishes { awaited, follows: true, ..Wishes::default() };
        let draft = draft(&self.roster, &[], wishes, self.now);
        self.roster = draft.roster;
        draft.taken_in
    }

    fn set(&mut self, hold_new: HoldNew) {
        self.updated(&[], Wishes { hold_new: Some(hold_new), ..Wishes::default() });
    }

    fn leave(&mut self, cookies: &[Cookie]) {
        self.now += 1;
        let slots = self.roster.occupied().filter(|(_, cookie, _)| cookies.contains(cookie));
        let slots: Vec<Slot> = slots.map(|(slot, ..)| slot).collect();
        self.roster.leave(&slots, self.now);
    }

    fn changes(&mut self, to: Option<Roster>) {
        self.roster = to.unwrap_or_else(|| self.roster.clone());
    }

    fn join(&mut self) -> bool {
        join(&self.roster, None).map(|roster| self.roster = roster).is_some()
    }

    fn tries_out(&mut self) {
        self.roster = try_out(&self.roster, Percent::new(10).unwrap()).unwrap();
    }

    /// The state is built anew with what was recorded. Returns those that were held and serve now.
    fn is_built_anew(&mut self, hold_new: HoldNew, awaited: &[Cookie]) -> Vec<Cookie> {
        let known: Vec<(Cookie, Record)> =
            self.roster.occupied().map(|(_, cookie, record)| (cookie, record)).collect();
        let newcomer = |(cookie, record): &(Cookie, Record)| Newcomer {
            cookie: *cookie,
            host_member: None,
            began: record.began,
        };
        let newcomers: Vec<Newcomer> = known.iter().map(newcomer).collect();
        let (known, hold_new, trial) = (&known[..], Some(hold_new), self.roster.trial());
        let wishes = Wishes { known, hold_new, awaited, trial, ..Wishes::default() };
        let draft = draft(&Roster::empty(SLOTS), &newcomers, wishes, self.now);
        self.roster = draft.roster;
        draft.taken_in
    }

    fn standing(&self, of: Cookie) -> Standing {
        self.roster.occupied().find(|(_, other, _)| *other == of).unwrap().2.standing
    }

    fn states(&self, of: &[Cookie]) -> Vec<State> {
        let record = |cookie| self.roster.occupied().find(|(_, other, _)| *other == cookie);
        of.iter().map(|cookie| record(*cookie).unwrap().2.state()).collect()
    }
}

#[test]
fn a_request_takes_the_first_members_as_they_are_and_later_ones_wait() {
    let mut world = World::new();
    let came =
        |cookie| Newcomer { cookie: Cookie::new(cookie).unwrap(), host_member: None, began: None };
    let first = world.updated(&[came(90), came(91)], Wishes::default());
    assert_eq!(world.states(&first), [Active; 2], "a worker that is busy waits for nothing");
    let later = world.updated(&[came(92)], Wishes::default());
    assert_eq!(world.states(&later), [Standby]);
}

#[test]
fn each_member_serves_from_when_a_thread_waits_for_it() {
    let mut world = World::new();
    let old = world.comes(1, 2, true);
    let new = world.comes(2, 2, false);
    assert_eq!((world.states(&old), world.states(&new)), (vec![Active; 2], vec![Standby; 2]));
    assert_eq!(world.waits(&new[..1]), new[..1]);
    assert_eq!(world.states(&new), [Active, Standby]);
    // What is at work waits for nothing, and serves all the same.
    assert_eq!(world.waits(&[]), []);
    assert_eq!(world.waits(&new), new[1..]);
    assert_eq!((world.states(&old), world.states(&new)), (vec![Active; 2], vec![Active; 2]));
    // A worker that is started again is held, too; one that waits already serves at once.
    world.leave(&new[..1]);
    let again = world.comes(2, 1, false);
    assert_eq!(world.states(&again), [Standby]);
    let again = world.comes(2, 1, true);
    assert_eq!(world.states(&again), [Active]);
}

#[test]
fn instances_that_start_together_serve_in_the_order_in_which_they_accept() {
    let mut world = World::new();
    let (first, second) = (world.comes(1, 1, false), world.comes(2, 1, false));
    assert_eq!(serving(&world.roster), None, "the kernel's hash decides");
    assert_eq!(world.waits(&second), second);
    assert_eq!((world.states(&first), world.states(&second)), (vec![Standby], vec![Active]));
    // An older generation joins like any other.
    assert_eq!(world.waits(&first), first);
    assert_eq!((world.states(&first), world.states(&second)), (vec![Active], vec![Active]));
}

#[test]
fn while_none_accepts_those_that_drain_get_what_comes() {
    let mut world = World::new();
    let old = world.comes(1, 1, true);
    let second = world.comes(2, 1, true);
    world.roster = promote(&world.roster).unwrap();
    assert_eq!(world.states(&old), [Draining]);
    let third = world.comes(3, 1, false);
    world.leave(&second);
    assert_eq!((world.states(&old), world.states(&third)), (vec![Draining], vec![Standby]));
    let before = world.clone();
    world.waits(&third);
    assert_eq!((world.states(&old), world.states(&third)), (vec![Draining], vec![Active]));
    // If it ends before it accepts, the one that is left serves.
    world = before;
    world.leave(&third);
    assert_eq!(world.states(&old), [Active]);
}

#[test]
fn a_promotion_lets_all_join_and_drains_none() {
    let mut world = World::new();
    let old = world.comes(1, 1, true);
    assert!(promotion_joins(&world.roster) && !world.join(), "none is on standby");
    let new = world.comes(2, 2, false);
    assert!(world.join());
    assert_eq!((world.states(&old), world.states(&new)), (vec![Active], vec![Active; 2]));
    assert!(!world.join());
}

#[test]
fn what_was_rolled_back_does_not_come_back_because_it_accepts() {
    let mut world = World::new();
    let (old, new) = (world.comes(1, 1, true), world.comes(2, 1, true));
    let late = world.comes(2, 1, false);
    world.roster = rollback(&world.roster).unwrap();
    let late_too = world.comes(2, 1, false);
    let all = [new[0], late[0], late_too[0]];
    assert_eq!(world.waits(&all), []);
    assert_eq!((world.states(&old), world.states(&all)), (vec![Active], vec![Standby; 3]));
    assert!(world.join(), "a promotion brings it back");
    assert_eq!((world.states(&old), world.states(&all)), (vec![Active], vec![Active; 3]));
}

#[test]
fn what_was_rolled_back_serves_if_no_other_is_left_that_accepts() {
    let mut world = World::new();
    let (old, new) = (world.comes(1, 1, true), world.comes(2, 1, true));
    world.roster = rollback(&world.roster).unwrap();
    let third = world.comes(3, 1, false);
    world.leave(&old);
    assert_eq!((world.states(&new), world.states(&third)), (vec![Active], vec![Standby]));
    world.waits(&third);
    assert_eq!((world.states(&new), world.states(&third)), (vec![Active], vec![Active]));
}

#[test]
fn a_trial_is_about_replacing_and_those_that_come_to_it_are_held() {
    let mut world = World::new();
    let (old, new) = (world.comes(1, 1, true), world.comes(2, 1, true));
    world.roster = try_out(&world.roster, Percent::new(10).unwrap()).unwrap();
    let late = world.comes(2, 2, false);
    assert_eq!(world.states(&late), [Standby; 2]);
    assert_eq!(world.waits(&late[..1]), late[..1]);
    let tried = |roster: &Roster| members(roster).filter(|r| r.standing == Standing::Trial).count();
    assert_eq!(tried(&world.roster), 2);
    assert!(!promotion_joins(&world.roster));
    let before = world.clone();
    world.roster = promote(&world.roster).unwrap();
    assert_eq!(
        world.states(&[old[0], new[0], late[0], late[1]]),
        [Draining, Active, Active, Active]
    );
    world = before;
    world.roster = rollback(&world.roster).unwrap();
    assert_eq!(world.waits(&late), []);
    assert_eq!(
        world.states(&[old[0], new[0], late[0], late[1]]),
        [Active, Standby, Standby, Standby]
    );
}

#[test]
fn another_setting_lets_those_that_are_held_go() {
    let mut world = World::new();
    let old = world.comes(1, 1, true);
    let again = world.comes(1, 1, false);
    let new = world.comes(2, 1, false);
    let before = world.clone();
    world.set(HoldNew::Off);
    assert_eq!(world.states(&[old[0], again[0], new[0]]), [Active; 3]);
    world = before;
    world.set(HoldNew::On);
    assert_eq!(world.states(&[old[0], again[0], new[0]]), [Active, Active, Standby]);
    // Those that wait to be promoted do not join because they accept.
    world.set(HoldNew::Accepting);
    assert_eq!(world.waits(&new), []);
    assert_eq!(world.states(&new), [Standby]);
}

#[test]
fn a_worker_of_an_older_server_is_held_and_joins_like_its_mates() {
    let mut world = World::new();
    let first = world.comes(1, 1, false);
    let second = world.comes(2, 1, false);
    world.waits(&second);
    let again = world.comes(1, 1, false);
    assert_eq!(world.states(&[first[0], again[0]]), [Standby; 2]);
    world.waits(&[first[0], again[0]]);
    assert_eq!(world.states(&[first[0], again[0], second[0]]), [Active; 3]);
}

#[test]
fn a_server_that_comes_during_a_trial_joins_and_is_not_tried() {
    for leave in [false, true] {
        let mut world = World::new();
        let (old, new) = (world.comes(1, 1, true), world.comes(2, 1, true));
        world.tries_out();
        if leave {
            world.leave(&new);
        }
        let third = world.comes(3, 1, false);
        assert_eq!(world.standing(third[0]), Standing::Held);
        world.waits(&third);
        assert_eq!(world.standing(third[0]), Standing::Serving);
        assert_eq!(world.states(&old), [Active]);
        // The one that is tried is still on trial, also when it is started again.
        let again = world.comes(2, 1, true);
        assert_eq!(world.standing(again[0]), Standing::Trial);
    }
}

#[test]
fn a_promotion_after_a_trial_is_of_the_generation_that_was_tried() {
    let mut world = World::new();
    let (old, new) = (world.comes(1, 1, true), world.comes(2, 1, true));
    world.tries_out();
    let (third, fourth) = (world.comes(3, 1, false), world.comes(4, 1, true));
    world.roster = promote(&world.roster).unwrap();
    assert_eq!(world.states(&[old[0], new[0], fourth[0]]), [Draining, Active, Active]);
    assert_eq!(world.standing(third[0]), Standing::Held);
    world.waits(&third);
    assert_eq!(world.states(&[old[0], new[0], third[0]]), [Draining, Active, Active]);
}

#[test]
fn a_trial_leaves_those_held_that_do_not_accept_yet() {
    let mut world = World::new();
    world.comes(1, 1, true);
    let (new, late) = (world.comes(2, 1, true), world.comes(2, 1, false));
    world.tries_out();
    assert_eq!(world.standing(new[0]), Standing::Trial);
    assert_eq!(world.standing(late[0]), Standing::Held);
    world.waits(&late);
    assert_eq!(world.standing(late[0]), Standing::Trial);
}

#[test]
fn a_rollback_leaves_other_servers_held() {
    let mut world = World::new();
    let (old, new) = (world.comes(1, 1, true), world.comes(2, 1, true));
    let third = world.comes(3, 1, false);
    world.roster = rollback(&world.roster).unwrap();
    assert_eq!(world.standing(third[0]), Standing::Held);
    world.waits(&third);
    assert_eq!(world.states(&[old[0], new[0], third[0]]), [Active, Standby, Active]);
}

#[test]
fn a_member_that_a_user_drained_while_it_was_held_is_not_said_to_serve() {
    let mut world = World::new();
    world.comes(1, 1, true);
    let new = world.comes(2, 1, false);
    let (slot, _, record) = world.roster.occupied().find(|(_, of, _)| *of == new[0]).unwrap();
    world.roster.assign(slot, Role { state: Draining, ..record.role() });
    assert_eq!(world.waits(&new), []);
    assert_eq!(world.states(&new), [Draining]);
}

#[test]
fn state_that_is_built_anew_holds_only_those_that_are_to_wait_still() {
    let mut world = World::new();
    let old = world.comes(1, 1, true);
    let new = world.comes(2, 1, false);
    let before = world.clone();
    let built = |hold_new, awaited: &[Cookie]| {
        let mut world = before.clone();
        let taken_in = world.is_built_anew(hold_new, awaited);
        assert_eq!(world.states(&old), [Active]);
        (world.standing(new[0]), taken_in)
    };
    assert_eq!(built(HoldNew::Accepting, &[]), (Standing::Held, vec![]));
    assert_eq!(built(HoldNew::Accepting, &new), (Standing::Serving, new.clone()));
    assert_eq!(built(HoldNew::Off, &[]), (Standing::Serving, new.clone()));
    assert_eq!(built(HoldNew::On, &[]), (Standing::Standby, vec![]));
}

#[derive(Debug, Clone)]
enum Step {
    Comes(u64, usize, bool),
    Waits(Vec<usize>),
    Leave(Vec<usize>),
    Set(usize),
    Build(usize, Vec<usize>),
    Promote,
    Rollback,
    TryOut,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..5u64, 1..3usize, any::<bool>()).prop_map(|(s, n, a)| Step::Comes(s, n, a)),
        4 => vec(0..SLOTS, 1..4).prop_map(Step::Waits),
        3 => vec(0..SLOTS, 1..4).prop_map(Step::Leave),
        1 => (0..3usize).prop_map(Step::Set),
        1 => (0..3usize, vec(0..SLOTS, 0..4)).prop_map(|(n, which)| Step::Build(n, which)),
        1 => Just(Step::Promote),
        1 => Just(Step::Rollback),
        1 => Just(Step::TryOut),
    ]
}

proptest! {
    /// 1. What serves goes on because of nothing that others do while they come, accept or leave. 2. A member that is
    /// held serves from when a thread waits for it, unless its generation was replaced or rolled back. 3. No member is
    /// held under another setting, or once it has served. 4. If none serves, all that are left drain or are held: the
    /// hash, or what drains, gets what comes. 5. Without a promotion, a rollback and a trial, and where no generation
    /// waits to be promoted, none drains.
    #[test]
    fn any_sequence_keeps_the_promises(steps in vec(step(), 0..60)) {
        let mut world = World::new();
        let mut is_plain = true;
        for step in &steps {
            is_plain &= !matches!(
                step,
                Step::Set(1) | Step::Build(1, _) | Step::Promote | Step::Rollback | Step::TryOut
            );
            let before = world.roster.clone();
            let nth = |n: &usize| before.occupied().nth(*n).map(|(_, cookie, _)| cookie);
            match step {
                Step::Comes(server, members, awaited) => {
                    world.comes(*server, *members, *awaited);
                }
                Step::Waits(which) => {
                    let awaited: Vec<Cookie> = which.iter().filter_map(nth).collect();
                    world.waits(&awaited);
                    let is_held = |cookie: &Cookie| held(&world.roster).any(|other| other == *cookie);
                    prop_assert!(!awaited.iter().any(is_held));
                }
                Step::Leave(which) => {
                    let leaving: Vec<Cookie> = which.iter().filter_map(nth).collect();
                    world.leave(&leaving);
                }
                Step::Set(n) => world.set(HoldNew::ALL[*n]),
                Step::Build(n, which) => {
                    let awaited: Vec<Cookie> = which.iter().filter_map(nth).collect();
                    world.is_built_anew(HoldNew::ALL[*n], &awaited);
                    let is_held = |cookie: &Cookie| held(&world.roster).any(|other| other == *cookie);
                    prop_assert!(!awaited.iter().any(is_held));
                }
                Step::Promote if promotion_joins(&world.roster) => {
                    world.join();
                },
                Step::Promote => world.changes(promote(&world.roster)),
                Step::Rollback => world.changes(rollback(&world.roster)),
                Step::TryOut => {
                    let tried = try_out(&world.roster, Percent::new(10).unwrap());
                    world.changes(tried);
                }
            }
            let now = &world.roster;
            prop_assert!(now.hold_new() == HoldNew::Accepting || held(now).next().is_none());
            let serves = |record: &Record| record.standing == Standing::Serving;
            let by_others = !matches!(step, Step::Promote | Step::Rollback | Step::TryOut);
            let is_retired = |record: Record| record.standing == Standing::Retired;
            prop_assert!(!is_plain || !members(now).any(is_retired), "{:?}", step);
            for (_, cookie, old) in before.occupied() {
                let Some((.., new)) = now.occupied().find(|(_, other, _)| *other == cookie) else {
                    continue;
                };
                prop_assert!(new.standing != Standing::Held || old.standing == Standing::Held);
                prop_assert!(!by_others || !serves(&old) || serves(&new), "{:?}: {:?}", step, new);
            }
            if !members(now).any(|record| serves(&record)) {
                let waits = |record: Record| matches!(record.standing, Standing::Retired | Standing::Held);
                prop_assert!(members(now).all(waits), "{:?}", step);
                let is_held = |record: Record| record.standing == Standing::Held;
                prop_assert!(members(now).next().is_none() || members(now).any(is_held), "{:?}", step);
            }
        }
    }
}

#[test]
fn promoting_the_generation_that_was_checked_lets_no_other_one_join() {
    let mut world = World::new();
    world.comes(1, 1, true);
    let (checked, other) = (world.comes(2, 1, false), world.comes(3, 1, false));
    world.roster = join(&world.roster, Some(2)).unwrap();
    assert_eq!((world.states(&checked), world.states(&other)), (vec![Active], vec![Standby]));
    // One that accepted meanwhile serves already, which is what was asked for.
    assert_eq!(join(&world.roster, Some(2)), Some(world.roster.clone()));
    assert_eq!(join(&world.roster, Some(4)), None);
}
