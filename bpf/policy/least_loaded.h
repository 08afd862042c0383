/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * TCP: the member with the fewest connections, open and half-open, if it takes what it gets (progress.h).
 * Queues alone would give a burst to the worker that wakes first, and connections alone would go to a worker
 * that dropped its own and hangs. UDP: the member with the fewest bytes to read.
 *
 * No count of connections starves an idle member: it has its turn at least once in two windows. A count in
 * which picks do not show is not trusted.
 *
 * All comparisons are per weight. Members of equal load take turns, by weight, so an idle server is served
 * as by round-robin.
 */
#pragma once

#include "../turn.h"
#include "least_loaded/sample.h"

/*
 * The member for a turn. Not inlined, and not static: the verifier then looks at it once and by itself, and not once
 * for each attempt and each way to it.
 */
__noinline int least_loaded_choose(struct pick *pick, __u64 turn, __u64 check_full)
{
	struct search search = {
		.random = mix(turn),
		.now = check_full,
		.best = { .seen = SEEN_NONE },
		.second = { .seen = SEEN_NONE },
		.least = LOAD_MASK,
		.next = LOAD_MASK,
	};
	struct candidate c;
	__u64 level, capped, candidate, length;

	if (!pick)
		return NO_SLOT;
	if (COMPARES_CONNECTIONS && READ_QUEUES != READ_NOTHING)
		search.now |= tick();
	if (!sample(&search, turn) || !search.best.candidate)
		return NO_SLOT;
	capped = search.best.seen & SEEN_LATE && search.second.candidate &&
		 !(search.second.seen & (LOAD_FULL | LOAD_STALE));
	candidate = capped ? search.second.candidate : search.best.candidate;
	length = capped ? search.second.length : search.best.length;
	if (search.starved) {
		capped = false;
		candidate = search.starved;
		length = 0;
	}
	candidate_unpack(candidate, &c);
	level = (search.least & SLOT_MASK) == c.slot ? search.next : search.least;
	level >>= SLOT_BITS;
	pick->window = search.window;
	pick->members = members_of(&search);
	pick->length = length;
	pick->host = (__u64)c.host << 32 | (__u32)search.now;
	pick->level = (level < MAJOR_MAX ? level : 0) | capped << 63;
	return c.slot;
}

static __always_inline int least_loaded_pick(struct request *req, int attempt)
{
	if (!attempt)
		req->key = req->arrival == ARRIVAL_NEW ? turn_take() : turn_next();
	return least_loaded_choose(&req->pick, req->key, req->check_full);
}

/* Not inlined, and not static: the verifier then looks at it once and by itself. */
__noinline int least_loaded_remember(struct pick *pick, __u32 slot, __u32 turn)
{
	struct limiter *limiter = bpf_map_lookup_elem(&limiters, MAP_KEY(slot));

	if (!limiter || !pick)
		return 0;
	if (COMPARES_CONNECTIONS)
		progress_pick(slot, limiter, pick);
	limiter_pick(limiter, turn, pick);
	return 0;
}

static __always_inline void least_loaded_selected(struct request *req, __u32 slot)
{
	if (req->arrival != ARRIVAL_NEW)
		return;
	if (req->pick.level >> 63)
		note(req, REASON_SHARE_CAPPED);
	least_loaded_remember(&req->pick, slot, req->key);
}

/* It is not examined again in this window. */
static __always_inline void least_loaded_empty(struct request *req, __u32 slot)
{
	struct limiter *limiter = bpf_map_lookup_elem(&limiters, MAP_KEY(slot));

	if (limiter)
		limiter->empty = req->pick.window + 1;
}
