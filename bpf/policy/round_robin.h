/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* In turn. Only something new takes a turn. */
#pragma once

#include "../flow.h"
#include "../table.h"
#include "../turn.h"

static __always_inline int round_robin_pick(struct request *req, int attempt)
{
	if (attempt)
		return NO_SLOT;
	return table_pick(req, req->arrival == ARRIVAL_NEW ? turn_take() : flow_key(req));
}

/*
 * The next turns: so those of a member that cannot take them go to all others in turn, and not to the one behind
 * it. A member of great weight may have all of them.
 */
static __always_inline __u64 round_robin_another(__u64 key, __u32 draw)
{
	return draw <= 4 ? turn_take() : mix(key + draw);
}
