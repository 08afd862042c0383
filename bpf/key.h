/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Second stage: a number whose remainder by the table's length names an entry of the table.
 */
#pragma once

#include "arrival.h"
#include "config.h"

/* Where the round-robin policy is. One for all CPUs: "exactly in turn" allows no other. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} cursor SEC(".maps");

/*
 * The kernel has hashed addresses and ports with a secret of its own, drawn at boot
 * (inet_ehashfn, udp_ehashfn). Ours makes groups independent of each other: multiplication by an
 * odd number and a shift, twice, as in splitmix64.
 */
static __always_inline __u64 flow_key(struct sk_reuseport_md *ctx)
{
	__u64 x = ctx->hash ^ SEED;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

static __always_inline __u64 turn_key(void)
{
	__u32 zero = 0;
	__u64 *next = bpf_map_lookup_elem(&cursor, &zero);

	return next ? __sync_fetch_and_add(next, 1) : 0;
}

static __always_inline __u64 key_of(struct sk_reuseport_md *ctx, enum arrival arrival)
{
	if (POLICY == POLICY_RANDOM)
		return bpf_get_prandom_u32();
	if (POLICY == POLICY_ROUND_ROBIN && arrival == ARRIVAL_NEW)
		return turn_key();
	return flow_key(ctx);
}
