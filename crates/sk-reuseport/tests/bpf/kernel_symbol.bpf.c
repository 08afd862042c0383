/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* A call of a kernel function by its name, which the loader does not support. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

extern void bpf_rcu_read_lock(void) __ksym;
extern void bpf_rcu_read_unlock(void) __ksym;

char _license[] SEC("license") = "Dual MIT/GPL";

SEC("sk_reuseport")
int lock(struct sk_reuseport_md *ctx)
{
	bpf_rcu_read_lock();
	bpf_rcu_read_unlock();
	return SK_PASS;
}
