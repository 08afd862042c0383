//! The reasons by which the kernel program counts its runs: `enum reason` in `bpf/wire/reason.h`.

/// The reasons in the kernel program's order, as JSON names them.
pub(crate) const REASONS: [&str; 15] = [
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
    "repeated",
    "fallback_full",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::mirror::{map, object};

    #[test]
    fn both_sides_agree() {
        let btf = object("select");
        let mut names: Vec<String> = REASONS
            .map(|reason| match reason {
                "picks" => "REASON_PICK".to_owned(),
                "migrations" => "REASON_MIGRATION".to_owned(),
                "migrations_kernel" => "REASON_MIGRATION_KERNEL".to_owned(),
                other => format!("REASON_{}", other.to_uppercase()),
            })
            .to_vec();
        names.push("REASONS".to_owned());
        let ours: Vec<(String, i64)> = names.into_iter().zip(0..).collect();
        assert_eq!(btf.enumeration("reason").unwrap(), ours);
        assert_eq!(map(&btf, "counters").max_entries as usize, REASONS.len());
    }
}
