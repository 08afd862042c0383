//! The probes on the running kernel: each finds its feature, or reports that it is missing.

use std::process::Command;

use test_support::feature::{self, Feature, Probe, require};
use test_support::process::{output, rerun_under};

/// Set in the copies of this test binary that the tests below run.
const PLAY: &str = "TEST_SUPPORT_PLAY";

#[test]
fn every_probe_finds_its_feature_or_the_kernel_is_older() {
    let features = [
        feature::MIGRATION,
        feature::TASK_FILE_ITERATOR,
        feature::SK_STORAGE_ITERATOR,
        feature::BTF_TRACEPOINT,
        feature::RING_BUFFER,
        feature::RDONLY_CAST,
    ];
    // It panics if the kernel should have the feature but does not.
    let found = features.iter().filter(|feature| require(feature)).count();
    assert!(found > 0, "every supported kernel has some of them");
}

#[test]
fn without_rights_a_probe_is_inconclusive() {
    if std::env::var_os(PLAY).is_some() {
        for feature in [feature::MIGRATION, feature::TASK_FILE_ITERATOR, feature::RING_BUFFER] {
            let probe = feature.probe();
            assert!(matches!(probe, Probe::Unknown(_)), "{feature:?}: {probe:?}");
        }
        return;
    }
    let mut command = Command::new(test_support::program("setpriv"));
    command.args(["--bounding-set", "-all", "--inh-caps", "-all"]);
    play(command, "without_rights_a_probe_is_inconclusive");
}

#[test]
fn a_skip_is_printed_by_a_passing_test() {
    const FUTURE: Feature = Feature::new("warp drive", (99, 0), || Probe::No);
    if std::env::var_os(PLAY).is_some() {
        assert!(!require(&FUTURE));
        return;
    }
    let said = play(Command::new("env"), "a_skip_is_printed_by_a_passing_test");
    let line = "a_skip_is_printed_by_a_passing_test skipped: this kernel has no warp drive ";
    assert!(said.contains(line), "{said}");
}

#[test]
#[should_panic(expected = "no wheel on a kernel new enough to have it (since Linux 2.6.0; this is")]
fn a_skip_on_a_kernel_that_is_new_enough_fails() {
    const OLD: Feature = Feature::new("wheel", (2, 6), || Probe::No);
    let _ = require(&OLD);
}

/// Runs one of these tests by itself, through `wrapper`, and returns what it printed.
fn play(wrapper: Command, test: &str) -> String {
    let mut command = rerun_under(wrapper, module_path!(), test);
    let output = output(command.env(PLAY, "1")).unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
    said
}
