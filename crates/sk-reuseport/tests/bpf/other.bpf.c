// SPDX-License-Identifier: GPL-2.0 OR MIT
/* An object whose only program is of a type that selects no sockets. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("xdp")
int pass(struct xdp_md *md)
{
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
