/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * First stage: classifies the packet as new, stray or a migration. Only new ones count as picks.
 */
#pragma once

#include "packet.h"
#include "request.h"
#include "wire/config.h"

static __always_inline enum arrival arrival_of(struct request *req)
{
	const __u32 told_apart = FLAG_SYN | FLAG_ACK | FLAG_RST | FLAG_FIN;

	if (req->ctx->migrating_sk)
		return ARRIVAL_MIGRATION;
	if (PROTOCOL != IPPROTO_TCP)
		return ARRIVAL_NEW;
	if (!segment_open(req->ctx, &req->segment))
		return ARRIVAL_STRAY;
	/* A listener ignores a SYN with any of the others (tcp_rcv_state_process, TCP_LISTEN). */
	return (segment_flags(&req->segment) & told_apart) == FLAG_SYN ? ARRIVAL_NEW : ARRIVAL_STRAY;
}

static __always_inline void arrival(struct sk_reuseport_md *ctx, struct request *req)
{
	req->ctx = ctx;
	req->policy = POLICY;
	req->arrival = arrival_of(req);
}
