/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Fourth stage: from a slot to its socket, and what to do when there is none.
 *
 * The kernel empties a slot when its socket closes or stops listening. Selecting it then fails
 * with -ENOENT, and another select in the same run is allowed.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/errno.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

#include "count.h"
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
	long error = bpf_sk_select_reuseport(ctx, &sockets, &slot, 0);

	if (!error)
		return true;
	count(error == -ENOENT ? REASON_EMPTY_SLOT : REASON_SELECT_ERROR);
	return false;
}

/*
 * How many other members to try, and how many of them at most active ones, so that draining ones
 * get their chance. What the verifier has to look at grows with the square. With more empty slots
 * than this in a row the kernel's hash takes over, which knows only sockets that are alive.
 */
#define TRIES 24
#define TRIES_ACTIVE 16

#define NO_SLOT (-1)
#define FROM_DRAINING 0x10000

/*
 * The next best member: the active ones in turn, from the one that `start` names on, then the
 * draining ones. Returns its slot, with FROM_DRAINING if it is one of those; or NO_SLOT.
 *
 * Not inlined, and not static: the verifier then looks at it once and by itself, instead of once
 * for every way that leads here.
 */
__noinline int select_another(struct sk_reuseport_md *ctx, __u32 start)
{
	struct table table;
	__u32 active, i;

	if (!table_open(&table))
		return NO_SLOT;
	active = table.active.count < TRIES_ACTIVE ? table.active.count : TRIES_ACTIVE;
	for (i = 0; i < TRIES; i++) {
		bool draining = i >= active;
		struct slots *part = draining ? &table.draining : &table.active;
		__u32 index = draining ? i - active : (start + i) % table.active.count;
		__u32 slot;

		if (index >= part->count || !table_slot(&table, part, index, &slot))
			return NO_SLOT;
		if (!bpf_sk_select_reuseport(ctx, &sockets, &slot, 0))
			return draining ? slot | FROM_DRAINING : slot;
	}
	return NO_SLOT;
}
