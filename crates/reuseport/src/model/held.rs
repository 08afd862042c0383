//! Members that are held: on standby until a thread waits for connections on them. Who is, who serves from then on, and
//! what `promote` makes of them. Values and computation, no I/O.
//!
//! This is for servers that join, such as one that listens before it has loaded its application. Nothing drains for it,
//! and a member that has served is never held again.

#[cfg(test)]
mod tests;

use super::generation::{self, members};
use super::group::{Group, KernelAddress};
use super::hold_new::HoldNew;
use super::id::{Cookie, Slot, State};
use super::lineage::Standing;
use super::roster::{Record, Roster};

/// The standing of a newcomer that would have `standing`: it is held if it would get something.
pub(crate) fn until_awaited(standing: Standing) -> Standing {
    match standing {
        Standing::Serving | Standing::Trial => Standing::Held,
        other => other,
    }
}

/// Lets those that are held serve for which a thread waits; all of them if newcomers are held in this way no more.
/// Returns which, but for those that a user drains.
pub(crate) fn take_in(roster: &mut Roster, is_awaited: impl Fn(Cookie) -> bool) -> Vec<Cookie> {
    let holds = roster.hold_new() == HoldNew::Accepting;
    let is_due = |(_, cookie, record): &(Slot, Cookie, Record)| {
        record.standing == Standing::Held && (!holds || is_awaited(*cookie))
    };
    let due: Vec<_> = roster.occupied().filter(is_due).collect();
    let mut taken_in = Vec::new();
    for (slot, cookie, record) in due {
        let standing = generation::standing(roster, record.generation);
        roster.set(slot, Record { standing, ..record });
        let gets_some = matches!(standing, Standing::Serving | Standing::Trial);
        if gets_some && record.role().state == State::Active {
            taken_in.push(cookie);
        }
    }
    taken_in
}

/// Whether `promote` lets members join, and replaces none: newcomers are held until they accept, and no generation is
/// on trial, which is to replace another one.
pub(crate) fn promotion_joins(roster: &Roster) -> bool {
    roster.hold_new() == HoldNew::Accepting && roster.trial().is_none()
}

/// The roster in which all that wait on standby serve, next to those that do; with `only`, those of this generation.
/// `None` if none waits. A generation that was checked may serve already: it accepted first.
pub(crate) fn join(roster: &Roster, only: Option<u32>) -> Option<Roster> {
    let is_meant = |record: &Record| only.is_none_or(|only| record.generation == only);
    let waits = |record: &Record| {
        is_meant(record) && matches!(record.standing, Standing::Held | Standing::Standby)
    };
    let serves = |record: &Record| is_meant(record) && record.standing == Standing::Serving;
    if only.is_some() && !members(roster).any(|record| waits(&record)) {
        return members(roster).any(|record| serves(&record)).then(|| roster.clone());
    }
    members(roster).find(waits)?;
    let mut joined = roster.clone();
    joined.close();
    for (slot, _, record) in joined.clone().occupied().filter(|(.., record)| waits(record)) {
        joined.set(slot, Record { standing: Standing::Serving, ..record });
    }
    Some(joined)
}

/// A member that is held, and its socket.
pub(crate) type HeldSocket = (Cookie, KernelAddress);

/// The members that are held.
pub(crate) fn held(roster: &Roster) -> impl Iterator<Item = Cookie> + '_ {
    let is_held = |(.., record): &(Slot, Cookie, Record)| record.standing == Standing::Held;
    roster.occupied().filter(is_held).map(|(_, cookie, _)| cookie)
}

/// Those of them that are in the group, with their sockets.
pub(crate) fn sockets(roster: &Roster, group: &Group) -> Vec<HeldSocket> {
    let socket = |cookie| Some((cookie, group.member(cookie)?.sock_address));
    held(roster).filter_map(socket).collect()
}
