// SPDX-License-Identifier: MIT
// Socket hashes, by index: with keys of 4 and of 8 bytes.
#include "own.h"

struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u64);
} narrow SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 16);
	__type(key, __u64);
	__type(value, __u64);
} wide SEC(".maps");

SEC("sk_reuseport")
int from_narrow(struct sk_reuseport_md *ctx)
{
	return pick(ctx, &narrow, 1);
}

SEC("sk_reuseport")
int from_wide(struct sk_reuseport_md *ctx)
{
	bpf_sk_select_reuseport(ctx, &wide, &(__u64){ 1 }, 0);
	return SK_PASS;
}
