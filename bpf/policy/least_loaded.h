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
	struct search *search = req->search;

	if (!attempt)
		req->key = req->arrival == ARRIVAL_NEW ? turn_take() : turn_next();
	*search = (struct search){
		.turn = req->key,
		.random = mix(req->key),
		.check_full = req->check_full,
		.best = { .seen = SEEN_NONE },
		.second = { .seen = SEEN_NONE },
	};
	if (!sample(search) || !search->best.candidate)
		return NO_SLOT;
	if (search->best.seen & SEEN_LATE && search->second.candidate &&
	    !(search->second.seen & (LOAD_FULL | LOAD_STALE))) {
		search->best = search->second;
		search->capped = true;
	}
	return search->best.candidate & SLOT_MASK;
}

static __always_inline void least_loaded_selected(struct request *req, __u32 slot)
{
	struct search *search = req->search;
	struct limiter *limiter;
	struct candidate c;

	if (req->arrival != ARRIVAL_NEW)
		return;
	if (search->capped)
		note(req, REASON_SHARE_CAPPED);
	limiter = bpf_map_lookup_elem(&limiters, MAP_KEY(slot));
	if (!limiter)
		return;
	candidate_unpack(search->best.candidate, &c);
	limiter_pick(limiter, search->turn, search->members, search->window,
		     length_of(search->best.seen, &c));
}

/* It is not examined again in this window. */
static __always_inline void least_loaded_empty(struct request *req, __u32 slot)
{
	struct limiter *limiter = bpf_map_lookup_elem(&limiters, MAP_KEY(slot));

	if (limiter)
		limiter->empty = req->search->window + 1;
}
