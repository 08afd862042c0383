/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* By addresses and ports: a flow always finds the same member. */
#pragma once

#include "../flow.h"
#include "../table.h"

static __always_inline int hash_pick(struct request *req, int attempt)
{
	return attempt ? NO_SLOT : table_pick(req, flow_key(req));
}
