/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* A program that the verifier refuses: it returns neither SK_PASS nor SK_DROP. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u64);
} sockets SEC(".maps");

char _license[] SEC("license") = "Dual MIT/GPL";

SEC("sk_reuseport")
int refused(struct sk_reuseport_md *packet)
{
	__u32 index = 0;

	bpf_sk_select_reuseport(packet, &sockets, &index, 0);
	return 42;
}
