//! Why open connections are not counted where a policy compares them.

use std::fmt;

/// Why open connections are not counted. Attaching again counts them, if the caller may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Uncounted {
    /// The programs that count are not attached: the group was attached without CAP_PERFMON, or their pins
    /// were removed.
    NotAttached,
    /// The maps in which they were counted are no longer those of the host.
    LayerReplaced,
    /// The host's maps belong to another user, and the caller may not open them.
    Unreadable,
}

/// A reason, such as "the programs that count are not attached".
impl fmt::Display for Uncounted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAttached => "the programs that count are not attached",
            Self::LayerReplaced => "the maps in which they were counted have been replaced",
            Self::Unreadable => "the host's maps belong to another user",
        })
    }
}
