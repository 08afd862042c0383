/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * A member's queue at this moment, read from the kernel's own structures.
 *
 * The address of a member's socket was noted when it was enrolled. Once the socket is gone, what is
 * read there is whatever the memory holds now: it decides nothing, because the slot is empty then
 * and selecting it fails. Reading it cannot fault: neither by bpf_probe_read_kernel, nor directly, where
 * the JIT has an exception table (BPF_PROBE_MEM).
 */
#pragma once

#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_core_read.h>

#include "map_key.h"
#include "wire/config.h"
#include "wire/slots.h"
#include "wire/tuning.h"

/*
 * How the program reads queues. Not a value that the loader sets: without CAP_PERFMON the verifier also
 * follows what a mispredicted branch would do, and before Linux 6.16 refuses a program for a helper that
 * only such a path reaches. So there are several objects: see select_load.bpf.c and select_direct.bpf.c.
 */
#define READ_NOTHING 0
#define READ_BY_HELPER 1
#define READ_DIRECTLY 2
#ifndef READ_QUEUES
#define READ_QUEUES READ_NOTHING
#endif

/*
 * Reads a field of a socket. A helper call for each field is most of what examining a member costs,
 * so where the kernel has bpf_rdonly_cast (Linux 6.2), fields are read as memory is. Both give 0 where
 * nothing can be read.
 */
#if READ_QUEUES == READ_DIRECTLY
#define READ(sk, field) ((sk)->field)

/* Not a helper: the loader turns these calls into calls of the kernel's function. */
static void *(*const bpf_rdonly_cast)(const void *address, __u32 type) = (void *)CALL_RDONLY_CAST;
#else
#define READ(sk, field) BPF_CORE_READ(sk, field)
#define bpf_rdonly_cast(address, type) ((void *)(address))
#endif

/* What the context stands for: the verifier rewrites reads of the context itself. */
#ifndef KERNEL_CONTEXT
#define KERNEL_CONTEXT(ctx) bpf_rdonly_cast(ctx, CONTEXT_TYPE)
#endif

struct queue {
	/* TCP: connections to accept, and half-open ones. UDP: bytes, in UDP_UNITs. */
	__u32 length;
	/* TCP: connections to accept. They are open already. */
	__u32 waiting;
	/* It was read. */
	bool known;
};

/* Bytes. The smallest datagram takes three times as much, or a little more (its skb's truesize, from 768 on). */
#define UDP_UNIT 256

static __always_inline void tcp_queue(struct sock *sk, struct queue *queue)
{
	struct inet_connection_sock *tcp = (void *)sk;
	int half_open = READ(tcp, icsk_accept_queue.qlen.counter);

	queue->waiting = READ(sk, sk_ack_backlog);
	if (half_open < 0)
		half_open = 0;
	queue->length = queue->waiting +
			(half_open < HALF_OPEN_BOUND ? half_open : HALF_OPEN_BOUND);
}

static __always_inline void udp_queue(struct sock *sk, struct queue *queue)
{
	struct udp_sock *udp = (void *)sk;
	int bytes = READ(sk, sk_backlog.rmem_alloc.counter);

	queue->waiting = 0;
	queue->length = 0;
	if (bytes <= 0)
		return;
	/* What was received, and is given back later: udp_rqueue_get. */
	bytes -= READ(udp, forward_deficit);
	if (bytes > 0)
		queue->length = (__u32)bytes / UDP_UNIT;
}

/* Bytes that a queue has room for: any number, or none, not even for a packet that takes no bytes. */
#define ROOM_FOR_ANY (1LL << 62)
#define NO_ROOM (-1LL)

/* As sk_acceptq_is_full has it. */
static __always_inline __s64 tcp_room(struct sock *sk)
{
	__u32 waiting = READ(sk, sk_ack_backlog);

	return waiting && waiting > READ(sk, sk_max_ack_backlog) ? NO_ROOM : ROOM_FOR_ANY;
}

/*
 * As __udp_enqueue_schedule_skb has it since Linux 6.18, where a queue never exceeds its limit: a datagram that does
 * not fit is dropped, unless the queue is empty. Earlier kernels take one more, and drop what comes after it: there,
 * a member is passed over one datagram early.
 */
static __always_inline __s64 udp_room(struct sock *sk)
{
	int bytes = READ(sk, sk_backlog.rmem_alloc.counter);

	return bytes > 0 ? (__s64)READ(sk, sk_rcvbuf) - bytes : ROOM_FOR_ANY;
}

/*
 * What the packet takes of that room: its truesize (bits 0 to 31). A train of datagrams (GSO) comes as one; a socket
 * that does not accept trains gets each datagram by itself, and they take more (bits 33 to 63). 0 for TCP.
 */
#define SIZE_SPLIT_SHIFT 33

/* What a datagram takes beyond its bytes, most of the time: the rest depends on how the train was made. */
#define SIZE_OF_EACH 1024

static __always_inline __u64 size_of(struct sk_reuseport_md *ctx)
{
	struct sk_reuseport_kern *kern;
	struct skb_shared_info *shared;
	struct sk_buff *skb;
	__u64 datagrams = 0;
	__u16 each;

	if (!READ_QUEUES || PROTOCOL == IPPROTO_TCP)
		return 0;
	kern = KERNEL_CONTEXT(ctx);
	skb = READ(kern, skb);
	shared = bpf_rdonly_cast((void *)READ(skb, head) + READ(skb, end), SHARED_INFO_TYPE);
	each = READ(shared, gso_size);
	if (each)
		datagrams = ctx->len / each;
	return READ(skb, truesize) | datagrams * SIZE_OF_EACH << SIZE_SPLIT_SHIFT;
}

/* include/linux/udp.h: the number of a bit. */
enum { UDP_FLAGS_ACCEPT_L4 = 5 };

/* As udp_unexpected_gso. */
static __always_inline bool accepts_trains(struct sock *sk)
{
	struct udp_sock *udp = (void *)sk;

	if (bpf_core_field_exists(udp->udp_flags))
		return READ(udp, udp_flags) >> UDP_FLAGS_ACCEPT_L4 & 1;
	return bpf_core_field_exists(udp->accept_udp_l4) &&
	       BPF_CORE_READ_BITFIELD_PROBED(udp, accept_udp_l4);
}

static __always_inline bool fits(struct sock *sk, __s64 room, __u64 size)
{
	__u32 more = size >> SIZE_SPLIT_SHIFT;

	if (PROTOCOL == IPPROTO_UDP && more && !accepts_trains(sk))
		room -= more;
	return (__u32)size <= room;
}

/* NULL if the address is not known, or queues may not be read. */
static __always_inline struct sock *socket_of(__u32 slot)
{
	__u64 *address;

	if (!READ_QUEUES)
		return NULL;
	address = bpf_map_lookup_elem(&addresses, MAP_KEY(slot));
	if (!address || !*address)
		return NULL;
	return bpf_rdonly_cast((void *)*address, SOCKET_TYPE);
}

static __always_inline void queue_of(__u32 slot, struct queue *queue)
{
	struct sock *sk = socket_of(slot);

	if (!sk)
		return;
	queue->known = true;
	if (PROTOCOL == IPPROTO_TCP)
		tcp_queue(sk, queue);
	else
		udp_queue(sk, queue);
}

static __always_inline __s64 room_at(struct sock *sk)
{
	return PROTOCOL == IPPROTO_TCP ? tcp_room(sk) : udp_room(sk);
}

/* Whether the kernel would drop the packet. Not inlined, and not static: the verifier then looks at it once. */
__noinline int queue_is_full(struct sk_reuseport_md *ctx, __u32 slot)
{
	struct sock *sk = socket_of(slot);
	__s64 room;

	if (!sk)
		return false;
	room = room_at(sk);
	/* To read the size may take several helper calls. */
	return room != ROOM_FOR_ANY && !fits(sk, room, size_of(ctx));
}

/* The same for a packet of this size, where the context is not at hand. */
__noinline int queue_is_full_for(__u64 size, __u32 slot)
{
	struct sock *sk = socket_of(slot);

	return sk && !fits(sk, room_at(sk), size);
}
