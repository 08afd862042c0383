//! What test binaries print, added up, and which tests are slow.

use std::fmt;
use std::ops::AddAssign;

/// Names of tests that take seconds begin with this; `--quick` leaves them out.
pub(crate) const SLOW: &str = "slow_";

/// Names of ignored tests that take minutes begin with this; `cargo xtask soak` runs them.
pub(crate) const SOAK: &str = "soak_";

/// Names of ignored tests that take servers which the other tests do not need begin with this; `cargo xtask
/// interop` runs them.
pub(crate) const INTEROP: &str = "interop_";

/// Tests whose outcome does not depend on the kernel's version have one of these in their paths: modules
/// of integration tests, and the modules of `reuseport` without I/O. `cargo xtask vm` leaves them out.
pub(crate) const ANY_KERNEL: [&str; 3] = ["any_kernel::", "model::", "wire::"];

/// What `test-support`'s `feature::require` prints when it skips a test.
const SKIPPED: &str = "skipped: this kernel has no ";

/// The sum of the lines `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
    pub(crate) filtered: u64,
    /// Tests that returned early, because the kernel lacks a feature; they count as passed, too.
    pub(crate) skipped: u64,
}

impl Counts {
    /// Adds a line of a test binary's output.
    pub(crate) fn add(&mut self, line: &str) {
        if line.contains(SKIPPED) {
            self.skipped += 1;
        }
        let Some(result) = line.strip_prefix(RESULT) else { return };
        let words: Vec<&str> = result.split([' ', ';', '.']).filter(|w| !w.is_empty()).collect();
        for pair in words.windows(2) {
            let Ok(number) = pair[0].parse::<u64>() else { continue };
            match pair[1] {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                "filtered" => self.filtered += number,
                _ => {}
            }
        }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.filtered += other.filtered;
        self.skipped += other.skipped;
    }
}

/// `12 passed, 1 failed, 3 filtered out`, without counts of 0.
impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed", self.passed)?;
        for (number, what) in [
            (self.failed, "failed"),
            (self.ignored, "ignored"),
            (self.filtered, "filtered out"),
            (self.skipped, "skipped because the kernel lacks a feature"),
        ] {
            if number > 0 {
                write!(f, ", {number} {what}")?;
            }
        }
        Ok(())
    }
}

/// The beginning of the line with which a test binary ends.
pub(crate) const RESULT: &str = "test result: ";

/// Whether this is the line with which a test binary begins: `running 3 tests`.
pub(crate) fn begins(line: &str) -> bool {
    let number = line.strip_prefix("running ").and_then(|rest| rest.split_once(" test"));
    number.is_some_and(|(number, s)| number.parse::<u64>().is_ok() && matches!(s, "" | "s"))
}

/// A test's name and seconds, from `test a::b ... ok <0.123s>`: libtest's --report-time.
pub(crate) fn timed(line: &str) -> Option<(&str, f64)> {
    let (name, rest) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let (_, time) = rest.rsplit_once('<')?;
    Some((name, time.strip_suffix("s>")?.parse().ok()?))
}

/// The name of a test that failed, from `test a::b ... FAILED <0.123s>`.
pub(crate) fn failed(line: &str) -> Option<&str> {
    let (name, result) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let name = name.strip_suffix(" - should panic").unwrap_or(name);
    result.contains("FAILED").then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_add_up_and_others_do_not() {
        let mut counts = Counts::default();
        for line in [
            "running 5 tests",
            "test 7 passed ... ok",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 12 filtered out; \
             finished in 0.00s",
            "test a ... a skipped: this kernel has no migration of connections",
            "test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 1 filtered out; \
             finished in 2.71s",
        ] {
            counts.add(line);
        }
        let expected = Counts { passed: 7, failed: 2, ignored: 1, filtered: 13, skipped: 1 };
        assert_eq!(counts, expected);
        assert_eq!(
            counts.to_string(),
            "7 passed, 2 failed, 1 ignored, 13 filtered out, \
             1 skipped because the kernel lacks a feature"
        );
        assert!(begins("running 1 test") && begins("running 12 tests"));
        assert!(!begins("running a test") && !begins("test result: ok. 1 passed"));
        assert_eq!(timed("test a::b ... ok <0.250s>"), Some(("a::b", 0.25)));
        assert_eq!(timed("test a::b ... ok"), None);
        assert_eq!(failed("test a::b ... \u{1b}[31mFAILED\u{1b}(B\u{1b}[m <0.250s>"), Some("a::b"));
        assert_eq!(failed("test a::b ... ok <0.250s>"), None);
        assert_eq!(failed("test a::b - should panic ... FAILED"), Some("a::b"));
        counts += Counts { passed: 1, ..Counts::default() };
        assert_eq!(counts.passed, 8);
    }
}
