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

static __always_inline int least_loaded_pick(struct request *req, int attempt)
{
	struct search search = {
		.best = { .seen = SEEN_NONE },
		.second = { .seen = SEEN_NONE },
		.least = LOAD_MASK,
		.next = LOAD_MASK,
	};
	struct candidate c;
	struct found found;
	__u64 level;

	if (!attempt)
		req->key = req->arrival == ARRIVAL_NEW ? turn_take() : turn_next();
	search.turn = req->key;
	search.random = mix(req->key);
	search.check_full = req->check_full;
	if (COMPARES_CONNECTIONS && READ_QUEUES != READ_NOTHING)
		search.now = tick();
	if (!sample(&search) || !search.best.candidate)
		return NO_SLOT;
	req->pick.capped = search.best.seen & SEEN_LATE && search.second.candidate &&
			   !(search.second.seen & (LOAD_FULL | LOAD_STALE));
	found = req->pick.capped ? search.second : search.best;
	if (search.starved) {
		req->pick.capped = false;
		found = (struct found){ .candidate = search.starved };
	}
	candidate_unpack(found.candidate, &c);
	level = (search.least & SLOT_MASK) == c.slot ? search.next : search.least;
	level >>= SLOT_BITS;
	req->pick.window = search.window;
	req->pick.members = search.members;
	req->pick.length = found.length;
	req->pick.host = c.host;
	req->pick.level = level < MAJOR_MAX ? level : 0;
	req->pick.now = search.now;
	return c.slot;
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
	if (req->pick.capped)
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
