/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * A member's load as one number: connections (or the queue) above, what waits below, both per weight; and in
 * the lowest bit whether it is another member's turn.
 */
#pragma once

#include "../../candidate.h"
#include "../../open.h"
#include "../../queue.h"
#include "../../report.h"
#include "../../wire/config.h"
#include "progress.h"

/* Of members of equal load the one whose turn it is comes first. */
#define LOAD_OTHERS_TURN 1ULL
#define TURN_BITS 1
#define MINOR_BITS 28
#define MAJOR_SHIFT (TURN_BITS + MINOR_BITS)
#define MINOR_MAX ((1ULL << MINOR_BITS) - 1)
#define MAJOR_MAX ((1ULL << (58 - MAJOR_SHIFT)) - 1)
/* It has taken nothing for too long: it comes after all others that are not. By what waits there. */
#define LOAD_STALLED (1ULL << 58)
/* The worker hangs, by its own report: it comes after all others. */
#define LOAD_STALE (1ULL << 59)
/* The queue is full: it comes after these, too. Only set by a search that looks for it. */
#define LOAD_FULL (1ULL << 60)
#define LOAD_MASK ((1ULL << 61) - 1)

/* Weights go up to this: a load per weight keeps the digits. */
#define SCALE 1000

/* Whether connections are compared, not only queues. */
#define COMPARES_CONNECTIONS (PROTOCOL == IPPROTO_TCP && LOAD & LOAD_OPEN)

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

/*
 * Connections: open ones, half-open ones and reported requests. A member that has not taken what it got
 * counts at least as much as the next best one did then: what is young does not look better than others.
 */
static __always_inline __u64 connections_of(struct candidate *c, struct limiter *limiter,
					    struct queue *queue, __u64 in_flight, __u32 now)
{
	struct progress *known = bpf_map_lookup_elem(&progress, MAP_KEY(c->slot));
	struct counted counted = counted_of(c->host);
	__u64 connections = counted.open, load, least;
	__u32 uncounted, delay;
	bool distrusted;

	if (!known)
		return 0;
	uncounted = uncounted_picks(known, counted.opened);
	distrusted = is_distrusted(uncounted, queue->length);
	if (distrusted)
		connections = 0;
	else if (!queue->known)
		connections += uncounted;
	if (connections < queue->waiting)
		connections = queue->waiting;
	connections += queue->length - queue->waiting;
	load = per_weight(connections + in_flight, c->weight, MAJOR_MAX);
	if (distrusted || !is_proved(limiter, queue->length)) {
		least = known->level;
		if (queue->length > known->base)
			least += per_weight(queue->length - known->base, c->weight, MAJOR_MAX);
		if (load < least)
			load = least;
	}
	delay = delay_of(known, queue, now);
	if (delay == STALLED)
		return LOAD_STALLED |
		       per_weight(in_flight + queue->length, c->weight, MAJOR_MAX) << MAJOR_SHIFT;
	return (load + delay < MAJOR_MAX ? load + delay : MAJOR_MAX) << MAJOR_SHIFT;
}

/* The load, and the queue's length, which lies in 64 bits for the reason that map_key.h gives. */
static __always_inline __u64 load_of(struct candidate *c, struct limiter *limiter, __u32 now,
				     __u64 *length)
{
	struct reported reported = reported_by(c->slot);
	__u64 waits = in_queue_units(reported.in_flight), load;
	__u64 stale = reported.busy && is_stale(reported.busy) ? LOAD_STALE : 0;
	struct queue queue = {};

	if (LOAD & LOAD_QUEUE)
		queue_of(c->slot, &queue);
	*length = queue.length;
	if (!COMPARES_CONNECTIONS)
		return stale | per_weight(waits + queue.length, c->weight, MAJOR_MAX) << MAJOR_SHIFT;
	load = connections_of(c, limiter, &queue, waits, now);
	return stale | load |
	       per_weight(waits + queue.length, c->weight, MINOR_MAX) << TURN_BITS;
}

/*
 * Whether a < b, both below 2^61. By the sign of their difference, because the verifier draws conclusions
 * from a comparison, different ones on each path that follows, and then walks each path to its end.
 */
static __always_inline bool is_less(__u64 a, __u64 b)
{
	__u64 difference = a - b;

	/* The compiler must not see through it either. */
	asm volatile("" : "+r"(difference));
	return difference >> 63;
}
