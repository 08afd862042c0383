/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Counters: by reason, and by slot. They are per CPU; readers add them up.
 */
#pragma once

#include "../kernel.h"
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "type.h"

enum reason {
	/* A new connection or datagram got the member that the policy picked. */
	REASON_PICK,
	/* ... got another active member, because the picked one's slot was empty or its queue full. */
	REASON_FALLBACK_ACTIVE,
	/* ... got a draining member, because no active one was there. */
	REASON_FALLBACK_DRAINING,
	/* ... was left to the kernel's hash, because no member was there. */
	REASON_FALLBACK_KERNEL,
	/* A TCP segment that begins no connection and belongs to none. */
	REASON_STRAY,
	/* A connection or half-open request got another member because its listener closed. */
	REASON_MIGRATION,
	/* ... and no member was there to take it: the kernel chose. */
	REASON_MIGRATION_KERNEL,
	/* A select failed because the slot was empty (a part of the fallbacks above). */
	REASON_EMPTY_SLOT,
	/* A select failed for another reason, such as a socket of another group. */
	REASON_SELECT_ERROR,
	/* The picked member was passed over because its queue was full. */
	REASON_QUEUE_FULL,
	/* The best member was passed over because it had its share of this window (least-loaded). */
	REASON_SHARE_CAPPED,
	/* A datagram ended before the bytes that choose its member: its flow's hash chose (payload). */
	REASON_PAYLOAD_SHORT,
	/* A member was put behind all others because its worker has been busy for too long (least-loaded). */
	REASON_STALE,
	/* A segment that was looked up before got the same answer again. It is counted once, the first time. */
	REASON_REPEATED,
	/* ... was left to a member whose queue is full, because all are, and the kernel's hash might choose one on standby. */
	REASON_FALLBACK_FULL,
	REASONS,
};

WIRE_TYPE(enum, reason);

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REASONS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

/* By slot: new connections or datagrams that the program gave to the member there. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1); /* the loader sets it */
	__type(key, __u32);
	__type(value, __u64);
} picks SEC(".maps");
