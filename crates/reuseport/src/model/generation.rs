//! Generations: members that entered together, which is one version of the server. Which one a newcomer belongs to,
//! whether it serves, and what `promote` and `rollback` make of a roster. Values and computation, no I/O and no clock.
//!
//! A member *serves* unless another generation was promoted: members that are older then are *retired* and drain, newer
//! ones are on *standby*. What a user drained by hand stays so whatever its generation does.

#[cfg(test)]
mod tests;

use super::hold_new::HoldNew;
use super::id::{Cookie, Percent, Slot};
use super::lineage::{Began, Entrance, Standing};
use super::roster::{Record, Roster};

/// Servers without a common process belong to one generation if they come within this time of each other, in
/// milliseconds: instances of one server that are started one by one.
const TOGETHER: u64 = 10_000;

/// The generations of newcomers, who enter a roster one by one.
#[derive(Debug)]
pub(crate) struct Entrances<'a> {
    before: &'a Roster,
    /// Whether a follower enrols them. A request of a user says that what is there now is one generation, and what
    /// comes later is newer.
    follows: bool,
    now: u64,
    /// The generation of those that belong to none that is known.
    new: Option<Entrance>,
}

impl<'a> Entrances<'a> {
    pub(crate) fn new(before: &'a Roster, follows: bool, now: u64) -> Self {
        Self { before, follows, now, new: None }
    }

    /// The generation of its server; else that of the newcomers before it whose server is not known either, or of
    /// members that came just before; else a new one.
    pub(crate) fn of(&mut self, began: Option<Began>) -> Entrance {
        let newest = newest(self.before);
        let of_server = began.and_then(|began| generation_of(self.before, began));
        if let Some(generation) = of_server {
            return Entrance { generation, opens: false };
        }
        match newest {
            // What is not known is no reason to hold a member back.
            Some(generation) if began.is_none() => Entrance { generation, opens: false },
            newest => *self.new.get_or_insert_with(|| {
                let joins = newest.filter(|newest| is_open(self.before, *newest, self.now, began));
                let generation = match joins.filter(|_| self.follows) {
                    Some(generation) => generation,
                    None => newest.unwrap_or(0).saturating_add(1),
                };
                Entrance { generation, opens: self.follows }
            }),
        }
    }
}

/// The newest generation, also of members that have left.
pub(super) fn newest(roster: &Roster) -> Option<u32> {
    roster.records().iter().map(|record| record.generation).filter(|g| *g > 0).max()
}

/// The newest generation in which this server has members, or had.
fn generation_of(roster: &Roster, began: Began) -> Option<u32> {
    let of_server = roster.records().iter().filter(|record| record.began == Some(began));
    of_server.map(|record| record.generation).max()
}

/// Whether a server that came to this generation by itself did so a moment ago, and began not long before this one.
fn is_open(roster: &Roster, generation: u32, now: u64, began: Option<Began>) -> bool {
    let together = |first: Began| {
        began.is_none_or(|began| began.get() <= first.get().saturating_add(TOGETHER * 1000))
    };
    let opens = |record: &Record| {
        record.opens
            && record.generation == generation
            && record.came.saturating_add(TOGETHER) >= now
            && record.began.is_none_or(together)
    };
    roster.occupied().any(|(.., record)| opens(&record))
}

/// The standing of a newcomer of this generation: that of the members which it has already.
pub(crate) fn standing(roster: &Roster, generation: u32) -> Standing {
    let mates = members(roster).filter(|record| record.generation == generation);
    let mates: Vec<Standing> = mates.map(|record| record.standing).collect();
    let has = |standing| mates.contains(&standing);
    match serving(roster) {
        _ if has(Standing::Serving) => Standing::Serving,
        _ if has(Standing::Retired) => Standing::Retired,
        None => Standing::Serving,
        _ if has(Standing::Standby) => Standing::Standby,
        // Also a worker that is started again while it is the only one on trial.
        _ if has(Standing::Trial) => Standing::Trial,
        _ if roster.trial().is_some() && newest(roster) == Some(generation) => Standing::Trial,
        Some(serving) if generation < serving => Standing::Retired,
        Some(_) if roster.hold_new() == HoldNew::On => Standing::Standby,
        Some(_) => Standing::Serving,
    }
}

/// Moves members to the generations that are given for them. Each has the standing there of a newcomer.
pub(crate) fn assign(roster: &mut Roster, generations: &[(Cookie, u32)]) {
    let given = |cookie| generations.iter().find(|(of, _)| *of == cookie).map(|(_, given)| *given);
    let moved = |(slot, cookie, record): (Slot, Cookie, Record)| {
        let generation = given(cookie).filter(|given| *given != record.generation)?;
        Some((slot, Record { generation, opens: false, ..record }))
    };
    let mut moved: Vec<(Slot, Record)> = roster.occupied().filter_map(moved).collect();
    moved.sort_by_key(|(_, record)| record.generation);
    for (slot, record) in &moved {
        roster.set(*slot, Record { cookie: None, ..*record });
    }
    for (slot, record) in moved {
        let standing = standing(roster, record.generation);
        roster.set(slot, Record { standing, ..record });
    }
}

pub(super) fn members(roster: &Roster) -> impl Iterator<Item = Record> + '_ {
    roster.occupied().map(|(.., record)| record)
}

/// The newest generation that serves.
pub(crate) fn serving(roster: &Roster) -> Option<u32> {
    members(roster)
        .filter(|record| record.standing == Standing::Serving)
        .map(|record| record.generation)
        .max()
}

/// The roster in which the newest generation serves alone; `None` if it does already.
pub(crate) fn promote(roster: &Roster) -> Option<Roster> {
    let newest = members(roster).map(|record| record.generation).max()?;
    let mut awaited = roster.clone();
    for (slot, _, record) in roster.occupied() {
        // Also one for which no thread waits yet.
        if record.standing == Standing::Held && record.generation == newest {
            awaited.set(slot, Record { standing: Standing::Standby, ..record });
        }
    }
    changed(&awaited, newest)
}

/// The roster in which the newest generation gets this part of all picks; `None` if no other one serves.
pub(crate) fn try_out(roster: &Roster, share: Percent) -> Option<Roster> {
    let newest = members(roster).map(|record| record.generation).max()?;
    let serves = |record: &Record| record.standing == Standing::Serving;
    members(roster).find(|record| serves(record) && record.generation != newest)?;
    let mut tried = roster.clone().with_trial(Some(share));
    for (slot, _, record) in roster.occupied() {
        let standing = match record.standing {
            _ if record.generation == newest => Standing::Trial,
            Standing::Trial => Standing::Standby,
            other => other,
        };
        // What comes from now on is newer.
        tried.set(slot, Record { standing, opens: false, ..record });
    }
    Some(tried)
}

/// The roster in which what is on trial is on standby.
fn end_trial(roster: &Roster) -> Roster {
    let mut ended = roster.clone().with_trial(None);
    let on_trial = members(roster).filter(|record| record.standing == Standing::Trial);
    let tried: Vec<u32> = on_trial.map(|record| record.generation).collect();
    for (slot, _, record) in roster.occupied() {
        let is_late = record.standing == Standing::Held && tried.contains(&record.generation);
        if record.standing == Standing::Trial || is_late {
            ended.set(slot, Record { standing: Standing::Standby, ..record });
        }
    }
    ended
}

/// The roster in which the generation before the one that serves does so alone; or, during a trial, the one without it.
/// `None` if there is none.
pub(crate) fn rollback(roster: &Roster) -> Option<Roster> {
    if roster.trial().is_some() {
        return Some(end_trial(roster));
    }
    let serving = serving(roster);
    let is_before = |record: &Record| match record.standing {
        Standing::Standby | Standing::Trial | Standing::Held => false,
        Standing::Retired => true,
        Standing::Serving => Some(record.generation) < serving,
    };
    let before = members(roster).filter(is_before).map(|record| record.generation).max()?;
    changed(roster, before)
}

fn changed(roster: &Roster, serving: u32) -> Option<Roster> {
    let mut changed = roster.clone();
    changed.serve_alone(serving);
    let standings = |roster: &Roster| members(roster).map(|r| r.standing).collect::<Vec<_>>();
    (standings(&changed) != standings(roster)).then_some(changed)
}
