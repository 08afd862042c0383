//! How a worker misbehaves, of itself: as one does that waits for a disk, a lock or a database.

use std::time::{Duration, Instant};

/// How long it hangs.
pub(super) const HANG: Duration = Duration::from_millis(400);
/// From the beginning of one hang to the next.
const AGAIN: Duration = Duration::from_secs(1);
/// From its first connection to its first hang.
const FIRST: Duration = Duration::from_millis(200);

/// What kind of worker it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Temper {
    /// It does what it is asked.
    Steady,
    /// It sleeps for 400 ms once a second, whatever comes.
    Hangs,
    /// It accepts and closes at once.
    FailsFast,
    /// It closes all its connections and then sleeps for 400 ms, once a second.
    DropsAndHangs,
    /// It never accepts.
    StopsAccepting,
}

impl Temper {
    fn is_restless(self) -> bool {
        matches!(self, Self::Hangs | Self::DropsAndHangs)
    }
}

/// When it hangs next. It begins with the first connection, so that it is at the same point of each
/// measurement.
#[derive(Debug)]
pub(super) struct Moods {
    temper: Temper,
    next: Option<Instant>,
}

impl Moods {
    pub(super) fn new(temper: Temper) -> Self {
        Self { temper, next: None }
    }

    /// It has a connection.
    pub(super) fn accepted(&mut self, now: Instant) {
        if self.temper.is_restless() && self.next.is_none() {
            self.next = Some(now + FIRST);
        }
    }

    /// How long until it hangs; `None`: it does not.
    pub(super) fn until(&self, now: Instant) -> Option<Duration> {
        self.next.map(|next| next.saturating_duration_since(now))
    }

    /// Whether it is to hang now.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let due = self.next.filter(|next| *next <= now);
        if let Some(due) = due {
            self.next = Some(due + AGAIN);
        }
        due.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_hangs_once_a_second_from_its_first_connection_on() {
        let start = Instant::now();
        let mut moods = Moods::new(Temper::Hangs);
        assert_eq!(moods.until(start), None);
        moods.accepted(start);
        moods.accepted(start + FIRST / 2); // changes nothing
        assert_eq!(moods.until(start), Some(FIRST));
        assert!(!moods.is_due(start));
        assert!(moods.is_due(start + FIRST));
        assert!(!moods.is_due(start + FIRST + HANG));
        assert!(moods.is_due(start + FIRST + AGAIN));
    }

    #[test]
    fn the_others_never_do() {
        for temper in [Temper::Steady, Temper::FailsFast, Temper::StopsAccepting] {
            let mut moods = Moods::new(temper);
            moods.accepted(Instant::now());
            assert_eq!(moods.until(Instant::now()), None);
        }
    }
}
