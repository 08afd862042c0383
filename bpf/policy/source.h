/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* By the source address alone. */
#pragma once

#include "../flow.h"
#include "../packet.h"
#include "../siphash.h"
#include "../table.h"

/* A connection whose listener closes has no packet any more, and keeps to its flow's key. */
static __always_inline __u64 source_key(struct request *req)
{
	__u64 address[2] = {};
	struct siphash hash;
	long error;

	/* Offsets of saddr in struct iphdr and struct ipv6hdr: RFC 791, RFC 8200. */
	if (is_ipv4(req->ctx))
		error = load_network(req->ctx, 12, address, 4);
	else
		error = load_network(req->ctx, 8, address, 16);
	if (error)
		return flow_key(req);
	siphash_begin(&hash);
	siphash_word(&hash, address[0]);
	siphash_word(&hash, address[1]);
	return siphash_end(&hash, 16ULL << 56);
}

static __always_inline int source_pick(struct request *req, int attempt)
{
	return attempt ? NO_SLOT : table_pick(req, source_key(req));
}
