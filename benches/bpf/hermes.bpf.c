// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * The kernel's half of Hermes (benches/src/hermes has the rest): the flow's hash picks one of the
 * workers whose bits are set. With fewer than two set, the kernel's own choice stands.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);
	__uint(max_entries, 1); /* the loader gives another array */
	__type(key, __u32);
	__type(value, __u64);
} sockets SEC(".maps");

/* A bit for each worker that may be picked. Workers store it through memory. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} bitmap SEC(".maps");

/* Also in benches/src/hermes/mod.rs. */
enum count { COUNT_PICKS = 0, COUNT_FALLBACKS = 1, COUNTS };

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTS);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

static __always_inline void count(__u32 what)
{
	__u64 *counter = bpf_map_lookup_elem(&counts, &what);

	if (counter)
		++*counter;
}

/* The place of the nth bit that is set, from 0 on: halves what is left, six times. */
static __always_inline __u32 nth_bit(__u64 bits, __u32 n)
{
	__u32 place = 0;

#pragma unroll
	for (__u32 width = 32; width; width /= 2) {
		__u32 below = __builtin_popcountll((bits >> place) & ((1ULL << width) - 1));

		if (n >= below) {
			n -= below;
			place += width;
		}
	}
	return place;
}

SEC("sk_reuseport")
int hermes(struct sk_reuseport_md *ctx)
{
	__u32 zero = 0, worker, candidates;
	__u64 *bits = bpf_map_lookup_elem(&bitmap, &zero), chosen;

	if (!bits)
		return SK_PASS;
	/* Once: workers change it at any time. */
	chosen = *(volatile __u64 *)bits;
	candidates = __builtin_popcountll(chosen);
	if (candidates > 1) {
		/* reciprocal_scale in include/linux/kernel.h */
		worker = nth_bit(chosen, ((__u64)ctx->hash * candidates) >> 32);
		if (!bpf_sk_select_reuseport(ctx, &sockets, &worker, 0)) {
			count(COUNT_PICKS);
			return SK_PASS;
		}
	}
	count(COUNT_FALLBACKS);
	return SK_PASS;
}

char _license[] SEC("license") = "Dual MIT/GPL";
