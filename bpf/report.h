/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Reading load reports.
 */
#pragma once

#include "count.h"
#include "map_key.h"
#include "wire/config.h"
#include "wire/report.h"

#define WORD_MAX ((1ULL << REPORT_EPOCH_SHIFT) - 1)

/* More requests in flight than this count as this many. */
#define IN_FLIGHT_MAX (1U << 20)

/* The number in a worker's word; 0 if it is of another member, or no member has the slot. */
static __always_inline __u64 word_of(__u64 word, __u64 epoch)
{
	return epoch && word >> REPORT_EPOCH_SHIFT == (epoch & 0xffff) ? word & WORD_MAX : 0;
}

struct reported {
	__u64 busy;
	__u64 in_flight;
};

/*
 * Read at once, with one branch: without CAP_PERFMON the verifier also follows what a mispredicted one
 * would do, and at a second test of the same pointer finds that it may be no pointer.
 */
static __always_inline struct reported reported_by(__u32 slot)
{
	volatile struct report *report = bpf_map_lookup_elem(&reports, MAP_KEY(slot));
	struct reported reported = {};

	if (report) {
		__u64 epoch = report->epoch;

		reported.busy = word_of(report->busy, epoch);
		reported.in_flight = word_of(report->in_flight, epoch);
	}
	return reported;
}

/*
 * Whether a worker that reports to be busy has not waited for events for too long. Counts it: this is
 * about a member, not a decision.
 *
 * Not inlined, and not static: the verifier then looks at this once, and members without a report do not
 * come here.
 */
__noinline int is_stale(__u64 busy)
{
	/* The coarse clock is a load or two, and the one that the worker reads: it is never behind it. */
	__u64 now = bpf_ktime_get_coarse_ns() >> REPORT_TIME_SHIFT;

	if (now <= busy || now - busy <= STALE_AFTER >> REPORT_TIME_SHIFT)
		return false;
	count(REASON_STALE);
	return true;
}
