//! Values by slot: the pinned record, and what least-loaded remembers (`struct limiter` in
//! `bpf/wire/limiter.h`, `struct progress` in `bpf/wire/progress.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::host::NO_HOST_MEMBER;
use crate::model::id::{Cookie, State, Weight};
use crate::model::succession::{Role, Seat, Succession};

/// A slot and the member that occupies it. The kernel program does not read it. All zero: free, and never
/// used. A free slot keeps the weight and the state of its last member, if it passes them on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct SlotRecord {
    /// The member's cookie; 0: the slot is free.
    cookie: u64,
    /// Rises when the slot goes to another member.
    pub(crate) epoch: u32,
    /// The member's index in the host-wide layer; [`NO_HOST_MEMBER`] without one.
    pub(crate) host_member: u32,
    pub(crate) generation: u32,
    weight: u16,
    /// A [`state_code`]; 0: free, with nothing to pass on.
    state: u8,
    /// 1: the member succeeded another one in this slot, 2: it succeeded none and found others there.
    entry: u8,
    /// The member's CPU plus 1; 0: none.
    cpu: u16,
    /// What the picks were noted under ([`noted`](Self::noted)): weight, state, CPU; state 0: nothing.
    noted: [u16; 3],
    /// When the member came, and when the one before it left, in milliseconds since boot.
    came: u64,
    left: u64,
    /// The member's picks when its weight, state or CPU, other members or the policy last changed.
    pub(crate) picks_before: u64,
    reserved_2: u64,
}

const _: () = assert!(size_of::<SlotRecord>() == 64);

impl SlotRecord {
    /// A new member's record.
    pub(crate) fn occupied(
        cookie: Cookie,
        epoch: u32,
        host_member: u32,
        generation: u32,
        role: Role,
    ) -> Self {
        Self {
            cookie: cookie.get(),
            host_member,
            generation,
            weight: role.weight.get(),
            state: state_code(role.state),
            ..Self::free(epoch)
        }
    }

    /// Notes when and how the member came into a slot whose record was `before`.
    pub(crate) fn entered(self, before: &Self, now: u64, succession: &Succession) -> Self {
        let entry = match succession {
            Succession { succeeds: true, .. } => ENTRY_SUCCEEDED,
            Succession { extra: true, .. } => ENTRY_EXTRA,
            _ => 0,
        };
        Self { entry, came: now, left: before.left, ..self }
    }

    /// The slot after its member left at `now`, with the role that it passes on.
    pub(crate) fn vacated(&self, now: u64, role: Option<Role>) -> Self {
        let free = Self::free(self.epoch);
        match role {
            Some(role) => {
                Self { weight: role.weight.get(), state: state_code(role.state), left: now, ..free }
            }
            None => free,
        }
    }

    /// The slot after its member was taken out again before it served: as the member found it.
    pub(crate) fn taken_back(&self) -> Self {
        self.vacated(self.left, (self.entry == ENTRY_SUCCEEDED).then(|| self.role()))
    }

    /// The same member with another index in the host-wide layer.
    pub(crate) fn counted_as(self, host_member: u32) -> Self {
        Self { host_member, ..self }
    }

    /// The member is no longer the possible successor of one that leaves.
    pub(crate) fn set_counted(&mut self) {
        self.entry = 0;
    }

    /// The slot in the rules of succession.
    pub(crate) fn seat(&self) -> Seat {
        match (self.cookie(), self.state) {
            (Some(_), _) => {
                Seat::Taken { came: self.came, extra: self.entry == ENTRY_EXTRA, role: self.role() }
            }
            (None, 0) => Seat::Free,
            (None, _) => Seat::Vacant { left: self.left, role: self.role() },
        }
    }

    /// The member's weight and state.
    pub(crate) fn role(&self) -> Role {
        Role { weight: self.weight(), state: self.state() }
    }

    /// A free slot that keeps its epoch.
    pub(crate) fn free(epoch: u32) -> Self {
        Self {
            cookie: 0,
            epoch,
            host_member: NO_HOST_MEMBER,
            generation: 0,
            weight: 0,
            state: 0,
            entry: 0,
            cpu: 0,
            noted: [0; 3],
            came: 0,
            left: 0,
            picks_before: 0,
            reserved_2: 0,
        }
    }

    /// The record with the member's picks noted: those after them are picks under this weight, state and CPU.
    pub(crate) fn noted(self, picks: u64) -> Self {
        Self { picks_before: picks, noted: self.what_is_noted(), ..self }
    }

    /// Whether the member's weight, state or CPU has changed since its picks were noted, or they never were.
    pub(crate) fn has_changed(&self) -> bool {
        self.noted != self.what_is_noted()
    }

    fn what_is_noted(&self) -> [u16; 3] {
        [self.weight, self.state.into(), self.cpu]
    }

    /// The member in it; `None` if it is free.
    pub(crate) fn cookie(&self) -> Option<Cookie> {
        Cookie::new(self.cookie)
    }

    /// The member's CPU, if it has one.
    pub(crate) fn cpu(&self) -> Option<u16> {
        self.cpu.checked_sub(1)
    }

    pub(crate) fn set_cpu(&mut self, cpu: u16) {
        self.cpu = cpu.saturating_add(1);
    }

    pub(crate) fn weight(&self) -> Weight {
        Weight::new(self.weight).unwrap_or(Weight::MAX)
    }

    pub(crate) fn set_weight(&mut self, weight: Weight) {
        self.weight = weight.get();
    }

    pub(crate) fn set_state(&mut self, state: State) {
        self.state = state_code(state);
    }

    /// The member's state. A code that this version does not know is standby: it gets no traffic.
    pub(crate) fn state(&self) -> State {
        match self.state {
            1 => State::Active,
            3 => State::Draining,
            _ => State::Standby,
        }
    }
}

const ENTRY_SUCCEEDED: u8 = 1;
const ENTRY_EXTRA: u8 = 2;

fn state_code(state: State) -> u8 {
    match state {
        State::Active => 1,
        State::Standby => 2,
        State::Draining => 3,
    }
}

/// The state of least-loaded for a slot: `struct limiter`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Limiter {
    window: u32,
    picked: u32,
    length: u32,
    empty: u32,
    start: u32,
    joined: u32,
}

/// How least-loaded starts with a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// At its full limit, together with the other members: `START_OVER`.
    Together,
    /// Slowly, because other members serve already: `START_NEW`.
    Slow,
}

impl Limiter {
    /// The limiter of a slot that has just got its socket.
    pub(crate) fn new(start: Start) -> Self {
        let start = match start {
            Start::Together => 0,
            Start::Slow => 1,
        };
        Self { start, ..Self::default() }
    }
}

/// What least-loaded knows of a member's progress: `struct progress`. All zero: nothing yet.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Progress {
    since: u32,
    waiting: u32,
    level: u32,
    base: u32,
    opened: u32,
    uncounted: u32,
    pace: u32,
    reserved: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::Slot;
    use crate::wire::mirror::{assert_mirrors, map, object, value};

    #[test]
    fn a_free_slot_has_no_member_and_an_unknown_state_gets_nothing() {
        assert_eq!(SlotRecord::free(3).cookie(), None);
        let mut record = SlotRecord::occupied(Cookie::new(9).unwrap(), 1, 2, 3, Role::NEW);
        assert_eq!(record.state(), State::Active);
        record.state = 99;
        assert_eq!(record.state(), State::Standby);
    }

    #[test]
    fn a_slot_passes_on_what_its_member_had_and_takes_it_back_from_one_that_failed() {
        let slot = Slot::new(0);
        let drained = Role { weight: Weight::MAX, state: State::Draining };
        let cookie = Cookie::new(9).unwrap();
        let record = SlotRecord::occupied(cookie, 1, 2, 3, drained);
        let vacant = record.vacated(7, Some(drained));
        assert_eq!(vacant.cookie(), None);
        assert_eq!(vacant.seat(), Seat::Vacant { left: 7, role: drained });
        let next = Succession { slot, role: drained, succeeds: true, extra: false };
        let next = SlotRecord::occupied(cookie, 2, 2, 3, drained).entered(&vacant, 8, &next);
        assert_eq!(next.seat(), Seat::Taken { came: 8, extra: false, role: drained });
        assert_eq!(next.taken_back().seat(), vacant.seat());
        let first = Succession { slot, role: Role::NEW, succeeds: false, extra: true };
        let mut first = SlotRecord::occupied(cookie, 2, 2, 3, Role::NEW).entered(
            &SlotRecord::free(1),
            8,
            &first,
        );
        assert_eq!(first.seat(), Seat::Taken { came: 8, extra: true, role: Role::NEW });
        assert_eq!(first.taken_back().seat(), Seat::Free);
        first.set_counted();
        assert_eq!(first.seat(), Seat::Taken { came: 8, extra: false, role: Role::NEW });
    }

    #[test]
    fn both_sides_agree() {
        let btf = object("select");
        let limiter = Limiter::new(Start::Slow);
        assert_mirrors!(btf, "limiter", Limiter { window, picked, length, empty, start, joined });
        assert_eq!(i64::from(limiter.start), value(&btf, "start", "START_NEW"));
        let together = Limiter::new(Start::Together);
        assert_eq!(i64::from(together.start), value(&btf, "start", "START_OVER"));
        assert_eq!(map(&btf, "limiters").value_size, size_of::<Limiter>());
        assert_mirrors!(
            btf,
            "progress",
            Progress { since, waiting, level, base, opened, uncounted, pace, reserved }
        );
        assert_eq!(map(&btf, "progress").value_size, size_of::<Progress>());
    }
}
