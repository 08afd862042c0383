// SPDX-License-Identifier: GPL-2.0 OR MIT
// Programs that select sockets, in sections with suffixes, next to one of another type that refers to the kernel's
// configuration, to its functions and to a type that it does not have.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

extern int LINUX_KERNEL_VERSION __kconfig;
extern void bpf_no_such_function(void) __ksym;

struct no_such_type {
	int field;
} __attribute__((preserve_access_index));

struct {
	__uint(type, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, __u64);
} sockets SEC(".maps");

// No kernel creates it: it has no values.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
} impossible SEC(".maps");

__u16 before = 7;
__u16 chosen = 1;
__u64 behind = 9;

SEC("tc")
int other(struct __sk_buff *skb)
{
	struct no_such_type *type = (void *)(long)skb->data;
	int field = 0;

	bpf_no_such_function();
	bpf_probe_read_kernel(&field, sizeof(field), &type->field);
	return field + LINUX_KERNEL_VERSION + !bpf_map_lookup_elem(&impossible, &field);
}

SEC("sk_reuseport/by_index")
int by_index(struct sk_reuseport_md *ctx)
{
	__u32 at = before == 7 && behind == 9 ? chosen : 7;

	bpf_sk_select_reuseport(ctx, &sockets, &at, 0);
	return SK_PASS;
}

static __noinline int first_of(struct sk_reuseport_md *ctx)
{
	__u32 at = 0;

	bpf_sk_select_reuseport(ctx, &sockets, &at, 0);
	return SK_PASS;
}

SEC("sk_reuseport/first")
int first(struct sk_reuseport_md *ctx)
{
	return first_of(ctx);
}

char _license[] SEC("license") = "Dual MIT/GPL";
