/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Whether a member takes what it is given, and whether its connections are counted.
 *
 * A queue that is short may be young: the worker that wakes first has an empty one, and a worker that has
 * just begun to hang, too. So a connection that was given to a member and not taken yet says nothing about
 * it; only time and what it takes do.
 */
#pragma once

#include <stdbool.h>

#include "../../open.h"
#include "../../queue.h"
#include "../../request.h"
#include "../../wire/limiter.h"
#include "../../wire/progress.h"

/* A tick is 65.5 us. */
#define TICK_SHIFT 16
/* More than any member can have without being distrusted. */
#define UNCOUNTED_MAX 0xffffffU

/* Queues are not read everywhere. */
#define KNOWS_QUEUES (READ_QUEUES != READ_NOTHING && LOAD & LOAD_QUEUE)

/* Longer than this, about two seconds, is as bad. */
#define TICKS_MAX 0x7fff
/* Members that take something in less than this, 2 ms, are all measured alike. */
#define PACE 32U
#define STALLED_TICKS 128
#define STALLED (~0U)

/* Now; never 0. */
static __always_inline __u32 tick(void)
{
	return (bpf_ktime_get_ns() >> TICK_SHIFT) | 1;
}

/* Whether it has taken something since its last pick, or nothing is there to take. */
static __always_inline bool is_proved(struct limiter *limiter, __u32 length)
{
	return !length || length < limiter->length;
}

/* Picks since the count of opened connections last moved. */
static __always_inline __u32 uncounted_picks(volatile struct progress *progress,
					     __u32 opened)
{
	return progress->opened == opened ? progress->uncounted : 0;
}

/*
 * Whether picks of this member do not show in its count of connections: the counting programs are gone,
 * or do not know it. Handshakes may be under way, as many as there are in the queue.
 */
static __always_inline bool is_distrusted(__u32 uncounted, __u32 length)
{
	return uncounted > (KNOWS_QUEUES ? UNCOUNTED : UNCOUNTED_BLIND) + length;
}

/* Fewer wait than before, or the first ones do. */
static __always_inline void takes(struct progress *progress, __u32 waiting, __u32 now)
{
	__u32 took = now - progress->since;

	if (progress->since && took <= TICKS_MAX)
		progress->pace = (3 * progress->pace + took) / 4;
	progress->since = now;
	progress->waiting = waiting;
}

/*
 * How much worse a member becomes while what waits does not get less, in thousandths of a connection: the
 * square of the time in ticks, so one connection after 2 ms and four after 4 ms, but slower at a member
 * that usually takes its time. STALLED after 8 ms: then it comes after all that are not.
 *
 * A worker that is late by a time slice gets its share of a burst all the same, and one that hangs gets
 * nothing soon.
 */
static __always_inline __u32 delay_of(struct progress *progress, struct queue *queue, __u32 now)
{
	__s32 ticks;

	if (!queue->waiting) {
		/*
		 * Handshakes may be under way: how long they take is the client's matter, so what waits next
		 * counts from when it is seen.
		 */
		if (progress->since) {
			progress->since = 0;
			progress->waiting = 0;
		}
		if (progress->pace)
			progress->pace -= progress->pace / 64 + 1;
		return 0;
	}
	if (!progress->since || queue->waiting < progress->waiting) {
		takes(progress, queue->waiting, now);
		return 0;
	}
	if (queue->waiting > progress->waiting)
		progress->waiting = queue->waiting;
	ticks = now - progress->since;
	/* A little before: another CPU was faster. Long before: after 39 hours, numbers of ticks begin again. */
	if (ticks < 0)
		ticks = ticks > -STALLED_TICKS ? 0 : TICKS_MAX;
	if (ticks > TICKS_MAX)
		ticks = TICKS_MAX;
	ticks = (__u32)ticks * PACE / (PACE + progress->pace);
	return ticks < STALLED_TICKS ? (__u32)ticks * (__u32)ticks : STALLED;
}

/* The member was picked; before its limiter is told. */
static __always_inline void progress_pick(__u32 slot, struct limiter *limiter, struct pick *pick)
{
	/*
	 * All fields are written, whatever they become, and volatile: of stores that are made on some paths
	 * only, the compiler makes one to an address that depends on the path, which verifiers refuse
	 * without CAP_PERFMON.
	 */
	volatile struct progress *known = bpf_map_lookup_elem(&progress, MAP_KEY(slot));
	__u32 opened = counted_of(pick->host >> 32).opened, uncounted;
	bool proved;

	if (!known)
		return;
	uncounted = uncounted_picks(known, opened);
	proved = is_proved(limiter, pick->length) || is_distrusted(uncounted, pick->length);
	known->level = proved ? (__u32)pick->level : known->level;
	known->base = proved ? pick->length + 1 : known->base;
	known->since = pick->length ? known->since : (__u32)pick->host;
	known->waiting = pick->length ? known->waiting : 0;
	known->opened = opened;
	known->uncounted = uncounted < UNCOUNTED_MAX ? uncounted + 1 : uncounted;
}
