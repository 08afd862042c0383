/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* A value of the kernel's configuration, which the loader does not support. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

extern int LINUX_KERNEL_VERSION __kconfig;

char _license[] SEC("license") = "Dual MIT/GPL";

SEC("sk_reuseport")
int by_version(struct sk_reuseport_md *ctx)
{
	return LINUX_KERNEL_VERSION >= 0x050000 ? SK_PASS : SK_DROP;
}
