/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Third stage, if the policy found no member: any active member, else any draining one, else the kernel's
 * hash, which knows only sockets that are alive.
 *
 * Active members are drawn from the table's entries, by other hashes of the same key: so they get what one of
 * them cannot take in proportion to their weights, and not the one that stands next to it. Only if each draw
 * failed are they tried one after the other.
 */
#pragma once

#include <stdbool.h>

#include "flow.h"
#include "policy/list.h"
#include "queue.h"
#include "request.h"
#include "table.h"

/* How many entries to draw, how many active members to try then, and how many draining ones. */
#define TRIES 16

/* The slot was empty or its queue full. */
#define TRY_NEXT (-2)

static __always_inline int try_slot(struct sk_reuseport_md *ctx, __u32 slot)
{
	if (queue_is_full(slot) || bpf_sk_select_reuseport(ctx, &sockets, MAP_KEY(slot), 0))
		return TRY_NEXT;
	return slot;
}

/*
 * Tries the member of the entry that this draw names. Returns its slot if it was selected.
 *
 * Not inlined, and not static: the verifier then looks at it once and by itself, instead of once
 * for every path that leads here.
 */
__noinline int try_drawn(struct sk_reuseport_md *ctx, __u64 key, __u32 draw, __u32 is_new)
{
	int slot = table_entry(policy_another(key, draw, is_new));

	return slot < 0 ? NO_SLOT : try_slot(ctx, slot);
}

/*
 * The same for the active or draining member that comes `turn` places after the one that `start` names; or
 * before it, which half of the active ones' keys say: so both neighbours of a member get what it cannot take.
 */
__noinline int try_another(struct sk_reuseport_md *ctx, __u64 start, __u32 turn, __u32 draining)
{
	struct table table;
	struct slots *part;
	__u32 slot;

	if (!table_open(&table))
		return NO_SLOT;
	part = draining ? &table.draining : &table.active;
	if (turn >= part->count)
		return NO_SLOT;
	if (!draining && start >> 63)
		turn = part->count - turn;
	if (!table_slot(&table, part, ((start & 0xffffffff) + turn) % part->count, &slot))
		return NO_SLOT;
	return try_slot(ctx, slot);
}

/*
 * A drawn entry's slot, or NO_SLOT.
 *
 * Unrolled: without CAP_PERFMON the verifier also follows what a mispredicted branch would do, with
 * a counter that it then knows nothing of, and before Linux 6.16 takes such a loop for an endless
 * one (sanitize_speculative_path in kernel/bpf/verifier.c).
 */
__noinline int draw_another(struct sk_reuseport_md *ctx, __u64 key, __u32 is_new)
{
	int slot;

#pragma unroll
	for (int draw = 1; draw <= TRIES; draw++) {
		slot = try_drawn(ctx, key, draw, is_new);
		if (slot != TRY_NEXT)
			return slot;
	}
	return NO_SLOT;
}

/* The next active or draining member's slot, or NO_SLOT. */
__noinline int select_another(struct sk_reuseport_md *ctx, __u64 start, __u32 draining)
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
	/* Mixed once more: the keys of round-robin are consecutive. */
	choice->slot = draw_another(req->ctx, mix(req->key), req->arrival == ARRIVAL_NEW);
	if (choice->slot < 0)
		choice->slot = select_another(req->ctx, mix(req->key), false);
	if (choice->slot >= 0)
		return;
	choice->reason = REASON_FALLBACK_DRAINING;
	choice->slot = select_another(req->ctx, req->key, true);
	if (choice->slot < 0)
		choice->reason = REASON_FALLBACK_KERNEL;
}
