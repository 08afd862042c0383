// SPDX-License-Identifier: MIT
// A map of maps with an initial value.
#include "own.h"

struct inner {
	__uint(type, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u64);
};

struct inner blue SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 2);
	__uint(key_size, 4);
	__array(values, struct inner);
} outer SEC(".maps") = { .values = { [0] = &blue } };

SEC("sk_reuseport")
int from_inside(struct sk_reuseport_md *ctx)
{
	void *array = bpf_map_lookup_elem(&outer, &(__u32){ 0 });

	return array ? pick(ctx, array, 0) : SK_PASS;
}
