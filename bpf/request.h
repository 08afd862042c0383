/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * What is to be decided, and the decision.
 *
 * Both are for functions that are inlined: a pointer to the context may not lie in memory that a function
 * which is verified by itself gets.
 */
#pragma once

#include "kernel.h"
#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

#include "packet.h"
#include "wire/config.h"
#include "wire/reason.h"

/* No member. */
#define NO_SLOT (-1)

enum arrival {
	/* A SYN, or any datagram: it gets a member. */
	ARRIVAL_NEW,
	/*
	 * A TCP segment that begins no connection and belongs to none: the ACK of a SYN cookie, or a
	 * stray one. It must find a listener, any will do, but must not count as a pick.
	 */
	ARRIVAL_STRAY,
	/* A connection, or a half-open request, whose listener is closing (Linux 5.14). */
	ARRIVAL_MIGRATION,
};

/* For least-loaded: from its pick to its account of the selected member. In 64 bits each, see map_key.h. */
struct pick {
	__u64 window;
	__u64 members;
	__u64 length;
	/* The member's index in the host-wide layer (bits 32 to 63), and the time (0 to 31). */
	__u64 host;
	/* The next best one's load; in the uppermost bit whether the best one was at its limit. */
	__u64 level;
};

/* Later attempts must check queues. */
#define CHECK_FULL (1ULL << 32)

struct request {
	struct sk_reuseport_md *ctx;
	/* In 64 bits each, see map_key.h. */
	__u64 policy;  /* enum policy */
	__u64 arrival; /* enum arrival */
	/* TCP, except migrations. */
	struct segment segment;
	/* The policy sets it with its first pick. The fallback begins there. */
	__u64 key;
	/* CHECK_FULL if the last pick's queue was full, and the packet's size_of (all other bits). */
	__u64 check_full;
	/* Events on the way, see note(). */
	__u64 noted;
	struct pick pick;
};

struct choice {
	/* The selected member, or NO_SLOT: the kernel's hash decides. */
	int slot;
	enum reason reason;
};

/* Notes an event that is no outcome, for decided() to count: eight bits for each such reason. */
static __always_inline void note(struct request *req, enum reason reason)
{
	req->noted += 1ULL << (8 * (reason - REASON_EMPTY_SLOT));
}
