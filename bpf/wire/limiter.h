/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * What least-loaded remembers of each slot: picks in the current window, and slow start.
 */
#pragma once

#include "../kernel.h"
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "tuning.h"
#include "type.h"

enum start {
	START_OVER = 0,
	START_NEW = 1, /* joined a serving group, not picked yet */
	START_SLOW = 2,
};

/* All zeros: a member that needs no slow start. */
struct limiter {
	__u32 window; /* of the last pick */
	__u32 picked; /* picks in that window */
	__u32 length; /* of the queue with the last pick in it */
	__u32 empty;  /* the window in which the slot was found empty, plus one */
	__u32 start;  /* enum start */
	__u32 joined; /* the turn of the first pick, its lowest 32 bits */
};

WIRE_TYPE(enum, start);
WIRE_TYPE(enum, tuning);

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* the loader sets it */
	__type(key, __u32);
	__type(value, struct limiter);
} limiters SEC(".maps");
