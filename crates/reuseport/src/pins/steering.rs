//! Which program decides for a group: the kernel's view, joined with the pinned state.

use super::bpffs::Root;
use super::group::GroupState;
use crate::error::{ErrorKind, Result};
use crate::kernel::recognise::Recognised;
use crate::model::group::Group;
use crate::model::selection::Steering;
use crate::model::split::Claim;

/// The group's steering, and its state if this tool's program decides. Without a `root` there is no state.
pub(crate) fn steering(
    group: &Group,
    root: Option<&Root>,
) -> Result<(Steering, Option<GroupState>)> {
    let Some(program) = &group.program else { return Ok((Steering::KernelHash, None)) };
    let foreign = Ok((Steering::Foreign, None));
    let state = match root.map(|root| GroupState::of(root, group)) {
        Some(Ok(state)) => state,
        None => None,
        // Another version's state: this one treats the program as another owner's.
        Some(Err(error)) if error.kind() == ErrorKind::Schema => return foreign,
        // Another user's state, which the caller may not read. The group itself is visible to all.
        Some(Err(error)) if error.kind() == ErrorKind::Denied => {
            error.report().warn_that(format_args!("the policy of {} is not shown", group.key));
            return foreign;
        }
        Some(Err(error)) => return Err(error),
    };
    let Some(id) = program.id else { return foreign };
    let state = match state {
        Some(state) if state.instance.program_id() == Some(id) => state,
        _ => {
            let known = Recognised::of(id);
            return Ok((known.map_or(Steering::Foreign, |known| known.steering(group)), None));
        }
    };
    Ok((Steering::Ours(state.program_kind()), Some(state)))
}

/// The group's claim to the state that is pinned under its name. There is none where the state cannot be read.
pub(crate) fn claim(group: &Group, root: Option<&Root>) -> Claim {
    let Some(root) = root else { return Claim::None };
    if let Ok((_, Some(_))) = steering(group, Some(root)) {
        return Claim::Program;
    }
    let Ok(Some(state)) = GroupState::of(root, group) else { return Claim::None };
    match state.occupied().filter(|(_, cookie, _)| group.member(*cookie).is_some()).count() {
        0 => Claim::None,
        members => Claim::Members(members),
    }
}
