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

static __always_inline __u64 cpu_key(__u64 flow)
{
	return bpf_get_smp_processor_id() + (flow & 0xffffffff) * CPUS;
}

static __always_inline int cpu_pick(struct request *req, int attempt)
{
	return attempt ? NO_SLOT : table_pick(req, cpu_key(flow_key(req)));
}

/* A few of the CPU's other members first. If they are full too, or it has only one, those of all CPUs. */
static __always_inline __u64 cpu_another(__u64 key, __u32 draw)
{
	return draw <= 4 ? cpu_key(mix(key + draw)) : mix(key + draw);
}
