// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * A plain program that selects, to measure loading with. Its array has 4-byte
 * values, because aya takes no others.
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
