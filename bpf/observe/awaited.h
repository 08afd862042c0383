/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Which of a few sockets are waited for now: a thread is in accept, in a read, in poll or select, or in epoll_wait of an
 * instance that watches the socket, or of one that watches that instance; or a request of io_uring waits there. An
 * instance that merely watches it is no thread that waits.
 *
 * The sockets are those that the reader asks for, by their addresses: no table is walked, no process is asked.
 */
#pragma once

#include "wait_queue.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_ASKED);
	__type(key, __u32);
	__type(value, struct asked);
} asked SEC(".maps");

/* More entries than this in one queue, and the rest is not looked at. */
#define MAX_ENTRIES 32

static __always_inline __u64 entry_of(struct list_head *node)
{
	return (__u64)node - bpf_core_field_offset(struct wait_queue_entry, entry);
}

/*
 * The epoll instance that has this entry in this queue, or 0. The entry names its queue, and the file of the instance
 * leads back to it.
 */
__noinline __u64 epoll_behind(__u64 entry, __u64 queue)
{
	struct eppoll_entry *registered =
		(void *)entry - bpf_core_field_offset(struct eppoll_entry, wait);
	struct eventpoll *epoll;

	if ((__u64)BPF_CORE_READ(registered, whead) != queue)
		return 0;
	epoll = BPF_CORE_READ(registered, base, ep);
	return epoll && BPF_CORE_READ(epoll, file, private_data) == epoll ? (__u64)epoll : 0;
}

/* Whether the entry is of a request of io_uring (Linux 6.0): that names its queue, too. */
__noinline int is_of_ring(__u64 entry, __u64 queue)
{
	struct io_poll *poll;

	if (!bpf_core_type_exists(struct io_poll))
		return 0;
	poll = (void *)entry - bpf_core_field_offset(struct io_poll, wait);
	return (__u64)BPF_CORE_READ(poll, head) == queue;
}

/* Whether a thread is in this queue. */
__noinline int has_thread(__u64 queue)
{
	struct list_head *head = head_of((struct wait_queue_head *)queue);
	struct list_head *node = BPF_CORE_READ(head, next);

#pragma clang loop unroll(disable)
	for (int i = 0; node && node != head && i < MAX_ENTRIES; i++) {
		if (thread_of(entry_of(node)))
			return 1;
		node = following(node);
	}
	return 0;
}

/* Whether a thread or a request has this entry in this queue. */
static __always_inline int is_direct(__u64 entry, __u64 queue)
{
	return thread_of(entry) != 0 || is_of_ring(entry, queue);
}

static __always_inline __u64 waiting_in(__u64 epoll)
{
	return epoll + bpf_core_field_offset(struct eventpoll, wq);
}

/* Whether the descriptor of an epoll instance is waited for: in poll or select, by io_uring, or in another instance. */
__noinline int is_polled(__u64 epoll)
{
	__u64 queue = epoll + bpf_core_field_offset(struct eventpoll, poll_wait);
	struct list_head *head = head_of((struct wait_queue_head *)queue);
	struct list_head *node = BPF_CORE_READ(head, next);

#pragma clang loop unroll(disable)
	for (int i = 0; node && node != head && i < MAX_ENTRIES; i++) {
		__u64 entry = entry_of(node), outer = epoll_behind(entry, queue);

		if (outer ? has_thread(waiting_in(outer)) : is_direct(entry, queue))
			return 1;
		node = following(node);
	}
	return 0;
}

/* Whether what has this entry in this queue waits. */
__noinline int waits(__u64 entry, __u64 queue)
{
	__u64 epoll = epoll_behind(entry, queue);

	if (epoll)
		return has_thread(waiting_in(epoll)) || is_polled(epoll);
	return is_direct(entry, queue);
}

static __always_inline int is_awaited(struct sock *sk)
{
	struct wait_queue_head *queue = queue_of_socket(sk);
	struct list_head *head, *node;

	if (!queue)
		return 0;
	head = head_of(queue);
	node = BPF_CORE_READ(head, next);
#pragma clang loop unroll(disable)
	for (int i = 0; node && node != head && i < MAX_ENTRIES; i++) {
		if (waits(entry_of(node), (__u64)queue))
			return 1;
		node = following(node);
	}
	return 0;
}

SEC("iter/bpf_map_elem")
int awaited(struct bpf_iter__bpf_map_elem *ctx)
{
	struct awaited_record record = { .header = HEADER(KIND_AWAITED, record) };
	struct asked *asked = ctx->value;
	struct sock *sk;

	if (!asked || !asked->sock_address)
		return 0;
	sk = (void *)asked->sock_address;
	/* Another socket may have come to its address. */
	if (cookie_in(sk) != asked->cookie || !is_awaited(sk))
		return 0;
	record.sock_address = (__u64)sk;
	EMIT(ctx->meta->seq, record);
	return 0;
}
