/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Two programs and two arrays: the user has to name one of each. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} small SEC(".maps");

/* 4-byte values: user space cannot read cookies from it. */
struct {
	__uint(type, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u32);
} narrow SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} no_sockets SEC(".maps");

char _license[] SEC("license") = "Dual MIT/GPL";

SEC("sk_reuseport")
int from_small(struct sk_reuseport_md *packet)
{
	__u32 index = 0;

	bpf_sk_select_reuseport(packet, &small, &index, 0);
	return SK_PASS;
}

SEC("sk_reuseport")
int from_narrow(struct sk_reuseport_md *packet)
{
	__u32 index = 1;

	bpf_sk_select_reuseport(packet, &narrow, &index, 0);
	return SK_PASS;
}

SEC("sk_reuseport")
int counting(struct sk_reuseport_md *packet)
{
	__u32 index = 0;
	__u64 *count = bpf_map_lookup_elem(&no_sockets, &index);

	if (count)
		(*count)++;
	return SK_PASS;
}
