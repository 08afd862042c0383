//! Names and numbers that configure a select program: `bpf/wire/config.h`.

use crate::model::group::Protocol;

/// Globals of the program, set before it is loaded. Policies set more: [`Policy::globals`].
///
/// [`Policy::globals`]: crate::model::policy::Policy::globals
pub(crate) const POLICY: &str = "POLICY";
pub(crate) const PROTOCOL: &str = "PROTOCOL";
pub(crate) const SEED: &str = "SEED";
pub(crate) const CPUS: &str = "CPUS";
pub(crate) const SOCKET_TYPE: &str = "SOCKET_TYPE";
pub(crate) const CONTEXT_TYPE: &str = "CONTEXT_TYPE";
pub(crate) const SHARED_INFO_TYPE: &str = "SHARED_INFO_TYPE";

/// Stands in the object for the kernel's `bpf_rdonly_cast`: the loader puts the function's BTF id in
/// its place.
pub(crate) const RDONLY_CAST: u32 = 0x7265_6164;

/// `IPPROTO_TCP` or `IPPROTO_UDP`.
pub(crate) const fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    }
}

/// The protocol with this number, if groups can have it.
pub(crate) const fn protocol(number: u8) -> Option<Protocol> {
    match number {
        6 => Some(Protocol::Tcp),
        17 => Some(Protocol::Udp),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::{Slot, Weight};
    use crate::model::policy::{Global, LoadTerms, Policy};
    use crate::model::table::{Candidate, Table};
    use crate::wire::mirror::{map, object, value};

    #[test]
    fn policies_have_the_same_numbers_on_both_sides() {
        let btf = object("select");
        let payload = "payload:0:1".parse().unwrap();
        let mut ours: Vec<(String, i64)> = Policy::ALL
            .iter()
            .chain([&payload])
            .map(|policy| {
                let name = policy.name().to_uppercase().replace('-', "_");
                (format!("POLICY_{name}"), i64::from(policy.code()))
            })
            .collect();
        ours.sort_by_key(|(_, code)| *code);
        assert_eq!(btf.enumeration("policy").unwrap(), ours);
        for (terms, name) in [(LoadTerms::QUEUE, "LOAD_QUEUE"), (LoadTerms::OPEN, "LOAD_OPEN")] {
            assert_eq!(i64::from(terms.bits()), value(&btf, "load_term", name));
        }
    }

    #[test]
    fn globals_have_the_same_sizes_on_both_sides() {
        let btf = object("select");
        let theirs = btf.variables(".rodata");
        let mut ours = vec![(POLICY, 4), (PROTOCOL, 4), (SEED, 8), (CPUS, 4)];
        ours.extend([SOCKET_TYPE, CONTEXT_TYPE, SHARED_INFO_TYPE].map(|name| (name, 4)));
        let payload = "payload:0:1".parse().unwrap();
        for policy in Policy::ALL.iter().chain([&payload]) {
            ours.extend(policy.globals().into_iter().map(|global| match global {
                Global::U32(name, _) => (name, 4),
                Global::U64(name, _) => (name, 8),
            }));
        }
        for (name, size) in &ours {
            assert!(theirs.contains(&((*name).to_owned(), *size)), "{name}: {theirs:?}");
        }
        assert_eq!(theirs.len(), ours.len(), "a global that is never set: {theirs:?}");
    }

    #[test]
    fn tables_have_the_same_layout_on_both_sides() {
        let btf = object("select");
        let layout = |name| value(&btf, "table_layout", name);
        let table = Table {
            entries: (0..5).map(Slot::new).collect(),
            active: vec![Slot::new(6)],
            draining: vec![Slot::new(7), Slot::new(8)],
            standby: true,
            candidates: vec![Candidate {
                slot: Slot::new(6),
                weight: Weight::MAX,
                limit: 9,
                host: Some(10),
            }],
        };
        let words = table.encode();
        let counts = 1 << layout("ACTIVE_SHIFT") | 2 << layout("DRAINING_SHIFT");
        assert_eq!(words[0], 5 | 1 << layout("STANDBY_SHIFT") | counts);
        let first = usize::try_from(layout("ENTRIES_WORD")).unwrap();
        let (bits, per_word) = (layout("SLOT_BITS"), layout("SLOTS_PER_WORD"));
        assert_eq!(per_word * bits, 64);
        let entries = (0..4).map(|slot| slot << (slot as i64 * bits)).sum::<u64>();
        assert_eq!(words[first..first + 4], [entries, 4, 6, 7 | 8 << bits]);
        let field = |name, number: u64| number << value(&btf, "candidate_layout", name);
        let candidate = field("CANDIDATE_SLOT_SHIFT", 6)
            | field("CANDIDATE_WEIGHT_SHIFT", 1000)
            | field("CANDIDATE_LIMIT_SHIFT", 9)
            | field("CANDIDATE_HOST_SHIFT", 10);
        assert_eq!(words[first + 4..], [0, 0, 0, 0, 0, 0, candidate]);
        assert_eq!(map(&btf, "tables").inner.unwrap().value_size, size_of::<u64>());
    }

    #[test]
    fn both_sides_have_the_same_window() {
        let btf = object("select");
        assert_eq!(value(&btf, "tuning", "WINDOW"), i64::from(Candidate::WINDOW));
        assert_eq!(value(&btf, "kernel_call", "CALL_RDONLY_CAST"), i64::from(RDONLY_CAST));
    }
}
