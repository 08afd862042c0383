//! Checks before anything changes.

use crate::error::Result;
use crate::kernel::borrow;
use crate::model::group::{Group, Member};
use crate::model::membership;
use crate::model::plan;
use crate::model::refusal::map_in_use;
use crate::pins::group::GroupState;

/// Checks that there are enough slots, and that a user's own map has no sockets of other groups when its
/// first members are about to enter.
///
/// # Errors
///
/// [`ErrorKind::Full`], [`ErrorKind::Invalid`].
pub(super) fn check_room(group: &Group, state: &GroupState) -> Result<()> {
    if state.occupied().next().is_none() {
        match state.strangers(group).as_slice() {
            [] => {}
            strangers => return Err(map_in_use(&group.key, strangers)),
        }
    }
    let (members, slots) = (group.members.len(), state.all_slots().count());
    plan::check_room(&group.key, members, slots, state.policy_maps.is_none())
}

/// Checks that one of these members can be borrowed, before anything changes. While a server becomes a daemon,
/// for example, the process that held its sockets has ended.
///
/// # Errors
///
/// [`ErrorKind::Starved`] if no member of the group ever can; else the last one's error.
pub(super) fn can_be_borrowed(group: &Group, members: &[&Member]) -> Result<()> {
    let starving = membership::starving(group, |_| false);
    if starving.len() == group.members.len() && !starving.is_empty() {
        return Err(membership::refuse_without_members(&group.key, &starving));
    }
    let mut last = Ok(());
    for member in members {
        match borrow::borrow(member) {
            Ok(_) => return Ok(()),
            Err(error) => last = Err(error),
        }
    }
    last
}
