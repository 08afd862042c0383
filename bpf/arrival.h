/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * First stage: classifies the packet as new, stray or a migration. Only new ones count as picks.
 */
#pragma once

#include <linux/tcp.h>

#include "request.h"
#include "wire/config.h"

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

static __always_inline void arrival(struct sk_reuseport_md *ctx, struct request *req)
{
	req->ctx = ctx;
	req->policy = POLICY;
	req->arrival = arrival_of(ctx);
}
