//! Builds the table from the members' records and swaps it in.

use std::collections::HashSet;

use crate::error::{Error, ErrorKind, Result};
use crate::kernel::caps;
use crate::kernel::cpus;
use crate::model::id::Slot;
use crate::model::policy::{Members, Policy};
use crate::model::selection::Program;
use crate::model::table::Share;
use crate::pins::group::GroupState;

const FAILED: &str = "cannot change the table";

/// Builds the table for `policy` and puts it into force.
pub(super) fn swap(state: &mut GroupState, policy: Policy) -> Result<()> {
    swap_without(state, policy, &HashSet::new())
}

/// The same, without the members that are `leaving`.
pub(super) fn swap_without(
    state: &mut GroupState,
    policy: Policy,
    leaving: &HashSet<Slot>,
) -> Result<()> {
    let header =
        state.header().map_err(|error| Error::new(ErrorKind::System, FAILED).because(error))?;
    let mut shares = shares(state);
    shares.retain(|share| !leaving.contains(&share.slot));
    let table = policy.table(&Members {
        shares: &shares,
        seed: header.seed,
        capacity: state.capacity(),
        // NO_HOST_MEMBER does not fit 16 bits.
        host: &|slot| u16::try_from(state.record(slot).host_member).ok(),
        cpu: &|slot| state.record(slot).cpu(),
        topology: &cpus::topology,
    });
    let Some(maps) = &mut state.policy_maps else { return Ok(()) };
    maps.swap_in(&table).map_err(|error| caps::failed(FAILED, error, caps::LOADING))?;
    let decided = header.program().and_then(|program| program.selection());
    if !leaving.is_empty()
        || decided.is_none_or(|decided| decided.policy != policy)
        || state.occupied().any(|(.., record)| record.has_changed())
    {
        note_picks(state);
    }
    Ok(())
}

/// Notes the members' picks, so that those from now on can be told from those before a change. If a counter
/// cannot be read, that member's picks all count as new.
fn note_picks(state: &GroupState) {
    let Some(maps) = &state.policy_maps else { return };
    for (slot, _, record) in state.occupied() {
        state.set_record(slot, record.noted(maps.picks_of(slot).unwrap_or(0)));
    }
}

/// Puts a table without members into force: the kernel's hash decides for each packet.
pub(super) fn clear(state: &mut GroupState) -> Result<()> {
    let all = state.all_slots().collect();
    match state.program_kind()? {
        Some(Program::Selection(selection)) => swap_without(state, selection.policy, &all),
        _ => Ok(()),
    }
}

/// The members' weights and states, by slot.
pub(super) fn shares(state: &GroupState) -> Vec<Share> {
    state
        .occupied()
        .map(|(slot, _, record)| Share { slot, weight: record.weight(), state: record.state() })
        .collect()
}
