// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Selects the socket that the client orders in its first bytes (TCP: in its SYN) from a map in an
 * array of maps, and records the context and the outcome. There is one program for each type of
 * map.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <stdbool.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define MEMBERS 32
#define ETH_P_IP 0x0800

/* In the order of tests/it/conformance/orders.rs. */
enum outcome {
	/* Dropped: less data than an order. */
	NO_ORDER,
	/* Dropped: no map to select from. */
	NO_MAP,
	/* Dropped: selecting failed. */
	NOT_SELECTED,
	/* Selecting failed, and the program left the choice to the kernel, as ordered. */
	LEFT_TO_KERNEL,
	SELECTED,
	OUTCOMES,
};

/* A client's order. */
struct order {
	__u32 index;
	/* For TCP segments without SYN, which answer a SYN cookie. */
	__u32 index_for_ack;
	/* 0: drop if selecting fails. */
	__u32 leave_to_kernel;
};

/* The context of a run, and its result. */
struct sight {
	__u32 len;
	__u32 direct; /* bytes between data and data_end */
	__u32 eth_protocol;
	__u32 ip_protocol;
	__u32 bind_inany;
	__u32 hash;
	__u32 migrating;
	__u32 sk_family;
	__u32 sk_port;
	__u32 header; /* bytes of the transport header */
	__u32 source_port;
	__u32 destination_port;
	/* From the network header, an IPv4 address in the first four bytes. */
	__u8 source[16];
	__u8 destination[16];
	__s32 error; /* of the selection */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, OUTCOMES);
	__type(key, __u32);
	__type(value, __u64);
} outcomes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct sight);
} last SEC(".maps");

/*
 * The maps to select from, each in an array of maps. The test stores the map in the array, or
 * removes it.
 */
#define SELECT_FROM(map_type, inner, outer)                                                        \
	struct inner {                                                                             \
		__uint(type, map_type);                                                            \
		__uint(max_entries, MEMBERS);                                                      \
		__type(key, __u32);                                                                \
		__type(value, __u64);                                                              \
	} inner SEC(".maps");                                                                      \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);                                          \
		__uint(max_entries, 1);                                                            \
		__type(key, __u32);                                                                \
		__type(value, __u32);                                                              \
		__array(values, struct inner);                                                     \
	} outer SEC(".maps")

SELECT_FROM(BPF_MAP_TYPE_REUSEPORT_SOCKARRAY, sock_array, outer_sock_array);
SELECT_FROM(BPF_MAP_TYPE_SOCKMAP, sock_map, outer_sock_map);
SELECT_FROM(BPF_MAP_TYPE_SOCKHASH, sock_hash, outer_sock_hash);

static __always_inline void count(enum outcome outcome)
{
	__u32 index = outcome;
	__u64 *counter = bpf_map_lookup_elem(&outcomes, &index);

	if (counter)
		__sync_fetch_and_add(counter, 1);
}

static __always_inline void see_addresses(struct sk_reuseport_md *md, struct sight *sight)
{
	if (md->eth_protocol == bpf_htons(ETH_P_IP)) {
		bpf_skb_load_bytes_relative(md, offsetof(struct iphdr, saddr), sight->source, 4,
					    BPF_HDR_START_NET);
		bpf_skb_load_bytes_relative(md, offsetof(struct iphdr, daddr), sight->destination,
					    4, BPF_HDR_START_NET);
	} else {
		bpf_skb_load_bytes_relative(md, offsetof(struct ipv6hdr, saddr), sight->source, 16,
					    BPF_HDR_START_NET);
		bpf_skb_load_bytes_relative(md, offsetof(struct ipv6hdr, daddr),
					    sight->destination, 16, BPF_HDR_START_NET);
	}
}

static __always_inline void see(struct sk_reuseport_md *md, struct sight *sight)
{
	sight->len = md->len;
	sight->direct = md->data_end - md->data;
	sight->eth_protocol = md->eth_protocol;
	sight->ip_protocol = md->ip_protocol;
	sight->bind_inany = md->bind_inany;
	sight->hash = md->hash;
	sight->migrating = md->migrating_sk != NULL;
	sight->sk_family = md->sk->family;
	sight->sk_port = md->sk->src_port;
	see_addresses(md, sight);
}

/* Reads the transport header, with which `data` begins. */
static __always_inline bool see_header(struct sk_reuseport_md *md, struct sight *sight, bool *ack)
{
	struct tcphdr *tcp = md->data;
	struct udphdr *udp = md->data;

	if (md->ip_protocol == IPPROTO_TCP) {
		if ((void *)(tcp + 1) > md->data_end)
			return false;
		sight->header = tcp->doff * 4;
		sight->source_port = bpf_ntohs(tcp->source);
		sight->destination_port = bpf_ntohs(tcp->dest);
		*ack = !tcp->syn;
		return true;
	}
	if ((void *)(udp + 1) > md->data_end)
		return false;
	sight->header = sizeof(*udp);
	sight->source_port = bpf_ntohs(udp->source);
	sight->destination_port = bpf_ntohs(udp->dest);
	*ack = false;
	return true;
}

static __always_inline enum sk_action finish(enum outcome outcome)
{
	count(outcome);
	return outcome >= LEFT_TO_KERNEL ? SK_PASS : SK_DROP;
}

static __always_inline enum sk_action obey(struct sk_reuseport_md *md, void *outer)
{
	struct order order;
	struct sight *sight;
	__u32 zero = 0;
	bool ack;
	void *sockets;

	sight = bpf_map_lookup_elem(&last, &zero);
	if (!sight)
		return SK_DROP;
	see(md, sight);
	if (!see_header(md, sight, &ack) ||
	    bpf_skb_load_bytes(md, sight->header, &order, sizeof(order)))
		return finish(NO_ORDER);
	sockets = bpf_map_lookup_elem(outer, &zero);
	if (!sockets)
		return finish(NO_MAP);
	if (ack)
		order.index = order.index_for_ack;
	sight->error = bpf_sk_select_reuseport(md, sockets, &order.index, 0);
	if (!sight->error)
		return finish(SELECTED);
	return finish(order.leave_to_kernel ? LEFT_TO_KERNEL : NOT_SELECTED);
}

SEC("sk_reuseport")
int from_sock_array(struct sk_reuseport_md *md)
{
	return obey(md, &outer_sock_array);
}

SEC("sk_reuseport")
int from_sock_map(struct sk_reuseport_md *md)
{
	return obey(md, &outer_sock_map);
}

SEC("sk_reuseport")
int from_sock_hash(struct sk_reuseport_md *md)
{
	return obey(md, &outer_sock_hash);
}

char _license[] SEC("license") = "Dual MIT/GPL";
