//! How far a reload is. Values.

use std::time::{Duration, Instant};

use super::event::{Reload, Why};

/// How far a reload is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    Idle,
    /// Its sockets are being made.
    Preparing {
        new: u32,
        reload: Reload,
    },
    Readying {
        new: u32,
        until: Instant,
        trial: Option<Duration>,
    },
    Trying {
        new: u32,
        trial: Duration,
        until: Option<Instant>,
    },
    Promoting {
        new: u32,
    },
    /// The new one serves; the old one only drains, and can serve again.
    Probation {
        old: u32,
        until: Instant,
    },
    /// The old one serves again as soon as the kernel says so.
    RollingBack {
        new: u32,
        old: u32,
        why: Why,
    },
    Draining {
        old: u32,
        until: Instant,
        due: bool,
    },
    Retiring {
        old: u32,
        killed: bool,
    },
    /// The new one ends.
    Discarding {
        new: u32,
        why: Why,
    },
    Stopping,
    Over,
}
