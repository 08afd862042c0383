//! Which program decides for a group: the kernel's view, joined with the pinned state.

use super::bpffs::Root;
use super::group::GroupState;
use crate::error::{ErrorKind, Result};
use crate::model::group::Group;
use crate::model::selection::Steering;

/// The group's steering, and its state if this tool's program decides. Without a `root` there is no state.
pub(crate) fn steering(
    group: &Group,
    root: Option<&Root>,
) -> Result<(Steering, Option<GroupState>)> {
    let Some(program) = &group.program else { return Ok((Steering::KernelHash, None)) };
    let state = match root.map(|root| GroupState::existing(root, &group.key)) {
        Some(Ok(state)) => state,
        // Another version's state: this one treats the program as another owner's.
        Some(Err(error)) if error.kind() == ErrorKind::Schema => None,
        // Another user's state, which the caller may not read. The group itself is visible to all.
        Some(Err(error)) if error.kind() == ErrorKind::Denied => {
            tracing::warn!("the policy of {} is not shown: {}", group.key, error.report());
            None
        }
        Some(Err(error)) => return Err(error),
        None => None,
    };
    let (Some(state), Some(id)) = (state, program.id) else {
        return Ok((Steering::Foreign, None));
    };
    if !state.is_ours(id)? {
        return Ok((Steering::Foreign, None));
    }
    let header = state.read_header()?;
    let steering = header.program_with_id(id).map_or(Steering::Foreign, Steering::Ours);
    Ok((steering, Some(state)))
}
