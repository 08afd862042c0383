//! `round-robin`: one member after the other, in exact proportion to the weights.
//!
//! All CPUs share one cursor. Kernel side: `bpf/policy/round_robin.h`.

use super::rule::Rule;

pub(super) const RULE: Rule = Rule::new(
    3,
    "round-robin",
    "one after the other, exactly in proportion to weights",
    |_, members| members.by_turn(),
);
