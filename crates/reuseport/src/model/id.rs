//! The small words: what names sockets, slots and namespaces, and a member's weight, limit and state.
//!
//! Each is a type of its own, so that a slot cannot be passed where a cookie is meant. None of them
//! makes a system call.

use std::fmt;
use std::num::NonZeroU64;

/// A socket's cookie: the number by which the kernel names a socket for as long as it lives, on
/// the whole host, and never again afterwards (`SO_COOKIE`, Linux 4.12).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[doc(alias = "SO_COOKIE")]
pub struct Cookie(NonZeroU64);

impl Cookie {
    /// The cookie with this number; `None` for 0, which the kernel gives to no socket.
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

/// A place in a group's socket array: what the kernel program selects by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u16);

impl Slot {
    /// How many slots a group can have at most: the kernel's own limit of sockets in a group
    /// (`MAX_SOCKS` in `net/core/sock_reuseport.c` is 65,535; groups grow in powers of two).
    pub const LIMIT: u32 = 32_768;

    /// The slot with this index.
    pub const fn new(index: u16) -> Self {
        Self(index)
    }

    /// Its index in the socket array.
    pub const fn index(self) -> u32 {
        self.0 as u32
    }

    /// Its index as the 16 bits that a table holds.
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
    /// The namespace's cookie, never given twice while the host is up (`SO_NETNS_COOKIE`).
    pub cookie: u64,
    /// Its inode number, as `lsns` and `/proc/PID/ns/net` show it; given again as soon as the
    /// namespace is gone.
    pub inode: u32,
}

/// A member's share of the picks, in relation to the other members': 0 to 1000. 0 is drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u16);

impl Weight {
    /// What a member has unless told otherwise.
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

/// The most that a member may get within a short window, as a multiple of its fair share by weight:
/// at least 1, at most 100.
///
/// A worker that accepts and fails at once has the shortest queue of all; this keeps it from getting
/// everything. It is no quota: where the others do not get on with what they have, it does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MaxShare(u16);

impl MaxShare {
    /// Twice the fair share.
    pub const DEFAULT: Self = Self(200);

    /// So many hundredths of a fair share; `None` unless between 100 and 10,000.
    pub const fn from_hundredths(hundredths: u16) -> Option<Self> {
        if hundredths >= 100 && hundredths <= 10_000 { Some(Self(hundredths)) } else { None }
    }

    /// In hundredths of a fair share.
    pub const fn hundredths(self) -> u16 {
        self.0
    }
}

impl fmt::Display for MaxShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (f64::from(self.0) / 100.0).fmt(f)
    }
}

/// For how long a worker that [reports its load](crate::report) may be busy without looking for
/// events, before others go first: whole milliseconds, 10 to an hour's 3,600,000.
///
/// Compared by a clock that moves with the kernel's ticks, every 1 to 10 ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StaleAfter(u32);

impl StaleAfter {
    /// A tenth of a second.
    pub const DEFAULT: Self = Self(100);

    /// So many milliseconds; `None` unless between 10 and 3,600,000.
    pub const fn from_millis(millis: u32) -> Option<Self> {
        if millis >= 10 && millis <= 3_600_000 { Some(Self(millis)) } else { None }
    }

    /// In milliseconds.
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

/// A member's part in the balancing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Enrolled, but not in the table: it gets nothing.
    Standby,
    /// In the table.
    Active,
    /// Out of the table: no new connection or flow chooses it; what it has, it finishes.
    Draining,
}
