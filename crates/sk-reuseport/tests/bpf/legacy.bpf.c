// SPDX-License-Identifier: GPL-2.0 OR MIT
/* Maps as aya-ebpf's `#[map]` defines them by default: a section `maps` of plain structures. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct aya_map {
	__u32 type;
	__u32 key_size;
	__u32 value_size;
	__u32 max_entries;
	__u32 map_flags;
	__u32 id;
	__u32 pinning;
};

struct aya_map SOCKETS SEC("maps") = {
	.type = BPF_MAP_TYPE_REUSEPORT_SOCKARRAY,
	.key_size = sizeof(__u32),
	.value_size = sizeof(__u32),
	.max_entries = 8,
};

struct aya_map RUNS SEC("maps") = {
	.type = BPF_MAP_TYPE_ARRAY,
	.key_size = sizeof(__u32),
	.value_size = sizeof(__u64),
	.max_entries = 1,
};

const volatile __u32 CHOICE;

SEC("sk_reuseport")
int choose(struct sk_reuseport_md *md)
{
	__u32 index = 0;
	__u64 *runs = bpf_map_lookup_elem(&RUNS, &index);

	if (runs)
		__sync_fetch_and_add(runs, 1);
	index = CHOICE;
	bpf_sk_select_reuseport(md, &SOCKETS, &index, 0);
	return SK_PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
