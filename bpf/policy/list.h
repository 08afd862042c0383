/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The policies. Each has a header with one function,
 *
 *     int NAME_pick(struct request *req, int attempt)
 *
 * which proposes a slot or NO_SLOT. It is asked again, with the next number, if the slot that it proposed
 * turned out to be empty or its queue full. It selects nothing and counts nothing.
 */
#pragma once

#include "cpu.h"
#include "hash.h"
#include "least_loaded.h"
#include "payload.h"
#include "random.h"
#include "round_robin.h"
#include "source.h"

static __always_inline int policy_pick(struct request *req, int attempt)
{
	switch (req->policy) {
	case POLICY_HASH:
		return hash_pick(req, attempt);
	case POLICY_SOURCE:
		return source_pick(req, attempt);
	case POLICY_ROUND_ROBIN:
		return round_robin_pick(req, attempt);
	case POLICY_RANDOM:
		return random_pick(req, attempt);
	case POLICY_CPU:
		return cpu_pick(req, attempt);
	case POLICY_LEAST_LOADED:
		return least_loaded_pick(req, attempt);
	case POLICY_PAYLOAD:
		return payload_pick(req, attempt);
	}
	return NO_SLOT;
}

/*
 * Another entry's key, for the fallback. It belongs to the flow as the policy's own does; or, where the policy
 * goes by turns, it takes one.
 */
static __always_inline __u64 policy_another(__u64 key, __u32 draw, bool is_new)
{
	if (POLICY == POLICY_ROUND_ROBIN && is_new)
		return round_robin_another(key, draw);
	if (POLICY == POLICY_CPU)
		return cpu_another(key, draw);
	return mix(key + draw);
}

/* Whether the policy has the two callbacks below. */
static __always_inline bool policy_accounts(struct request *req)
{
	return req->policy == POLICY_LEAST_LOADED;
}

/* The member was selected. */
static __always_inline void policy_selected(struct request *req, __u32 slot)
{
	least_loaded_selected(req, slot);
}

/* The member's slot was empty. */
static __always_inline void policy_empty(struct request *req, __u32 slot)
{
	least_loaded_empty(req, slot);
}
