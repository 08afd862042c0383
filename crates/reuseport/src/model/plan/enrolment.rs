//! Who leaves a group's slots, who stays in one, and who is to get one.

use std::collections::HashMap;

use crate::error::{Error, ErrorKind};
use crate::model::group::{Group, GroupKey, Member};
use crate::model::id::{Cookie, Slot};
use crate::model::membership::{Emptied, Occupant, has_left};

/// A slot that has a member by its record, and what is in it.
pub(crate) type Content = (Slot, Cookie, Occupant);

/// What becomes of a group's members and slots.
#[derive(Debug, Default)]
pub(crate) struct Enrolment<'g> {
    /// The slots of members that have left.
    pub(crate) leaving: Vec<(Slot, Cookie)>,
    /// Members that stopped listening and listen again: the kernel has emptied their slots.
    pub(crate) returning: Vec<(Slot, &'g Member)>,
    /// Members without a slot.
    pub(crate) newcomers: Vec<&'g Member>,
    /// The number of members that are in their slots.
    pub(crate) kept: usize,
}

/// What becomes of them. `map`: when the kernel empties a slot.
pub(crate) fn enrolment<'g>(group: &'g Group, slots: &[Content], map: Emptied) -> Enrolment<'g> {
    let by_cookie: HashMap<Cookie, (Slot, Occupant)> =
        slots.iter().map(|(slot, cookie, occupant)| (*cookie, (*slot, *occupant))).collect();
    let mut enrolment = Enrolment::default();
    for (slot, cookie, occupant) in slots {
        if has_left(group, *cookie, *occupant, map) {
            enrolment.leaving.push((*slot, *cookie));
        }
    }
    for member in &group.members {
        match member.cookie.and_then(|cookie| by_cookie.get(&cookie)) {
            None => enrolment.newcomers.push(member),
            Some((slot, Occupant::None)) => enrolment.returning.push((*slot, member)),
            Some((_, Occupant::Socket(_) | Occupant::Unknown)) => enrolment.kept += 1,
        }
    }
    enrolment
}

/// Refuses a group with more members than `slots`, the number of slots that it has or would have. `is_own`: the
/// program is the user's own.
///
/// # Errors
///
/// [`ErrorKind::Full`].
pub(crate) fn check_room(
    key: &GroupKey,
    members: usize,
    slots: usize,
    is_own: bool,
) -> Result<(), Error> {
    if members <= slots {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Full, format!("cannot enrol the members of {key}"))
        .because(format!("members: {members}, slots: {slots}"))
        .with_hint(match is_own {
            false => "choose a larger `--slots`; a group that is attached must be detached first",
            true => "give the object's map for sockets more elements",
        }))
}
