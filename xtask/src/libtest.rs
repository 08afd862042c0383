//! What test binaries print, added up, and which tests are slow.

use std::fmt;
use std::ops::AddAssign;

/// Names of tests that take seconds begin with this; `--quick` leaves them out.
pub(crate) const SLOW: &str = "slow_";

/// What a test of `test-support`'s `feature::require` prints where it does not run.
const SKIPPED: &str = "skipped: this kernel has no ";

/// What the lines `test result: ok. 3 passed; 0 failed; 1 ignored; ...` add up to.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
    pub(crate) filtered: u64,
    /// Of those that passed, or rather returned: tests that the kernel has not what it takes for.
    pub(crate) skipped: u64,
}

impl Counts {
    /// Takes a line of a test binary's output into account.
    pub(crate) fn add(&mut self, line: &str) {
        if line.contains(SKIPPED) {
            self.skipped += 1;
        }
        let Some(result) = line.strip_prefix("test result: ") else { return };
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

/// `12 passed, 1 failed, 3 left out`: what is 0 is not mentioned, except for those that passed.
impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed", self.passed)?;
        for (number, what) in [
            (self.failed, "failed"),
            (self.ignored, "ignored"),
            (self.filtered, "left out"),
            (self.skipped, "skipped for want of a kernel feature"),
        ] {
            if number > 0 {
                write!(f, ", {number} {what}")?;
            }
        }
        Ok(())
    }
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
            "7 passed, 2 failed, 1 ignored, 13 left out, 1 skipped for want of a kernel feature"
        );
        counts += Counts { passed: 1, ..Counts::default() };
        assert_eq!(counts.passed, 8);
    }
}
