/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Last stage: what happened. Counters are per CPU; reading adds them up.
 */
#pragma once

#include "kernel.h"
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "arrival.h"
#include "map_key.h"

/* The order is that of `Reason` in crates/reuseport/src/state/counters.rs. */
enum reason {
	/* A new connection or datagram got the member that the policy chose. */
	REASON_PICK,
	/* ... got another active member, because the chosen one's slot was empty. */
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
	/* The chosen member was passed over because its queue was full. */
	REASON_QUEUE_FULL,
	/* The best member was passed over because it had its share of this window (least-loaded). */
	REASON_SHARE_CAPPED,
	/* A datagram ended before the bytes that choose its member: its flow's hash chose (payload). */
	REASON_PAYLOAD_SHORT,
	/* A member was put behind all others because it had not looked for events for long (least-loaded). */
	REASON_STALE,
	REASONS,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REASONS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

/* By slot: how many new connections or datagrams the member there got from us. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1); /* the loader says how many */
	__type(key, __u32);
	__type(value, __u64);
} picks SEC(".maps");

static __always_inline void count(__u32 reason)
{
	__u64 *counter = bpf_map_lookup_elem(&counters, MAP_KEY(reason));

	if (counter)
		(*counter)++;
}

/* The member in `slot` got what arrived, for `reason` if it is new. */
static __always_inline void count_selected(enum arrival arrival, __u32 slot, enum reason reason)
{
	__u64 *picked;

	if (arrival == ARRIVAL_STRAY) {
		count(REASON_STRAY);
		return;
	}
	if (arrival == ARRIVAL_MIGRATION) {
		count(REASON_MIGRATION);
		return;
	}
	count(reason);
	picked = bpf_map_lookup_elem(&picks, MAP_KEY(slot));
	if (picked)
		(*picked)++;
}

/* Nobody of ours was there: the kernel's hash decides. */
static __always_inline void count_left_to_kernel(enum arrival arrival)
{
	if (arrival == ARRIVAL_STRAY)
		count(REASON_STRAY);
	else if (arrival == ARRIVAL_MIGRATION)
		count(REASON_MIGRATION_KERNEL);
	else
		count(REASON_FALLBACK_KERNEL);
}
