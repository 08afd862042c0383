//! Values by slot: the pinned record, and the limiter of least-loaded (`struct limiter` in
//! `bpf/wire/limiter.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::host::NO_HOST_MEMBER;
use crate::model::id::{Cookie, State, Weight};

/// A slot and the member that occupies it. The kernel program does not read it. All zero: free.
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
    /// 0: free, else a [`state_code`].
    state: u8,
    reserved_0: u8,
    /// The member's CPU plus 1; 0: none.
    cpu: u16,
    reserved_1: [u16; 3],
    reserved_2: [u64; 4],
}

const _: () = assert!(size_of::<SlotRecord>() == 64);

impl SlotRecord {
    /// A new member's record.
    pub(crate) fn occupied(
        cookie: Cookie,
        epoch: u32,
        host_member: u32,
        generation: u32,
        weight: Weight,
    ) -> Self {
        Self {
            cookie: cookie.get(),
            host_member,
            generation,
            weight: weight.get(),
            state: state_code(State::Active),
            ..Self::free(epoch)
        }
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
            reserved_0: 0,
            cpu: 0,
            reserved_1: [0; 3],
            reserved_2: [0; 4],
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::mirror::{assert_mirrors, map, object, value};

    #[test]
    fn a_free_slot_has_no_member_and_an_unknown_state_gets_nothing() {
        assert_eq!(SlotRecord::free(3).cookie(), None);
        let mut record = SlotRecord::occupied(Cookie::new(9).unwrap(), 1, 2, 3, Weight::DEFAULT);
        assert_eq!(record.state(), State::Active);
        record.state = 99;
        assert_eq!(record.state(), State::Standby);
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
    }
}
