/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * What is read of one socket: its address, its queue, its group's program, how it was made, what it dropped
 * and who waits for it.
 */
#pragma once

#include "wait_queue.h"

/* net/core/dev.h: dev_index_hash */
#define NETDEV_HASHENTRIES 256
/* The most devices of one hash that are looked at: some 16,000 in a namespace. */
#define DEVICES_PER_HASH 64

static __always_inline struct net_device *device_of(struct hlist_node *node)
{
	return (void *)node - bpf_core_field_offset(struct net_device, index_hlist);
}

/*
 * The device with this index in a namespace (__dev_get_by_index), 0 if there is none. Both are addresses. A global
 * function, which the verifier looks at once, not for each way that leads to it.
 */
__noinline __u64 find_device(__u64 net, __u32 index)
{
	__u32 hash = index & (NETDEV_HASHENTRIES - 1);
	void *heads = BPF_CORE_READ((struct net *)net, dev_index_head);
	struct hlist_head *list = heads + (__u64)hash * sizeof(*list);
	struct hlist_node *node;
	int i;

	if (!index)
		return 0;
	node = BPF_CORE_READ(list, first);
#pragma clang loop unroll(disable)
	for (i = 0; i < DEVICES_PER_HASH; i++) {
		if (!node)
			break;
		if (BPF_CORE_READ(device_of(node), ifindex) == index)
			return (__u64)device_of(node);
		node = BPF_CORE_READ(node, next);
	}
	return 0;
}

static __always_inline void read_address(struct member_record *record, struct sock *sk)
{
	struct net *net = BPF_CORE_READ(sk, __sk_common.skc_net.net);
	struct net_device *device;

	record->netns_cookie = BPF_CORE_READ(net, net_cookie);
	record->netns_inode = BPF_CORE_READ(net, ns.inum);
	record->device = BPF_CORE_READ(sk, __sk_common.skc_bound_dev_if);
	/* Without a device, reading fails, and the name is empty. A branch would double what the verifier looks at. */
	device = (void *)find_device((__u64)net, record->device);
	BPF_CORE_READ_INTO(&record->device_name, device, name);
	record->family = BPF_CORE_READ(sk, __sk_common.skc_family);
	record->port = BPF_CORE_READ(sk, __sk_common.skc_num);
	if (record->family == AF_INET6) {
		record->v6only = BPF_CORE_READ_BITFIELD_PROBED(sk, __sk_common.skc_ipv6only);
		BPF_CORE_READ_INTO(&record->address, sk, __sk_common.skc_v6_rcv_saddr);
	} else {
		__be32 address = BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr);

		__builtin_memcpy(record->address, &address, sizeof(address));
	}
}

static __always_inline void read_queue(struct member_record *record, struct sock *sk)
{
	if (record->protocol == IPPROTO_TCP) {
		struct inet_connection_sock *tcp = (void *)sk;

		/*
		 * In this order: a handshake that ends leaves the half-open ones before it waits
		 * (inet_csk_complete_hashdance), and must not be missed in both.
		 */
		record->half_open = BPF_CORE_READ(tcp, icsk_accept_queue.qlen.counter);
		barrier();
		record->waiting = BPF_CORE_READ(sk, sk_ack_backlog);
		record->limit = BPF_CORE_READ(sk, sk_max_ack_backlog);
	} else {
		/* As udp_rqueue_get: what was read already may not be given back yet. */
		struct udp_sock *udp = (void *)sk;
		int bytes = BPF_CORE_READ(sk, sk_backlog.rmem_alloc.counter) -
			    BPF_CORE_READ(udp, forward_deficit);

		record->waiting = bytes > 0 ? bytes : 0;
		record->limit = BPF_CORE_READ(sk, sk_rcvbuf);
	}
}

static __always_inline void read_program(struct member_record *record, struct sock_reuseport *group)
{
	struct bpf_prog *program = BPF_CORE_READ(group, prog);

	if (!program)
		return;
	record->has_program = 1;
	record->program_id = BPF_CORE_READ(program, aux, id);
	BPF_CORE_READ_INTO(&record->program_name, program, aux, name);
}

/* include/net/sock.h, include/net/inet_sock.h: numbers of bits. */
enum { SOCK_BROADCAST = 6, INET_FLAGS_TRANSPARENT = 15 };

static __always_inline int is_transparent(struct inet_sock *inet)
{
	if (bpf_core_field_exists(inet->inet_flags))
		return BPF_CORE_READ(inet, inet_flags) >> INET_FLAGS_TRANSPARENT & 1;
	return BPF_CORE_READ_BITFIELD_PROBED(inet, transparent);
}

/*
 * The kernel copies multicast and broadcast datagrams to each socket that takes them
 * (__udp4_lib_mcast_deliver), and TPROXY looks for a UDP socket without the packet (nf_tproxy_get_sock_v4).
 */
static __always_inline __u32 not_asked(struct sock *sk)
{
	struct inet_sock *inet = (void *)sk;
	struct ipv6_pinfo *ipv6 = BPF_CORE_READ(inet, pinet6);
	__u32 bits = 0;

	if (BPF_CORE_READ(inet, mc_list) || (ipv6 && BPF_CORE_READ(ipv6, ipv6_mc_list)))
		bits |= NOT_ASKED_MULTICAST;
	if (BPF_CORE_READ(sk, __sk_common.skc_flags) >> SOCK_BROADCAST & 1)
		bits |= NOT_ASKED_BROADCAST;
	if (is_transparent(inet))
		bits |= NOT_ASKED_TRANSPARENT;
	return bits;
}

static __always_inline __u32 made(struct sock *sk, int tcp)
{
	struct inet_connection_sock *listener = (void *)sk;
	__u32 bits = 0;

	if (BPF_CORE_READ_BITFIELD_PROBED(sk, __sk_common.skc_reuse))
		bits |= MADE_REUSEADDR;
	if (BPF_CORE_READ_BITFIELD_PROBED(sk, __sk_common.skc_reuseport))
		bits |= MADE_REUSEPORT;
	if (tcp && is_mptcp(sk))
		bits |= MADE_MPTCP;
	if (tcp && BPF_CORE_READ(listener, icsk_accept_queue.rskq_defer_accept))
		bits |= MADE_DEFERRING;
	if (tcp && is_transparent((void *)sk))
		bits |= MADE_TRANSPARENT;
	return bits;
}

static __always_inline __u32 drops(struct sock *sk)
{
	struct numa_drop_counters *counters;

	if (bpf_core_field_exists(sk->sk_drop_counters)) {
		counters = BPF_CORE_READ(sk, sk_drop_counters);
		if (counters)
			return BPF_CORE_READ(counters, drops0.counter) +
			       BPF_CORE_READ(counters, drops1.counter);
	}
	return BPF_CORE_READ(sk, sk_drops.counter);
}

/* Enough to tell whether there are several. */
#define MAX_WAITERS 16

/*
 * The socket's wait queue has an entry for each epoll instance that watches it (as long as it does), and one for
 * each thread that is in accept, poll or select, or reads, at this moment. WAITERS_UNKNOWN if one of them leaves
 * meanwhile: the rest is not seen.
 */
__noinline __u32 waiters(__u64 sock_address)
{
	struct wait_queue_head *queue = queue_of_socket((struct sock *)sock_address);
	struct list_head *head, *entry, *next;
	__u32 found;

	if (!queue)
		return WAITERS_UNKNOWN;
	head = head_of(queue);
	entry = BPF_CORE_READ(head, next);
#pragma clang loop unroll(disable)
	for (found = 0; found < MAX_WAITERS && entry != head; found++) {
		next = following(entry);
		if (!next)
			return WAITERS_UNKNOWN;
		entry = next;
	}
	return found;
}

/*
 * Fills in what the kernel knows of the socket at `sock_address`.
 *
 * Not inlined, and not static, as is what else reads much below: the verifier then looks at it once and by itself,
 * instead of once for every path that leads here. Addresses are numbers there.
 */
__noinline int read_member(struct member_record *record, __u64 group_address, __u32 detail)
{
	struct sock_reuseport *group = (void *)group_address;
	struct sock *sk;

	if (!record)
		return 0;
	sk = (void *)record->sock_address;
	record->cookie = BPF_CORE_READ(sk, __sk_common.skc_cookie.counter);
	record->uid = BPF_CORE_READ(sk, sk_uid.val);
	read_address(record, sk);
	read_queue(record, sk);
	if (record->protocol == IPPROTO_UDP)
		record->not_asked = not_asked(sk);
	record->waiters = WAITERS_UNKNOWN;
	if (detail) {
		record->made = made(sk, record->protocol == IPPROTO_TCP);
		record->drops = drops(sk);
		/* Who waits for an MPTCP listener waits for the socket above. */
		if (!(record->made & MADE_MPTCP))
			record->waiters = waiters((__u64)sk);
	}
	if (group) {
		record->reuseport_id = BPF_CORE_READ(group, reuseport_id);
		read_program(record, group);
	}
	return 0;
}
