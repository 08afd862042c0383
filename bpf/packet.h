/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Where a packet's transport header is.
 *
 * The kernel looks for the socket when it delivers a packet, and `data` then begins at the transport header.
 * Netfilter may look for it earlier (TPROXY and the match "socket": nf_tproxy_get_sock_v4,
 * nf_sk_lookup_slow_v4): such a packet is *early*, and `data` begins at its IP header. Linux does that for TCP
 * only: for UDP both look without the packet, and the program does not run.
 */
#pragma once

#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>

#include "kernel.h"
#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

/* More IPv6 extension headers than RFC 8200 recommends. */
#define EXTENSIONS 8

/* Next header values: RFC 8200, RFC 4302. */
enum {
	NEXT_HOP_BY_HOP = 0,
	NEXT_ROUTING = 43,
	NEXT_FRAGMENT = 44,
	NEXT_AUTHENTICATION = 51,
	NEXT_DESTINATION = 60,
};

#define IPV6_HEADER 40

static __always_inline bool is_ipv4(struct sk_reuseport_md *ctx)
{
	return ctx->eth_protocol == bpf_htons(ETH_P_IP);
}

static __always_inline long load_network(struct sk_reuseport_md *ctx, __u32 offset, void *to, __u32 size)
{
	return bpf_skb_load_bytes_relative(ctx, offset, to, size, BPF_HDR_START_NET);
}

/*
 * The packet's length according to an IP header's field, if that is where `field` comes from. Of an early packet
 * it is `ctx->len`. Delivered, the packet is shorter by its IP header.
 */
static __always_inline __u32 whole_length(struct sk_reuseport_md *ctx, __u16 field)
{
	return bpf_ntohs(field) + (is_ipv4(ctx) ? 0 : IPV6_HEADER);
}

/*
 * Whether the packet, whose first eight bytes are given, is early.
 *
 * Nearly always the bytes themselves say that they begin no IP header. Where a port or a sequence number looks
 * like the length, the IP header is asked.
 */
static __always_inline bool is_early(struct sk_reuseport_md *ctx, const __u32 *begin)
{
	__u64 field = 0;

	/* Total length, RFC 791; payload length, RFC 8200. */
	if (whole_length(ctx, is_ipv4(ctx) ? begin[0] >> 16 : begin[1]) != ctx->len)
		return false;
	if (load_network(ctx, is_ipv4(ctx) ? 2 : 4, &field, 2))
		return false;
	return whole_length(ctx, field) == ctx->len;
}

static __always_inline int transport_after_ipv4(struct sk_reuseport_md *ctx)
{
	__u64 version_and_length = 0;

	if (load_network(ctx, 0, &version_and_length, 1))
		return -1;
	return (version_and_length & 0xf) * 4;
}

static __always_inline int transport_after_ipv6(struct sk_reuseport_md *ctx, __u32 protocol)
{
	__u64 extension = 0, next = 0;
	int at = IPV6_HEADER;

	if (load_network(ctx, 6, &next, 1))
		return -1;
	/* Unrolled: see fallback.h. */
#pragma unroll
	for (int i = 0; i < EXTENSIONS; i++) {
		__u32 length;

		if (next == protocol)
			return at;
		if (load_network(ctx, at, &extension, 2))
			return -1;
		length = extension >> 8 & 0xff;
		switch (next) {
		case NEXT_HOP_BY_HOP:
		case NEXT_ROUTING:
		case NEXT_DESTINATION:
			at += (length + 1) * 8;
			break;
		case NEXT_FRAGMENT:
			at += 8;
			break;
		case NEXT_AUTHENTICATION:
			at += (length + 2) * 4;
			break;
		default:
			return -1;
		}
		next = extension & 0xff;
	}
	return next == protocol ? at : -1;
}

/*
 * How far behind the IP header's begin an early packet's transport header is; negative if it is not found.
 *
 * Not inlined, and not static: the verifier then looks at it once, and packets that are delivered do not come
 * here.
 */
__noinline int early_transport(struct sk_reuseport_md *ctx, __u32 protocol)
{
	return is_ipv4(ctx) ? transport_after_ipv4(ctx) : transport_after_ipv6(ctx, protocol);
}

/* Loads what is `offset` bytes behind the transport header's begin. */
static __always_inline long load_transport(struct sk_reuseport_md *ctx, bool early, __u32 protocol,
					   __u32 offset, void *to, __u32 size)
{
	int at;

	if (!early)
		return bpf_skb_load_bytes(ctx, offset, to, size);
	at = early_transport(ctx, protocol);
	return at < 0 ? at : load_network(ctx, at + offset, to, size);
}

/* Loads what is `offset` bytes behind the UDP header's begin. */
static __always_inline long load_datagram(struct sk_reuseport_md *ctx, __u32 offset, void *to,
					  __u32 size)
{
	void *end = ctx->data_end;
	__u32 *begin = ctx->data;
	bool early = (void *)(begin + 2) <= end && is_early(ctx, begin);

	return load_transport(ctx, early, IPPROTO_UDP, offset, to, size);
}

/* What identifies a TCP segment among those of its addresses. In 64 bits each, see map_key.h. */
struct segment {
	__u64 early;
	/* The first 16 bytes of its header: ports, numbers, flags, window. */
	__u64 head[2];
};

/* False if there is no whole TCP header. */
static __always_inline bool segment_open(struct sk_reuseport_md *ctx, struct segment *segment)
{
	void *end = ctx->data_end;
	__u32 *begin = ctx->data;

	/* Both a TCP header and an IP header have as many bytes. */
	if ((void *)(begin + 5) > end)
		return false;
	if (is_early(ctx, begin)) {
		segment->early =
			!load_transport(ctx, true, IPPROTO_TCP, 0, segment->head, sizeof(segment->head));
		return segment->early;
	}
	/* Read in halves: a TCP header begins at a multiple of four bytes. */
	segment->head[0] = begin[0] | (__u64)begin[1] << 32;
	segment->head[1] = begin[2] | (__u64)begin[3] << 32;
	return true;
}

/* RFC 9293, section 3.1. */
enum { FLAG_FIN = 1, FLAG_SYN = 2, FLAG_RST = 4, FLAG_ACK = 16 };

static __always_inline __u32 segment_flags(struct segment *segment)
{
	return segment->head[1] >> 40 & 0xff;
}
