/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* A user's own program whose map for sockets is pinned by name: everything goes to index 0. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} shared4 SEC(".maps");

char _license[] SEC("license") = "Dual MIT/GPL";

SEC("sk_reuseport/migrate")
int shared(struct sk_reuseport_md *packet)
{
	__u32 index = 0;

	bpf_sk_select_reuseport(packet, &shared4, &index, 0);
	return SK_PASS;
}
