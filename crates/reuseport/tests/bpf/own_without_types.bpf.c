// SPDX-License-Identifier: MIT
// Maps as they were declared before they had types.
#include "own.h"

struct map {
	__u32 type, key_size, value_size, max_entries, map_flags;
};

struct map SEC("maps") sockets = {
	.type = BPF_MAP_TYPE_REUSEPORT_SOCKARRAY,
	.key_size = 4,
	.value_size = 4,
	.max_entries = 16,
};

struct map SEC("maps") size = {
	.type = BPF_MAP_TYPE_ARRAY,
	.key_size = 4,
	.value_size = 4,
	.max_entries = 1,
};

// Drops what comes before it knows how many members there are.
SEC("sk_reuseport/select")
int among_size(struct sk_reuseport_md *ctx)
{
	__u32 *members = bpf_map_lookup_elem(&size, &(__u32){ 0 });

	return members && *members ? pick(ctx, &sockets, ctx->hash % *members) : SK_DROP;
}
