// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Counts each member's open connections, once per host.
 *
 * Once for all groups, because it runs at every change of state of every TCP connection on the host:
 * fifty copies would double what a connection costs.
 *
 * There are two programs, of which one would do if it always ran. The kernel skips a tracing program that
 * is running on the same CPU already (__bpf_trace_run): when an interrupt's softirq closes connections
 * while a task is in the middle of the program. A skipped close would stay counted as open forever.
 * Softirqs do not nest and tracepoints run with preemption off, so of two programs, which run one after
 * the other, one always runs. The first one counts, and the other sees that it did. The kernel counts
 * the runs that it skipped (recursion_misses in bpf_prog_info).
 */
#include "kernel.h"
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "wire/host.h"
#include "wire/mark.h"

/*
 * A connection is cloned from its listener in state LISTEN and goes to SYN_RECV at once
 * (inet_csk_clone_lock), in every case. Counting at ESTABLISHED instead would be wrong with Fast Open,
 * which can skip it.
 *
 * It counts until the worker closes its end: what the client has yet to send or to acknowledge, for minutes
 * perhaps, is no work for the worker. CLOSE comes last, once, on every path; resets have no other state.
 */
static __always_inline int count(struct sock *sk, int oldstate, int newstate)
{
	struct host_member *member;
	struct mark *mark;

	if (!worker_has_closed(newstate) && !(oldstate == TCP_LISTEN && newstate == TCP_SYN_RECV))
		return 0;
	if (oldstate == TCP_CLOSE)
		return 0; /* a close that was missed may have been found by a recount */
	mark = bpf_sk_storage_get(&marks, sk, NULL, 0);
	if (!mark)
		return 0;
	/*
	 * Of those that are closed, a socket that is not counted is a listener, a connection from before
	 * counting began, or one that was subtracted in an earlier state or by the other program. At
	 * SYN_RECV, the other program has added those that are counted.
	 */
	if (mark->counted == (newstate == TCP_SYN_RECV))
		return 0;
	member = bpf_map_lookup_elem(&members, &mark->member);
	if (!member || member->epoch != mark->epoch)
		return 0;
	/* A recount relies on the order: `counted` before `opened`, `closed` before `counted`. */
	if (newstate == TCP_SYN_RECV) {
		mark->counted = 1;
		__sync_fetch_and_add(&member->opened, 1);
	} else {
		__sync_fetch_and_add(&member->closed, 1);
		mark->counted = 0;
		/*
		 * No member has epoch 0. A socket that was disconnected (connect(2) to AF_UNSPEC) can
		 * listen, and would pass the mark on to connections of another member (tcp_disconnect).
		 */
		mark->epoch = 0;
	}
	return 0;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(count_open, struct sock *sk, int oldstate, int newstate)
{
	return count(sk, oldstate, newstate);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(count_nested, struct sock *sk, int oldstate, int newstate)
{
	return count(sk, oldstate, newstate);
}

char _license[] SEC("license") = "Dual MIT/GPL";
