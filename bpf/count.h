/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Adding to counters.
 */
#pragma once

#include "map_key.h"
#include "wire/reason.h"

static __always_inline void count_more(__u32 reason, __u64 more)
{
	__u64 *counter = bpf_map_lookup_elem(&counters, MAP_KEY(reason));

	if (counter)
		*counter += more;
}

static __always_inline void count(__u32 reason)
{
	count_more(reason, 1);
}

static __always_inline void count_selected(__u32 slot)
{
	__u64 *picked = bpf_map_lookup_elem(&picks, MAP_KEY(slot));

	if (picked)
		(*picked)++;
}

/*
 * Counts what note() has collected. Not inlined, and not static: the verifier then looks at it once. Called in any
 * case: a caller that asks whether there is something would be looked at once for each thing that may be.
 */
__noinline int count_noted(__u64 noted)
{
	if (!noted)
		return 0;
#pragma unroll
	for (int reason = REASON_EMPTY_SLOT; reason < REASONS; reason++) {
		__u64 times = noted >> (8 * (reason - REASON_EMPTY_SLOT)) & 0xff;

		if (times)
			count_more(reason, times);
	}
	return 0;
}
