//! Values by slot: the pinned record, and what least-loaded remembers (`struct limiter` in
//! `bpf/wire/limiter.h`, `struct progress` in `bpf/wire/progress.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::host::NO_HOST_MEMBER;
use crate::model::hold_new::HoldNew;
use crate::model::id::{Cookie, Percent, State, Weight};
use crate::model::lineage::{Began, Standing};
use crate::model::roster::{Entry, Noted, Record, Roster};
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
    /// What the picks were noted under: weight, state, CPU; state 0: nothing. Of the first slot alone, and of the whole
    /// group: the percent of a trial, in the upper byte of the state.
    noted: [u16; 3],
    came: u64,
    left: u64,
    picks_before: u64,
    /// 1: the CPU is a guess.
    guessed: u8,
    /// Bits, see [`flags`].
    flags: u8,
    /// The member's server: [`Began`], the lowest byte first; 0: not known.
    began: [u8; 6],
}

const _: () = assert!(size_of::<SlotRecord>() == 8 * RECORD_WORDS);

/// The 64-bit words of a record.
pub(crate) const RECORD_WORDS: usize = 8;

/// The member's generation is older than the one that serves, or newer.
const RETIRED: u8 = 1;
const ON_STANDBY: u8 = 2;
/// It is newer and on trial.
const ON_TRIAL: u8 = RETIRED | ON_STANDBY;
/// The member was drained by hand, or put on standby, whatever its generation makes of it.
const DRAINED: u8 = 4;
const IDLE: u8 = 8;
/// Others may join its generation.
const OPENS: u8 = 16;
/// With [`ON_STANDBY`]: only until a thread waits for the member. To a version that does not know it, the member waits
/// to be promoted.
const HELD: u8 = 32;
/// Of the first slot alone, and of the whole group, with [`HOLDS_NEW`]: newcomers wait until they accept. A version that
/// does not know it lets newer generations wait, and drops it when it writes the record.
const UNTIL_ACCEPTING: u8 = 64;
/// Of the first slot alone, and of the whole group: newcomers wait.
const HOLDS_NEW: u8 = 128;

impl SlotRecord {
    /// The record of a slot of this roster; `None` beyond its end.
    pub(crate) fn of(roster: &Roster, slot: usize) -> Option<Self> {
        let mut record = Self::from(roster.records().get(slot)?);
        if slot == 0 {
            record.flags |= hold_new_flags(roster.hold_new());
        }
        if slot == 0 {
            record.noted[1] |= roster.trial().map_or(0, |trial| u16::from(trial.get()) << 8);
        }
        Some(record)
    }

    /// The roster of these records.
    pub(crate) fn roster(records: &[Self]) -> Roster {
        let hold_new = hold_new(records.first().map_or(0, |first| first.flags));
        let [_, noted, _] = records.first().map_or([0; 3], |first| first.noted);
        let trial = Percent::new((noted >> 8) as u8);
        let records = records.iter().map(Record::from).collect();
        Roster::from_records(records).holding_new(hold_new).with_trial(trial)
    }
}

impl From<&Record> for SlotRecord {
    fn from(record: &Record) -> Self {
        // The state in force: a version that knows no generations finds it there.
        let role = record.role.map(|role| match record.cookie {
            Some(_) => Role { state: record.state(), ..role },
            None => role,
        });
        let (weight, state) = role_codes(role);
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
            flags: flags(record),
            began: began_code(record.began),
        }
    }
}

impl From<&SlotRecord> for Record {
    fn from(raw: &SlotRecord) -> Self {
        let cookie = Cookie::new(raw.cookie);
        // A member always has a role.
        let present = role(raw.weight, raw.state)
            .or(cookie.map(|_| Role { weight: Weight::DEFAULT, state: State::Standby }));
        let (standing, own) = standing(raw.flags);
        let present = present.map(|role| Role { state: own.unwrap_or(role.state), ..role });
        let [weight, state, cpu] = raw.noted;
        let noted_role = role(weight, (state & 0xff) as u8);
        let noted = noted_role.map(|role| Noted { role, cpu: cpu.checked_sub(1) });
        Self {
            cookie,
            host_member: Some(raw.host_member)
                .filter(|index| cookie.is_some() && *index != NO_HOST_MEMBER),
            generation: raw.generation,
            standing,
            began: began(raw.began),
            opens: raw.flags & OPENS != 0,
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

fn flags(record: &Record) -> u8 {
    let standing = match record.standing {
        Standing::Serving => 0,
        Standing::Standby => ON_STANDBY,
        Standing::Retired => RETIRED,
        Standing::Trial => ON_TRIAL,
        Standing::Held => ON_STANDBY | HELD,
    };
    let own = match record.role().state {
        _ if standing == 0 => 0,
        State::Active => 0,
        State::Draining => DRAINED,
        State::Standby => IDLE,
    };
    standing | own | if record.opens { OPENS } else { 0 }
}

/// What the generation makes of the member; if that is something, the member's own state.
fn standing(flags: u8) -> (Standing, Option<State>) {
    let own = match flags {
        _ if flags & DRAINED != 0 => State::Draining,
        _ if flags & IDLE != 0 => State::Standby,
        _ => State::Active,
    };
    match flags & ON_TRIAL {
        ON_TRIAL => (Standing::Trial, Some(own)),
        RETIRED => (Standing::Retired, Some(own)),
        ON_STANDBY if flags & HELD != 0 => (Standing::Held, Some(own)),
        ON_STANDBY => (Standing::Standby, Some(own)),
        _ => (Standing::Serving, None),
    }
}

fn hold_new_flags(hold_new: HoldNew) -> u8 {
    match hold_new {
        HoldNew::Off => 0,
        HoldNew::On => HOLDS_NEW,
        HoldNew::Accepting => HOLDS_NEW | UNTIL_ACCEPTING,
    }
}

fn hold_new(flags: u8) -> HoldNew {
    match (flags & HOLDS_NEW != 0, flags & UNTIL_ACCEPTING != 0) {
        (false, _) => HoldNew::Off,
        (true, false) => HoldNew::On,
        (true, true) => HoldNew::Accepting,
    }
}

fn began_code(began: Option<Began>) -> [u8; 6] {
    let [a, b, c, d, e, f, ..] = began.map_or(0, Began::get).to_le_bytes();
    [a, b, c, d, e, f]
}

fn began([a, b, c, d, e, f]: [u8; 6]) -> Option<Began> {
    Began::new(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]))
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
            began: Began::new(0x0605_0403_0201),
            opens: true,
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
        let vacant = Record {
            left: 8,
            role: Some(role),
            generation: 2,
            began: Began::new(7),
            ..Record::free(4)
        };
        let states = [State::Active, State::Draining, State::Standby];
        let standings = [
            Standing::Serving,
            Standing::Standby,
            Standing::Retired,
            Standing::Trial,
            Standing::Held,
        ];
        let of = |standing| {
            let own = |state| Record { role: Some(Role { state, ..role }), standing, ..member };
            states.map(own)
        };
        let members = standings.into_iter().flat_map(of);
        for record in members.chain([vacant, Record::free(0), Record::free(6)]) {
            assert_eq!(Record::from(&SlotRecord::from(&record)), record);
            let state = Record::from(&SlotRecord { flags: 0, ..SlotRecord::from(&record) }).state();
            assert_eq!(state, record.state(), "to a version without generations");
        }
        for hold_new in HoldNew::ALL {
            let roster =
                Roster::from_records(vec![Record::free(0), member, vacant]).holding_new(hold_new);
            let roster = roster.with_trial(Percent::new(99).filter(|_| hold_new != HoldNew::Off));
            let raw: Vec<_> = (0..3).map(|slot| SlotRecord::of(&roster, slot).unwrap()).collect();
            assert_eq!(SlotRecord::roster(&raw), roster);
            let known = !(HELD | UNTIL_ACCEPTING);
            let held = Record { standing: Standing::Held, ..member };
            let older = SlotRecord::from(&held).flags & known;
            assert_eq!(standing(older).0, Standing::Standby, "to an earlier version");
            let holds = hold_new_flags(hold_new) & known & HOLDS_NEW != 0;
            assert_eq!(holds, hold_new != HoldNew::Off, "to an earlier version");
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
