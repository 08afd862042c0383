// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Which connections a server has accepted: those of one port in one network namespace, by the client's port.
 *
 * A connection in an accept queue has no `struct socket`; accept(2) gives it one (sock_graft), and closing takes it
 * away only after the state has changed (__tcp_close: tcp_set_state, then sock_orphan). So every accepted connection
 * is seen with one at the first change of its state after accept(2), and none that was reset in a queue is
 * (inet_csk_listen_stop).
 */
#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct ns_common {
	unsigned int inum;
};

struct net {
	struct ns_common ns;
};

struct socket;

struct sock_common {
	__be16 skc_dport;
	struct {
		struct net *net;
	} skc_net;
};

struct sock {
	struct sock_common __sk_common;
	struct socket *sk_socket;
};

struct inet_sock {
	__be16 inet_sport;
};

#pragma clang attribute pop

enum { TCP_ESTABLISHED = 1, TCP_SYN_RECV = 3 };

/* Set before loading. */
const volatile __u32 server_netns;
const volatile __u32 server_port;

/* Also in src/account.rs. */
struct seen {
	__u64 born; /* when its handshake ended, CLOCK_MONOTONIC */
	__u64 accepted;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, struct seen);
} connections SEC(".maps");

static __always_inline void look(struct sock *sk, int old_state, int new_state)
{
	__u32 client;
	struct seen *seen;

	/* Not skc_num, which is 0 already where a connection is reset (inet_put_port). */
	if (bpf_ntohs(BPF_CORE_READ((struct inet_sock *)sk, inet_sport)) != server_port ||
	    sk->__sk_common.skc_net.net->ns.inum != server_netns)
		return;
	client = bpf_ntohs(sk->__sk_common.skc_dport);
	seen = bpf_map_lookup_elem(&connections, &client);
	if (!seen)
		return;
	if (old_state == TCP_SYN_RECV && new_state == TCP_ESTABLISHED) {
		seen->accepted = 0;
		seen->born = bpf_ktime_get_ns();
	}
	if (sk->sk_socket)
		seen->accepted = 1;
}

/*
 * Twice, because the kernel skips a program that already runs on this CPU, beneath an interrupt; one of the two
 * runs then.
 */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(first, struct sock *sk, int old_state, int new_state)
{
	look(sk, old_state, new_state);
	return 0;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(second, struct sock *sk, int old_state, int new_state)
{
	look(sk, old_state, new_state);
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
