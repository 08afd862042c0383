// SPDX-License-Identifier: MIT
// Programs that cannot be attached, each for a reason of its own, and one that can.
#include "own.h"

SOCKETS(sockets);
SOCKETS(spare);

extern int LINUX_KERNEL_VERSION __kconfig;
extern _Bool CONFIG_NO_SUCH_THING __kconfig __weak;
extern void bpf_rcu_read_lock(void) __ksym;
extern const int no_such_variable __ksym;
extern int defined_elsewhere(void);

struct inner {
	__uint(type, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u64);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 2);
	__uint(key_size, 4);
	__array(values, struct inner);
} outer SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 4);
	__uint(key_size, 4);
	__uint(value_size, 4);
} programs SEC(".maps");

struct address {
	__u8 bytes[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 16);
	__type(key, struct address);
	__type(value, __u64);
} by_address SEC(".maps");

SEC("sk_reuseport")
int fine(struct sk_reuseport_md *ctx)
{
	return pick(ctx, &sockets, 1);
}

SEC("sk_reuseport")
int reads_configuration(struct sk_reuseport_md *ctx)
{
	return pick(ctx, &sockets, LINUX_KERNEL_VERSION >= 0x050000);
}

SEC("sk_reuseport")
int reads_weak_configuration(struct sk_reuseport_md *ctx)
{
	return pick(ctx, &sockets, CONFIG_NO_SUCH_THING);
}

static __noinline int locked(struct sk_reuseport_md *ctx)
{
	bpf_rcu_read_lock();
	return pick(ctx, &sockets, 1);
}

SEC("sk_reuseport")
int calls_kernel(struct sk_reuseport_md *ctx)
{
	return locked(ctx);
}

SEC("sk_reuseport")
int reads_kernel(struct sk_reuseport_md *ctx)
{
	return pick(ctx, &sockets, no_such_variable);
}

SEC("sk_reuseport")
int calls_elsewhere(struct sk_reuseport_md *ctx)
{
	return pick(ctx, &sockets, defined_elsewhere());
}

SEC("sk_reuseport")
int calls_programs(struct sk_reuseport_md *ctx)
{
	bpf_tail_call(ctx, &programs, 0);
	return pick(ctx, &sockets, 0);
}

SEC("sk_reuseport")
int from_inside(struct sk_reuseport_md *ctx)
{
	void *array = bpf_map_lookup_elem(&outer, &(__u32){ 0 });

	return array ? pick(ctx, array, 0) : SK_PASS;
}

SEC("sk_reuseport")
int from_long_keys(struct sk_reuseport_md *ctx)
{
	bpf_sk_select_reuseport(ctx, &by_address, &(struct address){}, 0);
	return SK_PASS;
}

SEC("sk_reuseport")
int selects_nothing(struct sk_reuseport_md *ctx)
{
	return SK_PASS;
}
