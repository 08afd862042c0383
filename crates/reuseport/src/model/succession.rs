//! Succession: which slot a newcomer takes, and what the member before it leaves: its weight, and in a
//! restart its drain. Values and computation, no I/O and no clock.
//!
//! Members that stay never move. A slot that a member left keeps its weight and state until a newcomer
//! takes it.

use super::id::{Slot, State, Weight};

/// How long before a member leaves another one may have come to count as its successor, in milliseconds:
/// the overlap of a reload.
const OVERLAP: u64 = 60_000;

/// How long the members of a server that restarts take to leave, in milliseconds: they close their listeners
/// at once, and end later.
const RESTART: u64 = 10_000;

/// A slot's weight and state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Role {
    pub(crate) weight: Weight,
    pub(crate) state: State,
}

impl Role {
    /// The role of a member that succeeds no other.
    pub(crate) const NEW: Self = Self { weight: Weight::DEFAULT, state: State::Active };

    fn serves(self) -> bool {
        self.state == State::Active && self.weight.get() > 0
    }
}

/// A slot. Times are milliseconds of any clock that never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seat {
    /// Free, with nothing to pass on.
    Free,
    /// Free since `left`; it passes on `role`.
    Vacant { left: u64, role: Role },
    /// Taken since `came`. `extra`: by a member that succeeded no other and found others there.
    Taken { came: u64, extra: bool, role: Role },
}

/// The slot of a newcomer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Succession {
    pub(crate) slot: Slot,
    pub(crate) role: Role,
    /// Whether a member left this slot to it.
    pub(crate) succeeds: bool,
    pub(crate) extra: bool,
}

/// What members that leave at `now` pass on, by slot: `None` if another member has succeeded them already,
/// as in a reload whose new workers come before the old ones leave.
///
/// Each such successor counts once: the second value has the slots of those that counted.
///
/// If the last members leave, slots that had been left long before pass nothing on: what comes back is the server
/// as it was at last, with its drains. And if no slot would serve, nothing drains any more. In both cases this
/// also returns slots that had been left before.
pub(crate) fn leave(
    seats: &[(Slot, Seat)],
    leaving: &[Slot],
    now: u64,
) -> (Vec<(Slot, Option<Role>)>, Vec<Slot>) {
    let mut extras: Vec<(Slot, u64)> = seats
        .iter()
        .filter(|(slot, _)| !leaving.contains(slot))
        .filter_map(|(slot, seat)| match seat {
            Seat::Taken { came, extra: true, .. } if came.saturating_add(OVERLAP) >= now => {
                Some((*slot, *came))
            }
            _ => None,
        })
        .collect();
    let mut counted = Vec::new();
    let mut passed_on: Vec<(Slot, Option<Role>)> = seats
        .iter()
        .filter(|(slot, _)| leaving.contains(slot))
        .filter_map(|(slot, seat)| {
            let Seat::Taken { came, role, .. } = seat else { return None };
            let successor = extras.iter().position(|(_, since)| since > came);
            let role = match successor {
                Some(at) => {
                    counted.push(extras.remove(at).0);
                    None
                }
                None => Some(*role),
            };
            Some((*slot, role))
        })
        .collect();
    let stays =
        |(slot, seat): &(Slot, Seat)| matches!(seat, Seat::Taken { .. }) && !leaving.contains(slot);
    if !seats.iter().any(stays) {
        let is_recent = |left: u64| left.saturating_add(RESTART) >= now;
        let recent = vacant(seats).filter(|(_, left, _)| is_recent(*left));
        passed_on.extend(recent.map(|(slot, _, role)| (slot, Some(role))));
        let none_serves = !passed_on.iter().filter_map(|(_, role)| *role).any(Role::serves);
        match none_serves {
            true => passed_on.iter_mut().for_each(|(_, role)| *role = role.map(serving)),
            false => passed_on.truncate(leaving.len()),
        }
        let old = vacant(seats).filter(|(_, left, _)| !is_recent(*left));
        passed_on.extend(old.map(|(slot, ..)| (slot, None)));
    }
    (passed_on, counted)
}

/// The slots that members left: when, and what they pass on.
fn vacant(seats: &[(Slot, Seat)]) -> impl Iterator<Item = (Slot, u64, Role)> {
    seats.iter().filter_map(|(slot, seat)| match seat {
        Seat::Vacant { left, role } => Some((*slot, *left, *role)),
        _ => None,
    })
}

/// The slots for this number of newcomers, in their order; fewer if there are not enough.
///
/// They take the slots that members left, first those that serve, the lowest first, and then the lowest free
/// ones. So a server that comes back with fewer members does not leave its drains to all of them. A successor has
/// the weight of the member before it. A drain, and the weight 0, pass on only in a restart: if every member
/// that stays came after the slot was left; and only if another member serves.
///
/// Members that come one by one get the same slots and roles as members that come together.
pub(crate) fn succeed(seats: &[(Slot, Seat)], newcomers: usize) -> Vec<Succession> {
    let taken = seats.iter().filter_map(|(_, seat)| match seat {
        Seat::Taken { came, role, .. } => Some((*came, *role)),
        _ => None,
    });
    let eldest = taken.clone().map(|(came, _)| came).min();
    let mut one_serves = taken.map(|(_, role)| role).any(Role::serves);
    let mut left: Vec<(Slot, u64, Role)> = vacant(seats).collect();
    left.sort_by_key(|(slot, _, role)| (!role.serves(), *slot));
    let vacant = left.into_iter().map(|(slot, left, role)| {
        let is_restart = eldest.is_none_or(|eldest| eldest >= left);
        let role = if is_restart && one_serves { role } else { serving(role) };
        one_serves |= role.serves();
        Succession { slot, role, succeeds: true, extra: false }
    });
    let free = seats.iter().filter(|(_, seat)| *seat == Seat::Free).map(|(slot, _)| Succession {
        slot: *slot,
        role: Role::NEW,
        succeeds: false,
        extra: eldest.is_some(),
    });
    vacant.chain(free).take(newcomers).collect()
}

/// The slot of a member that comes back to its own, of a server that did not serve: it has its weight, and no drain.
pub(crate) fn return_to(slot: Slot, seat: Seat) -> Succession {
    let role = match seat {
        Seat::Vacant { role, .. } => serving(role),
        _ => Role::NEW,
    };
    Succession { slot, role, succeeds: true, extra: false }
}

/// The same weight without a drain.
fn serving(role: Role) -> Role {
    let weight = if role.weight.get() > 0 { role.weight } else { Weight::DEFAULT };
    Role { weight, state: State::Active }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn role(weight: u16, state: State) -> Role {
        Role { weight: Weight::new(weight).unwrap(), state }
    }

    fn slots(seats: &[Seat]) -> Vec<(Slot, Seat)> {
        (0..).map(Slot::new).zip(seats.iter().copied()).collect()
    }

    fn taken(came: u64, role: Role) -> Seat {
        Seat::Taken { came, extra: false, role }
    }

    const HEAVY: u16 = 5;

    #[test]
    fn a_restart_keeps_weights_and_drains_by_slot_even_if_members_come_one_by_one() {
        let drained = role(1, State::Draining);
        let mut seats = slots(&[
            Seat::Vacant { left: 10, role: role(HEAVY, State::Active) },
            Seat::Vacant { left: 12, role: drained },
        ]);
        let first = succeed(&seats, 1)[0];
        assert_eq!((first.slot, first.role.weight.get()), (Slot::new(0), HEAVY));
        seats[0].1 = taken(12, first.role);
        let second = succeed(&seats, 1)[0];
        assert_eq!((second.slot, second.role), (Slot::new(1), drained));
    }

    #[test]
    fn a_replaced_member_leaves_its_weight_and_not_its_drain() {
        let seats = slots(&[
            taken(1, Role::NEW),
            Seat::Vacant { left: 10, role: role(HEAVY, State::Draining) },
            Seat::Vacant { left: 10, role: role(0, State::Active) },
        ]);
        let roles: Vec<Role> = succeed(&seats, 2).iter().map(|next| next.role).collect();
        assert_eq!(roles, [role(HEAVY, State::Active), Role::NEW]);
    }

    /// The slots after these members left.
    fn after(mut seats: Vec<(Slot, Seat)>, leaving: &[Slot], now: u64) -> Vec<(Slot, Seat)> {
        for (slot, role) in leave(&seats, leaving, now).0 {
            let seat = role.map_or(Seat::Free, |role| Seat::Vacant { left: now, role });
            seats[usize::from(slot.get())].1 = seat;
        }
        seats
    }

    /// What newcomers get that come one by one.
    fn one_by_one(mut seats: Vec<(Slot, Seat)>, newcomers: usize, now: u64) -> Vec<(Slot, Role)> {
        let mut came = Vec::new();
        for _ in 0..newcomers {
            let Some(next) = succeed(&seats, 1).pop() else { break };
            seats[usize::from(next.slot.get())].1 = taken(now, next.role);
            came.push((next.slot, next.role));
        }
        came
    }

    fn drain(drained: bool) -> Role {
        role(1, if drained { State::Draining } else { State::Active })
    }

    /// The slots after all members left, some of which were drained.
    fn restarting(drained: &[bool]) -> Vec<(Slot, Seat)> {
        let seats: Vec<Seat> = drained.iter().map(|drained| taken(1, drain(*drained))).collect();
        let seats = slots(&seats);
        let all: Vec<Slot> = seats.iter().map(|(slot, _)| *slot).collect();
        after(seats, &all, 10)
    }

    fn together(seats: &[(Slot, Seat)], newcomers: usize) -> Vec<(Slot, Role)> {
        succeed(seats, newcomers).iter().map(|next| (next.slot, next.role)).collect()
    }

    #[test]
    fn a_restart_of_a_group_that_drained_as_a_whole_drains_nothing() {
        let drained = taken(1, role(HEAVY, State::Draining));
        let (first, second) = (Slot::new(0), Slot::new(1));
        // They leave one by one, or together.
        let apart = after(after(slots(&[drained; 2]), &[first], 10), &[second], 12);
        for seats in [apart, after(slots(&[drained; 2]), &[first, second], 12)] {
            let heavy = role(HEAVY, State::Active);
            assert_eq!(together(&seats, 2), [(first, heavy), (second, heavy)]);
            assert_eq!(one_by_one(seats, 2, 20), [(first, heavy), (second, heavy)]);
        }
    }

    #[test]
    fn a_restart_with_fewer_members_serves() {
        // By slot, whether it was drained; the newcomers; the slots that they take, and whether they drain.
        type Case = (&'static [bool], usize, &'static [(u16, bool)]);
        const CASES: &[Case] = &[
            (&[true, false], 1, &[(1, false)]),
            (&[true, false], 2, &[(1, false), (0, true)]),
            (&[true, true, false, false], 2, &[(2, false), (3, false)]),
            (&[false, true, true, false], 3, &[(0, false), (3, false), (1, true)]),
            (&[false, true], 1, &[(0, false)]),
            (&[true, true], 1, &[(0, false)]),
        ];
        for (drained, newcomers, expected) in CASES {
            let seats = restarting(drained);
            let expected: Vec<_> = expected
                .iter()
                .map(|(slot, drained)| (Slot::new(*slot), drain(*drained)))
                .collect();
            assert_eq!(together(&seats, *newcomers), expected, "{drained:?}");
            assert_eq!(one_by_one(seats, *newcomers, 20), expected, "{drained:?}, one by one");
        }
    }

    #[test]
    fn a_restart_of_a_server_that_shrank_before_keeps_its_drains() {
        let (drained, active) = (role(1, State::Draining), role(HEAVY, State::Active));
        let seats = slots(&[
            taken(1, drained),
            taken(1, active),
            Seat::Vacant { left: 5, role: Role::NEW },
        ]);
        let both = [Slot::new(0), Slot::new(1)];
        let expected = [(Slot::new(1), active), (Slot::new(0), drained)];
        let apart = after(after(seats.clone(), &both[..1], RESTART), &both[1..], RESTART + 6);
        for seats in [apart, after(seats, &both, RESTART + 6)] {
            assert_eq!(together(&seats, 2), expected);
            assert_eq!(one_by_one(seats.clone(), 2, 20_000), expected);
            assert_eq!(seats[2].1, Seat::Free);
        }
    }

    #[test]
    fn workers_of_a_reload_that_came_before_the_old_ones_left_have_succeeded_them() {
        let old = taken(1, role(HEAVY, State::Active));
        let new = Seat::Taken { came: 100, extra: true, role: Role::NEW };
        let seats = slots(&[old, old, new]);
        let leaving = [Slot::new(0), Slot::new(1)];
        let (passed_on, counted) = leave(&seats, &leaving, 200);
        // One successor for one of the two.
        let heavy = Some(role(HEAVY, State::Active));
        assert_eq!(passed_on, [(Slot::new(0), None), (Slot::new(1), heavy)]);
        assert_eq!(counted, [Slot::new(2)]);
        // A member that came long ago is no successor.
        let (passed_on, counted) = leave(&seats, &leaving, 100 + OVERLAP + 1);
        assert!(passed_on.iter().all(|(_, role)| *role == heavy) && counted.is_empty());
    }

    fn seat() -> impl Strategy<Value = Seat> {
        let state = prop_oneof![Just(State::Active), Just(State::Draining), Just(State::Standby)];
        let role = (0..=1000u16, state).prop_map(|(weight, state)| role(weight, state));
        prop_oneof![
            Just(Seat::Free),
            (0..100u64, role.clone()).prop_map(|(left, role)| Seat::Vacant { left, role }),
            (0..100u64, any::<bool>(), role).prop_map(|(came, extra, role)| Seat::Taken {
                came,
                extra,
                role
            }),
        ]
    }

    proptest! {
        /// Newcomers get different slots that are not taken, as many as there are.
        #[test]
        fn newcomers_take_free_slots(seats in vec(seat(), 0..20), newcomers in 0..25usize) {
            let seats = slots(&seats);
            let next = succeed(&seats, newcomers);
            let free = seats.iter().filter(|(_, seat)| !matches!(seat, Seat::Taken { .. })).count();
            prop_assert_eq!(next.len(), newcomers.min(free));
            let mut used: Vec<Slot> = next.iter().map(|next| next.slot).collect();
            used.sort_unstable();
            used.dedup();
            prop_assert_eq!(used.len(), next.len());
            for Succession { slot, .. } in next {
                let seat = seats[usize::from(slot.get())].1;
                let is_taken = matches!(seat, Seat::Taken { .. });
                prop_assert!(!is_taken);
            }
        }

        /// While an older member stays, every newcomer serves; and nothing drains unless a member serves.
        #[test]
        fn a_drain_never_passes_on_to_a_replacement(seats in vec(seat(), 1..20)) {
            let seats = slots(&seats);
            let taken = |seat: &Seat| match seat {
                Seat::Taken { came, role, .. } => Some((*came, *role)),
                _ => None,
            };
            let stay: Vec<_> = seats.iter().filter_map(|(_, seat)| taken(seat)).collect();
            let eldest = stay.iter().map(|(came, _)| *came).min();
            let mut some_serves = stay.iter().any(|(_, role)| role.serves());
            for next in succeed(&seats, seats.len()) {
                let is_older = |left| eldest.is_some_and(|eldest| eldest < left);
                match seats[usize::from(next.slot.get())].1 {
                    Seat::Vacant { left, role } if !is_older(left) && some_serves => {
                        prop_assert_eq!(next.role, role);
                    }
                    Seat::Vacant { role, .. } => {
                        prop_assert!(next.role.serves());
                        prop_assert!(role.weight.get() == 0 || next.role.weight == role.weight);
                    }
                    _ => prop_assert_eq!(next.role, Role::NEW),
                }
                some_serves |= next.role.serves();
            }
        }

        /// However many newcomers there are, a member serves, and it does not matter whether they come one by
        /// one or together.
        #[test]
        fn a_member_serves_and_the_order_does_not_matter(
            seats in vec(seat(), 1..8), newcomers in 1..8usize
        ) {
            let seats = slots(&seats);
            let came = together(&seats, newcomers);
            let stay = seats.iter().filter_map(|(_, seat)| match seat {
                Seat::Taken { role, .. } => Some(*role),
                _ => None,
            });
            let mut roles = stay.chain(came.iter().map(|(_, role)| *role));
            prop_assert!(came.is_empty() || roles.any(Role::serves));
            prop_assert_eq!(one_by_one(seats, newcomers, 100), came);
        }

        /// In a restart, as many members serve as can, and drains are kept unless all drained.
        #[test]
        fn a_restart_keeps_what_it_can(roles in vec(any::<bool>(), 1..8), newcomers in 1..8usize) {
            let served = roles.iter().filter(|drained| !**drained).count();
            let able = if served == 0 { roles.len() } else { served };
            let came = together(&restarting(&roles), newcomers);
            let serve = came.iter().filter(|(_, role)| role.serves()).count();
            prop_assert_eq!(serve, able.min(newcomers));
        }

        /// Each member that leaves either passes on its own role, or a younger member has counted for it.
        #[test]
        fn every_leaver_is_accounted_for(seats in vec(seat(), 0..20), bits in any::<u32>()) {
            let seats = slots(&seats);
            let leaving: Vec<Slot> = seats.iter()
                .filter(|(slot, seat)| {
                    matches!(seat, Seat::Taken { .. }) && bits >> slot.get() & 1 == 1
                })
                .map(|(slot, _)| *slot)
                .collect();
            let (mut passed_on, counted) = leave(&seats, &leaving, 100);
            passed_on.retain(|(slot, _)| leaving.contains(slot));
            prop_assert_eq!(passed_on.len(), leaving.len());
            let lapsed = passed_on.iter().filter(|(_, role)| role.is_none()).count();
            prop_assert_eq!(lapsed, counted.len());
            prop_assert!(counted.iter().all(|slot| !leaving.contains(slot)));
        }
    }
}
