/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Third stage, if the policy found no member: any active member, else any draining one, else the kernel's
 * hash, which knows only sockets that are alive.
 *
 * The kernel's hash might choose a member on standby. Where there are some, a member whose queue is full is selected
 * instead: the kernel drops there what comes next, as it does for every full queue. SK_DROP is something else: the
 * kernel answers a SYN with a reset then. If each slot is empty, the hash decides all the same: otherwise
 * nothing would be served.
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

/* How many entries to draw, how many active members to try then, and how many draining ones; all of them for a full one. */
#define TRIES 16

/* The slot was empty or its queue full. */
#define TRY_NEXT (-2)

/* Which members to try: bits. */
#define DRAINING 1 /* draining ones, else active ones */
#define FULL 2	   /* also those whose queue is full */

static __always_inline int try_slot(struct sk_reuseport_md *ctx, __u32 slot, __u32 which)
{
	if (!(which & FULL) && queue_is_full(ctx, slot))
		return TRY_NEXT;
	if (bpf_sk_select_reuseport(ctx, &sockets, MAP_KEY(slot), 0))
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
	struct table table;
	__u32 slot;

	/* First, because a policy may take a turn. */
	if (!table_open(&table) || !table.entries.count)
		return NO_SLOT;
	key = policy_another(key, draw, is_new);
	if (!table_slot(&table, &table.entries, key % table.entries.count, &slot))
		return NO_SLOT;
	return try_slot(ctx, slot, 0);
}

/*
 * The same for the active or draining member that comes `turn` places after the one that `start` names; or
 * before it, which half of the active ones' keys say: so both neighbours of a member get what it cannot take.
 */
__noinline int try_another(struct sk_reuseport_md *ctx, __u64 start, __u32 turn, __u32 which)
{
	struct table table;
	struct slots *part;
	__u32 slot;

	if (!table_open(&table))
		return NO_SLOT;
	part = which & DRAINING ? &table.draining : &table.active;
	if (turn >= part->count)
		return NO_SLOT;
	if (!(which & DRAINING) && start >> 63)
		turn = part->count - turn;
	if (!table_slot(&table, part, ((start & 0xffffffff) + turn) % part->count, &slot))
		return NO_SLOT;
	return try_slot(ctx, slot, which);
}

/*
 * A drawn entry's slot, TRY_NEXT if each draw failed, or NO_SLOT if there is none to draw.
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
	return TRY_NEXT;
}

/*
 * The slot of the next active or draining member from the `first` turn on. TRY_NEXT if as many as are tried at once
 * failed, NO_SLOT if there is no further one.
 */
__noinline int select_another(struct sk_reuseport_md *ctx, __u64 start, __u32 first, __u32 which)
{
	int slot;

#pragma unroll
	for (int turn = 0; turn < TRIES; turn++) {
		slot = try_another(ctx, start, first + turn, which);
		if (slot != TRY_NEXT)
			return slot;
	}
	return TRY_NEXT;
}

/* The same, and TRIES times as far. */
__noinline int select_farther(struct sk_reuseport_md *ctx, __u64 start, __u32 first, __u32 which)
{
	int slot;

#pragma unroll
	for (int round = 0; round < TRIES; round++) {
		slot = select_another(ctx, start, first + round * TRIES, which);
		if (slot != TRY_NEXT)
			return slot;
	}
	return TRY_NEXT;
}

/* The same for every active or draining member: up to TRIES^3 of them. */
__noinline int select_of_all(struct sk_reuseport_md *ctx, __u64 start, __u32 which)
{
	int slot;

#pragma unroll
	for (int round = 0; round < TRIES; round++) {
		slot = select_farther(ctx, start, round * TRIES * TRIES, which);
		if (slot != TRY_NEXT)
			return slot;
	}
	return NO_SLOT;
}

/*
 * A member that serves and whose queue is full, if members are on standby; or NO_SLOT. It goes through the whole
 * list: many slots may be empty, and the kernel's hash would choose from all sockets.
 */
__noinline int select_full(struct sk_reuseport_md *ctx, __u64 start)
{
	struct table table;
	int slot;

	if (!table_open(&table) || !table.standby)
		return NO_SLOT;
	slot = select_of_all(ctx, start, FULL);
	if (slot < 0)
		slot = select_of_all(ctx, start, FULL | DRAINING);
	return slot;
}

static __always_inline void fallback(struct request *req, struct choice *choice)
{
	/* Mixed once more: the keys of round-robin are consecutive. */
	__u64 mixed = mix(req->key), start = req->key;

	choice->reason = REASON_FALLBACK_ACTIVE;
	choice->slot = draw_another(req->ctx, mixed, req->arrival == ARRIVAL_NEW);
	/* The draws may have taken turns, always as many. */
	if (choice->slot == TRY_NEXT)
		start = mixed;
	if (choice->slot < 0)
		choice->slot = select_another(req->ctx, mixed, 0, 0);
	if (choice->slot >= 0)
		return;
	choice->reason = REASON_FALLBACK_DRAINING;
	choice->slot = select_another(req->ctx, start, 0, DRAINING);
	if (choice->slot >= 0)
		return;
	choice->reason = REASON_FALLBACK_FULL;
	choice->slot = select_full(req->ctx, mixed);
	if (choice->slot < 0)
		choice->reason = REASON_FALLBACK_KERNEL;
}
