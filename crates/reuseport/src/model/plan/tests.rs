//! The plan against a host that exists only here: a group with its sockets, the slots that the kernel empties, and
//! what is pinned. Whatever is asked and whatever the sockets do, in any order:
//!
//! 1. A member that stays keeps its slot; its weight and state change on request alone.
//! 2. After an `attach`, each member has exactly one slot, and each slot's member is in the group.
//! 3. A program of another owner goes only with `force`; a program that another user may change is never
//!    attached again.
//! 4. What is refused changes nothing; after a `detach`, nothing of this tool decides or is pinned.
//! 5. Slots and roles survive a restart of the server as they survive anything else: by slot.

mod takeover;
mod trial;

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::model::group::{Group, Protocol, examples};
use crate::model::id::{State, Weight};
use crate::model::membership::{Emptied, Occupant};

const SLOTS: u32 = 8;
const OTHERS: u32 = 1000;

/// What is pinned.
#[derive(Debug, Clone, PartialEq)]
struct Pinned {
    is_trusted: bool,
    program: Program,
    is_current: bool,
    has_replaced: bool,
    slots: u32,
    roster: Roster,
    /// What is in the socket array: the kernel takes out what leaves the group.
    array: BTreeMap<u16, Cookie>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Decides {
    Hash,
    Ours,
    Other,
}

/// One group.
#[derive(Debug, Clone, PartialEq)]
struct World {
    sockets: BTreeSet<Cookie>,
    decides: Decides,
    pinned: Option<Pinned>,
    next_cookie: u64,
    now: u64,
}

/// What happens.
#[derive(Debug, Clone)]
enum Happens {
    Joins,
    Leaves(usize),
    StopsAndListens(usize),
    Restarts(u64),
    OtherAttaches,
    Detached,
    AnotherUsers,
    Outdated,
    Attach { program: Option<Program<ObjectSpec>>, slots: Option<u32>, force: bool },
    SetPolicy(Policy),
    ChangeMembers(u16, Option<u16>, Option<State>),
    Detach,
}

fn policies() -> impl Strategy<Value = Policy> {
    prop_oneof![
        Just(Policy::RoundRobin),
        Just(Policy::Hash),
        Just(Policy::default_for(Protocol::Tcp))
    ]
}

fn happens() -> impl Strategy<Value = Happens> {
    let program = prop_oneof![
        2 => Just(None),
        3 => policies().prop_map(|policy| Some(policy.into())),
        1 => Just(Some(ObjectSpec::new("a.o").into())),
    ];
    let state = prop_oneof![Just(State::Active), Just(State::Draining)];
    let slots = proptest::option::weighted(0.2, prop_oneof![Just(SLOTS), Just(SLOTS + 1)]);
    prop_oneof![
        5 => Just(Happens::Joins),
        3 => (0..8usize).prop_map(Happens::Leaves),
        1 => (0..8usize).prop_map(Happens::StopsAndListens),
        2 => (1..5u64).prop_map(Happens::Restarts),
        1 => Just(Happens::OtherAttaches),
        1 => Just(Happens::Detached),
        1 => Just(Happens::AnotherUsers),
        1 => Just(Happens::Outdated),
        8 => (program, slots, any::<bool>())
            .prop_map(|(program, slots, force)| Happens::Attach { program, slots, force }),
        2 => policies().prop_map(Happens::SetPolicy),
        4 => (0..8u16, proptest::option::of(0..=5u16), proptest::option::of(state))
            .prop_map(|(slot, weight, state)| Happens::ChangeMembers(slot, weight, state)),
        1 => Just(Happens::Detach),
    ]
}

impl World {
    fn new() -> Self {
        let sockets = BTreeSet::new();
        let mut world =
            Self { sockets, decides: Decides::Hash, pinned: None, next_cookie: 1, now: 1 };
        world.joins(2);
        world
    }

    fn joins(&mut self, count: u64) {
        for _ in 0..count {
            self.sockets.insert(Cookie::new(self.next_cookie).unwrap());
            self.next_cookie += 1;
        }
    }

    /// The kernel takes a socket that leaves its group out of the array, and forgets a group without sockets.
    fn leaves(&mut self, cookie: Cookie) {
        self.sockets.remove(&cookie);
        if let Some(pinned) = &mut self.pinned {
            pinned.array.retain(|_, of| *of != cookie);
        }
        if self.sockets.is_empty() {
            self.decides = Decides::Hash;
        }
    }

    fn nth(&self, n: usize) -> Option<Cookie> {
        self.sockets.iter().nth(n % self.sockets.len().max(1)).copied()
    }

    fn group(&self) -> Group {
        let member = |cookie: &Cookie| examples::member(Protocol::Tcp, cookie.get());
        let members = self.sockets.iter().map(member).collect();
        let id = match self.decides {
            Decides::Hash => None,
            Decides::Ours => Some(1),
            Decides::Other => Some(2),
        };
        let program = id.map(|id| AttachedProgram { id: Some(id), name: "any".into() });
        let key = examples::key(Protocol::Tcp, "127.0.0.1:80");
        Group { program, ..examples::group(key, members) }
    }

    fn steering(&self) -> Steering {
        match (self.decides, &self.pinned) {
            (Decides::Hash, _) => Steering::KernelHash,
            (Decides::Ours, Some(pinned)) => Steering::Ours(pinned.program),
            (Decides::Ours, None) => Steering::Elsewhere(None),
            (Decides::Other, _) => Steering::Foreign,
        }
    }

    /// Runs a plan on what the world shows.
    fn planned<T>(
        &self,
        plan: impl FnOnce(Observed<'_>, Option<Recorded<'_>>) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let group = self.group();
        let observed = Observed {
            key: &group.key,
            program: group.program.as_ref(),
            steering: self.steering(),
            namesake: None,
        };
        let recorded = self.pinned.as_ref().map(|pinned| Recorded {
            owner: OTHERS,
            is_trusted: pinned.is_trusted,
            program: pinned.program,
            slots: pinned.slots,
            roster: &pinned.roster,
            is_current: pinned.is_current,
            has_replaced: pinned.has_replaced,
        });
        plan(observed, recorded)
    }

    fn happens(&mut self, what: &Happens) {
        self.now += 1;
        match what {
            Happens::Joins => self.joins(1),
            Happens::Leaves(n) => {
                if let Some(cookie) = self.nth(*n) {
                    self.leaves(cookie);
                }
            }
            Happens::StopsAndListens(n) => {
                if let Some(cookie) = self.nth(*n) {
                    self.leaves(cookie);
                    self.sockets.insert(cookie);
                }
            }
            Happens::Restarts(workers) => {
                self.sockets.clone().into_iter().for_each(|cookie| self.leaves(cookie));
                self.joins(*workers);
            }
            Happens::OtherAttaches => self.decides = Decides::Other,
            Happens::Detached => self.decides = Decides::Hash,
            Happens::AnotherUsers => {
                self.pinned.iter_mut().for_each(|pinned| pinned.is_trusted = false);
            }
            Happens::Outdated => {
                self.pinned.iter_mut().for_each(|pinned| pinned.is_current = false);
            }
            Happens::Attach { program, slots, force } => {
                let force = *force;
                self.attaches(AttachRequest { slots: *slots, force, ..request(program.as_ref()) });
            }
            Happens::SetPolicy(policy) => {
                let planned = self.planned(|o, r| set_policy(o, r, *policy));
                if let (Ok(selection), Some(pinned)) = (planned, &mut self.pinned) {
                    assert!(self.decides == Decides::Ours && pinned.is_trusted);
                    (pinned.program, pinned.is_current) = (selection.into(), true);
                }
            }
            Happens::ChangeMembers(slot, weight, state) => {
                let weight = weight.and_then(Weight::new);
                let change = [(Slot::new(*slot), None, weight, *state)];
                let planned = self.planned(|o, r| change_members(o, r, &change));
                if let (Ok(roles), Some(pinned)) = (planned, &mut self.pinned) {
                    assert!(self.decides == Decides::Ours && pinned.is_trusted);
                    pinned.roster.assign_all(&roles);
                }
            }
            Happens::Detach => match self.planned(detach) {
                Ok(DetachPlan::Detach | DetachPlan::LetGo { .. }) => {
                    (self.decides, self.pinned) = (Decides::Hash, None);
                }
                Ok(DetachPlan::Discard) => {
                    assert_eq!(self.decides, Decides::Other);
                    self.pinned = None;
                }
                Ok(DetachPlan::CleanUp) => {
                    assert_eq!(self.decides, Decides::Hash);
                    self.pinned = None;
                }
                Err(refusal) => {
                    assert!(self.pinned.is_none(), "{refusal:?}");
                    assert_ne!(self.decides, Decides::Ours);
                }
            },
        }
    }

    fn attaches(&mut self, request: AttachRequest<'_>) {
        let Ok(plan) = self.planned(|o, r| attach(o, r, request)) else {
            let foreign = self.steering() == Steering::Foreign || self.pinned.is_none();
            let reason = self.pinned.as_ref().is_some_and(|pinned| {
                !pinned.is_trusted || request.slots.is_some_and(|slots| slots != pinned.slots)
            });
            assert!((foreign && !request.force) || reason, "refused without a reason");
            return;
        };
        assert!(self.decides != Decides::Other || request.force, "taken without force");
        let is_trusted = self.pinned.as_ref().is_none_or(|pinned| pinned.is_trusted);
        let mut known = Vec::new();
        let mut pinned = match (plan, self.pinned.take()) {
            (AttachPlan::Update(program), Some(pinned)) => {
                assert_eq!(self.decides, Decides::Ours);
                Pinned { program, is_current: true, ..pinned }
            }
            (AttachPlan::Resume { goes_on }, Some(pinned)) => {
                assert!(is_trusted && self.decides != Decides::Ours);
                assert!(!goes_on || pinned.has_replaced);
                Pinned { has_replaced: false, ..pinned }
            }
            (AttachPlan::Build(build), old) => {
                assert_eq!(build.in_place_of == InPlaceOf::Nothing, old.is_none());
                assert_eq!(
                    build.replaces,
                    self.decides == Decides::Other
                        || old.is_none() && self.decides == Decides::Ours
                );
                if let (Some(old), Some(wanted)) = (&old, request.program) {
                    let knows = wanted.selection().is_some() && self.decides != Decides::Ours;
                    assert!(!knows || build.kept.members.len() == old.roster.occupied().count());
                }
                known = build.kept.members;
                let slots = build.slots.unwrap_or(SLOTS);
                Pinned {
                    is_trusted: true,
                    program: build.program.kind(),
                    is_current: true,
                    has_replaced: false,
                    slots,
                    roster: Roster::empty(slots as usize),
                    array: BTreeMap::new(),
                }
            }
            (plan, None) => panic!("{plan:?} of nothing"),
        };
        self.decides = Decides::Ours;
        if check_room(&self.group().key, self.sockets.len(), pinned.slots as usize, false).is_ok() {
            self.enrols(&mut pinned, &known);
        }
        self.pinned = Some(pinned);
    }

    fn enrols(&self, pinned: &mut Pinned, known: &[(Cookie, Record)]) {
        let group = self.group();
        let content: Vec<enrolment::Content> = pinned
            .roster
            .occupied()
            .map(|(slot, cookie, _)| match pinned.array.get(&slot.get()) {
                Some(occupant) => (slot, cookie, Occupant::Socket(*occupant)),
                None => (slot, cookie, Occupant::None),
            })
            .collect();
        let Enrolment { leaving, returning, newcomers, .. } =
            enrolment(&group, &content, Emptied::WhenItLeaves);
        let freed: Vec<Slot> = leaving.iter().map(|(slot, _)| *slot).collect();
        pinned.roster.leave(&freed, self.now);
        for (slot, member) in returning {
            pinned.array.insert(slot.get(), member.cookie.unwrap());
        }
        let newcomers: Vec<Newcomer> = newcomers
            .iter()
            .map(|member| Newcomer {
                cookie: member.cookie.unwrap(),
                host_member: None,
                began: None,
            })
            .collect();
        let wishes = Wishes { known, ..Wishes::default() };
        let Draft { roster, entering, .. } = draft(&pinned.roster, &newcomers, wishes, self.now);
        for one in &entering {
            let before = pinned.array.insert(one.slot.get(), one.cookie);
            assert_eq!(before, None, "a newcomer takes an empty slot");
        }
        pinned.roster = roster;
        let slots: Vec<Cookie> = pinned.roster.occupied().map(|(_, cookie, _)| cookie).collect();
        assert_eq!(slots.len(), self.sockets.len(), "each member has one slot");
        assert_eq!(slots.iter().copied().collect::<BTreeSet<_>>(), self.sockets);
        assert!(
            pinned
                .array
                .values()
                .copied()
                .eq(pinned.roster.occupied().map(|(_, cookie, _)| cookie))
        );
    }

    /// The slot and role of each member.
    fn seats(&self) -> BTreeMap<Cookie, (Slot, Role)> {
        let occupied = self.pinned.iter().flat_map(|pinned| pinned.roster.occupied());
        occupied.map(|(slot, cookie, record)| (cookie, (slot, record.role()))).collect()
    }
}

proptest! {
    #[test]
    fn any_sequence_keeps_the_promises(steps in vec(happens(), 0..60)) {
        let mut world = World::new();
        for step in &steps {
            let before = world.clone();
            world.happens(step);
            let (was, is) = (before.seats(), world.seats());
            let asked = matches!(step, Happens::ChangeMembers(..));
            // Another program over other maps gives other slots; the user's own one knows no roles.
            let rebuilt = before.pinned.as_ref().zip(world.pinned.as_ref()).is_some_and(|(old, new)| {
                !old.is_trusted || !old.is_current || old.slots != new.slots
                    || old.program != new.program && before.decides != Decides::Ours
                    || old.program.selection().is_none() || new.program.selection().is_none()
            });
            for (cookie, (slot, role)) in &is {
                let Some((old_slot, old_role)) = was.get(cookie) else { continue };
                prop_assert!(rebuilt || slot == old_slot, "{:?} moved {} to {}", step, cookie, slot);
                let knew = before.pinned.as_ref().is_some_and(|p| p.program.selection().is_some());
                let knows = world.pinned.as_ref().is_some_and(|p| p.program.selection().is_some());
                prop_assert!(asked || !(knew && knows) || role == old_role, "{:?}", step);
            }
        }
    }

    #[test]
    fn a_restart_passes_roles_on_by_slot(weights in vec(0..=9u16, 1..6), drained in 0..6usize) {
        let mut world = World::new();
        world.joins(weights.len() as u64);
        let attach = Happens::Attach {
            program: Some(Policy::RoundRobin.into()), slots: None, force: false,
        };
        world.happens(&attach);
        for (slot, weight) in (0..).zip(&weights) {
            let state = (usize::from(slot) == drained).then_some(State::Draining);
            world.happens(&Happens::ChangeMembers(slot, Some(*weight), state));
        }
        let roles = |world: &World| -> Vec<(Slot, Weight)> {
            let mut roles: Vec<_> =
                world.seats().into_values().map(|(slot, role)| (slot, role.weight)).collect();
            roles.sort_unstable();
            roles
        };
        let before = roles(&world);
        world.happens(&Happens::Restarts(world.sockets.len() as u64));
        world.happens(&attach);
        prop_assert_eq!(roles(&world), before);
    }
}

fn attached() -> World {
    let mut world = World::new();
    world.happens(&Happens::Attach {
        program: Some(Policy::RoundRobin.into()),
        slots: None,
        force: false,
    });
    assert_eq!(world.decides, Decides::Ours);
    world
}

fn request(program: Option<&Program<ObjectSpec>>) -> AttachRequest<'_> {
    AttachRequest { program, slots: None, force: false, hold_new: None }
}

#[test]
fn refusals_name_their_reason() {
    let key = examples::key(Protocol::Tcp, "127.0.0.1:80");
    let text = |refusal: Refusal, operation| refusal.error(operation, &key).report().to_string();
    let mut world = attached();
    let own: Program<ObjectSpec> = ObjectSpec::new("a.o").into();

    let slots = AttachRequest { slots: Some(SLOTS + 1), ..request(None) };
    let refusal = world.planned(|o, r| attach(o, r, slots)).unwrap_err();
    assert!(matches!(refusal, Refusal::SlotsAreFixed(SLOTS)));
    assert!(text(refusal, Operation::Attach).contains("it has 8, fixed while it is attached"));

    world.happens(&Happens::OtherAttaches);
    let refusal = world.planned(|o, r| attach(o, r, request(None))).unwrap_err();
    assert!(matches!(refusal, Refusal::AnotherProgram { displaced: true, .. }));
    assert!(text(refusal, Operation::Attach).contains("the state that it displaced"));
    let refusal = world.planned(|o, r| set_policy(o, r, Policy::Hash)).unwrap_err();
    assert!(text(refusal, Operation::SetPolicy).contains("will not change the policy of"));

    let mut world = attached();
    world.happens(&Happens::AnotherUsers);
    let trial = crate::model::id::Percent::new(10);
    world.pinned = world.pinned.map(|p| Pinned { roster: p.roster.with_trial(trial), ..p });
    let refusal = world.planned(|o, r| change_members(o, r, &[])).unwrap_err();
    assert!(matches!(refusal, Refusal::AnotherUsersState { owner: OTHERS, .. }));
    assert!(text(refusal, Operation::ChangeMembers).contains("uid 1000"));
    let plan = world.planned(|o, r| attach(o, r, request(None))).unwrap();
    let AttachPlan::Build(build) = plan else { panic!("{plan:?}") };
    assert_eq!((build.slots, build.kept.members.len(), build.kept.trial), (Some(SLOTS), 2, trial));

    let mut world = World::new();
    assert!(matches!(world.planned(detach), Err(Refusal::NotAttached)));
    let refusal = world.planned(|o, r| set_policy(o, r, Policy::Hash)).unwrap_err();
    assert!(matches!(refusal, Refusal::NotAttached));
    world.happens(&Happens::Attach { program: Some(own), slots: None, force: false });
    for operation in [Operation::SetPolicy, Operation::ChangeMembers] {
        let refusal = match operation {
            Operation::SetPolicy => world.planned(|o, r| set_policy(o, r, Policy::Hash).map(drop)),
            _ => world.planned(|o, r| change_members(o, r, &[]).map(drop)),
        };
        let refusal = refusal.unwrap_err();
        assert!(matches!(refusal, Refusal::OwnProgram));
        assert!(text(refusal, operation).contains("the user's own program decides there"));
    }
}

#[test]
fn a_group_of_the_same_name_keeps_its_state() {
    let world = attached();
    let group = world.group();
    let other = examples::key(Protocol::Tcp, "127.0.0.1:81");
    let observed = Observed {
        key: &group.key,
        program: None,
        steering: Steering::KernelHash,
        namesake: Some(&other),
    };
    let planned = |plan: &dyn Fn(Observed<'_>, Option<Recorded<'_>>) -> Option<Refusal>| {
        world.planned(|_, recorded| Ok(plan(observed, recorded))).unwrap()
    };
    let refusal = planned(&|o, r| attach(o, r, request(None)).err());
    assert!(matches!(refusal, Some(Refusal::Namesake(_))));
    assert!(matches!(planned(&|o, r| detach(o, r).err()), Some(Refusal::NotAttached)));
}
