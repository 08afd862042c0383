/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The member with the shortest queue, read at the moment of the choice. Open connections only break ties:
 * added to the queue, they would make a worker that dropped its connections and hangs look attractive.
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
	};
	struct candidate c;
	struct found found;

	if (!attempt)
		req->key = req->arrival == ARRIVAL_NEW ? turn_take() : turn_next();
	search.turn = req->key;
	search.random = mix(req->key);
	search.check_full = req->check_full;
	if (!sample(&search) || !search.best.candidate)
		return NO_SLOT;
	req->pick.capped = search.best.seen & SEEN_LATE && search.second.candidate &&
			   !(search.second.seen & (LOAD_FULL | LOAD_STALE));
	found = req->pick.capped ? search.second : search.best;
	candidate_unpack(found.candidate, &c);
	req->pick.window = search.window;
	req->pick.members = search.members;
	req->pick.length = length_of(found.seen, &c);
	return c.slot;
}

static __always_inline void least_loaded_selected(struct request *req, __u32 slot)
{
	struct limiter *limiter;

	if (req->arrival != ARRIVAL_NEW)
		return;
	if (req->pick.capped)
		note(req, REASON_SHARE_CAPPED);
	limiter = bpf_map_lookup_elem(&limiters, MAP_KEY(slot));
	if (limiter)
		limiter_pick(limiter, req->key, &req->pick);
}

/* It is not examined again in this window. */
static __always_inline void least_loaded_empty(struct request *req, __u32 slot)
{
	struct limiter *limiter = bpf_map_lookup_elem(&limiters, MAP_KEY(slot));

	if (limiter)
		limiter->empty = req->pick.window + 1;
}
