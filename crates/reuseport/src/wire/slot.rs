//! Values by slot: the pinned record, and what least-loaded remembers (`struct limiter` in
//! `bpf/wire/limiter.h`, `struct progress` in `bpf/wire/progress.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::host::NO_HOST_MEMBER;
use crate::model::id::{Cookie, State, Weight};
use crate::model::roster::{Entry, Noted, Record};
use crate::model::succession::Role;

/// A [`Record`] as it lies in a table, after what the kernel program reads. All zero: free, and never used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct SlotRecord {
    /// The member's cookie; 0: the slot is free.
    cookie: u64,
    epoch: u32,
    /// [`NO_HOST_MEMBER`]: none.
    host_member: u32,
    generation: u32,
    weight: u16,
    /// A [`state_code`]; 0: free, with nothing to pass on.
    state: u8,
    /// An [`entry_code`].
    entry: u8,
    /// The member's CPU plus 1; 0: none.
    cpu: u16,
    /// What the picks were noted under: weight, state, CPU; state 0: nothing.
    noted: [u16; 3],
    came: u64,
    left: u64,
    picks_before: u64,
    /// 1: the CPU is a guess.
    guessed: u8,
    reserved: [u8; 7],
}

const _: () = assert!(size_of::<SlotRecord>() == 8 * RECORD_WORDS);

/// The 64-bit words of a record.
pub(crate) const RECORD_WORDS: usize = 8;

impl From<&Record> for SlotRecord {
    fn from(record: &Record) -> Self {
        let (weight, state) = role_codes(record.role);
        let noted = record.noted.map_or([0; 3], |noted| {
            let (weight, state) = role_codes(Some(noted.role));
            [weight, state.into(), cpu_code(noted.cpu)]
        });
        Self {
            cookie: record.cookie.map_or(0, Cookie::get),
            epoch: record.epoch,
            host_member: record.host_member.unwrap_or(NO_HOST_MEMBER),
            generation: record.generation,
            weight,
            state,
            entry: entry_code(record.entry),
            cpu: cpu_code(record.cpu),
            noted,
            came: record.came,
            left: record.left,
            picks_before: record.picks_before,
            guessed: record.guessed.into(),
            reserved: [0; 7],
        }
    }
}

impl From<&SlotRecord> for Record {
    fn from(raw: &SlotRecord) -> Self {
        let cookie = Cookie::new(raw.cookie);
        // A member always has a role.
        let present = role(raw.weight, raw.state)
            .or(cookie.map(|_| Role { weight: Weight::DEFAULT, state: State::Standby }));
        let [weight, state, cpu] = raw.noted;
        let noted_role = u8::try_from(state).ok().and_then(|state| role(weight, state));
        let noted = noted_role.map(|role| Noted { role, cpu: cpu.checked_sub(1) });
        Self {
            cookie,
            host_member: Some(raw.host_member)
                .filter(|index| cookie.is_some() && *index != NO_HOST_MEMBER),
            generation: raw.generation,
            entry: entry(raw.entry),
            cpu: raw.cpu.checked_sub(1),
            guessed: raw.guessed != 0,
            came: raw.came,
            left: raw.left,
            picks_before: raw.picks_before,
            noted,
            role: present,
            ..Self::free(raw.epoch)
        }
    }
}

/// A member's or a free slot's weight and state; `None` for the code 0.
fn role(weight: u16, state: u8) -> Option<Role> {
    let weight = Weight::new(weight).unwrap_or(Weight::MAX);
    Some(Role { weight, state: state_of(state)? })
}

/// A code that this version does not know is standby: it gets no traffic.
fn state_of(code: u8) -> Option<State> {
    match code {
        0 => None,
        1 => Some(State::Active),
        3 => Some(State::Draining),
        _ => Some(State::Standby),
    }
}

fn role_codes(role: Option<Role>) -> (u16, u8) {
    let state_code = |state| match state {
        State::Active => 1,
        State::Standby => 2,
        State::Draining => 3,
    };
    role.map_or((0, 0), |role| (role.weight.get(), state_code(role.state)))
}

fn cpu_code(cpu: Option<u16>) -> u16 {
    cpu.map_or(0, |cpu| cpu.saturating_add(1))
}

fn entry_code(entry: Entry) -> u8 {
    match entry {
        Entry::Plain => 0,
        Entry::Succeeded => 1,
        Entry::Extra => 2,
    }
}

fn entry(code: u8) -> Entry {
    match code {
        1 => Entry::Succeeded,
        2 => Entry::Extra,
        _ => Entry::Plain,
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
    use crate::wire::mirror::{assert_mirrors, map, object, value};

    #[test]
    fn a_record_converts_back_and_an_unknown_state_gets_nothing() {
        let role = Role { weight: Weight::MAX, state: State::Draining };
        let member = Record {
            cookie: Cookie::new(9),
            host_member: Some(2),
            generation: 1,
            entry: Entry::Extra,
            cpu: Some(0),
            guessed: true,
            came: 5,
            left: 4,
            picks_before: 7,
            noted: Some(Noted { role, cpu: None }),
            role: Some(role),
            ..Record::free(3)
        };
        let vacant = Record { left: 8, role: Some(role), ..Record::free(4) };
        for record in [member, vacant, Record::free(0), Record::free(6)] {
            assert_eq!(Record::from(&SlotRecord::from(&record)), record);
        }
        let mut raw = SlotRecord::from(&member);
        for unknown in [0, 99] {
            raw.state = unknown;
            assert_eq!(Record::from(&raw).state(), State::Standby);
        }
        assert_eq!(Record::from(&SlotRecord::read_from_bytes(&[0; 64]).unwrap()), Record::free(0));
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
