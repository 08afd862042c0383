//! Waiting for a condition, with a bound. Tests do not sleep: they say what they wait for.
//!
//! On a machine that is slower than any real one (`cargo xtask vm` emulates one) all bounds given to
//! these functions become that many times longer. Where a test itself compares times, it takes
//! [`scaled`] ones.

use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

/// The bound to take where there is no reason for another: long enough for a busy machine.
pub const BOUND: Duration = Duration::from_secs(10);

/// The environment variable that says how many times slower than a real machine this one is.
pub const SLOWNESS: &str = "REUSEPORT_TEST_SLOWNESS";

const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// A time as this machine takes it: so many times longer as [`SLOWNESS`] says, as it is without it.
///
/// # Panics
///
/// If [`SLOWNESS`] is no whole number from 1 on.
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
        _ => panic!("{SLOWNESS}={value} is no whole number from 1 on"),
    }
}

/// A number of repetitions: `count`, and on a slower machine as many as take about as long.
pub fn times(count: usize) -> usize {
    let slowness = scaled(Duration::from_secs(1)).as_secs();
    count / usize::try_from(slowness).unwrap_or(usize::MAX)
}

/// Waits for what takes less than a millisecond, without sleeping.
///
/// # Panics
///
/// With `what` was waited for, if it does not hold within [`BOUND`].
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
/// With `what` was waited for, if it does not hold within `bound`.
#[track_caller]
pub fn until(what: &str, bound: Duration, mut condition: impl FnMut() -> bool) {
    until_some(what, bound, || condition().then_some(()));
}

/// Waits until `probe` returns something, and returns it.
///
/// # Panics
///
/// With `what` was waited for, if it returns nothing within `bound`.
#[track_caller]
pub fn until_some<T>(what: &str, bound: Duration, probe: impl FnMut() -> Option<T>) -> T {
    match poll(bound, probe) {
        Some(found) => found,
        None => panic!("waited {:?} in vain: {what}", scaled(bound)),
    }
}

/// What `probe` returns within `bound`, if anything. It is asked once more when time is up, so a
/// machine too busy to run us does not make it fail.
pub fn poll<T>(bound: Duration, probe: impl FnMut() -> Option<T>) -> Option<T> {
    poll_unscaled(scaled(bound), probe)
}

/// Like [`poll`], for a time that is the same on every machine.
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
    fn panics_with_what_was_waited_for() {
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
    fn asks_even_when_there_is_no_time() {
        assert_eq!(poll(Duration::ZERO, || Some(1)), Some(1));
    }
}
