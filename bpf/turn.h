/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Turns, which all CPUs take from one counter.
 */
#pragma once

#include "map_key.h"
#include "wire/slots.h"

static __always_inline __u64 turn_take(void)
{
	__u64 *next = bpf_map_lookup_elem(&cursor, MAP_KEY(0));

	return next ? __sync_fetch_and_add(next, 1) : 0;
}

/* The next turn, without taking it. */
static __always_inline __u64 turn_next(void)
{
	__u64 *next = bpf_map_lookup_elem(&cursor, MAP_KEY(0));

	return next ? *next : 0;
}
