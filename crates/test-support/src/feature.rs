//! Features of the kernel, found out by trying, and skipping the tests of what is not there.
//!
//! A skip must not hide anything: a test that skips on a kernel new enough to have the feature fails.
//! So does one that could not find out, unless [`SKIP_UNKNOWN`] is set.
//!
//! ```no_run
//! use test_support::feature::{self, require};
//!
//! # #[allow(clippy::test_attr_in_doctest)]
//! #[test]
//! fn connections_move_to_a_sibling() {
//!     if !require(&feature::MIGRATION) {
//!         return;
//!     }
//!     // ...
//! }
//! ```

mod probes;

use std::io::Write as _;
use std::thread;

use sk_reuseport::util::KernelVersion;

/// The environment variable that, set to anything but an empty value, lets tests skip where a probe
/// could not tell: on a machine without the rights to try, say.
pub const SKIP_UNKNOWN: &str = "REUSEPORT_TEST_SKIP_UNKNOWN";

/// A program that chooses where a connection goes whose listener closes (`sk_reuseport/migrate`).
pub const MIGRATION: Feature =
    Feature::new("migration of connections", (5, 14), || probes::program("migrate", ""));

/// An iterator over the open files of all processes (`iter/task_file`).
pub const TASK_FILE_ITERATOR: Feature =
    Feature::new("iterator over open files", (5, 8), || probes::program("task_file", "task_file"));

/// An iterator over the sockets that have an element in a socket storage
/// (`iter/bpf_sk_storage_map`).
pub const SK_STORAGE_ITERATOR: Feature =
    Feature::new("iterator over socket storage", (5, 9), || {
        probes::program("sk_storage", "bpf_sk_storage_map")
    });

/// Programs at tracepoints with the kernel's own types (`tp_btf`).
pub const BTF_TRACEPOINT: Feature = Feature::new("typed tracepoint", (5, 5), || {
    probes::program("tracepoint", "inet_sock_set_state")
});

/// Ring buffers between kernel and user space (`BPF_MAP_TYPE_RINGBUF`).
pub const RING_BUFFER: Feature = Feature::new("ring buffer", (5, 8), probes::ring_buffer);

/// What trying said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// The kernel has it.
    Yes,
    /// The kernel does not have it.
    No,
    /// There is no telling, and why: no rights to try, no memory, ...
    Unknown(String),
}

/// Something that not every kernel has.
#[derive(Debug, Clone, Copy)]
pub struct Feature {
    name: &'static str,
    since: KernelVersion,
    probe: fn() -> Probe,
}

impl Feature {
    /// A feature that `probe` finds by trying, never by version. `since` is the major and minor
    /// version of the first kernel that has it: on that one and later ones its lack is a failure.
    pub const fn new(name: &'static str, since: (u8, u8), probe: fn() -> Probe) -> Self {
        Self { name, since: KernelVersion::new(since.0, since.1, 0), probe }
    }

    /// Tries.
    pub fn probe(&self) -> Probe {
        (self.probe)()
    }
}

/// Whether the test that calls this can run: the kernel has the feature. If not, the test returns;
/// that it was skipped is printed here, also where the test binary keeps to itself what passing
/// tests print, and `cargo xtask test` counts these lines.
///
/// # Panics
///
/// If this kernel is new enough to have the feature and does not, or if trying did not tell and
/// [`SKIP_UNKNOWN`] is not set.
#[must_use = "a test returns where this is false"]
#[track_caller]
pub fn require(feature: &Feature) -> bool {
    let lenient = std::env::var_os(SKIP_UNKNOWN).is_some_and(|value| !value.is_empty());
    match decide(feature, feature.probe(), KernelVersion::current().ok(), lenient) {
        Decision::Run => true,
        Decision::Skip(why) => {
            let name = thread::current().name().unwrap_or("a test").to_owned();
            // Not eprintln!, which the test binary captures. One write, so that lines stay whole.
            let line = format!("{name} skipped: this kernel has no {why}\n");
            std::io::stderr().write_all(line.as_bytes()).expect("stderr takes a line");
            false
        }
        Decision::Fail(why) => panic!("{why}"),
    }
}

#[derive(Debug, PartialEq)]
enum Decision {
    Run,
    Skip(String),
    Fail(String),
}

/// `running` is unknown for a kernel whose release does not begin with numbers: taken for new.
fn decide(
    feature: &Feature,
    probe: Probe,
    running: Option<KernelVersion>,
    lenient: bool,
) -> Decision {
    let Feature { name, since, .. } = feature;
    let new_enough = running.is_none_or(|running| running >= *since);
    let running = running.map_or("unknown".to_owned(), |version| version.to_string());
    match probe {
        Probe::Yes => Decision::Run,
        Probe::No if new_enough => Decision::Fail(format!(
            "no {name} on a kernel new enough to have it (since Linux {since}; this is {running}): \
             a test that skips here could never fail"
        )),
        Probe::No => Decision::Skip(format!("{name} (Linux {since}; this is {running})")),
        Probe::Unknown(why) if lenient => Decision::Skip(format!("{name} that we know of: {why}")),
        Probe::Unknown(why) => Decision::Fail(format!(
            "could not tell whether this kernel ({running}) has {name}: {why}; set {SKIP_UNKNOWN}=1 \
             to skip the tests of it"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEATURE: Feature = Feature::new("thing", (5, 14), || Probe::No);

    fn version(major: u8, minor: u8, patch: u16) -> Option<KernelVersion> {
        Some(KernelVersion::new(major, minor, patch))
    }

    fn unknown() -> Probe {
        Probe::Unknown("not permitted".to_owned())
    }

    #[test]
    fn what_is_there_runs_on_any_kernel() {
        for running in [version(5, 13, 19), version(5, 14, 0), None] {
            assert_eq!(decide(&FEATURE, Probe::Yes, running, false), Decision::Run);
        }
    }

    #[test]
    fn what_is_not_there_is_skipped_on_old_kernels_only() {
        let decided = |running| decide(&FEATURE, Probe::No, running, true);
        let skip = Decision::Skip("thing (Linux 5.14.0; this is 5.13.19)".to_owned());
        assert_eq!(decided(version(5, 13, 19)), skip);
        for running in [version(5, 14, 0), version(6, 1, 0), None] {
            let decision = decided(running);
            assert!(matches!(&decision, Decision::Fail(why) if why.contains("new enough")));
        }
    }

    #[test]
    fn not_to_know_fails_on_any_kernel_unless_allowed() {
        for running in [version(4, 19, 0), version(6, 1, 0), None] {
            let decision = decide(&FEATURE, unknown(), running, false);
            assert!(matches!(&decision, Decision::Fail(why) if why.contains("not permitted")));
            let decision = decide(&FEATURE, unknown(), running, true);
            assert!(matches!(&decision, Decision::Skip(why) if why.contains("not permitted")));
        }
    }
}
