// SPDX-License-Identifier: MIT
// What the objects `own_*` have in common.
#pragma once
#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define SOCKETS(NAME)                                           \
	struct {                                                \
		__uint(type, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY); \
		__uint(max_entries, 16);                        \
		__type(key, __u32);                             \
		__type(value, __u64);                           \
	} NAME SEC(".maps")

static __always_inline int pick(struct sk_reuseport_md *ctx, void *sockets, __u32 index)
{
	bpf_sk_select_reuseport(ctx, sockets, &index, 0);
	return SK_PASS;
}

char _license[] SEC("license") = "Dual MIT/GPL";
