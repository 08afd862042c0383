//! The reasons by which the kernel program counts its runs: `enum reason` in `bpf/wire/reason.h`.

/// The reasons in the kernel program's order, as JSON names them.
pub(crate) const REASONS: [&str; 13] = [
    "picks",
    "fallback_active",
    "fallback_draining",
    "fallback_kernel",
    "stray",
    "migrations",
    "migrations_kernel",
    "empty_slot",
    "select_error",
    "queue_full",
    "share_capped",
    "payload_short",
    "stale",
];
