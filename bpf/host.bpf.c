// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * What counts each member's open connections, once per host.
 *
 * Once for all groups: it runs at every change of state of every TCP connection on the host, and
 * fifty copies of it would double what a connection costs.
 *
 * There are two programs, each of which would do. The kernel skips a tracing program that is running on
 * the same CPU already (__bpf_trace_run): beneath an interrupt whose softirq closes connections
 * while a task is in the middle of the program. Skipped, a close would stay counted forever.
 * Softirqs do not nest and tracepoints run with preemption off, so of two programs, which run one after
 * the other, one always runs. Whichever is first does it, and the other finds it done. The kernel counts
 * what it skipped (recursion_misses in bpf_prog_info).
 */
#include "kernel.h"
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "wire/host.h"
#include "wire/mark.h"

/*
 * A connection is cloned from its listener in state LISTEN and goes to SYN_RECV at once
 * (inet_csk_clone_lock), whatever comes of it then; CLOSE comes last, once, by every way. Counting
 * at ESTABLISHED instead goes wrong with Fast Open, which can skip it.
 */
static __always_inline int count(struct sock *sk, int oldstate, int newstate)
{
	struct host_member *member;
	struct mark *mark;

	if (newstate != TCP_CLOSE && !(oldstate == TCP_LISTEN && newstate == TCP_SYN_RECV))
		return 0;
	if (oldstate == TCP_CLOSE)
		return 0; /* a close that was missed may have been found by a recount */
	mark = bpf_sk_storage_get(&marks, sk, NULL, 0);
	if (!mark)
		return 0;
	/*
	 * At CLOSE, what is not counted is a listener, a connection from before we counted, or one that
	 * the other program has subtracted. At SYN_RECV, what is counted the other one has added.
	 */
	if (mark->counted == (newstate == TCP_SYN_RECV))
		return 0;
	member = bpf_map_lookup_elem(&members, &mark->member);
	if (!member || member->epoch != mark->epoch)
		return 0;
	/* A recount relies on it: `counted` before `opened`, `closed` before `counted`. */
	if (newstate == TCP_SYN_RECV) {
		mark->counted = 1;
		__sync_fetch_and_add(&member->opened, 1);
	} else {
		__sync_fetch_and_add(&member->closed, 1);
		mark->counted = 0;
		/*
		 * No member has epoch 0. A socket that was disconnected (connect(2) to AF_UNSPEC) can
		 * listen, and would hand the mark on to strangers (tcp_disconnect).
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
