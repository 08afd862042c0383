// SPDX-License-Identifier: GPL-2.0 OR MIT
/* Programs that select the socket whose index is in `choice`, from socket arrays with values of 8 and
 * of 4 bytes, and migrate connections of closed listeners to the other index there. */
#include "count.h"

/* The elements of `choice`. */
enum { FOR_NEW, FOR_MIGRATING, CHOICES };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CHOICES);
	__type(key, __u32);
	__type(value, __u32);
} choice SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, __u64);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, __u32);
} narrow_sockets SEC(".maps");

static __always_inline int select_from(struct sk_reuseport_md *md, void *map, __u32 whom)
{
	__u32 *index = bpf_map_lookup_elem(&choice, &whom);

	count(RUNS);
	if (index)
		count_choice(bpf_sk_select_reuseport(md, map, index, 0));
	return SK_PASS;
}

SEC("sk_reuseport")
int select_socket(struct sk_reuseport_md *md)
{
	return select_from(md, &sockets, FOR_NEW);
}

SEC("sk_reuseport")
int select_narrow(struct sk_reuseport_md *md)
{
	return select_from(md, &narrow_sockets, FOR_NEW);
}

SEC("sk_reuseport/migrate")
int select_or_move(struct sk_reuseport_md *md)
{
	if (!md->migrating_sk)
		return select_from(md, &sockets, FOR_NEW);
	count(MIGRATED);
	return select_from(md, &sockets, FOR_MIGRATING);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
