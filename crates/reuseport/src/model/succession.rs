//! Succession: which slot a newcomer takes, and what the member before it leaves: its weight, and in a
//! restart its drain. Values and computation, no I/O and no clock.
//!
//! Members that stay never move. A slot that a member left keeps its weight and state until a newcomer
//! takes it.

use super::id::{Slot, State, Weight};

/// How long before a member leaves another one may have come to count as its successor, in milliseconds:
/// the overlap of a reload.
const OVERLAP: u64 = 60_000;

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
    let passed_on = seats
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
    (passed_on, counted)
}

/// The slots for this number of newcomers, in their order; fewer if there are not enough.
///
/// They take the slots that members left, lowest first, and then the lowest free ones. A successor has the
/// weight of the member before it. A drain, and the weight 0, pass on only in a restart: if every member
/// that stays came after the slot was left. If no slot of the group would serve, nothing drains.
pub(crate) fn succeed(seats: &[(Slot, Seat)], newcomers: usize) -> Vec<Succession> {
    let roles = seats.iter().filter_map(|(_, seat)| match seat {
        Seat::Vacant { role, .. } | Seat::Taken { role, .. } => Some(*role),
        Seat::Free => None,
    });
    let none_serves = !roles.clone().any(Role::serves);
    let came = |seat: &Seat| match seat {
        Seat::Taken { came, .. } => Some(*came),
        _ => None,
    };
    let eldest = seats.iter().filter_map(|(_, seat)| came(seat)).min();
    let vacant = seats.iter().filter_map(|(slot, seat)| match seat {
        Seat::Vacant { left, role } => {
            let is_restart = eldest.is_none_or(|eldest| eldest >= *left);
            let role = if is_restart && !none_serves { *role } else { serving(*role) };
            Some(Succession { slot: *slot, role, succeeds: true, extra: false })
        }
        _ => None,
    });
    let free = seats.iter().filter(|(_, seat)| *seat == Seat::Free).map(|(slot, _)| Succession {
        slot: *slot,
        role: Role::NEW,
        succeeds: false,
        extra: eldest.is_some(),
    });
    vacant.chain(free).take(newcomers).collect()
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

    #[test]
    fn a_restart_of_a_group_that_drained_as_a_whole_drains_nothing() {
        let seats = slots(&[Seat::Vacant { left: 10, role: role(HEAVY, State::Draining) }; 2]);
        assert!(succeed(&seats, 2).iter().all(|next| next.role == role(HEAVY, State::Active)));
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

        /// While an older member stays, every newcomer serves; and nothing drains unless a slot serves.
        #[test]
        fn a_drain_never_passes_on_to_a_replacement(seats in vec(seat(), 1..20)) {
            let seats = slots(&seats);
            let eldest = seats.iter().filter_map(|(_, seat)| match seat {
                Seat::Taken { came, .. } => Some(*came),
                _ => None,
            }).min();
            let some_serves = seats.iter().any(|(_, seat)| match seat {
                Seat::Vacant { role, .. } | Seat::Taken { role, .. } => role.serves(),
                Seat::Free => false,
            });
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
            }
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
            let (passed_on, counted) = leave(&seats, &leaving, 100);
            prop_assert_eq!(passed_on.len(), leaving.len());
            let lapsed = passed_on.iter().filter(|(_, role)| role.is_none()).count();
            prop_assert_eq!(lapsed, counted.len());
            prop_assert!(counted.iter().all(|slot| !leaving.contains(slot)));
        }
    }
}
