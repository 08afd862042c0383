/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * A member's load as one number: the queue and the reported requests in flight above, open connections
 * below, both per weight; and in the lowest bits a number that decides between equals.
 */
#pragma once

#include "../../candidate.h"
#include "../../open.h"
#include "../../queue.h"
#include "../../report.h"
#include "../../wire/config.h"

#define TIE_BITS 6
#define OPEN_BITS 27
#define QUEUE_SHIFT (TIE_BITS + OPEN_BITS)
#define OPEN_MAX ((1ULL << OPEN_BITS) - 1)
#define QUEUE_MAX ((1ULL << (60 - QUEUE_SHIFT)) - 1)
/* The worker hangs, by its own report: it comes after all others. */
#define LOAD_STALE (1ULL << 60)
/* The queue is full: it comes after these, too. Only set by a search that looks for it. */
#define LOAD_FULL (1ULL << 61)
#define LOAD_MASK ((1ULL << 62) - 1)

/* Weights go up to this: a load per weight keeps the digits. */
#define SCALE 1000

static __always_inline __u64 per_weight(__u64 load, __u32 weight, __u64 most)
{
	load = load * SCALE;
	if (weight != 1)
		load /= weight;
	return load < most ? load : most;
}

/* Requests in flight in the unit of the queue: for UDP, as if each were the smallest datagram. */
static __always_inline __u64 in_queue_units(__u64 in_flight)
{
	if (!(LOAD & LOAD_QUEUE))
		return 0;
	if (in_flight > IN_FLIGHT_MAX)
		in_flight = IN_FLIGHT_MAX;
	return in_flight * (PROTOCOL == IPPROTO_TCP ? 1 : 768 / UDP_UNIT);
}

static __always_inline __u64 load_of(struct candidate *c, __u32 *length)
{
	struct reported reported = reported_by(c->slot);
	__u64 queued = in_queue_units(reported.in_flight), open = 0;
	__u64 stale = reported.busy && is_stale(reported.busy) ? LOAD_STALE : 0;
	struct queue queue = {};

	if (LOAD & LOAD_QUEUE)
		queue_of(c->slot, &queue);
	if (LOAD & LOAD_OPEN && PROTOCOL == IPPROTO_TCP) {
		open = open_of(c->host);
		/* What waits is open already, and in the queue. */
		open = open > queue.waiting ? open - queue.waiting : 0;
	}
	*length = queue.length;
	return stale | per_weight(queued + queue.length, c->weight, QUEUE_MAX) << QUEUE_SHIFT |
	       per_weight(open, c->weight, OPEN_MAX) << TIE_BITS;
}

/* Back from a load to the queue's length. The requests in flight may be another number by now. */
static __always_inline __u32 length_of(__u64 load, struct candidate *c)
{
	__u32 length = (((load & (LOAD_STALE - 1)) >> QUEUE_SHIFT) * c->weight + SCALE - 1) / SCALE;
	__u64 in_flight = in_queue_units(reported_by(c->slot).in_flight);

	return length > in_flight ? length - in_flight : 0;
}

/*
 * Decides between members of equal load: 0 for the one whose turn it is, and for the others numbers that
 * differ with each pick. So it is not always the same member that gets what its neighbour is too busy for.
 */
static __always_inline __u64 tie_of(__u64 slot, __u64 first, __u64 random)
{
	/* Multiplied twice: after the first time, neighbours' numbers still depend on each other. */
	__u32 number = (((__u32)slot + 1) * 0x9e3779b1u ^ (__u32)random) * 0x85ebca6bu;

	if ((__u32)slot == first)
		return 0;
	return 1 + ((__u64)number * ((1 << TIE_BITS) - 1) >> 32);
}

/*
 * Whether a < b, both below 2^62. By the sign of their difference, because the verifier draws conclusions
 * from a comparison, different ones on each path that follows, and then walks each path to its end.
 */
static __always_inline bool is_less(__u64 a, __u64 b)
{
	__u64 difference = a - b;

	/* The compiler must not see through it either. */
	asm volatile("" : "+r"(difference));
	return difference >> 63;
}
