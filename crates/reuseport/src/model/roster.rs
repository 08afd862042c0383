//! The roster: what is recorded of each slot and its member. Values and computation, no I/O.
//!
//! A roster lies in the table that the kernel program reads, so that both change in one step
//! ([`Roster`] to bytes: `wire/slot.rs`).

use std::cmp::Ordering;

use super::hold_new::HoldNew;
use super::id::{Cookie, Percent, Slot, State, Weight};
use super::lineage::{Began, Entrance, Standing};
use super::succession::{Role, Seat, Succession};
use super::table::{Share, share};

/// A slot and the member in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    /// The member; `None`: the slot is free.
    pub(crate) cookie: Option<Cookie>,
    /// Rises when the slot goes to another member.
    pub(crate) epoch: u32,
    /// The member's index in the host-wide layer, if its connections are counted there.
    pub(crate) host_member: Option<u32>,
    /// Of a free slot, the last member's; 0: there was none.
    pub(crate) generation: u32,
    /// What the generation makes of the member. Of a free slot, what it made of the last one.
    pub(crate) standing: Standing,
    /// The member's server, if it is known. Of a free slot, the last member's.
    pub(crate) began: Option<Began>,
    /// Whether others may [join its generation](Entrance::opens).
    pub(crate) opens: bool,
    /// The member's own weight and state, whatever its generation makes of it. Of a free slot, what its last member passes on; `None`: nothing.
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
    pub(crate) entrance: Entrance,
    pub(crate) standing: Standing,
    pub(crate) began: Option<Began>,
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
            standing: Standing::Serving,
            began: None,
            opens: false,
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
            generation: newcomer.entrance.generation,
            standing: newcomer.standing,
            began: newcomer.began,
            opens: newcomer.entrance.opens,
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
        let (generation, began, standing) = (self.generation, self.began, self.standing);
        Self { role, left, generation, began, standing, ..Self::free(self.epoch) }
    }

    /// The member's own weight and state; those of a new member if the slot is free.
    pub(crate) fn role(&self) -> Role {
        self.role.unwrap_or(Role::NEW)
    }

    pub(crate) fn weight(&self) -> Weight {
        self.role().weight
    }

    /// The member's state, which its generation may decide.
    pub(crate) fn state(&self) -> State {
        match self.standing {
            Standing::Serving | Standing::Trial => self.role().state,
            Standing::Standby | Standing::Held => State::Standby,
            Standing::Retired => State::Draining,
        }
    }

    /// Whether the slot is free and tells that its last member's generation is on standby or on trial.
    pub(crate) fn recalls_wait(&self) -> bool {
        self.cookie.is_none() && matches!(self.standing, Standing::Standby | Standing::Trial)
    }

    /// The slot in the rules of succession, with this role of its member.
    fn seat(&self, role: Role) -> Seat {
        match (self.cookie, self.role) {
            (Some(_), _) => {
                Seat::Taken { came: self.came, extra: self.entry == Entry::Extra, role }
            }
            (None, None) => Seat::Free,
            (None, Some(role)) => Seat::Vacant { left: self.left, role },
        }
    }

    /// Whether the member's weight, state or CPU has changed since its picks were noted, or they never were.
    fn has_changed(&self) -> bool {
        self.noted != Some(self.what_is_noted())
    }

    fn what_is_noted(&self) -> Noted {
        Noted { role: self.effective_role(), cpu: self.cpu }
    }

    fn effective_role(&self) -> Role {
        Role { state: self.state(), ..self.role() }
    }
}

/// The slots of a group, free or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Roster {
    records: Vec<Record>,
    /// Whether newcomers wait, and for what.
    hold_new: HoldNew,
    /// The part of all picks that a newer generation on trial gets.
    trial: Option<Percent>,
}

impl Roster {
    /// Free slots.
    pub(crate) fn empty(capacity: usize) -> Self {
        Self::from_records(vec![Record::free(0); capacity])
    }

    pub(crate) fn from_records(records: Vec<Record>) -> Self {
        Self { records, hold_new: HoldNew::Off, trial: None }
    }

    /// The same members; whether newer ones wait, and for what.
    pub(crate) fn holding_new(self, hold_new: HoldNew) -> Self {
        Self { hold_new, ..self }
    }

    /// No other server joins the present generations by itself.
    pub(crate) fn close(&mut self) {
        self.records.iter_mut().for_each(|record| record.opens = false);
    }

    pub(crate) fn hold_new(&self) -> HoldNew {
        self.hold_new
    }

    pub(crate) fn records(&self) -> &[Record] {
        &self.records
    }

    /// The same members; the part that those on trial get.
    pub(crate) fn with_trial(self, trial: Option<Percent>) -> Self {
        Self { trial, ..self }
    }

    pub(crate) fn trial(&self) -> Option<Percent> {
        self.trial
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

    /// The same as the table is to have them: with weights that give those on trial their part of all picks.
    pub(crate) fn shares_of_picks(&self) -> Vec<Share> {
        let mut shares = self.shares();
        let Some(trial) = self.trial else { return shares };
        let on_trial = |share: &Share| self.record(share.slot).standing == Standing::Trial;
        share::split(&mut shares, trial, on_trial);
        shares
    }

    /// The part nearest to that of the trial which weights can express, if they cannot express that one.
    pub(crate) fn nearest_trial(&self) -> Option<Percent> {
        let on_trial = |share: &Share| self.record(share.slot).standing == Standing::Trial;
        share::nearest(&self.shares(), self.trial?, on_trial)
    }

    /// All slots, for the rules of succession.
    pub(crate) fn seats(&self) -> Vec<(Slot, Seat)> {
        let role = |record: &Record| match record.cookie {
            Some(_) => record.effective_role(),
            None => record.role(),
        };
        let seat = |(slot, record): (Slot, &Record)| (slot, record.seat(role(record)));
        self.slots().zip(&self.records).map(seat).collect()
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

    /// Notes the servers of members whose server was not known: an earlier version did not note it, or no process that
    /// held the member was visible.
    pub(crate) fn learn(&mut self, servers: &[(Cookie, Began)]) {
        for record in self.records.iter_mut().filter(|record| record.began.is_none()) {
            let of_member = servers.iter().find(|(cookie, _)| record.cookie == Some(*cookie));
            record.began = of_member.map(|(_, began)| *began);
        }
    }

    /// Changes the CPU of a slot's member.
    pub(crate) fn place(&mut self, slot: Slot, cpu: u16, guessed: bool) {
        let record = self.record(slot);
        self.set(slot, Record { cpu: Some(cpu), guessed, ..record });
    }

    /// Frees the slots of members that left, by the rules of [succession](super::succession::leave). They pass on their
    /// own roles, not what their generation made of them. If none is left that serves, the newest generation does.
    pub(crate) fn leave(&mut self, leaving: &[Slot], now: u64) {
        let seat = |(slot, record): (Slot, &Record)| (slot, record.seat(record.role()));
        let seats: Vec<(Slot, Seat)> = self.slots().zip(&self.records).map(seat).collect();
        let (passed_on, counted) = super::succession::leave(&seats, leaving, now);
        for slot in counted {
            let record = self.record(slot);
            self.set(slot, Record { entry: Entry::Plain, ..record });
        }
        for (slot, role) in passed_on {
            let record = self.record(slot);
            self.set(slot, record.vacated(now, role));
        }
        self.serve_by_itself();
    }

    /// Lets the newest generation serve if none does: also if those that were left drain. Members that are held stay
    /// so: until the first of them accepts, those that drain get what comes; without any, the kernel's hash decides.
    pub(crate) fn serve_by_itself(&mut self) {
        let members = || self.occupied().map(|(.., record)| record);
        let has = |standing| members().any(|record| record.standing == standing);
        if has(Standing::Serving) {
            return;
        }
        let holds = has(Standing::Held);
        let able = |record: &Record| match record.standing {
            Standing::Held => false,
            Standing::Retired => !holds,
            _ => true,
        };
        let newest = members().filter(able).map(|record| record.generation).max();
        if let Some(newest) = newest {
            self.serve_alone_if(newest, |record| record.cookie.is_some());
        }
    }

    /// Lets one generation serve alone. What comes from now on is newer. Slots of members that left recall it. Those
    /// that are held stay so.
    pub(crate) fn serve_alone(&mut self, serving: u32) {
        self.serve_alone_if(serving, |_| true);
    }

    /// The same, of the records that it concerns.
    pub(crate) fn serve_alone_if(&mut self, serving: u32, concerns: impl Fn(&Record) -> bool) {
        self.trial = None;
        let is_known = |record: &Record| record.generation > 0 || record.cookie.is_some();
        for record in self.records.iter_mut().filter(|record| is_known(record)) {
            record.opens = false;
            if record.standing == Standing::Held || !concerns(record) {
                continue;
            }
            record.standing = match record.generation.cmp(&serving) {
                Ordering::Less => Standing::Retired,
                Ordering::Equal => Standing::Serving,
                Ordering::Greater => Standing::Standby,
            };
        }
    }

    /// Puts those that are held of such a generation on standby.
    pub(crate) fn hold_no_more(&mut self, is_meant: impl Fn(u32) -> bool) {
        for record in &mut self.records {
            if record.standing == Standing::Held && is_meant(record.generation) {
                record.standing = Standing::Standby;
            }
        }
    }

    /// Puts the generation on trial on standby, with those of it that are held. Slots of members that left recall it.
    pub(crate) fn end_trial(&mut self) {
        self.trial = None;
        let on_trial = self.records.iter().filter(|record| record.standing == Standing::Trial);
        let tried: Vec<u32> = on_trial.map(|record| record.generation).collect();
        self.hold_no_more(|generation| tried.contains(&generation));
        for record in &mut self.records {
            if record.standing == Standing::Trial {
                record.standing = Standing::Standby;
            }
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
