/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * What the host's SO_REUSEPORT groups look like: two iterators over every descriptor of every
 * process that the reader's pid namespace shows, in all network namespaces.
 *
 *   members   one record for the reader, then one for each (process, descriptor) of a group's member
 *   watches   which epoll instance watches which member, and which process has which epoll instance
 *
 * They only read; nothing here changes a socket. wire/record.h has the records.
 *
 * Cost: a host has many more descriptors than members, so the filters come first and cost a few
 * loads. Kernel: 5.12 (bpf_get_socket_cookie in tracing programs).
 */
#include "kernel.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "wire/record.h"

char _license[] SEC("license") = "Dual MIT/GPL";

/*
 * If a record does not fit into what is left of the seq_file's buffer, the kernel drops all that
 * this run wrote and runs it again for the next read (kernel/bpf/bpf_iter.c, bpf_seq_read), so the
 * result can be ignored.
 */
#define EMIT(ctx, record) bpf_seq_write((ctx)->meta->seq, &(record), sizeof(record))
#define HEADER(k, type) { .kind = (k), .size = sizeof(type) }

/* The pid's number in the namespace `level` levels below the initial one. */
static __always_inline struct upid *upid_at(struct pid *pid, __u32 level)
{
	/* `numbers` is a variable-length array: its element cannot be named by a relocation. */
	return (void *)pid + bpf_core_field_offset(struct pid, numbers) +
	       (__u64)level * bpf_core_type_size(struct upid);
}

/* The process's pid as the reading process sees it; 0 if it does not. */
static __always_inline __u32 pid_for_reader(struct task_struct *task)
{
	struct task_struct *reader = (void *)bpf_get_current_task();
	struct pid *own = BPF_CORE_READ(reader, thread_pid);
	struct pid *pid = BPF_CORE_READ(task, thread_pid);
	__u32 level = BPF_CORE_READ(own, level);

	if (!pid || BPF_CORE_READ(pid, level) < level)
		return 0;
	if (BPF_CORE_READ(upid_at(pid, level), ns) != BPF_CORE_READ(upid_at(own, level), ns))
		return 0;
	return BPF_CORE_READ(upid_at(pid, level), nr);
}

/*
 * Whether the task is a thread group's leader. The iterator already leaves out threads that share the
 * leader's files; one that unshared its files (CLONE_FILES) is left out here, since a pid and a number do
 * not name its descriptors.
 */
static __always_inline int is_process(struct task_struct *task)
{
	return task->pid == task->tgid;
}

/*
 * The file's socket if it is a member of a group, else NULL.
 *
 * Membership is sk_reuseport_cb, not the flag SO_REUSEPORT: accepted children inherit the flag
 * (sk_clone_lock resets the cb), and a socket that sets it after bind joins nothing. A cb
 * alone is not enough either: attaching a program before bind makes one (reuseport_attach_prog),
 * and a listener that was shut down keeps its own.
 *
 * The state of connected streams is tested first because most sockets of a busy host are in it, and it lies
 * next to a pointer that was followed already: the cost is in the cache lines that are fetched for each.
 * No listener is in that state (inet_listen), and datagram sockets never are.
 */
static __always_inline struct sock *member_of(struct file *file)
{
	struct socket *socket = bpf_sock_from_file(file);
	struct sock *sk;

	if (!socket || socket->state == SS_CONNECTED)
		return NULL;
	sk = socket->sk;
	if (!sk || !sk->sk_reuseport_cb)
		return NULL;
	if (sk->__sk_common.skc_family != AF_INET && sk->__sk_common.skc_family != AF_INET6)
		return NULL;
	switch (sk->sk_protocol) {
	case IPPROTO_TCP:
		return sk->__sk_common.skc_state == TCP_LISTEN ? sk : NULL;
	case IPPROTO_UDP:
		return sk->__sk_common.skc_num ? sk : NULL;
	default:
		return NULL;
	}
}

static __always_inline void read_address(struct member_record *record, struct sock *sk)
{
	struct net *net = sk->__sk_common.skc_net.net;

	record->netns_cookie = BPF_CORE_READ(net, net_cookie);
	record->netns_inode = BPF_CORE_READ(net, ns.inum);
	record->device = sk->__sk_common.skc_bound_dev_if;
	record->family = sk->__sk_common.skc_family;
	record->port = sk->__sk_common.skc_num;
	record->protocol = sk->sk_protocol;
	if (record->family == AF_INET6) {
		record->v6only = BPF_CORE_READ_BITFIELD_PROBED(sk, __sk_common.skc_ipv6only);
		BPF_CORE_READ_INTO(&record->address, sk, __sk_common.skc_v6_rcv_saddr);
	} else {
		__be32 address = sk->__sk_common.skc_rcv_saddr;

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
		record->waiting = sk->sk_ack_backlog;
		record->limit = sk->sk_max_ack_backlog;
	} else {
		/* As udp_rqueue_get: what was read already may not be given back yet. */
		struct udp_sock *udp = (void *)sk;
		int bytes = sk->sk_backlog.rmem_alloc.counter - BPF_CORE_READ(udp, forward_deficit);

		record->waiting = bytes > 0 ? bytes : 0;
		record->limit = sk->sk_rcvbuf;
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

static __always_inline void emit_reader(struct bpf_iter__task_file *ctx)
{
	struct task_struct *reader = (void *)bpf_get_current_task();
	struct net *net = BPF_CORE_READ(reader, nsproxy, net_ns);
	struct reader_record record = { .header = HEADER(KIND_READER, record) };

	record.netns_cookie = BPF_CORE_READ(net, net_cookie);
	record.netns_inode = BPF_CORE_READ(net, ns.inum);
	EMIT(ctx, record);
}

static __always_inline void emit_member(struct bpf_iter__task_file *ctx, struct task_struct *task,
					struct sock *sk, struct sock_reuseport *group)
{
	struct member_record record = { .header = HEADER(KIND_MEMBER, record) };

	/* This assigns the cookie on the first request for it; reading the field would give 0. */
	record.cookie = bpf_get_socket_cookie(sk);
	record.sock_address = (__u64)sk;
	record.reuseport_id = BPF_CORE_READ(group, reuseport_id);
	record.uid = sk->sk_uid.val;
	record.pid = pid_for_reader(task);
	record.fd = ctx->fd;
	read_address(&record, sk);
	read_queue(&record, sk);
	read_program(&record, group);
	BPF_CORE_READ_STR_INTO(&record.comm, task, comm);
	EMIT(ctx, record);
}

SEC("iter/task_file")
int members(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct sock_reuseport *group;
	struct sock *sk;

	if (ctx->meta->seq_num == 0)
		emit_reader(ctx);
	if (!task || !file || !is_process(task))
		return 0;
	sk = member_of(file);
	if (!sk)
		return 0;
	/* Read once more: it may have left its group since. */
	group = sk->sk_reuseport_cb;
	if (group)
		emit_member(ctx, task, sk, group);
	return 0;
}

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
	record.cookie = bpf_get_socket_cookie(sk);
	node = BPF_CORE_READ(watches, first);
	for (int i = 0; node && i < MAX_WATCHES; i++) {
		struct epitem *item = (void *)node - bpf_core_field_offset(struct epitem, fllink);

		record.epoll = (__u64)BPF_CORE_READ(item, ep);
		EMIT(ctx, record);
		node = BPF_CORE_READ(node, next);
	}
	if (node) {
		record.epoll = 0;
		EMIT(ctx, record);
	}
}

/* An epoll instance refers to its file; no other kind of file's private data does. */
static __always_inline struct eventpoll *epoll_of(struct file *file)
{
	struct eventpoll *epoll = file->private_data;

	return epoll && BPF_CORE_READ(epoll, file) == file ? epoll : NULL;
}

SEC("iter/task_file")
int watches(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct eventpoll *epoll;
	struct sock *sk;

	if (!task || !file || !is_process(task))
		return 0;
	sk = member_of(file);
	if (sk) {
		emit_watches(ctx, file, sk);
		return 0;
	}
	epoll = epoll_of(file);
	if (epoll) {
		struct epoll_record record = { .header = HEADER(KIND_EPOLL, record) };

		record.epoll = (__u64)epoll;
		record.pid = pid_for_reader(task);
		record.fd = ctx->fd;
		EMIT(ctx, record);
	}
	return 0;
}
