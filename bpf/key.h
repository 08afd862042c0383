/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Second stage: a key, which modulo the table's length names an entry.
 */
#pragma once

#include "kernel.h"
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/udp.h>
#include <stddef.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "arrival.h"
#include "config.h"
#include "count.h"
#include "map_key.h"
#include "siphash.h"

/* How many connections or datagrams had their turn. Shared by all CPUs: turns are exact. */
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
	__u64 *drawn = bpf_map_lookup_elem(&draws, MAP_KEY(0));

	if (!drawn)
		return flow_key(ctx);
	return mix((ctx->hash ^ SEED) + ++*drawn * 0x9e3779b97f4a7c15ULL);
}

/* Whose turn comes next, without taking it. */
static __always_inline __u64 next_turn(void)
{
	__u64 *next = bpf_map_lookup_elem(&cursor, MAP_KEY(0));

	return next ? *next : 0;
}

/* Of words that whoever sends them chose. */
static __always_inline __u64 secret_key_2(const __u64 *words)
{
	struct siphash hash;

	siphash_begin(&hash, SEED, mix(SEED));
	siphash_word(&hash, words[0]);
	siphash_word(&hash, words[1]);
	return siphash_end(&hash, 16ULL << 56);
}

/* No loop: the pointer would move by a number that is known at run time. */
static __always_inline __u64 secret_key_8(const __u64 *words, __u32 bytes)
{
	struct siphash hash;

	siphash_begin(&hash, SEED, mix(SEED));
	siphash_word(&hash, words[0]);
	siphash_word(&hash, words[1]);
	siphash_word(&hash, words[2]);
	siphash_word(&hash, words[3]);
	siphash_word(&hash, words[4]);
	siphash_word(&hash, words[5]);
	siphash_word(&hash, words[6]);
	siphash_word(&hash, words[7]);
	return siphash_end(&hash, (__u64)bytes << 56);
}

/*
 * By the source address alone. A connection whose listener closes has no packet any more, and
 * keeps to its flow's key.
 */
static __always_inline __u64 source_key(struct sk_reuseport_md *ctx)
{
	__u64 address[2] = {};
	long error;

	/* Offsets of saddr in struct iphdr and struct ipv6hdr: RFC 791, RFC 8200. */
	if (ctx->eth_protocol == bpf_htons(ETH_P_IP))
		error = bpf_skb_load_bytes_relative(ctx, 12, address, 4, BPF_HDR_START_NET);
	else
		error = bpf_skb_load_bytes_relative(ctx, 8, address, 16, BPF_HDR_START_NET);
	return error ? flow_key(ctx) : secret_key_2(address);
}

#define PAYLOAD_MAX 64

/* By some of the datagram's own bytes. One that ends before them goes by its flow. */
static __always_inline __u64 payload_key(struct sk_reuseport_md *ctx)
{
	__u64 bytes[PAYLOAD_MAX / 8] = {};
	__u32 length = PAYLOAD_LENGTH;

	if (length < 1 || length > PAYLOAD_MAX ||
	    bpf_skb_load_bytes(ctx, sizeof(struct udphdr) + PAYLOAD_OFFSET, bytes, length)) {
		count(REASON_PAYLOAD_SHORT);
		return flow_key(ctx);
	}
	return secret_key_8(bytes, length);
}

/*
 * By the CPU that received the packet. The table has an entry for each CPU, and that as often as some
 * CPU has members: which of these it is goes by the flow.
 */
static __always_inline __u64 cpu_key(struct sk_reuseport_md *ctx)
{
	return bpf_get_smp_processor_id() + (flow_key(ctx) & 0xffffffff) * CPUS;
}

static __always_inline __u64 key_of(struct sk_reuseport_md *ctx, enum arrival arrival)
{
	switch (POLICY) {
	case POLICY_RANDOM:
		return random_key(ctx);
	case POLICY_CPU:
		return cpu_key(ctx);
	case POLICY_SOURCE:
		return source_key(ctx);
	case POLICY_PAYLOAD:
		return payload_key(ctx);
	case POLICY_ROUND_ROBIN:
		return arrival == ARRIVAL_NEW ? turn_key() : flow_key(ctx);
	case POLICY_LEAST_LOADED:
		return arrival == ARRIVAL_NEW ? turn_key() : next_turn();
	default:
		return flow_key(ctx);
	}
}
