//! Probing for features of the kernel, and skipping tests of missing ones.
//!
//! A skip must not hide a fault: on a kernel new enough to have the feature, the test fails
//! instead. It also fails if the probe is inconclusive, unless [`SKIP_UNKNOWN`] is set.
//!
//! ```no_run
//! use test_support::feature::{self, require};
//!
//! # #[allow(clippy::test_attr_in_doctest)]
//! #[test]
//! fn connections_migrate_to_another_listener() {
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

pub use probes::Probe;

/// An environment variable. If it is set and not empty, tests skip when a probe is inconclusive, as
/// it is without the right to try.
pub const SKIP_UNKNOWN: &str = "REUSEPORT_TEST_SKIP_UNKNOWN";

/// Programs that select the socket for connections of a closing listener (`sk_reuseport/migrate`).
pub const MIGRATION: Feature =
    Feature::new("migration of connections", (5, 14), || probes::program("migrate", ""));

/// The iterator over the open files of all processes (`iter/task_file`).
pub const TASK_FILE_ITERATOR: Feature =
    Feature::new("iterator over open files", (5, 8), || probes::program("task_file", "task_file"));

/// The iterator over the sockets with an element in a socket storage (`iter/bpf_sk_storage_map`).
pub const SK_STORAGE_ITERATOR: Feature =
    Feature::new("iterator over socket storage", (5, 9), || {
        probes::program("sk_storage", "bpf_sk_storage_map")
    });

/// Programs at tracepoints with types from BTF (`tp_btf`).
pub const BTF_TRACEPOINT: Feature = Feature::new("typed tracepoint", (5, 5), || {
    probes::program("tracepoint", "inet_sock_set_state")
});

/// The function with which a program reads kernel memory directly.
pub const RDONLY_CAST: Feature =
    Feature::new("bpf_rdonly_cast", (6, 2), || probes::function("bpf_rdonly_cast"));

/// Ring buffers between kernel and user space (`BPF_MAP_TYPE_RINGBUF`).
pub const RING_BUFFER: Feature = Feature::new("ring buffer", (5, 8), probes::ring_buffer);

/// Rules of netfilter that look for a packet's socket (`nft_tproxy`, `nft_socket`). Kernels can be
/// built without them.
pub const SOCKET_RULES: Feature =
    Feature::new("socket rules of netfilter", (5, 0), probes::socket_rules);

/// Rings of operations (`io_uring`). Kernels can be built without them, and `kernel.io_uring_disabled` or
/// a container's seccomp filter forbids them.
pub const IO_URING: Feature = Feature::new("io_uring", (5, 1), probes::io_uring);

/// A feature that not every kernel has.
#[derive(Debug, Clone, Copy)]
pub struct Feature {
    name: &'static str,
    since: KernelVersion,
    probe: fn() -> Probe,
}

impl Feature {
    /// A feature that `probe` detects by trying, not by version. `since` is the major and minor
    /// version of the first kernel that has it: from there on, its lack is a failure.
    pub const fn new(name: &'static str, since: (u8, u8), probe: fn() -> Probe) -> Self {
        Self { name, since: KernelVersion::new(since.0, since.1, 0), probe }
    }

    /// Tries whether the kernel has it.
    pub fn probe(&self) -> Probe {
        (self.probe)()
    }
}

/// Whether the kernel has the feature that a test needs. If not, the test must return; the skip is
/// printed, even though libtest captures the output of passing tests, and `cargo xtask test` counts
/// it.
///
/// # Panics
///
/// If the kernel is new enough to have the feature but does not, or if the probe is inconclusive
/// and [`SKIP_UNKNOWN`] is not set.
#[must_use = "a test returns where this is false"]
#[track_caller]
pub fn require(feature: &Feature) -> bool {
    let lenient = std::env::var_os(SKIP_UNKNOWN).is_some_and(|value| !value.is_empty());
    match decide(feature, feature.probe(), KernelVersion::current().ok(), lenient) {
        Decision::Run => true,
        Decision::Skip(why) => {
            let name = thread::current().name().unwrap_or("a test").to_owned();
            // libtest captures eprintln!, but not this. One write keeps the line in one piece.
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

/// A kernel whose release is not a version (`running` is `None`) counts as new.
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
    fn a_present_feature_runs_on_any_kernel() {
        for running in [version(5, 13, 19), version(5, 14, 0), None] {
            assert_eq!(decide(&FEATURE, Probe::Yes, running, false), Decision::Run);
        }
    }

    #[test]
    fn a_missing_feature_is_skipped_on_old_kernels_only() {
        let decided = |running| decide(&FEATURE, Probe::No, running, true);
        let skip = Decision::Skip("thing (Linux 5.14.0; this is 5.13.19)".to_owned());
        assert_eq!(decided(version(5, 13, 19)), skip);
        for running in [version(5, 14, 0), version(6, 1, 0), None] {
            let decision = decided(running);
            assert!(matches!(&decision, Decision::Fail(why) if why.contains("new enough")));
        }
    }

    #[test]
    fn an_inconclusive_probe_fails_on_any_kernel_unless_allowed() {
        for running in [version(4, 19, 0), version(6, 1, 0), None] {
            let decision = decide(&FEATURE, unknown(), running, false);
            assert!(matches!(&decision, Decision::Fail(why) if why.contains("not permitted")));
            let decision = decide(&FEATURE, unknown(), running, true);
            assert!(matches!(&decision, Decision::Skip(why) if why.contains("not permitted")));
        }
    }
}
