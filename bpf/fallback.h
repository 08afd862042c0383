/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Third stage, if the policy had no member: any active member, else any draining one, else the kernel's
 * hash, which knows only sockets that are alive.
 */
#pragma once

#include <stdbool.h>

#include "queue.h"
#include "request.h"
#include "table.h"

/* How many active members to try, and then how many draining ones. */
#define TRIES 16

/* The slot was empty or its queue full. */
#define TRY_NEXT (-2)

/*
 * Tries the active or draining member that comes `turn` places after the one that `start` names. Returns
 * its slot if it was selected.
 *
 * Not inlined, and not static: the verifier then looks at it once and by itself, instead of once
 * for every path that leads here.
 */
__noinline int try_another(struct sk_reuseport_md *ctx, __u32 start, __u32 turn, __u32 draining)
{
	struct table table;
	struct slots *part;
	__u32 slot;

	if (!table_open(&table))
		return NO_SLOT;
	part = draining ? &table.draining : &table.active;
	if (turn >= part->count || !table_slot(&table, part, (start + turn) % part->count, &slot))
		return NO_SLOT;
	if (queue_is_full(slot) || bpf_sk_select_reuseport(ctx, &sockets, MAP_KEY(slot), 0))
		return TRY_NEXT;
	return slot;
}

/*
 * The next active or draining member's slot, or NO_SLOT.
 *
 * Unrolled: without CAP_PERFMON the verifier also follows what a mispredicted branch would do, with
 * a counter that it then knows nothing of, and before Linux 6.16 takes such a loop for an endless
 * one (sanitize_speculative_path in kernel/bpf/verifier.c).
 */
__noinline int select_another(struct sk_reuseport_md *ctx, __u32 start, __u32 draining)
{
	int slot;

#pragma unroll
	for (int turn = 0; turn < TRIES; turn++) {
		slot = try_another(ctx, start, turn, draining);
		if (slot != TRY_NEXT)
			return slot;
	}
	return NO_SLOT;
}

static __always_inline void fallback(struct request *req, struct choice *choice)
{
	choice->reason = REASON_FALLBACK_ACTIVE;
	choice->slot = select_another(req->ctx, req->key, false);
	if (choice->slot >= 0)
		return;
	choice->reason = REASON_FALLBACK_DRAINING;
	choice->slot = select_another(req->ctx, req->key, true);
	if (choice->slot < 0)
		choice->reason = REASON_FALLBACK_KERNEL;
}
