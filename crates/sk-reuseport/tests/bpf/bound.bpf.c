// SPDX-License-Identifier: GPL-2.0 OR MIT
/* Programs of a cgroup that count the sockets that are bound, by thread. */
#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct bound {
	__u64 ipv4;
	__u64 ipv6;
	__u64 last_port;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32); /* in the initial pid namespace */
	__type(value, struct bound);
} threads SEC(".maps");

static __always_inline struct bound *bound_by_thread(void)
{
	__u32 thread = bpf_get_current_pid_tgid();

	return bpf_map_lookup_elem(&threads, &thread);
}

SEC("cgroup/post_bind4")
int bound4(struct bpf_sock *ctx)
{
	struct bound *bound = bound_by_thread();

	if (bound) {
		__sync_fetch_and_add(&bound->ipv4, 1);
		bound->last_port = ctx->src_port;
	}
	return 1;
}

SEC("cgroup/post_bind6")
int bound6(struct bpf_sock *ctx)
{
	struct bound *bound = bound_by_thread();

	if (bound) {
		__sync_fetch_and_add(&bound->ipv6, 1);
		bound->last_port = ctx->src_port;
	}
	return 1;
}

/* Refuses every socket of the thread. */
SEC("cgroup/post_bind4")
int refuse(struct bpf_sock *ctx)
{
	return bound_by_thread() == NULL;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
