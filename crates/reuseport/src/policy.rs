//! How members are picked.

/// Picks among the active members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Policy {
    /// Each connection or flow by a keyed hash of its addresses and ports, over a Maglev table:
    /// a member that comes or goes moves about 1/n of the flows.
    Hash,
    /// One after the other, in proportion to their weights, exactly.
    RoundRobin,
    /// At random, in proportion to their weights.
    Random,
}

/// What overrides the policy for a flow that already has a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Stickiness {
    /// Nothing.
    #[default]
    None,
}
