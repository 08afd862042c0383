//! `source`: as `hash`, but by the source address alone.
//!
//! All connections from one address reach the same member. Kernel side: `bpf/policy/source.h`.

use super::rule::Rule;

pub(super) const RULE: Rule = Rule::new(
    2,
    "source",
    "by a hash of the source address: a client keeps its member",
    |_, members| members.by_flow(),
);
