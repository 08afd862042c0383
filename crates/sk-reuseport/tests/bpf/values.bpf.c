/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* An array of socket arrays with initial values; the program selects from the one at index 2. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct inner {
	__uint(type, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, __u64);
};

struct inner red SEC(".maps");
struct inner blue SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 4);
	__uint(key_size, 4);
	__array(values, struct inner);
} outer SEC(".maps") = { .values = { [0] = &red, [2] = &blue } };

char _license[] SEC("license") = "Dual MIT/GPL";

SEC("sk_reuseport")
int from_blue(struct sk_reuseport_md *ctx)
{
	__u32 two = 2, index = 1;
	void *sockets = bpf_map_lookup_elem(&outer, &two);

	if (sockets)
		bpf_sk_select_reuseport(ctx, sockets, &index, 0);
	return SK_PASS;
}
