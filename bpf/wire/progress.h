/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * What least-loaded remembers of each TCP member's progress: whether it takes what it is given, and whether
 * its connections are counted.
 */
#pragma once

#include "../kernel.h"
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "tuning.h"
#include "type.h"

/* All zeros: nothing waits, and all is counted. */
struct progress {
	__u32 since;     /* the tick since which no connection was seen to leave the accept queue; 0: nothing waited */
	__u32 waiting;   /* the most that was seen waiting since then; 0: since the pick */
	__u32 level;     /* the load, per weight, of the next best member when this one was last proved and picked */
	__u32 base;      /* the queue's length then, with that pick in it */
	__u32 opened;    /* the member's count of opened connections at its last pick */
	__u32 uncounted; /* picks since that count last moved */
	__u32 pace;      /* how many ticks it takes to take something, about */
	__u32 reserved;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* the loader sets it */
	__type(key, __u32);
	__type(value, struct progress);
} progress SEC(".maps");
