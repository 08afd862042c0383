// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * The smallest program that reads the kernel's memory. If it loads, a select program may read queues:
 * that takes CAP_PERFMON, and a kernel that is not locked down for confidentiality
 * (bpf_base_func_proto in kernel/bpf/helpers.c). Loaded, never attached.
 */
#include "kernel.h"
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("sk_reuseport")
int read_kernel(struct sk_reuseport_md *ctx)
{
	__u64 value = 0;

	return bpf_probe_read_kernel(&value, sizeof(value), NULL) ? SK_DROP : SK_PASS;
}

char _license[] SEC("license") = "Dual MIT/GPL";
