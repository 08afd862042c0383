//! `hash`: by a keyed hash of addresses and ports, over a Maglev table.
//!
//! A flow keeps its member. A member that comes or goes moves about 1/n of the flows. The default for
//! UDP. Kernel side: `bpf/policy/hash.h`.

use super::rule::Rule;

pub(super) const RULE: Rule = Rule::new(
    1,
    "hash",
    "by a hash of addresses and ports; a member that comes or goes moves few flows",
    |_, members| members.by_flow(),
);
