//! Waiting for a condition, with a bound. Tests do not sleep.
//!
//! On an emulated machine (`cargo xtask vm`) all bounds are longer, by the factor in [`SLOWNESS`].
//! A test that compares times itself uses [`scaled`] ones.

use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

/// The default bound, long enough for a busy machine.
pub const BOUND: Duration = Duration::from_secs(10);

/// The environment variable with the factor by which this machine is slower than a real one.
pub const SLOWNESS: &str = "REUSEPORT_TEST_SLOWNESS";

const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// A time on this machine: multiplied by [`SLOWNESS`], if that is set.
///
/// # Panics
///
/// If [`SLOWNESS`] is not a positive integer.
pub fn scaled(time: Duration) -> Duration {
    static FACTOR: LazyLock<u32> = LazyLock::new(|| match std::env::var(SLOWNESS) {
        Err(std::env::VarError::NotPresent) => 1,
        value => parse_slowness(value.as_deref().unwrap_or("not UTF-8")),
    });
    time * *FACTOR
}

fn parse_slowness(value: &str) -> u32 {
    match value.parse() {
        Ok(factor @ 1..) => factor,
        _ => panic!("{SLOWNESS}={value} is not a positive integer"),
    }
}

/// A number of repetitions: `count`, divided by [`SLOWNESS`], so that they take about the same
/// time.
pub fn times(count: usize) -> usize {
    let slowness = scaled(Duration::from_secs(1)).as_secs();
    count / usize::try_from(slowness).unwrap_or(usize::MAX)
}

/// Like [`times`], but at least `fewest`.
pub fn times_or(count: usize, fewest: usize) -> usize {
    times(count).max(fewest)
}

/// Waits, without sleeping, for a condition that takes less than a millisecond.
///
/// # Panics
///
/// If it does not hold within [`BOUND`]; the message has `what`.
#[track_caller]
pub fn soon(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < scaled(BOUND), "waited in vain: {what}");
        thread::yield_now();
    }
}

/// Waits until `condition` holds.
///
/// # Panics
///
/// If it does not hold within `bound`; the message has `what`.
#[track_caller]
pub fn until(what: &str, bound: Duration, mut condition: impl FnMut() -> bool) {
    until_some(what, bound, || condition().then_some(()));
}

/// Waits until `probe` returns a value, and returns it.
///
/// # Panics
///
/// If it returns none within `bound`; the message has `what`.
#[track_caller]
pub fn until_some<T>(what: &str, bound: Duration, probe: impl FnMut() -> Option<T>) -> T {
    match poll(bound, probe) {
        Some(found) => found,
        None => panic!("waited {:?} in vain: {what}", scaled(bound)),
    }
}

/// The value that `probe` returns within `bound`, if any. It is called once more after the bound,
/// so that it does not fail on a machine too busy to run it in time.
pub fn poll<T>(bound: Duration, probe: impl FnMut() -> Option<T>) -> Option<T> {
    poll_unscaled(scaled(bound), probe)
}

/// Like [`poll`], with the same bound on every machine.
pub(crate) fn poll_unscaled<T>(bound: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let late = start.elapsed() >= bound;
        if let Some(found) = probe() {
            return Some(found);
        }
        if late {
            return None;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_as_soon_as_the_condition_holds() {
        let mut asked = 0;
        let found = until_some("three", BOUND, || {
            asked += 1;
            (asked == 3).then_some(asked)
        });
        assert_eq!(found, 3);
    }

    #[test]
    #[should_panic(expected = "ms in vain: pigs to fly")]
    fn a_timeout_panics_with_the_description() {
        until("pigs to fly", Duration::from_millis(5), || false);
    }

    #[test]
    fn slowness_is_a_factor() {
        assert_eq!(parse_slowness("10"), 10);
        assert!(scaled(BOUND) >= BOUND);
        for wrong in ["", "0", "-1", "1.5", "ten"] {
            assert!(std::panic::catch_unwind(|| parse_slowness(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn probes_once_even_without_time() {
        assert_eq!(poll(Duration::ZERO, || Some(1)), Some(1));
    }
}
