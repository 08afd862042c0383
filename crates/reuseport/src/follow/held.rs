//! The members of a group that are on standby until a thread waits for connections on them: when to look whether one
//! does. Without such members, there is nothing to look at.

use std::time::{Duration, Instant};

use super::pace::{REGULARLY, pause, while_held};
use crate::model::held::HeldSocket;
use crate::model::id::Cookie;

#[derive(Debug, Default)]
pub(super) struct Held {
    sockets: Vec<HeldSocket>,
    /// Since when the last of them is.
    since: Option<Instant>,
    /// When to look.
    next: Option<Instant>,
    /// Those for which a thread was seen to wait, and which no update has let serve yet.
    awaited: Vec<Cookie>,
}

impl Held {
    /// These are held now.
    pub(super) fn set(&mut self, now: Instant, sockets: Vec<HeldSocket>) {
        let is_new = |socket: &HeldSocket| !self.sockets.contains(socket);
        if sockets.iter().any(is_new) {
            (self.since, self.next) = (Some(now), Some(now + while_held(Duration::ZERO)));
        }
        if sockets.is_empty() {
            (self.since, self.next) = (None, None);
        }
        (self.sockets, self.awaited) = (sockets, Vec::new());
    }

    pub(super) fn sockets(&self) -> &[HeldSocket] {
        &self.sockets
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// The members that an update is to let serve.
    pub(super) fn awaited(&self) -> &[Cookie] {
        &self.awaited
    }

    /// The result of a look that cost this much: the sockets of all groups for which a thread waits; `None` if it failed.
    /// Returns whether an update is due: one of them is held here, or it is to say why the look failed.
    pub(super) fn looked(
        &mut self,
        now: Instant,
        awaited: Option<&[Cookie]>,
        cost: Duration,
    ) -> bool {
        let Some(awaited) = awaited else {
            self.fail(now);
            return true;
        };
        let held_for = self.since.map_or(Duration::ZERO, |since| now.duration_since(since));
        self.next = Some(now + pause(while_held(held_for), cost));
        let cookies = self.sockets.iter().map(|(cookie, _)| *cookie);
        self.awaited = cookies.filter(|cookie| awaited.contains(cookie)).collect();
        !self.awaited.is_empty()
    }

    /// The update failed, or did not come about.
    pub(super) fn fail(&mut self, now: Instant) {
        self.next = self.next.map(|_| now + REGULARLY);
    }

    /// No member is left.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
