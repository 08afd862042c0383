// SPDX-License-Identifier: MIT
// This source network goes to that worker.
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

// The longest network that matches wins. IPv4 addresses are mapped: 192.0.2.0/24 is ::ffff:192.0.2.0/120.
struct network {
	__u32 bits;
	__u8 address[16];
};

// Network -> worker, by a number of your own. Both tables are pinned: they survive another `attach`.
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, struct network);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} networks SEC(".maps");

// Worker -> the index of its socket, which is another one after a restart.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} workers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u64);
} sockets SEC(".maps");

// What was decided, because `reuseport show` does not count it: routed, no network or worker, no socket there.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 3);
	__type(key, __u32);
	__type(value, __u64);
} decided SEC(".maps");

static __always_inline int count(__u32 what)
{
	__u64 *n = bpf_map_lookup_elem(&decided, &what);

	if (n)
		(*n)++;
	return SK_PASS; // if nothing was selected, the kernel's hash decides
}

SEC("sk_reuseport/migrate")
int by_network(struct sk_reuseport_md *ctx)
{
	struct network client = { .bits = 128 };
	__u32 *worker, *index;
	long failed;

	if (ctx->eth_protocol == bpf_htons(ETH_P_IP)) {
		client.address[10] = client.address[11] = 0xff;
		failed = bpf_skb_load_bytes_relative(ctx, offsetof(struct iphdr, saddr),
						     client.address + 12, 4, BPF_HDR_START_NET);
	} else {
		failed = bpf_skb_load_bytes_relative(ctx, offsetof(struct ipv6hdr, saddr),
						     client.address, 16, BPF_HDR_START_NET);
	}
	worker = failed ? NULL : bpf_map_lookup_elem(&networks, &client);
	index = worker ? bpf_map_lookup_elem(&workers, worker) : NULL;
	if (!index)
		return count(1);
	return count(bpf_sk_select_reuseport(ctx, &sockets, index, 0) ? 2 : 0);
}

char _license[] SEC("license") = "Dual MIT/GPL";
