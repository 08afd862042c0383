/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Load reports: what workers say of themselves, by plain stores into this map, which they have in
 * memory. Nobody has to: an entry of zeros says nothing.
 *
 * The layout is that of crates/reuseport/src/state/reports.rs.
 */
#pragma once

#include "kernel.h"
#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "count.h"
#include "map_key.h"

/*
 * A worker's word is a number of 48 bits below, and above it as much of the epoch as there is room for
 * of the member that it was said of. So a worker that speaks after its slot went to another member says
 * nothing of that one, whenever its store comes.
 */
#define WORD_BITS 48
#define WORD_MAX ((1ULL << WORD_BITS) - 1)

/* By slot; a cache line for each, because each is another CPU's to write. */
struct report {
	__u64 epoch;     /* of the member that has the slot; 0: nobody. User space's, not the worker's */
	__u64 busy;      /* since when it has not looked for events; 0: it waits for some */
	__u64 in_flight; /* requests that it has taken and not finished */
	__u64 reserved[5];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); /* the loader says how many */
	__type(key, __u32);
	__type(value, struct report);
} reports SEC(".maps");

/* Beyond this nobody has requests in flight. */
#define IN_FLIGHT_MAX (1U << 20)

/* Times are of CLOCK_MONOTONIC_COARSE, without their lowest bits: they last for 584 years. */
#define TIME_SHIFT 16

/* The number in a worker's word; 0 if it is of another member, or the slot is nobody's. */
static __always_inline __u64 word_of(__u64 word, __u64 epoch)
{
	return epoch && word >> WORD_BITS == (epoch & 0xffff) ? word & WORD_MAX : 0;
}

/* What a member says of itself. */
struct said {
	__u64 busy;
	__u64 in_flight;
};

/*
 * Read at once, with one branch: without CAP_PERFMON the verifier also follows what a mispredicted one
 * would do, and at a second test of the same pointer finds that it may be no pointer.
 */
static __always_inline struct said said_by(__u32 slot)
{
	volatile struct report *report = bpf_map_lookup_elem(&reports, MAP_KEY(slot));
	struct said said = {};

	if (report) {
		__u64 epoch = report->epoch;

		said.busy = word_of(report->busy, epoch);
		said.in_flight = word_of(report->in_flight, epoch);
	}
	return said;
}

/*
 * Whether a member that is busy by its own word has not looked for events for too long; that is counted.
 *
 * Not inlined, and not static: the verifier then looks at this once, and whoever says nothing does not
 * come here.
 */
__noinline int is_stale(__u64 busy)
{
	/* The coarse clock is a load or two, and the one that the worker reads: it is never behind it. */
	__u64 now = bpf_ktime_get_coarse_ns() >> TIME_SHIFT;

	if (now <= busy || now - busy <= STALE_AFTER >> TIME_SHIFT)
		return false;
	count(REASON_STALE);
	return true;
}
