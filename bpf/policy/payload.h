/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* By some of the datagram's own bytes. A datagram that ends before them goes by its flow. */
#pragma once

#include <linux/udp.h>

#include "../flow.h"
#include "../packet.h"
#include "../siphash.h"
#include "../table.h"

#define PAYLOAD_MAX 64

static __always_inline __u64 payload_key(struct request *req)
{
	__u64 bytes[PAYLOAD_MAX / 8] = {};
	__u32 length = PAYLOAD_LENGTH;
	struct siphash hash;

	if (length < 1 || length > PAYLOAD_MAX ||
	    load_datagram(req->ctx, sizeof(struct udphdr) + PAYLOAD_OFFSET, bytes, length)) {
		note(req, REASON_PAYLOAD_SHORT);
		return flow_key(req);
	}
	siphash_begin(&hash);
	/* Unrolled: the pointer would move by a number that is known at run time. */
#pragma unroll
	for (int word = 0; word < PAYLOAD_MAX / 8; word++)
		siphash_word(&hash, bytes[word]);
	return siphash_end(&hash, (__u64)length << 56);
}

static __always_inline int payload_pick(struct request *req, int attempt)
{
	return attempt ? NO_SLOT : table_pick(req, payload_key(req));
}
