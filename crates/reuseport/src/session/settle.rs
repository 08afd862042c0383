//! A change of policy that did not come to its end.
//!
//! The header announces who takes over, the program is attached, and then the header says who
//! decides. Cut short anywhere, it is the program that is attached by which one sees how far it came.

use crate::enrol;
use crate::state::group::GroupState;
use crate::state::layout::Decider;
use crate::{Error, ErrorKind, Result};

/// Ends a change of policy that was interrupted, or has failed: whichever program is `attached`,
/// stays.
pub(super) fn settle(state: &mut GroupState, attached: Option<u32>) -> Result<()> {
    let failed =
        |error| Error::new(ErrorKind::System, "cannot read a group's state").because(error);
    let mut header = state.header().map_err(failed)?;
    let Some(announced) = header.announced() else {
        state.forget_next();
        return Ok(());
    };
    let taken_over = attached == Some(announced);
    if taken_over {
        state.adopt_next()?;
    } else if let Some(Decider::Policy { policy, .. }) = header.decider() {
        enrol::swap_table(state, policy)?;
    }
    header.settle(taken_over);
    state.set_header(&header).map_err(failed)?;
    state.forget_next();
    Ok(())
}
