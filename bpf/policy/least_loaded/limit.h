/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The cap on a member's picks in a window, and slow start.
 *
 * The others must not pay for the cap: a member at its limit is only passed over for members that make
 * progress.
 */
#pragma once

#include <stdbool.h>

#include "../../request.h"
#include "../../wire/config.h"
#include "../../wire/limiter.h"
#include "../../candidate.h"

/* The window that a turn is in, with this number of members. */
static __always_inline __u32 window_of(__u64 turn, __u32 members)
{
	return turn / ((__u64)members * WINDOW);
}

/* Turns since a member's first pick; none, if that pick's CPU was overtaken by this one. */
static __always_inline __u32 turns_since(struct limiter *limiter, __u32 turn)
{
	__s32 turns = turn - limiter->joined;

	return turns > 0 ? turns : 0;
}

/* Whether the member may have another pick in this window. */
static __always_inline bool within_limit(struct candidate *c, struct limiter *limiter, __u32 turn,
					 __u32 members, __u32 window)
{
	__u32 limit = c->limit, age = SLOW_START;

	if (limiter->start == START_NEW)
		age = 0;
	else if (limiter->start == START_SLOW)
		age = turns_since(limiter, turn) / (members * WINDOW);
	if (age < SLOW_START)
		limit = limit * (age + 1) / SLOW_START;
	return limiter->window != window || limiter->picked < (limit ? limit : 1);
}

/* Whether the member has taken something from its queue since its last pick, or has next to none. */
static __always_inline bool makes_progress(struct limiter *limiter, __u32 length)
{
	return PROTOCOL == IPPROTO_TCP ? length <= 1 || length < limiter->length :
					 length == 0 || length < limiter->length;
}

/* A member was picked. CPUs may overtake each other here: the limit is approximate. */
static __always_inline void limiter_pick(struct limiter *limiter, __u32 turn, struct pick *pick)
{
	if (limiter->start == START_NEW) {
		limiter->joined = turn;
		limiter->start = START_SLOW;
	} else if (limiter->start == START_SLOW &&
		   turns_since(limiter, turn) >= (__u32)(SLOW_START * WINDOW * pick->members)) {
		limiter->start = START_OVER;
	}
	if (limiter->window == pick->window) {
		__sync_fetch_and_add(&limiter->picked, 1);
	} else {
		limiter->window = pick->window;
		limiter->picked = 1;
	}
	limiter->length = pick->length + 1;
}
