//! Hash maps: plain, and per CPU; each also as one that evicts the least recently used elements.

#[expect(clippy::module_inception, reason = "aya's module path")]
mod hash_map;
mod per_cpu_hash_map;

pub use hash_map::{HashMap, LruHashMap};
pub use per_cpu_hash_map::PerCpuHashMap;
