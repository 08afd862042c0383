// SPDX-License-Identifier: MIT
// An array of programs with an initial value.
#include "own.h"

SOCKETS(sockets);

int second(struct sk_reuseport_md *ctx);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 4);
	__uint(key_size, 4);
	__array(values, int(struct sk_reuseport_md *));
} programs SEC(".maps") = { .values = { [0] = (void *)&second } };

SEC("sk_reuseport")
int second(struct sk_reuseport_md *ctx)
{
	return pick(ctx, &sockets, 1);
}

SEC("sk_reuseport")
int first(struct sk_reuseport_md *ctx)
{
	bpf_tail_call(ctx, &programs, 0);
	return pick(ctx, &sockets, 0);
}
