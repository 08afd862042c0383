/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * What a member has to do at this moment, read from the kernel's own structures.
 *
 * The address of a member's socket was noted when it was enrolled. Once the socket is gone, what is
 * read there is whatever the memory holds now: it decides nothing, because the slot is empty then
 * and selecting it fails. Reading it cannot fault (bpf_probe_read_kernel).
 */
#pragma once

#include "kernel.h"
#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "map_key.h"

/* By slot. Readable for its owner only, and never in anybody's memory: see steer.rs. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* the loader says how many */
	__type(key, __u32);
	__type(value, __u64);
} addresses SEC(".maps");

struct queue {
	/* TCP: connections that wait to be accepted, and half-open ones. UDP: 64 bytes each. */
	__u32 length;
	/* TCP: those that wait to be accepted. They are open already. */
	__u32 waiting;
	/* What comes next would be dropped. */
	bool full;
};

/*
 * Half-open requests count, so that a burst of SYNs within a round trip does not all go to one member.
 * But not without bound: in a flood of SYNs they say nothing, and with TCP_DEFER_ACCEPT they are
 * connections whose clients are silent.
 */
#define HALF_OPEN_BOUND 64

static __always_inline void tcp_queue(struct sock *sk, struct queue *queue)
{
	struct inet_connection_sock *tcp = (void *)sk;
	int half_open = BPF_CORE_READ(tcp, icsk_accept_queue.qlen.counter);

	queue->waiting = BPF_CORE_READ(sk, sk_ack_backlog);
	/* sk_acceptq_is_full */
	queue->full = queue->waiting > BPF_CORE_READ(sk, sk_max_ack_backlog);
	if (half_open < 0)
		half_open = 0;
	queue->length = queue->waiting +
			(half_open < HALF_OPEN_BOUND ? half_open : HALF_OPEN_BOUND);
}

static __always_inline void udp_queue(struct sock *sk, struct queue *queue)
{
	struct udp_sock *udp = (void *)sk;
	int bytes = BPF_CORE_READ(sk, sk_backlog.rmem_alloc.counter);

	queue->waiting = 0;
	queue->length = 0;
	queue->full = false;
	if (bytes <= 0)
		return;
	/* __udp_enqueue_schedule_skb */
	queue->full = bytes > BPF_CORE_READ(sk, sk_rcvbuf);
	/* What was received, and is given back later: udp_rqueue_get. */
	bytes -= BPF_CORE_READ(udp, forward_deficit);
	/* The smallest datagram takes several times as much (its skb's truesize). */
	if (bytes > 0)
		queue->length = (__u32)bytes / 64;
}

/* False if nobody noted where the socket is, or queues may not be read: then nothing is known. */
static __always_inline bool queue_of(__u32 slot, struct queue *queue)
{
	__u64 *address;

	if (!READ_QUEUES)
		return false;
	address = bpf_map_lookup_elem(&addresses, MAP_KEY(slot));
	if (!address || !*address)
		return false;
	if (PROTOCOL == IPPROTO_TCP)
		tcp_queue((struct sock *)*address, queue);
	else
		udp_queue((struct sock *)*address, queue);
	return true;
}

/* Not inlined, and not static: the verifier then looks at it once. */
__noinline int queue_is_full(__u32 slot)
{
	struct queue queue = {};

	return queue_of(slot, &queue) && queue.full;
}
