//! Waiting for a condition, with a bound. Tests do not sleep: they say what they wait for.

use std::thread;
use std::time::{Duration, Instant};

/// The bound to take where there is no reason for another: long enough for a busy machine.
pub const BOUND: Duration = Duration::from_secs(10);

const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

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
        None => panic!("waited {bound:?} in vain: {what}"),
    }
}

/// What `probe` returns within `bound`, if anything. It is asked once more when time is up, so a
/// machine too busy to run us does not make it fail.
pub fn poll<T>(bound: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
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
    #[should_panic(expected = "waited 5ms in vain: pigs to fly")]
    fn panics_with_what_was_waited_for() {
        until("pigs to fly", Duration::from_millis(5), || false);
    }

    #[test]
    fn asks_even_when_there_is_no_time() {
        assert_eq!(poll(Duration::ZERO, || Some(1)), Some(1));
    }
}
