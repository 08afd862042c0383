// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Tells a watcher which sockets come and go on the ports that it follows, in any network namespace.
 *
 * For TCP, a tracepoint announces each listener that begins or ends to listen. For UDP there is none
 * (bind(2) passes no tracepoint), so the watcher polls an iterator, which costs little: it goes through the
 * UDP sockets of one network namespace and nothing else.
 *
 * Loaded once by each watching process for as long as it runs, and pinned nowhere.
 */
#include "kernel.h"

#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "wire/event.h"

static __always_inline int is_followed(struct sock *sk, __u16 protocol)
{
	struct port port = {
		.netns = sk->__sk_common.skc_net.net->net_cookie,
		.number = sk->__sk_common.skc_num,
		.protocol = protocol,
	};

	return bpf_map_lookup_elem(&ports, &port) != NULL;
}

/*
 * Announced before the socket is in its group (inet_csk_listen_start sets the state, then hashes
 * it): the reader must look again.
 */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(on_listen, struct sock *sk, int oldstate, int newstate)
{
	struct event *event;

	if (oldstate != TCP_LISTEN && newstate != TCP_LISTEN)
		return 0;
	/* A connection is born in its listener's state. */
	if (oldstate == TCP_LISTEN && newstate != TCP_CLOSE)
		return 0;
	if (!is_followed(sk, IPPROTO_TCP))
		return 0;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event)
		return 0; /* the watcher polls from time to time anyway */
	event->cookie = bpf_get_socket_cookie(sk);
	event->netns = sk->__sk_common.skc_net.net->net_cookie;
	event->process = bpf_get_current_pid_tgid() >> 32;
	event->port = sk->__sk_common.skc_num;
	event->listening = newstate == TCP_LISTEN;
	event->reserved = 0;
	bpf_ringbuf_submit(event, 0);
	return 0;
}

SEC("iter/udp")
int udp_members(struct bpf_iter__udp *ctx)
{
	struct sock *sk = (struct sock *)ctx->udp_sk;
	struct udp_member member = {};

	if (!sk || !sk->sk_reuseport_cb)
		return 0;
	/* Connected: before 6.13 it keeps its place in the group, but it is no member. */
	if (sk->__sk_common.skc_state == TCP_ESTABLISHED)
		return 0;
	if (!is_followed(sk, IPPROTO_UDP))
		return 0;
	member.cookie = bpf_get_socket_cookie(sk);
	member.port = sk->__sk_common.skc_num;
	bpf_seq_write(ctx->meta->seq, &member, sizeof(member));
	return 0;
}

char _license[] SEC("license") = "Dual MIT/GPL";
