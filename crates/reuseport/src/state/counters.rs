//! What the kernel program counts, by reason.

use sk_reuseport::maps::{MapData, MapError, PerCpuArray};

use crate::status::Counter;

/// The reasons in the order of `enum reason` in bpf/count.h, as JSON names them.
const REASONS: [&str; 13] = [
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

/// Every reason with its count, added up over the CPUs.
pub(crate) fn read(counters: &PerCpuArray<MapData, u64>) -> Result<Vec<Counter>, MapError> {
    REASONS
        .iter()
        .zip(counters.iter())
        .map(|(reason, values)| Ok(Counter { reason, count: values?.iter().sum() }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_of_the_kernel_program_in_its_order() {
        let source = include_str!("../../../../bpf/count.h");
        let (_, reasons) = source.split_once("enum reason {").unwrap();
        let (reasons, _) = reasons.split_once("};").unwrap();
        let reasons: Vec<&str> = reasons
            .lines()
            .filter_map(|line| line.trim().strip_prefix("REASON_")?.strip_suffix(','))
            .collect();
        let ours = REASONS.map(|reason| match reason {
            "picks" => "PICK".to_owned(),
            "migrations" => "MIGRATION".to_owned(),
            "migrations_kernel" => "MIGRATION_KERNEL".to_owned(),
            other => other.to_uppercase(),
        });
        assert_eq!(reasons, ours);
    }
}
