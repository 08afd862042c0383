//! Makes the table of a roster, and announces both.

use crate::error::Result;
use crate::kernel::cpus;
use crate::model::id::Slot;
use crate::model::policy::{Members, Policy};
use crate::model::roster::Roster;
use crate::model::selection::Program;
use crate::model::table::Table;
use crate::pins::group::GroupState;

/// The table for this roster.
pub(super) fn table(state: &GroupState, roster: &Roster, policy: Policy) -> Table {
    policy.table(&Members {
        shares: &roster.shares_of_picks(),
        seed: state.seed(),
        capacity: state.capacity(),
        host: &|slot| roster.record(slot).host_member.and_then(|index| u16::try_from(index).ok()),
        cpu: &|slot| roster.record(slot).cpu,
        topology: &cpus::topology,
    })
}

/// Pins this roster with its table, to be put into force. A user's own program has no table.
pub(super) fn announce(state: &mut GroupState, roster: Roster) -> Result<()> {
    let roster = with_picks(state, roster, false);
    let table = match state.program_kind() {
        Program::Selection(selection) => table(state, &roster, selection.policy),
        Program::Object(()) => Table::default(),
    };
    state.announce(roster, &table)
}

/// Notes the members' picks, so that those from now on can be told from those before a change.
pub(super) fn with_picks(state: &GroupState, mut roster: Roster, anew: bool) -> Roster {
    if let Some(maps) = &state.policy_maps {
        // If a counter cannot be read, that member's picks all count as new.
        let picks = |slot: Slot| maps.picks_of(slot).unwrap_or(0);
        roster.note_picks(&state.instance.roster, anew, picks);
    }
    roster
}

/// Puts a roster into force.
pub(super) fn commit(state: &mut GroupState, roster: Roster) -> Result<()> {
    announce(state, roster)?;
    state.commit()
}

/// Puts a table without members into force: the kernel's hash decides for each packet.
pub(super) fn clear(state: &mut GroupState) -> Result<()> {
    let roster = state.instance.roster.clone();
    state.announce(roster, &Table::default())?;
    state.swap()
}
