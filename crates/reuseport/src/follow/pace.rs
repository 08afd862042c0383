//! How often to look at groups.

use std::time::Duration;

/// How often a group is looked at where no event tells of changes: UDP in another network namespace.
pub(crate) const WITHOUT_EVENTS: Duration = Duration::from_millis(150);

/// How often a group is looked at without an event of its sockets: attaching a program is none, and a failed step may
/// succeed now.
pub(crate) const REGULARLY: Duration = Duration::from_secs(2);

/// How often a group is looked at that rests: events tell of all that concerns it.
pub(crate) const RARELY: Duration = Duration::from_secs(300);

/// After how many regular looks that find nothing new a group rests.
pub(crate) const STEADY: u32 = 4;

/// The pause after this many looks that found nothing new. `regular`: that of a group that does not rest.
pub(crate) fn resting(regular: Duration, looks: u32) -> Duration {
    if looks < STEADY { regular } else { regular.max(RARELY) }
}

/// How often to look whether a thread waits for members that are held, for this long so far: those that take longer to
/// begin may be noticed later.
pub(crate) fn while_held(held_for: Duration) -> Duration {
    (held_for / 100).clamp(Duration::from_millis(10), Duration::from_millis(250))
}

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
    fn what_is_held_for_long_is_looked_at_less_often() {
        let (ms, s) = (Duration::from_millis, Duration::from_secs);
        let paces = [0, 1, 5, 100].map(|held_for| while_held(s(held_for)));
        assert_eq!(paces, [ms(10), ms(10), ms(50), ms(250)]);
    }

    #[test]
    fn dear_looks_are_rare() {
        let ms = Duration::from_millis;
        assert_eq!(pause(ms(50), Duration::from_micros(300)), ms(50));
        assert_eq!(pause(ms(50), ms(3)), ms(450));
        assert_eq!(pause(ms(50), Duration::MAX), Duration::MAX);
    }
}
