/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* An array of programs with an initial value, which the loader does not support. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

int second(struct sk_reuseport_md *ctx);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 4);
	__uint(key_size, 4);
	__array(values, int(struct sk_reuseport_md *));
} next_programs SEC(".maps") = { .values = { [0] = (void *)&second } };

char _license[] SEC("license") = "Dual MIT/GPL";

SEC("sk_reuseport")
int second(struct sk_reuseport_md *ctx)
{
	return SK_PASS;
}

SEC("sk_reuseport")
int go_on(struct sk_reuseport_md *ctx)
{
	bpf_tail_call(ctx, &next_programs, 0);
	return SK_PASS;
}
