// SPDX-License-Identifier: GPL-2.0 OR MIT
/* Looks the sender's network up, counts its datagrams, and leaves the choice to that network's program. */
#include "count.h"

#define SOURCE_OFFSET 12 /* in the IPv4 header */

struct network {
	__u32 prefix_len;
	__u8 address[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4);
	__type(key, struct network);
	__type(value, __u32);
} networks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u32); /* which the kernel rounds up to 8 bytes */
} datagrams SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_PERCPU_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u64);
} recent SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u32);
} choices SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

static __always_inline int choose(struct sk_reuseport_md *md, __u32 index)
{
	count_choice(bpf_sk_select_reuseport(md, &sockets, &index, 0));
	return SK_PASS;
}

SEC("sk_reuseport")
int first(struct sk_reuseport_md *md)
{
	return choose(md, 0);
}

SEC("sk_reuseport")
int second(struct sk_reuseport_md *md)
{
	return choose(md, 1);
}

static __always_inline void count_for(__u32 network)
{
	__u32 one = 1, *counter = bpf_map_lookup_elem(&datagrams, &network);
	__u64 wide = 1;

	if (counter)
		*counter += 1;
	else
		bpf_map_update_elem(&datagrams, &network, &one, BPF_ANY);
	bpf_map_update_elem(&recent, &network, &wide, BPF_ANY);
}

SEC("sk_reuseport")
int classify(struct sk_reuseport_md *md)
{
	struct network sender = { .prefix_len = 32 };
	__u32 *network;

	count(RUNS);
	if (bpf_skb_load_bytes_relative(md, SOURCE_OFFSET, sender.address, 4, BPF_HDR_START_NET))
		return SK_DROP;
	network = bpf_map_lookup_elem(&networks, &sender);
	if (!network)
		return SK_DROP;
	count_for(*network);
	bpf_tail_call(md, &choices, *network);
	return SK_DROP; /* it has no program */
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
