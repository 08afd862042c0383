/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * A step along a wait queue, which is walked without its lock.
 *
 * An entry may leave the queue meanwhile. It then leads to itself (list_del_init, as finish_wait does), or to an
 * address that cannot be read (list_del, as remove_wait_queue does), and what it led to before is not known. So an
 * entry counts only once its next one was read.
 */
#pragma once

/* What comes after this entry; NULL: the entry has left the queue, or cannot be read. */
static __always_inline struct list_head *following(struct list_head *entry)
{
	/* What cannot be read is 0 (bpf_probe_read_kernel). */
	struct list_head *next = BPF_CORE_READ(entry, next);

	return next == entry ? NULL : next;
}

static __always_inline struct list_head *head_of(struct wait_queue_head *queue)
{
	return (void *)queue + bpf_core_field_offset(struct wait_queue_head, head);
}

/* NULL if the socket has none. */
static __always_inline struct wait_queue_head *queue_of_socket(struct sock *sk)
{
	struct socket_wq *wq = BPF_CORE_READ(sk, sk_wq);

	return wq ? (void *)wq + bpf_core_field_offset(struct socket_wq, wait) : NULL;
}
