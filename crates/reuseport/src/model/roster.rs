//! The roster: what is recorded of each slot and its member. Values and computation, no I/O.
//!
//! A roster lies in the table that the kernel program reads, so that both change in one step
//! ([`Roster`] to bytes: `wire/slot.rs`).

use super::id::{Cookie, Slot, State, Weight};
use super::succession::{Role, Seat, Succession};
use super::table::Share;

/// A slot and the member in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    /// The member; `None`: the slot is free.
    pub(crate) cookie: Option<Cookie>,
    /// Rises when the slot goes to another member.
    pub(crate) epoch: u32,
    /// The member's index in the host-wide layer, if its connections are counted there.
    pub(crate) host_member: Option<u32>,
    pub(crate) generation: u32,
    /// The member's weight and state. Of a free slot, what its last member passes on; `None`: nothing.
    pub(crate) role: Option<Role>,
    pub(crate) entry: Entry,
    /// The member's CPU, if it has one.
    pub(crate) cpu: Option<u16>,
    /// Whether that CPU is a guess: the one on which the member is served was not known.
    pub(crate) guessed: bool,
    /// When the member came, and when the one before it left, in milliseconds since boot.
    pub(crate) came: u64,
    pub(crate) left: u64,
    /// The member's picks when its weight, state or CPU, other members or the policy last changed.
    pub(crate) picks_before: u64,
    /// What they were noted under.
    pub(crate) noted: Option<Noted>,
}

/// How a member came into its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// With the first members, or its successor is known.
    Plain,
    /// It took the slot of a member that had left.
    Succeeded,
    /// It succeeded no member and found others there.
    Extra,
}

/// What decides how many picks a member gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Noted {
    pub(crate) role: Role,
    pub(crate) cpu: Option<u16>,
}

/// The parts of a new member's record that come from elsewhere.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Newcomer {
    pub(crate) cookie: Cookie,
    pub(crate) host_member: Option<u32>,
    pub(crate) role: Role,
    /// Milliseconds since boot.
    pub(crate) now: u64,
}

impl Record {
    /// A free slot that keeps its epoch.
    pub(crate) const fn free(epoch: u32) -> Self {
        Self {
            cookie: None,
            epoch,
            host_member: None,
            generation: 0,
            role: None,
            entry: Entry::Plain,
            cpu: None,
            guessed: false,
            came: 0,
            left: 0,
            picks_before: 0,
            noted: None,
        }
    }

    /// The slot when a newcomer takes it.
    pub(crate) fn taken(&self, newcomer: Newcomer, succession: &Succession) -> Self {
        let entry = match succession {
            Succession { succeeds: true, .. } => Entry::Succeeded,
            Succession { extra: true, .. } => Entry::Extra,
            _ => Entry::Plain,
        };
        Self {
            cookie: Some(newcomer.cookie),
            host_member: newcomer.host_member,
            generation: FIRST_GENERATION,
            role: Some(newcomer.role),
            entry,
            came: newcomer.now,
            left: self.left,
            ..Self::free(self.epoch.wrapping_add(1))
        }
    }

    /// The slot after its member left at `now`, with the role that it passes on.
    fn vacated(&self, now: u64, role: Option<Role>) -> Self {
        let left = if role.is_some() { now } else { 0 };
        Self { role, left, ..Self::free(self.epoch) }
    }

    /// The weight and state of the member; those of a new member if the slot is free.
    pub(crate) fn role(&self) -> Role {
        self.role.unwrap_or(Role::NEW)
    }

    pub(crate) fn weight(&self) -> Weight {
        self.role().weight
    }

    pub(crate) fn state(&self) -> State {
        self.role().state
    }

    /// The slot in the rules of succession.
    fn seat(&self) -> Seat {
        match (self.cookie, self.role) {
            (Some(_), _) => Seat::Taken {
                came: self.came,
                extra: self.entry == Entry::Extra,
                role: self.role(),
            },
            (None, None) => Seat::Free,
            (None, Some(role)) => Seat::Vacant { left: self.left, role },
        }
    }

    /// Whether the member's weight, state or CPU has changed since its picks were noted, or they never were.
    fn has_changed(&self) -> bool {
        self.noted != Some(self.what_is_noted())
    }

    fn what_is_noted(&self) -> Noted {
        Noted { role: self.role(), cpu: self.cpu }
    }
}

/// The generation of all members.
const FIRST_GENERATION: u32 = 1;

/// The slots of a group, free or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Roster {
    records: Vec<Record>,
}

impl Roster {
    /// Free slots.
    pub(crate) fn empty(capacity: usize) -> Self {
        Self { records: vec![Record::free(0); capacity] }
    }

    pub(crate) fn from_records(records: Vec<Record>) -> Self {
        Self { records }
    }

    pub(crate) fn records(&self) -> &[Record] {
        &self.records
    }

    /// All slots.
    pub(crate) fn slots(&self) -> impl Iterator<Item = Slot> + use<> {
        (0..self.records.len()).filter_map(|index| u16::try_from(index).ok()).map(Slot::new)
    }

    /// A slot's record. Slots beyond the end are free.
    pub(crate) fn record(&self, slot: Slot) -> Record {
        self.records.get(slot.index() as usize).copied().unwrap_or(Record::free(0))
    }

    /// Changes a slot. There is none beyond the end.
    pub(crate) fn set(&mut self, slot: Slot, record: Record) {
        if let Some(at) = self.records.get_mut(slot.index() as usize) {
            *at = record;
        }
    }

    /// The slots with a member, its cookie, and the record.
    pub(crate) fn occupied(&self) -> impl Iterator<Item = (Slot, Cookie, Record)> + '_ {
        self.slots()
            .zip(&self.records)
            .filter_map(|(slot, record)| Some((slot, record.cookie?, *record)))
    }

    /// The slots of members that this roster has and `other` has not in the same slot.
    pub(crate) fn not_in<'a>(
        &'a self,
        other: &'a Self,
    ) -> impl Iterator<Item = (Slot, Cookie)> + 'a {
        self.occupied()
            .filter(|(slot, cookie, _)| other.record(*slot).cookie != Some(*cookie))
            .map(|(slot, cookie, _)| (slot, cookie))
    }

    /// The same members, counted in no host-wide layer.
    pub(crate) fn uncounted(mut self) -> Self {
        self.records.iter_mut().for_each(|record| record.host_member = None);
        self
    }

    /// The members' weights and states, by slot.
    pub(crate) fn shares(&self) -> Vec<Share> {
        let share = |(slot, _, record): (Slot, Cookie, Record)| Share {
            slot,
            weight: record.weight(),
            state: record.state(),
        };
        self.occupied().map(share).collect()
    }

    /// All slots, for the rules of succession.
    pub(crate) fn seats(&self) -> Vec<(Slot, Seat)> {
        self.slots().zip(&self.records).map(|(slot, record)| (slot, record.seat())).collect()
    }

    /// Changes the role of a slot's member.
    pub(crate) fn assign(&mut self, slot: Slot, role: Role) {
        let record = self.record(slot);
        self.set(slot, Record { role: Some(role), ..record });
    }

    /// Changes the roles of these slots' members, in this order.
    pub(crate) fn assign_all(&mut self, roles: &[(Slot, Role)]) {
        roles.iter().for_each(|(slot, role)| self.assign(*slot, *role));
    }

    /// Changes the CPU of a slot's member.
    pub(crate) fn place(&mut self, slot: Slot, cpu: u16, guessed: bool) {
        let record = self.record(slot);
        self.set(slot, Record { cpu: Some(cpu), guessed, ..record });
    }

    /// Frees the slots of members that left, by the rules of [succession](super::succession::leave).
    pub(crate) fn leave(&mut self, leaving: &[Slot], now: u64) {
        let (passed_on, counted) = super::succession::leave(&self.seats(), leaving, now);
        for slot in counted {
            let record = self.record(slot);
            self.set(slot, Record { entry: Entry::Plain, ..record });
        }
        for (slot, role) in passed_on {
            let record = self.record(slot);
            self.set(slot, record.vacated(now, role));
        }
    }

    /// Notes the members' picks, if other members, weights, states or CPUs than in the roster before make a
    /// difference to them, or if they count `anew`: those after them are picks under this roster.
    pub(crate) fn note_picks(&mut self, before: &Self, anew: bool, picks: impl Fn(Slot) -> u64) {
        let same_members = || {
            let cookies = |roster: &Self| -> Vec<_> {
                roster.occupied().map(|(slot, cookie, _)| (slot, cookie)).collect()
            };
            cookies(self) == cookies(before)
        };
        if !anew && same_members() && !self.occupied().any(|(.., record)| record.has_changed()) {
            return;
        }
        for (slot, record) in self.slots().zip(&mut self.records) {
            if record.cookie.is_some() {
                record.picks_before = picks(slot);
                record.noted = Some(record.what_is_noted());
            }
        }
    }
}
