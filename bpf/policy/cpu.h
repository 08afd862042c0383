/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * By the CPU that received the packet.
 *
 * The table has an entry for each CPU, repeated as often as the CPU with the most members needs: among
 * its members, the flow decides.
 */
#pragma once

#include "../flow.h"
#include "../table.h"

static __always_inline int cpu_pick(struct request *req, int attempt)
{
	if (attempt)
		return NO_SLOT;
	return table_pick(req, bpf_get_smp_processor_id() + (flow_key(req) & 0xffffffff) * CPUS);
}
