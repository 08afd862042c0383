//! Fault models of a worker: it hangs, fails fast, drops connections, or stops accepting.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How long a worker hangs.
pub(super) const HANG: Duration = Duration::from_millis(400);
/// From the beginning of one hang to the next.
const PERIOD: Duration = Duration::from_secs(1);
/// From the first connection to the first hang.
const FIRST: Duration = Duration::from_millis(200);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Temper {
    /// Does what it is asked.
    Steady,
    /// Sleeps for 400 ms once a second, whatever comes.
    Hangs,
    /// Accepts and closes at once.
    FailsFast,
    /// Closes all its connections and then sleeps for 400 ms, once a second.
    DropsAndHangs,
    /// Never accepts.
    StopsAccepting,
}

/// When a worker hangs next. The first connection sets it, so that every measurement begins alike.
#[derive(Debug, Default)]
pub(super) struct NextHang(Option<Instant>);

impl NextHang {
    /// The worker has a connection.
    pub(super) fn accepted(&mut self, temper: Temper, now: Instant) {
        if matches!(temper, Temper::Hangs | Temper::DropsAndHangs) && self.0.is_none() {
            self.0 = Some(now + FIRST);
        }
    }

    /// How long until the worker hangs; `None`: it does not.
    pub(super) fn until(&self, now: Instant) -> Option<Duration> {
        self.0.map(|next| next.saturating_duration_since(now))
    }

    /// Whether the worker is to hang now.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let due = self.0.filter(|next| *next <= now);
        self.0 = due.map_or(self.0, |due| Some(due + PERIOD));
        due.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_hangs_once_a_second_from_its_first_connection_on() {
        let (start, mut next) = (Instant::now(), NextHang::default());
        assert_eq!(next.until(start), None);
        next.accepted(Temper::Hangs, start);
        next.accepted(Temper::Hangs, start + FIRST / 2); // changes nothing
        assert_eq!(next.until(start), Some(FIRST));
        assert!(!next.is_due(start));
        assert!(next.is_due(start + FIRST));
        assert!(!next.is_due(start + FIRST + HANG));
        assert!(next.is_due(start + FIRST + PERIOD));
    }

    #[test]
    fn the_others_never_do() {
        for temper in [Temper::Steady, Temper::FailsFast, Temper::StopsAccepting] {
            let mut next = NextHang::default();
            next.accepted(temper, Instant::now());
            assert_eq!(next.until(Instant::now()), None);
        }
    }
}
