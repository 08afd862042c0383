/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * What the host's SO_REUSEPORT groups look like, in all network namespaces.
 *
 *   tables    one record for each member of a group, from the kernel's tables of listeners and of UDP
 *             sockets; also for each UDP socket that stands next to its group
 *   holders   one record for the reader, then one for each (process, descriptor) of such a socket, of
 *             every process that the reader's pid namespace shows
 *   members   both in one, from the descriptors alone: for kernels whose tables `tables` cannot read
 *   watches   which epoll instance watches which socket, which process has which epoll instance, and
 *             which threads wait for either now
 *   awaited   which of the sockets that the reader asks for are waited for now
 *
 * They only read; nothing here changes a socket. wire/record.h has the records.
 *
 * The tables are the truth about who is a member. A member without a visible descriptor (in an io_uring's
 * table, in flight between processes, in another pid namespace) gets traffic like any other.
 *
 * Cost: a host has many more descriptors than members, so the filters come first and cost a few
 * loads. Kernel: 5.12 (bpf_get_socket_cookie in tracing programs); `tables` 5.19.
 */
#include "kernel.h"

#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "wire/record.h"

char _license[] SEC("license") = "Dual MIT/GPL";

/*
 * If a record does not fit into what is left of the seq_file's buffer, the kernel drops all that
 * this run wrote and runs it again for the next read (kernel/bpf/bpf_iter.c, bpf_seq_read), so the
 * result can be ignored.
 */
#define EMIT(seq, record) bpf_seq_write(seq, &(record), sizeof(record))
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

/* What a socket is, and its group. BPF_CORE_READ must not see it: it would look for it in the kernel. */
struct view {
	struct sock *sk;
	struct sock_reuseport *group; /* NULL: STANDING_OUTSIDE */
	__u8 protocol;
	__u8 standing;
};

/* The port of which the last walk over the tables reports sockets in no group, too. */
__u32 wanted_port = 0;

static __always_inline int is_wanted(struct sock *sk)
{
	return wanted_port && BPF_CORE_READ(sk, __sk_common.skc_num) == wanted_port;
}

static __always_inline int is_mptcp(struct sock *sk)
{
	struct tcp_sock *tcp = (void *)sk;

	return bpf_core_field_exists(tcp->is_mptcp) && BPF_CORE_READ(tcp, is_mptcp);
}

/*
 * Membership is sk_reuseport_cb, not the flag SO_REUSEPORT: accepted children inherit the flag
 * (sk_clone_lock resets the cb), and a socket that sets it after bind joins nothing. A cb
 * alone is not enough either: attaching a program before bind makes one (reuseport_attach_prog),
 * and a listener that was shut down keeps its own.
 */
static __always_inline int is_listening(struct view *view)
{
	struct sock *sk = view->sk;

	view->group = BPF_CORE_READ(sk, sk_reuseport_cb);
	if (!(view->group || is_wanted(sk)) || BPF_CORE_READ(sk, __sk_common.skc_state) != TCP_LISTEN)
		return 0;
	view->protocol = IPPROTO_TCP;
	if (!view->group)
		view->standing = STANDING_PLAIN;
	else if (is_mptcp(sk))
		view->standing = STANDING_MPTCP;
	return 1;
}

/*
 * UDP. A connected socket is no member: since 6.13 the kernel takes away its cb for good (udp_lib_hash4),
 * before, and unless its address was a wildcard, it only passes over it. A socket that disconnects without
 * a cb is in no group, but the kernel's lookup finds it, and prefers it if it is the first in its table.
 */
static __always_inline int is_bound(struct view *view)
{
	struct sock *sk = view->sk;

	if (!BPF_CORE_READ(sk, __sk_common.skc_num) ||
	    BPF_CORE_READ(sk, __sk_common.skc_state) == TCP_ESTABLISHED)
		return 0;
	view->protocol = IPPROTO_UDP;
	view->group = BPF_CORE_READ(sk, sk_reuseport_cb);
	if (view->group)
		return 1;
	if (BPF_CORE_READ_BITFIELD_PROBED(sk, __sk_common.skc_reuseport)) {
		view->standing = STANDING_OUTSIDE;
		return 1;
	}
	view->standing = STANDING_PLAIN;
	return is_wanted(sk);
}

static __always_inline int is_internet(struct sock *sk)
{
	__u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);

	return family == AF_INET || family == AF_INET6;
}

#include "observe/member.h"

static __always_inline void emit_member(struct seq_file *seq, const struct view *view, int detail)
{
	struct member_record record = { .header = HEADER(KIND_MEMBER, record) };

	record.sock_address = (__u64)view->sk;
	record.protocol = view->protocol;
	record.standing = view->standing;
	read_member(&record, (__u64)view->group, detail);
	EMIT(seq, record);
}

#include "observe/tables.h"

/*
 * The file's socket if the reader should know who has it: a listener that is in a group, or a UDP socket
 * that is in one or stands next to it.
 *
 * The state of connected streams is tested first because most sockets of a busy host are in it, and it lies
 * next to a pointer that was followed already: the cost is in the cache lines that are fetched for each.
 * No listener is in that state (inet_listen), and datagram sockets never are.
 */
static __always_inline int look_at(struct file *file, struct view *view)
{
	struct socket *socket = bpf_sock_from_file(file);
	struct sock *sk;

	if (!socket || socket->state == SS_CONNECTED)
		return 0;
	sk = socket->sk;
	if (!sk || (sk->__sk_common.skc_family != AF_INET && sk->__sk_common.skc_family != AF_INET6))
		return 0;
	view->sk = sk;
	switch (sk->sk_protocol) {
	case IPPROTO_TCP:
		return (sk->sk_reuseport_cb || is_wanted(sk)) && is_listening(view);
	case IPPROTO_UDP:
		return is_bound(view);
	case IPPROTO_MPTCP: {
		/* The member is the TCP socket beneath. */
		struct mptcp_sock *mptcp = (void *)sk;

		if (!bpf_core_type_exists(struct mptcp_sock))
			return 0;
		view->sk = BPF_CORE_READ(mptcp, first);
		return view->sk && is_listening(view);
	}
	default:
		return 0;
	}
}

/* Assigns a cookie on the first request for it; reading the field would give 0. */
static __always_inline __u64 cookie_of(struct file *file, const struct view *view)
{
	struct socket *socket = bpf_sock_from_file(file);
	struct sock *member = view->sk;

	if (socket && socket->sk == member)
		return bpf_get_socket_cookie(socket->sk);
	/* Beneath MPTCP: the helper takes only sockets to which the verifier can follow. */
	return BPF_CORE_READ(member, __sk_common.skc_cookie.counter);
}

static __always_inline void emit_reader(struct bpf_iter__task_file *ctx)
{
	struct task_struct *reader = (void *)bpf_get_current_task();
	struct net *net = BPF_CORE_READ(reader, nsproxy, net_ns);
	struct reader_record record = { .header = HEADER(KIND_READER, record) };

	record.netns_cookie = BPF_CORE_READ(net, net_cookie);
	record.netns_inode = BPF_CORE_READ(net, ns.inum);
	EMIT(ctx->meta->seq, record);
}

static __always_inline struct inode *binary_of(struct task_struct *task)
{
	struct mm_struct *mm = BPF_CORE_READ(task, mm);
	struct file *file = mm ? BPF_CORE_READ(mm, exe_file) : NULL;

	return file ? BPF_CORE_READ(file, f_inode) : NULL;
}

/* More parents than this that run the same file, and the first is not found. */
#define MAX_PARENTS 16

/*
 * Processes of one server have the same first process: the one from which the others were forked, and perhaps
 * run again. It may hold no socket itself.
 */
__noinline int read_origin(struct holder_record *record, __u64 leader)
{
	struct inode *binary = binary_of((void *)leader);
	struct task_struct *first = (void *)leader;

	if (!record || !binary)
		return 0;
	for (int i = 0; i < MAX_PARENTS; i++) {
		struct task_struct *parent = BPF_CORE_READ(first, real_parent, group_leader);

		if (!parent || parent == first || binary_of(parent) != binary)
			break;
		first = parent;
	}
	record->first_pid = pid_for_reader(first);
	record->first_started = BPF_CORE_READ(first, start_boottime);
	record->binary_inode = BPF_CORE_READ(binary, i_ino);
	record->binary_device = BPF_CORE_READ(binary, i_sb, s_dev);
	return 0;
}

/*
 * The iterator passes over threads that share the leader's files. A thread comes here if it has unshared them
 * (CLONE_FILES), or if the leader has ended: then the pid does not lead to the descriptor, but the tid does.
 */
static __always_inline void emit_holder(struct bpf_iter__task_file *ctx, struct task_struct *task,
					const struct view *view, __u64 cookie)
{
	struct holder_record record = { .header = HEADER(KIND_HOLDER, record) };

	record.sock_address = (__u64)view->sk;
	record.cookie = cookie;
	record.pid = pid_for_reader(BPF_CORE_READ(task, group_leader));
	record.tid = pid_for_reader(task);
	record.fd = ctx->fd;
	BPF_CORE_READ_STR_INTO(&record.comm, task, group_leader, comm);
	read_origin(&record, (__u64)BPF_CORE_READ(task, group_leader));
	EMIT(ctx->meta->seq, record);
}

static __always_inline int emit_file(struct bpf_iter__task_file *ctx, int tables)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct view view = {};
	__u64 cookie;

	if (ctx->meta->seq_num == 0)
		emit_reader(ctx);
	if (!task || !file || !look_at(file, &view))
		return 0;
	/* The record of the socket reads the cookie that this assigns. */
	cookie = cookie_of(file, &view);
	if (!tables || (view.protocol == IPPROTO_UDP && !in_walked_table(view.sk)))
		emit_member(ctx->meta->seq, &view, 1);
	emit_holder(ctx, task, &view, cookie);
	return 0;
}

SEC("iter/task_file")
int holders(struct bpf_iter__task_file *ctx)
{
	return emit_file(ctx, 1);
}

SEC("iter/task_file")
int members(struct bpf_iter__task_file *ctx)
{
	return emit_file(ctx, 0);
}

#include "observe/waits.h"
#include "observe/awaited.h"

SEC("iter/task_file")
int watches(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct eventpoll *epoll;
	struct view view = {};

	if (!task || !file)
		return 0;
	if (look_at(file, &view)) {
		emit_watches(ctx, file, view.sk);
		emit_waiters(ctx, queue_of_socket(view.sk), (__u64)view.sk);
		return 0;
	}
	epoll = epoll_of(file);
	if (epoll) {
		struct epoll_record record = { .header = HEADER(KIND_EPOLL, record) };

		record.epoll = (__u64)epoll;
		record.pid = pid_for_reader(BPF_CORE_READ(task, group_leader));
		record.fd = ctx->fd;
		EMIT(ctx->meta->seq, record);
		emit_waiters(ctx, queue_of_epoll(epoll), (__u64)epoll);
	}
	return 0;
}
