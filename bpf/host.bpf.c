// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * The one program per host: it counts each member's open connections.
 *
 * One for all groups: it runs at every change of state of every TCP connection on the host, and
 * fifty copies of it would double what a connection costs.
 */
#include "kernel.h"
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "host.h"
#include "marks.h"

/*
 * A connection is cloned from its listener in state LISTEN and goes to SYN_RECV at once
 * (inet_csk_clone_lock), whatever comes of it then; CLOSE comes last, once, by every way. Counting
 * at ESTABLISHED instead goes wrong with Fast Open, which can skip it.
 */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(count_open, struct sock *sk, int oldstate, int newstate)
{
	struct host_member *member;
	struct mark *mark;

	if (newstate != TCP_CLOSE && !(oldstate == TCP_LISTEN && newstate == TCP_SYN_RECV))
		return 0;
	mark = bpf_sk_storage_get(&marks, sk, NULL, 0);
	if (!mark)
		return 0;
	if (newstate == TCP_CLOSE && !mark->counted)
		return 0; /* a listener, or a connection from before we counted */
	member = bpf_map_lookup_elem(&members, &mark->member);
	if (!member || member->epoch != mark->epoch)
		return 0;
	if (newstate == TCP_SYN_RECV) {
		mark->counted = 1;
		__sync_fetch_and_add(&member->open, 1);
	} else {
		mark->counted = 0;
		/*
		 * No member has epoch 0. A socket that was disconnected (connect(2) to AF_UNSPEC) can
		 * listen, and would hand the mark on to strangers (tcp_disconnect).
		 */
		mark->epoch = 0;
		__sync_fetch_and_add(&member->open, -1);
	}
	return 0;
}

char _license[] SEC("license") = "Dual MIT/GPL";
