// SPDX-License-Identifier: MIT
// Programs that select, in sections with suffixes that have no meaning, next to programs of other types. Those have
// what no program here could be loaded with: the kernel's configuration, its functions, types that it does not have.
#include "own.h"

SOCKETS(sockets);
SOCKETS(spare);

struct no_such_type {
	int field;
} __attribute__((preserve_access_index));

extern int LINUX_KERNEL_VERSION __kconfig;
extern _Bool CONFIG_NO_SUCH_THING __kconfig __weak;
extern void bpf_no_such_function(void) __ksym;

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, 4);
	__uint(value_size, 4);
} events SEC(".maps");

SEC("tc")
int classify(struct __sk_buff *skb)
{
	bpf_no_such_function();
	return LINUX_KERNEL_VERSION + CONFIG_NO_SUCH_THING;
}

SEC("xdp")
int drop(struct xdp_md *ctx)
{
	struct no_such_type *type = (void *)(long)ctx->data;
	int field = 0;

	bpf_probe_read_kernel(&field, sizeof(field), &type->field);
	return field;
}

SEC("syscall")
int call(void *ctx)
{
	return bpf_map_lookup_elem(&events, &(int){ 0 }) ? 1 : 0;
}

struct tcp_congestion_ops {
	void (*init)(void *);
	char name[16];
};

SEC("struct_ops/init")
void init(unsigned long long *ctx)
{
}

SEC(".struct_ops")
struct tcp_congestion_ops congestion = { .init = (void *)init, .name = "none" };

// A function that programs call: in a section of its own, which the linker follows.
static __noinline int second_of(struct sk_reuseport_md *ctx)
{
	return pick(ctx, &sockets, 1);
}

SEC("sk_reuseport/selector")
int second(struct sk_reuseport_md *ctx)
{
	return second_of(ctx);
}

SEC("sk_reuseport/other")
int first(struct sk_reuseport_md *ctx)
{
	return pick(ctx, &sockets, 0);
}

SEC("sk_reuseport/migrate")
int from_both(struct sk_reuseport_md *ctx)
{
	return ctx->hash & 1 ? pick(ctx, &spare, 0) : pick(ctx, &sockets, 0);
}
