//! Groups that are not there yet, and are to be followed once they are.

use std::time::{Duration, Instant};

use super::pace::{REGULARLY, resting};
use super::seen::Port;
use crate::model::group::Protocol;

/// How often to look for them after a socket came to the port. The first pause is a millisecond, and each is twice
/// the one before: the kernel reports a listener a moment before it joins its group.
const TRIES: u32 = 6;

/// Of how many regular looks for UDP groups one takes in the whole host: sockets of a network namespace with a UDP
/// table of its own are found by their descriptors alone.
const WHOLE: u32 = 15;

#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) id: u32,
    pub(crate) ports: Vec<Port>,
    next: Instant,
    tries: u32,
    /// The regular looks so far.
    looks: u32,
    /// Those since something happened on the ports.
    quiet: u32,
    /// Whether events tell of all sockets that come to the ports.
    rests: bool,
    /// Whether the present look is for these groups, too.
    pub(crate) is_looked_for: bool,
}

impl Expected {
    pub(crate) fn new(now: Instant, id: u32, ports: Vec<Port>, rests: bool) -> Self {
        let (tries, is_looked_for) = (TRIES, false);
        Self { id, ports, next: now, tries, looks: 0, quiet: 0, rests, is_looked_for }
    }

    pub(crate) fn covers(&self, port: Port) -> bool {
        self.ports.iter().any(|of| of.covers(port))
    }

    /// Something happened, or may happen, of which no event tells.
    pub(crate) fn stir(&mut self, now: Instant) {
        (self.quiet, self.next) = (0, self.next.min(now + REGULARLY));
    }

    /// A socket came to one of the ports, or left one.
    pub(crate) fn changed(&mut self, now: Instant) {
        self.quiet = 0;
        if self.tries >= TRIES {
            (self.tries, self.next) = (0, now);
        }
        // It is being looked for; sockets that come one after the other are looked for together.
        self.tries = self.tries.min(TRIES - 2);
    }

    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.next <= now
    }

    /// Whether to look for them now rather than a bit later.
    pub(crate) fn is_due_soon(&self, now: Instant) -> bool {
        self.next <= now + REGULARLY / 4
    }

    pub(crate) fn is_udp(&self) -> bool {
        self.ports.iter().any(|port| port.protocol == Protocol::Udp)
    }

    /// Whether the kernel's tables alone do not do this time.
    pub(crate) fn needs_whole_host(&self) -> bool {
        self.is_udp() && self.looks.is_multiple_of(WHOLE)
    }

    /// The present look is for them, too.
    pub(crate) fn look(&mut self, now: Instant) {
        let is_regular = self.tries >= TRIES;
        let pause = match is_regular {
            false => Duration::from_millis(1 << self.tries),
            true if self.rests => resting(REGULARLY, self.quiet),
            true => REGULARLY,
        };
        self.looks = self.looks.wrapping_add(u32::from(is_regular));
        self.quiet = self.quiet.saturating_add(u32::from(is_regular));
        (self.tries, self.next) = (self.tries.saturating_add(1), now + pause);
        self.is_looked_for = true;
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.next
    }
}
