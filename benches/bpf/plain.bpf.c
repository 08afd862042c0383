// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * A program that selects, as plain as they come: what loading is measured with. An array with 4-byte
 * values, because aya takes no other.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

const volatile __u32 MEMBERS = 2;

struct {
	__uint(type, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

SEC("sk_reuseport")
int plain(struct sk_reuseport_md *ctx)
{
	__u32 index = ctx->hash % MEMBERS;

	bpf_sk_select_reuseport(ctx, &sockets, &index, 0);
	return SK_PASS;
}

char _license[] SEC("license") = "Dual MIT/GPL";
