// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Tells a watcher which sockets come and go on the ports that it follows, in any network namespace.
 *
 *   on_state     TCP: a tracepoint, each listener that begins or ends to listen, and from time to time that
 *                connections come
 *   bound4       UDP: programs of the root cgroup, each socket that a process binds. Nothing tells of sockets
 *   bound6       that close or connect, nor of those that the kernel binds
 *   udp_members  the UDP members in the reader's network namespace: an iterator, for the rest
 *
 * Loaded once by each watching process for as long as it runs, and pinned nowhere.
 */
#include "kernel.h"

#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "wire/event.h"

static __always_inline struct port port_of(struct sock *sk, __u16 protocol)
{
	struct port port = {
		.netns = sk->__sk_common.skc_net.net->net_cookie,
		.number = sk->__sk_common.skc_num,
		.protocol = protocol,
	};

	return port;
}

static __always_inline int is_followed(const struct port *port)
{
	struct port anywhere = { .number = port->number, .protocol = port->protocol };

	return bpf_map_lookup_elem(&ports, port) || bpf_map_lookup_elem(&ports, &anywhere);
}

static __always_inline void announce(const struct port *port, __u64 cookie, __u8 happened)
{
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event) {
		__u32 key = 0;
		__u64 *count = bpf_map_lookup_elem(&lost, &key);

		if (count)
			__sync_fetch_and_add(count, 1);
		return;
	}
	event->cookie = cookie;
	event->netns = port->netns;
	event->process = bpf_get_current_pid_tgid() >> 32;
	event->port = port->number;
	event->protocol = port->protocol;
	event->happened = happened;
	bpf_ringbuf_submit(event, 0);
}

/* How often to announce that connections come, in nanoseconds. */
#define BUSY_INTERVAL 2000000000ULL

static __always_inline void on_connection(const struct port *port)
{
	__u64 *last = bpf_map_lookup_elem(&ports, port);
	__u64 now;

	if (!last)
		return;
	now = bpf_ktime_get_ns();
	/* CPUs that meet here announce it twice. */
	if (now - *last < BUSY_INTERVAL)
		return;
	*last = now;
	announce(port, 0, BUSY);
}

/*
 * A listener is announced before the socket is in its group (inet_csk_listen_start sets the state, then hashes
 * it): the reader must look again.
 */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(on_state, struct sock *sk, int oldstate, int newstate)
{
	struct port port;

	if (oldstate == TCP_SYN_RECV && newstate == TCP_ESTABLISHED) {
		port = port_of(sk, IPPROTO_TCP);
		on_connection(&port);
		return 0;
	}
	if (oldstate != TCP_LISTEN && newstate != TCP_LISTEN)
		return 0;
	/* A connection is born in its listener's state. */
	if (oldstate == TCP_LISTEN && newstate != TCP_CLOSE)
		return 0;
	port = port_of(sk, IPPROTO_TCP);
	if (is_followed(&port))
		announce(&port, bpf_get_socket_cookie(sk), newstate == TCP_LISTEN ? CAME : WENT);
	return 0;
}

/*
 * The socket is in its group already (__inet_bind and __inet6_bind: get_port, then the programs). It is allowed,
 * whatever happens here.
 */
static __always_inline int on_bind(struct bpf_sock *ctx)
{
	struct port port = { .protocol = IPPROTO_UDP };

	if (ctx->protocol != IPPROTO_UDP)
		return 1;
	port.netns = bpf_get_netns_cookie(ctx);
	port.number = ctx->src_port;
	if (is_followed(&port))
		announce(&port, bpf_get_socket_cookie(ctx), CAME);
	return 1;
}

SEC("cgroup/post_bind4")
int bound4(struct bpf_sock *ctx)
{
	return on_bind(ctx);
}

SEC("cgroup/post_bind6")
int bound6(struct bpf_sock *ctx)
{
	return on_bind(ctx);
}

SEC("iter/udp")
int udp_members(struct bpf_iter__udp *ctx)
{
	struct sock *sk = (struct sock *)ctx->udp_sk;
	struct udp_member member = {};
	struct port port;

	if (!sk || !sk->sk_reuseport_cb)
		return 0;
	/* Connected: before 6.13 it keeps its place in the group, but it is no member. */
	if (sk->__sk_common.skc_state == TCP_ESTABLISHED)
		return 0;
	port = port_of(sk, IPPROTO_UDP);
	if (!is_followed(&port))
		return 0;
	member.cookie = bpf_get_socket_cookie(sk);
	member.port = sk->__sk_common.skc_num;
	bpf_seq_write(ctx->meta->seq, &member, sizeof(member));
	return 0;
}

char _license[] SEC("license") = "Dual MIT/GPL";
