//! What a request makes of a group's roster. Values and computation: no I/O and no clock.

use std::collections::HashMap;

use super::refusal::Refusal;
use crate::model::generation::{self, Entrances};
use crate::model::held;
use crate::model::hold_new::HoldNew;
use crate::model::id::{Cookie, Percent, Slot, State, Weight};
use crate::model::lineage::{Began, Entrance, Standing};
use crate::model::policy::CpuList;
use crate::model::roster::{self, Record, Roster};
use crate::model::succession::{self, Role, Seat, Succession};

/// What a request wants of the members.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wishes<'a> {
    /// Weights of members, present ones and newcomers. They go before `known`.
    pub(crate) weights: &'a [(Cookie, Weight)],
    /// What was recorded of newcomers, of which they keep weight, state and generation. Those not listed have the role
    /// of the member before them, or the default.
    pub(crate) known: &'a [(Cookie, Record)],
    /// The generations of members, present ones and newcomers, whatever server holds them. They go before `known`.
    pub(crate) generations: &'a [(Cookie, u32)],
    /// Whether newcomers wait from now on, and for what; `None`: as before.
    pub(crate) hold_new: Option<HoldNew>,
    /// The members for which a thread waits.
    pub(crate) awaited: &'a [Cookie],
    /// The part of all picks that those on trial get, in place of state that had this; `None`: as before.
    pub(crate) trial: Option<Percent>,
    /// The servers of members that are present, as far as they are known.
    pub(crate) servers: &'a [(Cookie, Began)],
    /// Whether a follower asks: see [`Entrances`].
    pub(crate) follows: bool,
    /// CPUs, with a policy that needs them.
    pub(crate) cpus: Option<&'a Placement>,
}

/// How members get their CPUs.
#[derive(Debug)]
pub(crate) struct Placement {
    /// The CPUs of the members, in the order of their slots, repeated.
    pub(crate) given: Option<CpuList>,
    /// Else, a member whose CPU is not known yet gets the only one that the thread that waits for it may run on,
    pub(crate) bound: HashMap<Cookie, u16>,
    /// or as a guess the first one of these with the fewest members.
    pub(crate) online: Vec<u16>,
}

/// A socket that is to enter the group's slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Newcomer {
    pub(crate) cookie: Cookie,
    /// Its index in the host-wide layer.
    pub(crate) host_member: Option<u32>,
    /// Its server, if it is known.
    pub(crate) began: Option<Began>,
}

/// A roster that is not in force yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Draft {
    pub(crate) roster: Roster,
    /// The newcomers that got a slot, in their order.
    pub(crate) entering: Vec<Entering>,
    /// The members that were held, and serve now.
    pub(crate) taken_in: Vec<Cookie>,
}

/// A newcomer in its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entering {
    pub(crate) cookie: Cookie,
    pub(crate) slot: Slot,
    pub(crate) role: Role,
    /// Whether it has its role from the member before it.
    pub(crate) inherits: bool,
    pub(crate) standing: Standing,
}

/// The roster with these newcomers, who enter at `now` (milliseconds since boot), and with what the request wants.
/// Members that have a slot keep it. Newcomers for whom there is no slot are left out.
pub(crate) fn draft(
    roster: &Roster,
    newcomers: &[Newcomer],
    wishes: Wishes<'_>,
    now: u64,
) -> Draft {
    let hold_new = wishes.hold_new.unwrap_or(roster.hold_new());
    let trial = wishes.trial.or(roster.trial());
    let mut draft = roster.clone().holding_new(hold_new).with_trial(trial);
    draft.learn(wishes.servers);
    let is_awaited = |cookie| wishes.awaited.contains(&cookie);
    // A request takes the members that it finds as they are: a worker that is busy waits for nothing.
    let is_first = roster.occupied().next().is_none() && wishes.known.is_empty();
    let holds = hold_new == HoldNew::Accepting && (wishes.follows || !is_first);
    let mut taken_in = held::take_in(&mut draft, is_awaited);
    let before = draft.clone();
    if !wishes.follows {
        // What is there now is all of its generation.
        draft.close();
    }
    for (slot, cookie, record) in roster.occupied() {
        if let Some(weight) = given_to(cookie, wishes.weights) {
            draft.assign(slot, Role { weight, ..record.role() });
        }
    }
    generation::assign(&mut draft, wishes.generations);
    let successions = successions(roster, newcomers, wishes.known);
    let mut entering = Vec::with_capacity(newcomers.len());
    let mut entrances = Entrances::new(&before, wishes.known, wishes.follows, now);
    let mut in_turn: Vec<_> = newcomers.iter().zip(&successions).enumerate().collect();
    // What a newcomer may do depends on those that serve.
    in_turn.sort_by_key(|(_, (newcomer, _))| given_to(newcomer.cookie, wishes.known).is_none());
    for (nth, (newcomer, succession)) in in_turn {
        let Newcomer { cookie, host_member, began } = *newcomer;
        let Succession { slot, succeeds, .. } = *succession;
        let known = given_to(cookie, wishes.known);
        let began = began.or(known.and_then(|known| known.began));
        let given = given_to(cookie, wishes.generations);
        let role = match (known, given) {
            (Some(known), _) => known.role(),
            // A new version of a server takes no drain over from a member that has left.
            (None, Some(_)) => Role { state: State::Active, ..succession.role },
            (None, None) => succession.role,
        };
        let weight = given_to(cookie, wishes.weights).unwrap_or(role.weight);
        let role = Role { weight, ..role };
        let (entrance, standing) = match known {
            Some(Record { generation, standing, .. })
                if generation > 0 && given.is_none_or(|given| given == generation) =>
            {
                (Entrance { generation, opens: false }, standing)
            }
            _ => {
                let given = given.map(|generation| Entrance { generation, opens: false });
                let entrance = given.unwrap_or_else(|| entrances.of(began));
                let standing = generation::standing(&draft, entrance.generation);
                match holds && !is_awaited(cookie) {
                    true => (entrance, held::until_awaited(standing)),
                    false => (entrance, standing),
                }
            }
        };
        let newcomer =
            roster::Newcomer { cookie, host_member, role, entrance, standing, began, now };
        draft.set(slot, roster.record(slot).taken(newcomer, succession));
        let inherits = succeeds && role != Role::NEW;
        entering.push((nth, Entering { cookie, slot, role, inherits, standing }));
    }
    entering.sort_by_key(|(nth, _)| *nth);
    // Also of those that a rebuild enters as they were.
    taken_in.extend(held::take_in(&mut draft, is_awaited));
    draft.serve_by_itself();
    let in_force = |(_, one): (usize, Entering)| {
        let standing = draft.record(one.slot).standing;
        Entering { standing, ..one }
    };
    let entering = entering.into_iter().map(in_force).collect();
    if let Some(placement) = wishes.cpus {
        placement.place(&mut draft);
    }
    Draft { roster: draft, entering, taken_in }
}

/// The slots of the newcomers, by the rules of [succession](succession::succeed). A slot that tells that a generation
/// which has left is on standby or on trial goes back to its server; others get it when no other slot is free.
fn successions(
    roster: &Roster,
    newcomers: &[Newcomer],
    known: &[(Cookie, Record)],
) -> Vec<Succession> {
    let recalls = |(slot, _): &(Slot, Seat)| roster.record(*slot).recalls_wait();
    let (mut kept, mut seats): (Vec<_>, Vec<_>) = roster.seats().into_iter().partition(recalls);
    let mut own = |newcomer: &Newcomer| {
        let began = newcomer.began.or_else(|| given_to(newcomer.cookie, known)?.began)?;
        let of_server = |(slot, _): &(Slot, Seat)| roster.record(*slot).began == Some(began);
        let (slot, seat) = kept.remove(kept.iter().position(of_server)?);
        Some(succession::return_to(slot, seat))
    };
    let own: Vec<Option<Succession>> = newcomers.iter().map(&mut own).collect();
    seats.extend(kept.into_iter().map(|(slot, _)| (slot, Seat::Free)));
    let others = own.iter().filter(|own| own.is_none()).count();
    let mut others = succession::succeed(&seats, others).into_iter();
    own.into_iter().map_while(|own| own.or_else(|| others.next())).collect()
}

impl Placement {
    fn place(&self, roster: &mut Roster) {
        let members: Vec<_> = roster.occupied().collect();
        if let Some(given) = &self.given {
            for ((slot, ..), cpu) in members.iter().zip(given.as_slice().iter().cycle()) {
                roster.place(*slot, *cpu, false);
            }
            return;
        }
        let (known, unknown): (Vec<_>, Vec<_>) = members
            .into_iter()
            .filter(|(.., record)| record.cpu.is_none() || record.guessed)
            .partition(|(_, cookie, _)| self.bound.contains_key(cookie));
        for (slot, cookie, _) in known {
            roster.place(slot, self.bound[&cookie], false);
        }
        for (slot, ..) in unknown.into_iter().filter(|(.., record)| record.cpu.is_none()) {
            let cpu = self.least_used(roster);
            roster.place(slot, cpu, true);
        }
    }

    /// The first online CPU with the fewest members.
    fn least_used(&self, roster: &Roster) -> u16 {
        let members = |cpu: &u16| roster.occupied().filter(|(.., r)| r.cpu == Some(*cpu)).count();
        self.online.iter().copied().min_by_key(members).unwrap_or(0)
    }
}

/// A change of one member: its slot, the member that has to be there, its new weight and its new state.
pub(crate) type RoleChange = (Slot, Option<Cookie>, Option<Weight>, Option<State>);

/// The new roles of members, all of them or none; the last one of a slot counts.
pub(super) fn change(
    roster: &Roster,
    changes: &[RoleChange],
) -> Result<Vec<(Slot, Role)>, Refusal> {
    let mut draft = roster.clone();
    let mut changed = Vec::with_capacity(changes.len());
    for &(slot, member, weight, state) in changes {
        let record = draft.record(slot);
        match (record.cookie, member) {
            (None, _) => return Err(Refusal::NoMember(slot)),
            (Some(present), Some(wanted)) if present != wanted => {
                return Err(Refusal::AnotherMember(slot));
            }
            _ => {}
        }
        match (record.standing, state) {
            (Standing::Retired, Some(State::Active)) => return Err(Refusal::Retired(slot)),
            (Standing::Standby | Standing::Held, Some(State::Active)) => {
                return Err(Refusal::OnStandby(slot));
            }
            _ => {}
        }
        let role = record.role();
        let role =
            Role { weight: weight.unwrap_or(role.weight), state: state.unwrap_or(role.state) };
        draft.assign(slot, role);
        changed.push((slot, role));
    }
    Ok(changed)
}

/// What a list gives to this member.
fn given_to<T: Copy>(member: Cookie, list: &[(Cookie, T)]) -> Option<T> {
    list.iter().find(|(of, _)| *of == member).map(|(_, given)| *given)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use proptest::prelude::*;

    use super::*;

    const SLOTS: usize = 6;

    /// One step in a group's life.
    #[derive(Debug, Clone)]
    enum Step {
        Enter(usize),
        Leave(Vec<usize>),
        Change(u16, Option<u16>, Option<State>),
        Weigh(usize, u16),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let state = prop_oneof![Just(State::Active), Just(State::Draining)];
        let step = prop_oneof![
            (1..5_usize).prop_map(Step::Enter),
            proptest::collection::vec(0..SLOTS, 1..4).prop_map(Step::Leave),
            (0..SLOTS as u16, proptest::option::of(0..=5_u16), proptest::option::of(state))
                .prop_map(|(slot, weight, state)| Step::Change(slot, weight, state)),
            (0..SLOTS, 0..=5_u16).prop_map(|(nth, weight)| Step::Weigh(nth, weight)),
        ];
        proptest::collection::vec(step, 1..30)
    }

    /// The group's members, and what this tool recorded.
    struct World {
        roster: Roster,
        next_cookie: u64,
        now: u64,
    }

    impl World {
        fn nth(&self, n: usize) -> Option<(Slot, Cookie)> {
            self.roster.occupied().nth(n).map(|(slot, cookie, _)| (slot, cookie))
        }

        fn take(&mut self, step: &Step) {
            self.now += 1000;
            let before = self.roster.clone();
            match step {
                Step::Enter(count) => {
                    let cookies = self.next_cookie..self.next_cookie + *count as u64;
                    self.next_cookie = cookies.end;
                    let newcomers: Vec<Newcomer> = cookies
                        .filter_map(Cookie::new)
                        .map(|cookie| Newcomer { cookie, host_member: None, began: None })
                        .collect();
                    let Draft { roster, entering, .. } =
                        draft(&before, &newcomers, Wishes::default(), self.now);
                    let free = SLOTS - before.occupied().count();
                    assert_eq!(entering.len(), free.min(*count), "every newcomer that fits enters");
                    for one in &entering {
                        let (was, is) = (before.record(one.slot), roster.record(one.slot));
                        assert_eq!(was.cookie, None, "a newcomer takes a free slot");
                        assert_eq!(is.cookie, Some(one.cookie));
                        assert!(
                            is.epoch > was.epoch,
                            "a slot that changes hands has another epoch"
                        );
                    }
                    self.roster = roster;
                }
                Step::Leave(which) => {
                    let leaving: HashSet<Slot> =
                        which.iter().filter_map(|n| Some(self.nth(*n)?.0)).collect();
                    let leaving: Vec<Slot> = leaving.into_iter().collect();
                    self.roster.leave(&leaving, self.now);
                    assert!(leaving.iter().all(|slot| self.roster.record(*slot).cookie.is_none()));
                }
                Step::Change(slot, weight, state) => {
                    let slot = Slot::new(*slot);
                    let weight = weight.and_then(Weight::new);
                    match change(&before, &[(slot, None, weight, *state)]) {
                        Err(refused) => {
                            assert!(matches!(refused, Refusal::NoMember(of) if of == slot));
                            assert_eq!(before.record(slot).cookie, None);
                        }
                        Ok(roles) => self.roster.assign_all(&roles),
                    }
                }
                Step::Weigh(nth, weight) => {
                    let Some((slot, cookie)) = self.nth(*nth) else { return };
                    let weights = [(cookie, Weight::new(*weight).unwrap())];
                    let wishes = Wishes { weights: &weights, ..Wishes::default() };
                    self.roster = draft(&before, &[], wishes, self.now).roster;
                    assert_eq!(self.roster.record(slot).weight().get(), *weight);
                }
            }
            self.holds(&before, step);
        }

        /// What holds after every step.
        fn holds(&self, before: &Roster, step: &Step) {
            let by_cookie = |roster: &Roster| -> BTreeMap<Cookie, Slot> {
                roster.occupied().map(|(slot, cookie, _)| (cookie, slot)).collect()
            };
            let (was, is) = (by_cookie(before), by_cookie(&self.roster));
            assert_eq!(is.len(), self.roster.occupied().count(), "a member has one slot");
            for (cookie, slot) in &is {
                if let Some(before) = was.get(cookie) {
                    assert_eq!(slot, before, "a member that stays keeps its slot");
                }
            }
            for slot in self.roster.slots() {
                let (old, new) = (before.record(slot), self.roster.record(slot));
                assert!(new.epoch >= old.epoch, "an epoch never falls");
                let changed =
                    old.cookie.is_some() && old.cookie == new.cookie && old.role() != new.role();
                let asked = matches!(step, Step::Change(..) | Step::Weigh(..));
                assert!(!changed || asked, "roles of those that stay change on request alone");
            }
        }
    }

    proptest! {
        #[test]
        fn any_sequence_keeps_what_members_have(steps in steps()) {
            let mut world = World { roster: Roster::empty(SLOTS), next_cookie: 1, now: 1 };
            for step in &steps {
                world.take(step);
            }
        }

        #[test]
        fn a_draft_without_newcomers_and_wishes_changes_nothing(steps in steps()) {
            let mut world = World { roster: Roster::empty(SLOTS), next_cookie: 1, now: 1 };
            for step in &steps {
                world.take(step);
            }
            let same = draft(&world.roster, &[], Wishes::default(), world.now + 1);
            prop_assert_eq!(same.roster, world.roster);
        }
    }

    fn entered(count: u64, wishes: Wishes<'_>) -> Roster {
        let newcomers: Vec<Newcomer> = (1..=count)
            .filter_map(Cookie::new)
            .map(|cookie| Newcomer { cookie, host_member: None, began: None })
            .collect();
        draft(&Roster::empty(SLOTS), &newcomers, wishes, 1).roster
    }

    #[test]
    fn changes_are_made_together_or_not_at_all() {
        let roster = entered(2, Wishes::default());
        let drain = |slot, member| (Slot::new(slot), member, None, Some(State::Draining));
        let refused = change(&roster, &[drain(0, None), drain(5, None)]).unwrap_err();
        assert!(matches!(refused, Refusal::NoMember(slot) if slot == Slot::new(5)));
        let both = [drain(0, Cookie::new(1)), drain(1, Cookie::new(1))];
        let refused = change(&roster, &both).unwrap_err();
        assert!(matches!(refused, Refusal::AnotherMember(slot) if slot == Slot::new(1)));
        let weight = (Slot::new(0), None, Weight::new(7), None);
        let mut changed = roster.clone();
        changed.assign_all(&change(&roster, &[drain(0, Cookie::new(1)), weight]).unwrap());
        let role = Role { weight: Weight::new(7).unwrap(), state: State::Draining };
        assert_eq!(changed.record(Slot::new(0)).role(), role);
    }

    #[test]
    fn members_get_the_given_cpus_or_the_owners_or_the_least_used() {
        let cpus = |placement: &Placement| -> Vec<u16> {
            let wishes = Wishes { cpus: Some(placement), ..Wishes::default() };
            entered(4, wishes).occupied().filter_map(|(.., record)| record.cpu).collect()
        };
        let given = "3,1".parse().ok();
        let mut placement = Placement { given, bound: HashMap::new(), online: vec![0, 1] };
        assert_eq!(cpus(&placement), [3, 1, 3, 1]);
        placement.given = None;
        assert_eq!(cpus(&placement), [0, 1, 0, 1]);
        placement.bound = HashMap::from([(Cookie::new(1).unwrap(), 1)]);
        assert_eq!(cpus(&placement), [1, 0, 0, 1]);
    }

    #[test]
    fn a_guess_lasts_until_the_cpu_is_known_and_no_longer() {
        let place = |roster: &Roster, bound: &[(u64, u16)], given: Option<&str>| {
            let bound = bound.iter().map(|(n, cpu)| (Cookie::new(*n).unwrap(), *cpu)).collect();
            let given = given.and_then(|list| list.parse().ok());
            let placement = Placement { given, bound, online: vec![0, 1] };
            let wishes = Wishes { cpus: Some(&placement), ..Wishes::default() };
            draft(roster, &[], wishes, 1).roster
        };
        let cpus = |roster: &Roster| -> Vec<_> {
            roster.occupied().filter_map(|(.., r)| Some((r.cpu?, r.guessed))).collect()
        };
        let first = place(&entered(2, Wishes::default()), &[(2, 0)], None);
        assert_eq!(cpus(&first), [(1, true), (0, false)], "what is known comes first");
        assert_eq!(place(&first, &[], None), first, "and what was guessed stays");
        let known = place(&first, &[(1, 0), (2, 1)], None);
        assert_eq!(cpus(&known), [(0, false), (0, false)], "a CPU that was known stays");
        let given = place(&first, &[(1, 0)], Some("1"));
        assert_eq!(cpus(&given), [(1, false), (1, false)]);
        assert_eq!(place(&given, &[(1, 0)], None), given, "and one that the user gave");
    }
}
