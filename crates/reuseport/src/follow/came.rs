//! Sockets of which events told that they came to the port of a group.
//!
//! A TCP listener is not in its group yet: the kernel reports the change of state a moment before it joins. A UDP
//! socket is, and may leave it again by connecting, so it is looked for once it may be enrolled. They may also belong
//! to another group on the same port, or be members that listen again.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use crate::model::group::Protocol;
use crate::model::id::Cookie;
use crate::model::membership::SETTLE;

/// How often to look for a listener that has come, after the first time. The first pause is a millisecond, and each
/// is twice the one before.
const TRIES: u32 = 6;

/// UDP sockets are looked for together: a server may bind hundreds in a second.
const TOGETHER: Duration = Duration::from_millis(50);

/// The time, or a bit more: a multiple of [`TOGETHER`].
fn to_next(time: Duration) -> Duration {
    let nanoseconds = time.as_nanos().next_multiple_of(TOGETHER.as_nanos());
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

#[derive(Debug)]
pub(super) struct Came {
    protocol: Protocol,
    /// With the time from which on each may be enrolled, and its process.
    cookies: BTreeMap<Cookie, (Instant, u32)>,
    /// When the first one came.
    began: Option<Instant>,
    tries: u32,
    /// When to look again.
    again: Option<Instant>,
    is_found: bool,
}

impl Came {
    pub(super) fn new(protocol: Protocol) -> Self {
        let cookies = BTreeMap::new();
        Self { protocol, cookies, began: None, tries: 0, again: None, is_found: false }
    }

    /// A process let this socket listen, or bound it.
    pub(super) fn note(&mut self, now: Instant, cookie: Cookie, process: u32) {
        let began = *self.began.get_or_insert(now);
        let from = match self.protocol {
            Protocol::Udp => began + to_next(now + SETTLE - began),
            Protocol::Tcp => now,
        };
        self.cookies.insert(cookie, (from, process));
        self.begin();
    }

    fn begin(&mut self) {
        (self.tries, self.again, self.is_found) = (0, None, false);
    }

    /// When the first one came.
    pub(super) fn began(&self) -> Option<Instant> {
        self.began
    }

    /// This socket has gone. Returns whether there are others.
    pub(super) fn forget(&mut self, cookie: Cookie) -> bool {
        self.cookies.remove(&cookie);
        !self.cookies.is_empty()
    }

    pub(super) fn processes(&self) -> impl Iterator<Item = u32> {
        self.cookies.values().map(|(_, process)| *process)
    }

    /// When UDP sockets were bound.
    pub(super) fn bound(&self) -> impl Iterator<Item = (Cookie, Instant)> {
        let udp = self.cookies.iter().filter(|_| self.protocol == Protocol::Udp);
        udp.filter_map(|(cookie, (from, _))| Some((*cookie, from.checked_sub(SETTLE)?)))
    }

    /// When to look for them.
    pub(super) fn next(&self) -> Option<Instant> {
        self.again.or_else(|| self.cookies.values().map(|(from, _)| *from).min())
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next().is_none_or(|next| next <= now)
    }

    /// Whether some are not in any group yet, and are looked for again. In the end, they closed again, or join none.
    pub(super) fn are_awaited(&mut self, now: Instant, members: &HashSet<Cookie>) -> bool {
        !self.cookies.keys().all(|cookie| members.contains(cookie)) && self.waits(now)
    }

    /// Whether to look once more, after a pause: for listeners.
    pub(super) fn waits(&mut self, now: Instant) -> bool {
        if self.protocol == Protocol::Udp || self.tries >= TRIES {
            return false;
        }
        self.again = Some(now + Duration::from_millis(1 << self.tries));
        self.tries += 1;
        true
    }

    /// Whether some of those that may be enrolled are members of the group. The others of them are forgotten then.
    /// Returns whether any is left.
    pub(super) fn find(&mut self, now: Instant, is_member: impl Fn(Cookie) -> bool) -> bool {
        let mut due = self.cookies.iter().filter(|(_, (from, _))| *from <= now);
        self.is_found = due.any(|(cookie, _)| is_member(*cookie));
        self.is_found || self.keep_young(now)
    }

    /// Whether some were found: the update that is due enrols them.
    pub(super) fn is_found(&self) -> bool {
        self.is_found
    }

    /// Keeps those that may be enrolled later. Returns whether there are any.
    pub(super) fn keep_young(&mut self, now: Instant) -> bool {
        self.cookies.retain(|_, (from, _)| *from > now);
        self.begin();
        !self.cookies.is_empty()
    }
}
