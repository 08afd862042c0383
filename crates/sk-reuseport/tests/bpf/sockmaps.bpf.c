// SPDX-License-Identifier: GPL-2.0 OR MIT
/* Programs that select from socket maps: by index, and by a key of 8 bytes. */
#include "count.h"

struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, __u64);
} by_index SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 8);
	__type(key, __u64);
	__type(value, __u64);
} by_key SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, __u32);
} narrow SEC(".maps");

const volatile __u32 slot;
const volatile __u64 key;

SEC("sk_reuseport")
int select_by_index(struct sk_reuseport_md *md)
{
	__u32 chosen = slot;

	count(RUNS);
	count_choice(bpf_sk_select_reuseport(md, &by_index, &chosen, 0));
	return SK_PASS;
}

SEC("sk_reuseport")
int select_by_key(struct sk_reuseport_md *md)
{
	__u64 chosen = key;

	count(RUNS);
	count_choice(bpf_sk_select_reuseport(md, &by_key, &chosen, 0));
	return SK_PASS;
}

SEC("sk_reuseport")
int select_narrow(struct sk_reuseport_md *md)
{
	__u32 chosen = slot;

	count(RUNS);
	count_choice(bpf_sk_select_reuseport(md, &narrow, &chosen, 0));
	return SK_PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
