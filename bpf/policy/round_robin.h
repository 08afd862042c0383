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
