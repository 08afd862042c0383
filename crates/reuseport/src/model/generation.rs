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
pub(crate) struct Entrances {
    /// Those before, and what is recorded of newcomers.
    records: Vec<Record>,
    /// Whether a follower enrols them. A request of a user says that what is there now is one generation, and what
    /// comes later is newer.
    follows: bool,
    now: u64,
    /// The generation of those that belong to none that is known.
    new: Option<Entrance>,
}

impl Entrances {
    /// `known`: what state before this one recorded of newcomers.
    pub(crate) fn new(
        before: &Roster,
        known: &[(Cookie, Record)],
        follows: bool,
        now: u64,
    ) -> Self {
        let recorded = known.iter().map(|(_, record)| *record);
        let records = before.records().iter().copied().chain(recorded).collect();
        Self { records, follows, now, new: None }
    }

    /// The generation of its server; else that of the newcomers before it whose server is not known either, or of
    /// members that came just before; else a new one.
    pub(crate) fn of(&mut self, began: Option<Began>) -> Entrance {
        let of_server = began.and_then(|began| generation_of(&self.records, began));
        if let Some(generation) = of_server {
            return Entrance { generation, opens: false };
        }
        let newest = newest(&self.records);
        // What is not known is no reason to hold a member back: also where members have no generation, because an
        // earlier version enrolled them.
        if began.is_none() && (newest.is_some() || self.records.iter().any(is_member)) {
            return Entrance { generation: newest.unwrap_or(0), opens: false };
        }
        *self.new.get_or_insert_with(|| {
            let joins = newest.filter(|newest| is_open(&self.records, *newest, self.now, began));
            let generation = match joins.filter(|_| self.follows) {
                Some(generation) => generation,
                None => newest.unwrap_or(0).saturating_add(1),
            };
            Entrance { generation, opens: self.follows }
        })
    }
}

fn is_member(record: &Record) -> bool {
    record.cookie.is_some()
}

/// The newest generation, also of members that have left.
fn newest(records: &[Record]) -> Option<u32> {
    records.iter().map(|record| record.generation).filter(|g| *g > 0).max()
}

/// The newest generation in which this server has members, or had.
fn generation_of(records: &[Record], began: Began) -> Option<u32> {
    let of_server = records.iter().filter(|record| record.began == Some(began));
    of_server.map(|record| record.generation).max()
}

/// Whether a server that came to this generation by itself did so a moment ago, and began not long before this one.
fn is_open(records: &[Record], generation: u32, now: u64, began: Option<Began>) -> bool {
    let together = |first: Began| {
        began.is_none_or(|began| began.get() <= first.get().saturating_add(TOGETHER * 1000))
    };
    let opens = |record: &Record| {
        record.opens
            && is_member(record)
            && record.generation == generation
            && record.came.saturating_add(TOGETHER) >= now
            && record.began.is_none_or(together)
    };
    records.iter().any(opens)
}

/// The standing of a newcomer of this generation, or of a member that is held no more: that of the members which the
/// generation has already, or of the last ones that it had. Only a promotion makes an older generation drain.
pub(crate) fn standing(roster: &Roster, generation: u32) -> Standing {
    let mates = members(roster).filter(|record| record.generation == generation);
    let mates: Vec<Standing> = mates.map(|record| record.standing).collect();
    let has = |standing| mates.contains(&standing);
    let had = |standing| recalls(roster, generation, standing);
    match serving(roster) {
        _ if has(Standing::Serving) => Standing::Serving,
        _ if has(Standing::Retired) => Standing::Retired,
        None => Standing::Serving,
        _ if has(Standing::Standby) => Standing::Standby,
        _ if has(Standing::Trial) => Standing::Trial,
        // All of its members have left: also a worker that is started again while it is the only one on trial.
        _ if had(Standing::Trial) && roster.trial().is_some() => Standing::Trial,
        Some(serving) if had(Standing::Retired) && generation < serving => Standing::Retired,
        _ if had(Standing::Standby) => Standing::Standby,
        Some(serving) if roster.hold_new() == HoldNew::On && generation > serving => {
            Standing::Standby
        }
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
        // It says nothing of its generation meanwhile.
        roster.set(*slot, Record { cookie: None, generation: 0, ..*record });
    }
    for (slot, record) in moved {
        let standing = standing(roster, record.generation);
        roster.set(slot, Record { standing, ..record });
    }
}

/// Whether a member of this generation that has left had this standing, or its generation got it since.
fn recalls(roster: &Roster, generation: u32, standing: Standing) -> bool {
    let of_it = |record: &&Record| record.cookie.is_none() && record.generation == generation;
    roster.records().iter().filter(of_it).any(|record| record.standing == standing)
}

pub(super) fn members(roster: &Roster) -> impl Iterator<Item = Record> + '_ {
    roster.occupied().map(|(.., record)| record)
}

/// The newest generation that serves.
pub(crate) fn serving(roster: &Roster) -> Option<u32> {
    newest_with(roster, |standing| standing == Standing::Serving)
}

/// The newest generation with a member of such a standing.
fn newest_with(roster: &Roster, is_meant: impl Fn(Standing) -> bool) -> Option<u32> {
    let meant = members(roster).filter(|record| is_meant(record.standing));
    meant.map(|record| record.generation).max()
}

/// The generation that a promotion lets serve.
pub(crate) fn next(roster: &Roster) -> Option<u32> {
    let on_trial = || newest_with(roster, |standing| standing == Standing::Trial);
    let accepts = || newest_with(roster, |standing| standing != Standing::Held);
    match roster.hold_new() {
        // Those that came during the trial join, or are held until they accept.
        HoldNew::Accepting if roster.trial().is_some() => on_trial().or_else(accepts),
        _ => newest_present(roster),
    }
}

/// The roster in which the [`next`] generation serves alone; `None` if it does already. After a trial of servers
/// that join when they accept, newer ones stay as they are.
pub(crate) fn promote(roster: &Roster) -> Option<Roster> {
    let next = next(roster)?;
    let joins = roster.hold_new() == HoldNew::Accepting;
    let mut promoted = roster.clone();
    // Also those for which no thread waits yet.
    promoted.hold_no_more(|generation| generation <= next);
    promoted.serve_alone_if(next, |record| !joins || record.generation <= next);
    changed(roster, promoted)
}

/// The newest generation that has members.
pub(crate) fn newest_present(roster: &Roster) -> Option<u32> {
    newest_with(roster, |_| true)
}

/// Whether a member of the newest generation is not held.
pub(crate) fn newest_accepts(roster: &Roster) -> bool {
    newest_present(roster) == newest_with(roster, |standing| standing != Standing::Held)
}

/// The roster in which the newest generation gets this part of all picks; `None` if no other one serves. Those of it
/// that are held join when they accept.
pub(crate) fn try_out(roster: &Roster, share: Percent) -> Option<Roster> {
    let newest = newest_present(roster)?;
    let serves = |record: &Record| record.standing == Standing::Serving;
    members(roster).find(|record| serves(record) && record.generation != newest)?;
    let mut tried = roster.clone().with_trial(Some(share));
    for (slot, _, record) in roster.occupied() {
        let standing = match record.standing {
            Standing::Held => Standing::Held,
            _ if record.generation == newest => Standing::Trial,
            Standing::Trial => Standing::Standby,
            other => other,
        };
        // What comes from now on is newer.
        tried.set(slot, Record { standing, opens: false, ..record });
    }
    Some(tried)
}

/// The roster in which the generation before the one that serves does so alone; or, during a trial, the one without it.
/// `None` if there is none. Of those that are held, only the ones that are rolled back are on standby then.
pub(crate) fn rollback(roster: &Roster) -> Option<Roster> {
    let mut rolled_back = roster.clone();
    if roster.trial().is_some() {
        rolled_back.end_trial();
        return Some(rolled_back);
    }
    let serving = serving(roster);
    let is_before = |record: &Record| match record.standing {
        Standing::Standby | Standing::Trial | Standing::Held => false,
        Standing::Retired => true,
        Standing::Serving => Some(record.generation) < serving,
    };
    let before = members(roster).filter(is_before).map(|record| record.generation).max()?;
    rolled_back.hold_no_more(|generation| Some(generation) == serving);
    rolled_back.serve_alone(before);
    changed(roster, rolled_back)
}

/// The second one, if its members have other standings.
fn changed(before: &Roster, after: Roster) -> Option<Roster> {
    let standings = |roster: &Roster| members(roster).map(|r| r.standing).collect::<Vec<_>>();
    (standings(before) != standings(&after)).then_some(after)
}
