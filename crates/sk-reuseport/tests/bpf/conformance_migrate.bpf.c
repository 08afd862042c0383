// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Distributes connections in turn to the first members of a group, and migrates those whose listener
 * is closed to one more member. Counts the kernel's four occasions for migrating.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/tcp.h>
#include <stdbool.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define SOURCES 4 /* receive connections */
#define TARGET 4  /* receives those of closed listeners */

/* In the order of tests/it/conformance/migrate/program.rs. */
enum event {
	/* A SYN: a listener was selected. */
	DEALT,
	/* A listener is closed with this connection in its accept queue. */
	ESTABLISHED_AT_CLOSE,
	/* ... with this one, whose last ACK has not arrived: TCP Fast Open. */
	SYN_RECV_AT_CLOSE,
	/* The listener was closed, and the SYN-ACK of a half-open request is sent again. */
	NEW_SYN_RECV_AT_TIMER,
	/* ... and the ACK arrives. */
	NEW_SYN_RECV_AT_ACK,
	/* Anything else. */
	UNKNOWN,
	/* The program found no target for a connection, and left the choice to the kernel. */
	LEFT_TO_KERNEL,
	/* The context contradicts the socket that migrates. */
	CONTRADICTION,
	EVENTS,
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, EVENTS);
	__type(key, __u32);
	__type(value, __u64);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);
	__uint(max_entries, TARGET + 1);
	__type(key, __u32);
	__type(value, __u64);
} sockets SEC(".maps");

/* The port of the group. `sk`, a closing listener, may have lost its own (inet_put_port). */
const volatile __u32 PORT;

__u32 turn;

static __always_inline void count(enum event event)
{
	__u32 index = event;
	__u64 *counter = bpf_map_lookup_elem(&events, &index);

	if (counter)
		__sync_fetch_and_add(counter, 1);
}

/* Only the ACK is a packet: otherwise the kernel makes an empty one. */
static __always_inline enum event occasion(struct sk_reuseport_md *md, struct bpf_sock *migrating)
{
	switch (migrating->state) {
	case BPF_TCP_ESTABLISHED:
		return md->len ? UNKNOWN : ESTABLISHED_AT_CLOSE;
	case BPF_TCP_SYN_RECV:
		return md->len ? UNKNOWN : SYN_RECV_AT_CLOSE;
	case BPF_TCP_NEW_SYN_RECV:
		return md->len ? NEW_SYN_RECV_AT_ACK : NEW_SYN_RECV_AT_TIMER;
	default:
		return UNKNOWN;
	}
}

static __always_inline bool contradicts(struct sk_reuseport_md *md, struct bpf_sock *migrating)
{
	struct tcphdr *tcp = md->data;

	if (md->ip_protocol != IPPROTO_TCP || migrating->family != md->sk->family ||
	    migrating->src_port != PORT)
		return true;
	if (!md->len)
		return md->data != md->data_end;
	return (void *)(tcp + 1) > md->data_end || tcp->source != migrating->dst_port;
}

static __always_inline int deal(struct sk_reuseport_md *md)
{
	struct tcphdr *tcp = md->data;
	__u32 index;

	if ((void *)(tcp + 1) > md->data_end || !tcp->syn)
		return SK_PASS;
	index = __sync_fetch_and_add(&turn, 1) % SOURCES;
	if (!bpf_sk_select_reuseport(md, &sockets, &index, 0))
		count(DEALT);
	return SK_PASS;
}

SEC("sk_reuseport/migrate")
int hand_over(struct sk_reuseport_md *md)
{
	struct bpf_sock *migrating = md->migrating_sk;
	__u32 target = TARGET;

	if (!migrating)
		return deal(md);
	count(occasion(md, migrating));
	if (contradicts(md, migrating))
		count(CONTRADICTION);
	if (bpf_sk_select_reuseport(md, &sockets, &target, 0))
		count(LEFT_TO_KERNEL);
	return SK_PASS;
}

/* Drops the connections of closed listeners. */
SEC("sk_reuseport/migrate")
int give_up(struct sk_reuseport_md *md)
{
	struct bpf_sock *migrating = md->migrating_sk;

	if (!migrating)
		return deal(md);
	count(occasion(md, migrating));
	return SK_DROP;
}

/* Only selects: does not run for connections of closed listeners. */
SEC("sk_reuseport")
int only_deal(struct sk_reuseport_md *md)
{
	if (!md->migrating_sk)
		return deal(md);
	count(UNKNOWN);
	return SK_DROP;
}

char _license[] SEC("license") = "Dual MIT/GPL";
