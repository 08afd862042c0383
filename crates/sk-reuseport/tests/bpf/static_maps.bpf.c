/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Static maps: the code refers to them by their section and their place in it. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#define COUNTER(name)                                                                              \
	static struct {                                                                            \
		__uint(type, BPF_MAP_TYPE_ARRAY);                                                  \
		__uint(max_entries, 1);                                                            \
		__type(key, __u32);                                                                \
		__type(value, __u32);                                                              \
	} name SEC(".maps")

COUNTER(first);
COUNTER(second);
COUNTER(third);

static struct {
	__uint(type, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, __u64);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} global SEC(".maps");

char _license[] SEC("license") = "Dual MIT/GPL";

static __always_inline void put(void *map, __u32 number)
{
	__u32 zero = 0, *value = bpf_map_lookup_elem(map, &zero);

	if (value)
		*value = number;
}

SEC("sk_reuseport")
int mark(struct sk_reuseport_md *ctx)
{
	__u32 index = 1;

	put(&first, 111);
	put(&second, 222);
	put(&third, 333);
	put(&global, 444);
	bpf_sk_select_reuseport(ctx, &sockets, &index, 0);
	return SK_PASS;
}
