// SPDX-License-Identifier: GPL-2.0 OR MIT
/* A map that is pinned by its name, and one that is not. */
#include "count.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} shared_counts SEC(".maps");

const volatile __u64 step = 1;

SEC("sk_reuseport")
int count_up(struct sk_reuseport_md *md)
{
	__u32 first = 0;
	__u64 *shared = bpf_map_lookup_elem(&shared_counts, &first);

	count(RUNS);
	if (shared)
		__sync_fetch_and_add(shared, step);
	return SK_PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
