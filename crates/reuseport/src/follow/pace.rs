//! How often to look at groups.

use std::time::Duration;

/// How often a group is looked at where no event tells of changes: UDP in another network namespace.
pub(crate) const WITHOUT_EVENTS: Duration = Duration::from_millis(150);

/// How often a group is looked at without an event: one may have been lost, attaching a program is none, and a
/// failed step may succeed now.
pub(crate) const REGULARLY: Duration = Duration::from_secs(2);

/// The pause after a look, in multiples of its cost: with the regular looks, what is polled takes less than 1 % of a
/// core.
const SHARE: u32 = 150;

/// The pause after a look that took `cost` of a core's time: `least`, or longer if looks that often take too much.
pub(crate) fn pause(least: Duration, cost: Duration) -> Duration {
    least.max(cost.saturating_mul(SHARE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dear_looks_are_rare() {
        let ms = Duration::from_millis;
        assert_eq!(pause(ms(50), Duration::from_micros(300)), ms(50));
        assert_eq!(pause(ms(50), ms(3)), ms(450));
        assert_eq!(pause(ms(50), Duration::MAX), Duration::MAX);
    }
}
