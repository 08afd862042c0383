/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Second stage: a number whose remainder by the table's length names an entry of the table.
 */
#pragma once

#include "arrival.h"
#include "config.h"
#include "map_key.h"

/* Where the round-robin policy is. One for all CPUs: "exactly in turn" allows no other. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} cursor SEC(".maps");

/* How many random keys each CPU has drawn. A program's own: another instance begins anew. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} draws SEC(".maps");

/* Spreads every bit over all bits: the output function of SplitMix64. */
static __always_inline __u64 mix(__u64 x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

/*
 * The kernel has hashed addresses and ports with a secret of its own, drawn at boot
 * (inet_ehashfn, udp_ehashfn). Ours makes groups independent of each other.
 */
static __always_inline __u64 flow_key(struct sk_reuseport_md *ctx)
{
	return mix(ctx->hash ^ SEED);
}

static __always_inline __u64 turn_key(void)
{
	__u64 *next = bpf_map_lookup_elem(&cursor, MAP_KEY(0));

	return next ? __sync_fetch_and_add(next, 1) : 0;
}

/*
 * SplitMix64, whose state is a count, begun at the flow and the secret. bpf_get_prandom_u32 would
 * do as well, but a call of it costs half of what all the rest of a choice does.
 */
static __always_inline __u64 random_key(struct sk_reuseport_md *ctx)
{
	__u32 zero = 0;
	__u64 *drawn = bpf_map_lookup_elem(&draws, &zero);

	if (!drawn)
		return flow_key(ctx);
	return mix((ctx->hash ^ SEED) + ++*drawn * 0x9e3779b97f4a7c15ULL);
}

static __always_inline __u64 key_of(struct sk_reuseport_md *ctx, enum arrival arrival)
{
	if (POLICY == POLICY_RANDOM)
		return random_key(ctx);
	if (POLICY == POLICY_ROUND_ROBIN && arrival == ARRIVAL_NEW)
		return turn_key();
	return flow_key(ctx);
}
