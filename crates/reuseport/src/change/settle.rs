//! Completes or takes back an unfinished change of policy.
//!
//! The header announces the next program, the program is attached, and then the header names it. After
//! an interruption, the id of the attached program tells whether the change took effect.

use super::table;
use crate::error::Result;
use crate::model::selection::Program;
use crate::pins::group::{GroupState, header_failed};

/// Completes or takes back a change of policy that was interrupted or failed. The `attached` program stays.
pub(super) fn settle(state: &mut GroupState, attached: Option<u32>) -> Result<()> {
    if attached.is_some() {
        // This tool's program is attached: a takeover is complete.
        state.forget_replaced();
    }
    let mut header = state.read_header()?;
    let Some(announced) = header.announced() else {
        state.forget_next();
        return Ok(());
    };
    let taken_over = attached == Some(announced);
    if taken_over {
        state.adopt_next()?;
    } else if let Some(Program::Selection(selection)) = header.program() {
        table::swap(state, selection.policy)?;
    }
    header.settle(taken_over);
    state.set_header(&header).map_err(header_failed)?;
    state.forget_next();
    Ok(())
}
