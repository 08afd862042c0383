//! The input of the fills: members' shares and turns.

use crate::model::id::{Slot, State, Weight};

/// An enrolled member's part in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Share {
    /// The slot that the member occupies.
    pub slot: Slot,
    /// Its weight; 0 is treated as draining.
    pub weight: Weight,
    /// Its state: only active members are in the table.
    pub state: State,
}

/// A slot and its number of turns relative to the others; not 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turns {
    pub(super) slot: Slot,
    pub(super) weight: u64,
}
