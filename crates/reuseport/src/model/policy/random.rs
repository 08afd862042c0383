//! `random`: at random, in proportion to the weights.
//!
//! CPUs share nothing. Kernel side: `bpf/policy/random.h`.

use super::rule::Rule;

pub(super) const RULE: Rule =
    Rule::new(4, "random", "at random, in proportion to weights", |_, members| members.by_turn());
