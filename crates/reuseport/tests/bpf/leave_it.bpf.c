/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* A program that chooses nothing and leaves the choice to the kernel: something to attach. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

char _license[] SEC("license") = "Dual MIT/GPL";

SEC("sk_reuseport")
int leave_it(struct sk_reuseport_md *packet)
{
	return SK_PASS;
}
