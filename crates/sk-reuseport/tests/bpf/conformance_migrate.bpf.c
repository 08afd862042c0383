// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Deals connections in turn to the first members of a group, and hands those whose listener closes to
 * one more member. Counts the kernel's four occasions for that.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/tcp.h>
#include <stdbool.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define SOURCES 4 /* who gets connections */
#define TARGET 4  /* who gets those of listeners that close */

/* The order is that of crates/sk-reuseport/tests/conformance/migrate/program.rs. */
enum event {
	/* A SYN was dealt. */
	DEALT,
	/* The listener closes, with this connection in its accept queue. */
	ESTABLISHED_AT_CLOSE,
	/* ... with this one, of which the last ACK has not arrived: TCP Fast Open. */
	SYN_RECV_AT_CLOSE,
	/* The listener has closed, and a half-open request's SYN-ACK must be sent again. */
	NEW_SYN_RECV_AT_TIMER,
	/* ... and the ACK arrives. */
	NEW_SYN_RECV_AT_ACK,
	/* None of these. */
	UNKNOWN,
	/* The program found nobody to hand a connection to, and left the choice to the kernel. */
	LEFT_TO_KERNEL,
	/* The context contradicts the socket that is to migrate. */
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

/* The group's. `sk` is a listener that closes, and may have lost its own (inet_put_port). */
const volatile __u32 PORT;

__u32 turn;

static __always_inline void count(enum event event)
{
	__u32 index = event;
	__u64 *counter = bpf_map_lookup_elem(&events, &index);

	if (counter)
		__sync_fetch_and_add(counter, 1);
}

/* Only at the ACK is there a packet: otherwise the kernel makes an empty one. */
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

/* Lets no connection outlive its listener. */
SEC("sk_reuseport/migrate")
int give_up(struct sk_reuseport_md *md)
{
	struct bpf_sock *migrating = md->migrating_sk;

	if (!migrating)
		return deal(md);
	count(occasion(md, migrating));
	return SK_DROP;
}

/* Is not asked about connections whose listener closes. */
SEC("sk_reuseport")
int only_deal(struct sk_reuseport_md *md)
{
	if (!md->migrating_sk)
		return deal(md);
	count(UNKNOWN);
	return SK_DROP;
}

char _license[] SEC("license") = "Dual MIT/GPL";
