/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Fourth stage: from a slot to its socket, and what to do when there is none.
 *
 * The kernel empties a slot when its socket closes or stops listening. Selecting it then fails
 * with -ENOENT, and another select in the same run is allowed.
 */
#pragma once

#include "kernel.h"
#include <linux/bpf.h>
#include <linux/errno.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

#include "count.h"
#include "load.h"
#include "map_key.h"
#include "table.h"

/* The loader may put a socket map in its place, which programs select from just the same. */
struct {
	__uint(type, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);
	__uint(max_entries, 1); /* the loader says how many */
	__type(key, __u32);
	__type(value, __u64);
} sockets SEC(".maps");

static __always_inline bool slot_select(struct sk_reuseport_md *ctx, __u32 slot)
{
	long error = bpf_sk_select_reuseport(ctx, &sockets, MAP_KEY(slot), 0);

	if (!error)
		return true;
	count(error == -ENOENT ? REASON_EMPTY_SLOT : REASON_SELECT_ERROR);
	return false;
}

/*
 * How many other members to try: so many active ones, then so many draining ones. With more empty
 * slots than this in a row the kernel's hash takes over, which knows only sockets that are alive.
 */
#define TRIES 16

/* Nobody is left to try. */
#define NO_SLOT (-1)
/* That one was not there. */
#define TRY_NEXT (-2)

/*
 * Tries a member, an active or a draining one: whose turn it is, one after the other, from the one that
 * `start` names on. Returns its slot if it was selected.
 *
 * Not inlined, and not static: the verifier then looks at it once and by itself, instead of once
 * for every way that leads here.
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
 * The next best active or draining member's slot, or NO_SLOT.
 *
 * Unrolled: without CAP_PERFMON the verifier also follows what a mispredicted branch would do, with
 * a counter that it then knows nothing of, and before Linux 6.16 refuses such a loop for an endless
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
