//! Tests that failed, once more and one at a time: next to others, a test may run out of time on a busy machine.
//! What fails alone is wrong. Both runs are shown, and the last line names these tests: they are to be mended.

use std::fmt;

use anyhow::{Result, bail};

use crate::libtest::Counts;

/// How many failed tests are run again.
const FEW: u64 = 5;

/// These tests, if they are all that failed and if they are few.
pub(crate) fn if_few(failed: Vec<String>, counts: Counts) -> Option<Vec<String>> {
    let named = failed.len() as u64 == counts.failed;
    (named && (1..=FEW).contains(&counts.failed)).then_some(failed)
}

/// libtest's arguments that run these tests alone, one after the other.
pub(crate) fn alone(tests: &[String]) -> impl Iterator<Item = &str> {
    ["--test-threads=1", "--exact"].into_iter().chain(tests.iter().map(String::as_str))
}

/// The counts of both runs, if each of these tests passed in the second one.
///
/// The names may come from a console where the kernel prints, too: a name that is garbled is no test's, and
/// libtest runs nothing for it.
pub(crate) fn add_up(failed: &[String], first: Counts, second: Counts) -> Result<Counts> {
    if second.failed > 0 || second.passed < failed.len() as u64 {
        let (passed, all) = (second.passed, failed.len());
        bail!("{passed} of {all} failed tests passed alone: {}", failed.join(", "));
    }
    Ok(Counts { passed: first.passed + first.failed, failed: 0, ..first })
}

/// Tests that failed next to others and passed alone.
#[derive(Debug, Default)]
pub(crate) struct PassedAlone(pub(crate) Vec<String>);

/// `; FAILED NEXT TO OTHERS, passed alone: a::b`, or nothing.
impl fmt::Display for PassedAlone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        write!(f, "; FAILED NEXT TO OTHERS, passed alone: {}", self.0.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().copied().map(str::to_owned).collect()
    }

    #[test]
    fn few_failed_tests_that_are_all_named_run_again() {
        let of = |failed: &[&str], counted| {
            if_few(names(failed), Counts { failed: counted, ..Counts::default() })
        };
        assert_eq!(of(&["a", "b"], 2), Some(names(&["a", "b"])));
        assert_eq!(of(&[], 0), None);
        assert_eq!(of(&["a"], 2), None, "one is not named");
        assert_eq!(of(&["a", "b", "c", "d", "e", "f"], 6), None, "many");
        assert_eq!(alone(&names(&["a::b"])).last(), Some("a::b"));
    }

    #[test]
    fn every_failed_test_has_to_pass_alone() {
        let failed = names(&["a::b", "[ 7.5] a::c"]);
        let first = Counts { passed: 10, failed: 2, skipped: 1, ..Counts::default() };
        let second = |passed, failed_again| {
            let counts = Counts { passed, failed: failed_again, ..Counts::default() };
            add_up(&failed, first, counts)
        };
        assert_eq!(second(2, 0).unwrap(), Counts { passed: 12, failed: 0, ..first });
        // Two packages may have tests of one name.
        assert_eq!(second(3, 0).unwrap().passed, 12);
        assert!(second(2, 1).is_err());
        let error = second(1, 0).unwrap_err().to_string();
        assert_eq!(error, "1 of 2 failed tests passed alone: a::b, [ 7.5] a::c");
    }
}
