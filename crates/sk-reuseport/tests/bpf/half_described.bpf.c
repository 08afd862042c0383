// SPDX-License-Identifier: GPL-2.0 OR MIT
/* A map that has a type for its values, and only a size for its keys. The kernel refuses such a
 * description, and creates the map without it. */
#include "count.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4);
	__uint(key_size, sizeof(__u32));
	__type(value, __u64);
} half_described SEC(".maps");

SEC("sk_reuseport")
int put(struct sk_reuseport_md *md)
{
	__u32 key = 1;
	__u64 value = 1;

	count(RUNS);
	bpf_map_update_elem(&half_described, &key, &value, BPF_ANY);
	return SK_PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
