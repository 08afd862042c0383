//! A group that is not there yet, and is to be followed once it is.

use std::time::{Duration, Instant};

use super::seen::Port;

/// How often to look for it without an event.
const REGULARLY: Duration = Duration::from_secs(2);

/// How often to look for it after a socket came to the port. The first pause is a millisecond, and each is twice
/// the one before: the kernel reports a listener a moment before it joins its group.
const TRIES: u32 = 6;

#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) id: u32,
    pub(crate) ports: Vec<Port>,
    next: Instant,
    tries: u32,
}

impl Expected {
    pub(crate) fn new(now: Instant, id: u32, ports: Vec<Port>) -> Self {
        Self { id, ports, next: now, tries: TRIES }
    }

    /// A socket came to one of the ports, or left one.
    pub(crate) fn changed(&mut self, now: Instant) {
        (self.tries, self.next) = (0, now);
    }

    /// Whether to look for it now, once.
    pub(crate) fn is_due(&mut self, now: Instant) -> bool {
        if self.next > now {
            return false;
        }
        let pause =
            if self.tries < TRIES { Duration::from_millis(1 << self.tries) } else { REGULARLY };
        (self.tries, self.next) = (self.tries.saturating_add(1), now + pause);
        true
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.next
    }
}
