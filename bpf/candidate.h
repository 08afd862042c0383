/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * What the table says of a member that may be picked.
 */
#pragma once

#include "wire/table.h"

struct candidate {
	__u32 slot;
	__u32 weight;
	/* Picks in a window beyond which others go first. */
	__u32 limit;
	/* Index into `members` of the host-wide layer. */
	__u32 host;
};

static __always_inline void candidate_unpack(__u64 packed, struct candidate *c)
{
	c->slot = packed & SLOT_MASK;
	c->weight = (packed >> CANDIDATE_WEIGHT_SHIFT) & SLOT_MASK;
	c->limit = (packed >> CANDIDATE_LIMIT_SHIFT) & SLOT_MASK;
	c->host = packed >> CANDIDATE_HOST_SHIFT;
}
