/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* At random. */
#pragma once

#include "../flow.h"
#include "../table.h"

/* Random keys that each CPU has drawn. Each loaded program has its own: another one begins anew. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} draws SEC(".maps");

/*
 * SplitMix64, whose state is a count, starting at the flow and the secret. bpf_get_prandom_u32 would
 * do as well, but one call of it costs half as much as all the rest of a choice.
 */
static __always_inline __u64 random_key(struct request *req)
{
	__u64 *drawn = bpf_map_lookup_elem(&draws, MAP_KEY(0));

	if (!drawn)
		return flow_key(req);
	return mix((req->ctx->hash ^ SEED) + ++*drawn * 0x9e3779b97f4a7c15ULL);
}

static __always_inline int random_pick(struct request *req, int attempt)
{
	return attempt ? NO_SLOT : table_pick(req, random_key(req));
}
