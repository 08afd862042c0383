//! Newtypes for identifiers and member attributes: cookies, slots, namespaces, weights, limits, states.

use std::fmt;
use std::num::NonZeroU64;

/// A socket's cookie: the kernel's number for a socket, unique on the host and never reused
/// (`SO_COOKIE`, Linux 4.12).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[doc(alias = "SO_COOKIE")]
pub struct Cookie(NonZeroU64);

impl Cookie {
    /// The cookie with this number; `None` for 0, which no socket has.
    pub fn new(cookie: u64) -> Option<Self> {
        NonZeroU64::new(cookie).map(Self)
    }

    /// The number.
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A part of all, in percent: 1 to 99.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(u8);

impl Percent {
    /// `None` unless it is 1 to 99.
    pub fn new(percent: u8) -> Option<Self> {
        (1..=99).contains(&percent).then_some(Self(percent))
    }

    /// The number.
    pub fn get(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

/// An index into a group's socket array. The kernel program selects sockets by slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u16);

impl Slot {
    /// The most slots that a group can have: the kernel's limit of sockets in a group (65,535, see
    /// `reuseport_grow` in `net/core/sock_reuseport.c`, and groups grow in powers of two).
    pub const LIMIT: u32 = 32_768;

    /// The slot with this index.
    pub const fn new(index: u16) -> Self {
        Self(index)
    }

    /// Its index in the socket array.
    pub const fn index(self) -> u32 {
        self.0 as u32
    }

    /// Its index in the 16 bits of a table entry.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Netns {
    /// The namespace's cookie, never reused while the host is up (`SO_NETNS_COOKIE`, Linux 5.14).
    pub cookie: u64,
    /// Its inode number, as `lsns` and `/proc/PID/ns/net` show it; reused once the namespace is gone.
    pub inode: u32,
}

/// A member's share of the picks relative to the other members', 0 to 1000. A member with weight 0 is
/// treated as draining.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u16);

impl Weight {
    /// The weight of a new member.
    pub const DEFAULT: Self = Self(1);
    /// The largest weight.
    pub const MAX: Self = Self(1000);

    /// The weight with this number; `None` above 1000.
    pub const fn new(weight: u16) -> Option<Self> {
        if weight <= Self::MAX.0 { Some(Self(weight)) } else { None }
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The most picks that a member may get within a short window, as a multiple of its fair share by weight:
/// 1 to 100.
///
/// A worker that accepts connections and fails at once never has many connections. This limit keeps it
/// from getting all of them. It is no quota: it does not hold while the other members are full or stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MaxShare(u16);

impl MaxShare {
    /// Twice the fair share.
    pub const DEFAULT: Self = Self(200);

    /// The limit in hundredths of a fair share; `None` unless between 100 and 10,000.
    pub const fn from_hundredths(hundredths: u16) -> Option<Self> {
        if hundredths >= 100 && hundredths <= 10_000 { Some(Self(hundredths)) } else { None }
    }

    /// The limit in hundredths of a fair share.
    pub const fn hundredths(self) -> u16 {
        self.0
    }
}

impl fmt::Display for MaxShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (f64::from(self.0) / 100.0).fmt(f)
    }
}

/// How long a worker that [reports its load](crate::report) may be busy without checking for events before
/// other members are preferred: 10 ms to one hour, in whole milliseconds.
///
/// The clock has a resolution of one kernel tick, 1 to 10 ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StaleAfter(u32);

impl StaleAfter {
    /// 100 ms.
    pub const DEFAULT: Self = Self(100);

    /// The time in milliseconds; `None` unless between 10 and 3,600,000.
    pub const fn from_millis(millis: u32) -> Option<Self> {
        if millis >= 10 && millis <= 3_600_000 { Some(Self(millis)) } else { None }
    }

    /// The time in milliseconds.
    pub const fn millis(self) -> u32 {
        self.0
    }

    pub(crate) const fn nanoseconds(self) -> u64 {
        self.0 as u64 * 1_000_000
    }
}

impl fmt::Display for StaleAfter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}

/// A member's role in the balancing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Enrolled, not in the table: it gets nothing.
    Standby,
    /// In the table.
    Active,
    /// Out of the table: it gets no new connections or flows, and keeps its open connections.
    Draining,
}
