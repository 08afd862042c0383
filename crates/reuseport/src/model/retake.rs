//! How often a watcher takes a group back from another owner's program. A rule without a clock.

use std::time::Duration;

/// At most one attempt in this time.
const PAUSE: Duration = Duration::from_secs(60);

/// The most attempts of one watcher.
const MOST: u32 = 5;

/// The attempts so far. Times count from any fixed moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Attempts {
    count: u32,
    last: Option<Duration>,
}

/// Whether a watcher takes back a group in which another owner's program replaced this tool's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retake {
    /// It was not asked to: it waits until that program is gone.
    Off,
    /// It does so now.
    Now,
    /// It did so less than a minute ago, and does it again after this time.
    After(Duration),
    /// It has done so five times, and gives up.
    GivenUp,
}

impl Retake {
    /// Whether it is to be reported, after what was reported of the same program.
    pub(crate) fn is_news_after(self, reported: Option<Self>) -> bool {
        reported.is_none_or(|reported| self == Self::GivenUp && reported != Self::GivenUp)
    }
}

impl Attempts {
    /// Whether the group may be taken back at `now`.
    pub(crate) fn at(&self, now: Duration) -> Retake {
        let next = self.last.map_or(Duration::ZERO, |last| last.saturating_add(PAUSE));
        match next.checked_sub(now).filter(|left| !left.is_zero()) {
            _ if self.count >= MOST => Retake::GivenUp,
            Some(left) => Retake::After(left),
            None => Retake::Now,
        }
    }

    /// Notes an attempt, successful or not.
    pub(crate) fn note(&mut self, now: Duration) {
        *self = Self { count: self.count.saturating_add(1), last: Some(now) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    #[test]
    fn once_a_minute_and_five_times() {
        let mut attempts = Attempts::default();
        for minute in 0..5 {
            let now = PAUSE * minute;
            assert_eq!(attempts.at(now), Retake::Now);
            attempts.note(now);
            let soon = now + Duration::from_secs(1);
            let left = PAUSE - Duration::from_secs(1);
            let wanted = if minute < 4 { Retake::After(left) } else { Retake::GivenUp };
            assert_eq!(attempts.at(soon), wanted);
        }
        assert_eq!(attempts.at(PAUSE * 1000), Retake::GivenUp);
    }

    #[test]
    fn a_program_is_reported_once_and_that_the_watcher_gives_up() {
        let after = Retake::After(PAUSE);
        for first in [Retake::Off, Retake::Now, after, Retake::GivenUp] {
            assert!(first.is_news_after(None));
            assert!(!first.is_news_after(Some(first)));
        }
        assert!(!after.is_news_after(Some(Retake::Now)));
        assert!(!Retake::Now.is_news_after(Some(after)));
        assert!(Retake::GivenUp.is_news_after(Some(after)));
        assert!(Retake::GivenUp.is_news_after(Some(Retake::Now)));
    }

    proptest! {
        /// Whenever a watcher looks: never two attempts within a minute, never more than five.
        #[test]
        fn never_more_often(pauses in vec(0..200u64, 0..50)) {
            let (mut attempts, mut now, mut made) = (Attempts::default(), Duration::ZERO, Vec::new());
            for pause in pauses {
                now += Duration::from_secs(pause);
                if attempts.at(now) == Retake::Now {
                    attempts.note(now);
                    made.push(now);
                }
            }
            prop_assert!(made.len() <= 5);
            prop_assert!(made.windows(2).all(|pair| pair[1] - pair[0] >= PAUSE));
        }
    }
}
