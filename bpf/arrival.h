/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * First stage: what has arrived. Only something new is a pick; the rest runs the program too.
 */
#pragma once

#include "kernel.h"
#include <linux/bpf.h>
#include <linux/tcp.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

#include "config.h"

enum arrival {
	/* A SYN, or any datagram: it gets a member. */
	ARRIVAL_NEW,
	/*
	 * A TCP segment that begins no connection and belongs to none: a SYN cookie's ACK, or a
	 * stray one. It must find a listener, any will do, but must not count as a pick.
	 */
	ARRIVAL_STRAY,
	/* A connection, or a half-open request, whose listener is closing (Linux 5.14). */
	ARRIVAL_MIGRATION,
};

static __always_inline enum arrival arrival_of(struct sk_reuseport_md *ctx)
{
	void *end = ctx->data_end;
	struct tcphdr *tcp = ctx->data; /* data begins at the transport header */

	if (ctx->migrating_sk)
		return ARRIVAL_MIGRATION;
	if (PROTOCOL != IPPROTO_TCP)
		return ARRIVAL_NEW;
	if ((void *)(tcp + 1) > end)
		return ARRIVAL_STRAY;
	/* A listener ignores a SYN with any of the others (tcp_rcv_state_process, TCP_LISTEN). */
	return tcp->syn && !tcp->ack && !tcp->rst && !tcp->fin ? ARRIVAL_NEW : ARRIVAL_STRAY;
}
