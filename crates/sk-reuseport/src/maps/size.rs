//! Estimates the memory that the kernel allocates for a map.

use aya_obj::generated::{BPF_F_NO_PREALLOC, bpf_map_type};

/// Whether the map has values for each CPU.
pub(crate) fn is_per_cpu(map_type: bpf_map_type) -> bool {
    matches!(
        map_type,
        bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY
            | bpf_map_type::BPF_MAP_TYPE_PERCPU_HASH
            | bpf_map_type::BPF_MAP_TYPE_LRU_PERCPU_HASH
            | bpf_map_type::BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE
    )
}

/// The bytes that the kernel allocates when it creates such a map, roughly: the elements, and for
/// hash maps the buckets. `cpus` is the number of CPUs with their own values.
pub(crate) fn at_once(map_type: bpf_map_type, map: &aya_obj::Map, cpus: u64) -> u64 {
    /// `struct htab_elem` without key and value, and `struct bucket` (kernel/bpf/hashtab.c).
    const ELEMENT: u64 = 48;
    const BUCKET: u64 = 16;

    let rounded = |size: u32| u64::from(size).next_multiple_of(8);
    let (key, value) = (rounded(map.key_size()), rounded(map.value_size()));
    let each = match map_type {
        // These allocate elements on demand.
        bpf_map_type::BPF_MAP_TYPE_LPM_TRIE
        | bpf_map_type::BPF_MAP_TYPE_SK_STORAGE
        | bpf_map_type::BPF_MAP_TYPE_INODE_STORAGE
        | bpf_map_type::BPF_MAP_TYPE_TASK_STORAGE
        | bpf_map_type::BPF_MAP_TYPE_CGRP_STORAGE => 0,
        // The number of elements is a size in bytes.
        bpf_map_type::BPF_MAP_TYPE_RINGBUF | bpf_map_type::BPF_MAP_TYPE_USER_RINGBUF => 1,
        bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY => value.saturating_mul(cpus),
        bpf_map_type::BPF_MAP_TYPE_HASH
        | bpf_map_type::BPF_MAP_TYPE_PERCPU_HASH
        | bpf_map_type::BPF_MAP_TYPE_HASH_OF_MAPS
            if map.map_flags() & BPF_F_NO_PREALLOC != 0 =>
        {
            BUCKET
        }
        bpf_map_type::BPF_MAP_TYPE_PERCPU_HASH | bpf_map_type::BPF_MAP_TYPE_LRU_PERCPU_HASH => {
            (BUCKET + ELEMENT + key).saturating_add(value.saturating_mul(cpus))
        }
        bpf_map_type::BPF_MAP_TYPE_HASH | bpf_map_type::BPF_MAP_TYPE_LRU_HASH => {
            BUCKET + ELEMENT + key + value
        }
        _ => value,
    };
    each.saturating_mul(map.max_entries().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(map_type: bpf_map_type, value: u32, entries: u32, flags: u32) -> u64 {
        let map = aya_obj::Map::new_from_params(map_type as u32, 4, value, entries, flags);
        at_once(map_type, &map, 10)
    }

    #[test]
    fn the_size_depends_on_the_type() {
        assert_eq!(of(bpf_map_type::BPF_MAP_TYPE_ARRAY, 5, 100, 0), 800);
        assert_eq!(of(bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY, 8, 100, 0), 8000);
        assert_eq!(of(bpf_map_type::BPF_MAP_TYPE_RINGBUF, 0, 4096, 0), 4096);
        assert_eq!(of(bpf_map_type::BPF_MAP_TYPE_HASH, 8, 10, 0), 800);
        assert_eq!(of(bpf_map_type::BPF_MAP_TYPE_HASH, 8, 10, BPF_F_NO_PREALLOC), 160);
        assert_eq!(of(bpf_map_type::BPF_MAP_TYPE_SK_STORAGE, 8, u32::MAX, 1), 0);
        assert!(of(bpf_map_type::BPF_MAP_TYPE_PERCPU_HASH, u32::MAX, u32::MAX, 0) > 1 << 62);
    }
}
