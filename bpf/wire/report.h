/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Load reports: workers write them with plain stores into this map, which they have in memory. They are
 * optional: an entry of zeros reports nothing.
 */
#pragma once

#include "../kernel.h"
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "type.h"

/*
 * A word of a worker's is a number of 48 bits, and above it the lowest 16 bits of the epoch of the member
 * that it reports for. So a store that comes after the slot went to another member reports nothing.
 *
 * Times are of CLOCK_MONOTONIC_COARSE, without their lowest bits: they last for 584 years.
 */
enum report_layout {
	REPORT_EPOCH_SHIFT = 48,
	REPORT_TIME_SHIFT = 16,
};

/* By slot; a cache line for each, because different CPUs write them. */
struct report {
	__u64 epoch;     /* of the member that has the slot, 0: none. User space writes it, not the worker */
	__u64 busy;      /* since when it has not waited for events, 0: it waits for some */
	__u64 in_flight; /* requests that it has begun and not finished */
	__u64 reserved[5];
};

WIRE_TYPE(enum, report_layout);

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); /* the loader sets it */
	__type(key, __u32);
	__type(value, struct report);
} reports SEC(".maps");
