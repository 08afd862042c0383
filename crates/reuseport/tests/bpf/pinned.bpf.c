/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* An object that pins its maps by their names. One of its programs is refused by the verifier. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} pinned_sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} pinned_count SEC(".maps");

char _license[] SEC("license") = "Dual MIT/GPL";

static __always_inline void count(void)
{
	__u32 zero = 0;
	__u64 *n = bpf_map_lookup_elem(&pinned_count, &zero);

	if (n)
		__sync_fetch_and_add(n, 1);
}

SEC("sk_reuseport")
int good(struct sk_reuseport_md *packet)
{
	__u32 index = 1;

	count();
	bpf_sk_select_reuseport(packet, &pinned_sockets, &index, 0);
	return SK_PASS;
}

SEC("sk_reuseport")
int refused(struct sk_reuseport_md *packet)
{
	__u32 index = *(__u32 *)packet->data;

	count();
	bpf_sk_select_reuseport(packet, &pinned_sockets, &index, 0);
	return SK_PASS;
}
