// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * The least that a program costs, to compare ours with: a program that decides nothing,
 * and one that picks at random from the array, without table, fallback or counters.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

const volatile __u32 MEMBERS = 1;

struct {
	__uint(type, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);
	__uint(max_entries, 1); /* the loader gives another array */
	__type(key, __u32);
	__type(value, __u64);
} sockets SEC(".maps");

/* Leaves the choice to the kernel. */
SEC("sk_reuseport")
int empty(struct sk_reuseport_md *ctx)
{
	return SK_PASS;
}

SEC("sk_reuseport")
int bare(struct sk_reuseport_md *ctx)
{
	__u32 index = bpf_get_prandom_u32() % MEMBERS;

	bpf_sk_select_reuseport(ctx, &sockets, &index, 0);
	return SK_PASS;
}

char _license[] SEC("license") = "Dual MIT/GPL";
