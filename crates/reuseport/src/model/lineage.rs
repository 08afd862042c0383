//! Where a member comes from: its server and its generation. Values; the rules are in [`generation`](super::generation).

use std::num::NonZeroU64;
use std::time::Duration;

use super::group::Member;

/// What a member's generation makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Serving,
    /// Newer than those that serve: it gets nothing, until it is promoted.
    Standby,
    /// Older than those that serve: it drains.
    Retired,
    /// Newer than those that serve: it gets a part of all picks.
    Trial,
    /// It gets nothing until a thread waits for connections on it.
    Held,
}

/// When a server began: the first process of those that hold a member, in microseconds since the host's boot. All
/// processes of a server have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Began(NonZeroU64);

impl Began {
    /// The bits of a record for it: nine years.
    const BITS: u32 = 48;

    /// `None` for 0.
    pub(crate) fn new(microseconds: u64) -> Option<Self> {
        NonZeroU64::new(microseconds & ((1 << Self::BITS) - 1)).map(Self)
    }

    pub(crate) fn get(self) -> u64 {
        self.0.get()
    }

    /// The server that holds this member, the first of several.
    pub(crate) fn of(member: &Member) -> Option<Self> {
        let origins = member.holders.iter().filter_map(|holder| holder.origin);
        origins.map(|origin| origin.started).min().and_then(Self::at)
    }

    fn at(since_boot: Duration) -> Option<Self> {
        u64::try_from(since_boot.as_micros()).ok().and_then(Self::new)
    }
}

/// How a newcomer enters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entrance {
    pub(crate) generation: u32,
    /// Whether others may join its generation for a while: a follower enrolled it, and its server is new.
    pub(crate) opens: bool,
}
