/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Who waits for a socket: the epoll instances that watch it, and the threads that wait in epoll_wait, or for the
 * socket itself (accept, recvmsg, poll, select).
 *
 * The lists are walked without their locks. What goes away meanwhile gives stale addresses: the reads cannot
 * fault, and a thread is reported only if the kernel's own links say that it is one.
 */
#pragma once

#include "wait_queue.h"

/* More epoll instances than this on one socket, and its owner is unknown. */
#define MAX_WATCHES 64

/*
 * The epoll instances that watch a file hang off the file itself (fs/eventpoll.c, attach_epitem).
 * Walking them here takes no lock of the server, unlike /proc/PID/fdinfo/FD, which holds the
 * instance's mutex while it prints everything. An item that goes away meanwhile gives a
 * stale address, which no epoll record matches; the reads cannot fault.
 */
static __always_inline void emit_watches(struct bpf_iter__task_file *ctx, struct file *file,
					 struct sock *sk)
{
	struct watch_record record = { .header = HEADER(KIND_WATCH, record) };
	struct hlist_head *watches = BPF_CORE_READ(file, f_ep);
	struct hlist_node *node;

	if (!watches)
		return;
	record.sock_address = (__u64)sk;
	node = BPF_CORE_READ(watches, first);
	for (int i = 0; node && i < MAX_WATCHES; i++) {
		struct epitem *item = (void *)node - bpf_core_field_offset(struct epitem, fllink);

		record.epoll = (__u64)BPF_CORE_READ(item, ep);
		EMIT(ctx->meta->seq, record);
		node = BPF_CORE_READ(node, next);
	}
	if (node) {
		record.epoll = 0;
		EMIT(ctx->meta->seq, record);
	}
}

/* An epoll instance refers to its file; no other kind of file's private data does. */
static __always_inline struct eventpoll *epoll_of(struct file *file)
{
	struct eventpoll *epoll = file->private_data;

	return epoll && BPF_CORE_READ(epoll, file) == file ? epoll : NULL;
}

/* More threads than this in one queue, and one that is not known stands for the rest. */
#define MAX_THREADS 32

static __always_inline struct wait_queue_head *queue_of_epoll(struct eventpoll *epoll)
{
	return (void *)epoll + bpf_core_field_offset(struct eventpoll, wq);
}

/* Whether this is a thread: the first one that its own number leads to. */
static __always_inline int is_thread(struct task_struct *task)
{
	struct pid *pid = task ? BPF_CORE_READ(task, thread_pid) : NULL;
	struct hlist_head *tasks;

	if (!pid)
		return 0;
	/* `tasks` and `pid_links` are arrays by the type of a number; the first element is of PIDTYPE_PID. */
	tasks = (void *)pid + bpf_core_field_offset(struct pid, tasks);
	return BPF_CORE_READ(tasks, first) ==
	       (void *)task + bpf_core_field_offset(struct task_struct, pid_links);
}

/*
 * The thread of a queue's entry: its address, or 0. `private` is the thread itself (epoll_wait, accept, recvmsg), or
 * what poll and select keep on their stack. It is NULL in the entries of epoll instances, and io_uring's have neither.
 *
 * Global functions: the verifier looks at each once, and not once for each entry.
 */
__noinline __u64 thread_of(__u64 entry)
{
	struct task_struct *task = BPF_CORE_READ((struct wait_queue_entry *)entry, private);

	if (!task || is_thread(task))
		return (__u64)task;
	task = BPF_CORE_READ((struct poll_wqueues *)task, polling_task);
	return is_thread(task) ? (__u64)task : 0;
}

/* The numbers of a thread's process and of the thread itself, in the upper and in the lower half. */
__noinline __u64 numbers_of(__u64 thread)
{
	struct task_struct *task = (void *)thread;

	return (__u64)pid_for_reader(BPF_CORE_READ(task, group_leader)) << 32 | pid_for_reader(task);
}

static __always_inline void emit_waiters(struct bpf_iter__task_file *ctx, struct wait_queue_head *queue,
					 __u64 object)
{
	struct waiter_record record = { .header = HEADER(KIND_WAITER, record), .object = object };
	struct list_head *head, *node, *next;

	if (!queue)
		return;
	head = head_of(queue);
	node = BPF_CORE_READ(head, next);
	for (int i = 0; node && node != head && i < MAX_THREADS; i++) {
		__u64 entry = (__u64)node - bpf_core_field_offset(struct wait_queue_entry, entry);
		__u64 task = thread_of(entry);

		next = following(node);
		if (task && next) {
			__u64 numbers = numbers_of(task);

			record.pid = numbers >> 32;
			record.tid = numbers;
			EMIT(ctx->meta->seq, record);
		}
		node = next;
	}
	if (node != head) {
		record.pid = 0;
		record.tid = 0;
		EMIT(ctx->meta->seq, record);
	}
}
