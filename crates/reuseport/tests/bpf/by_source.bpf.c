// SPDX-License-Identifier: MIT
// All connections of one client to the same member.
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

// The number of sockets. Override it with `clang -DMEMBERS=4`.
#ifndef MEMBERS
#define MEMBERS 2
#endif

// Filled by `reuseport attach` from index 0 on. With 8-byte values it can be read back.
struct {
	__uint(type, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u64);
} sockets SEC(".maps");

// Picks by index; the last entry counts the runs that found no member.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MEMBERS + 1);
	__type(key, __u32);
	__type(value, __u64);
} chosen SEC(".maps");

static __always_inline void count(__u32 index)
{
	__u64 *n = bpf_map_lookup_elem(&chosen, &index);

	if (n)
		(*n)++;
}

// The client's address as a number; 0 for what has no packet, such as a connection whose listener
// closes.
static __always_inline __u32 client(struct sk_reuseport_md *ctx)
{
	__u32 address[4] = {};

	if (ctx->eth_protocol == bpf_htons(ETH_P_IP))
		bpf_skb_load_bytes_relative(ctx, offsetof(struct iphdr, saddr), address, 4,
					    BPF_HDR_START_NET);
	else if (ctx->eth_protocol == bpf_htons(ETH_P_IPV6))
		bpf_skb_load_bytes_relative(ctx, offsetof(struct ipv6hdr, saddr), address, 16,
					    BPF_HDR_START_NET);
	return bpf_ntohl(address[0] ^ address[1] ^ address[2] ^ address[3]);
}

SEC("sk_reuseport/migrate")
int by_source(struct sk_reuseport_md *ctx)
{
	__u32 key = client(ctx) * 0x9e3779b1u >> 16; // spreads neighbouring addresses
	__u32 i;

	// The client's own member; if its slot is empty, the next one.
	for (i = 0; i < MEMBERS; i++) {
		__u32 index = (key + i) % MEMBERS;

		if (!bpf_sk_select_reuseport(ctx, &sockets, &index, 0)) {
			count(index);
			return SK_PASS;
		}
	}
	count(MEMBERS);
	return SK_PASS; // nothing selected: the kernel's hash decides
}

char _license[] SEC("license") = "Dual MIT/GPL";
