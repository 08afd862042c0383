/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The policy least-loaded, in the place of key and table: the member with the shortest queue, read at
 * the moment of the choice. Open connections only break ties: added up, a worker that dropped its
 * connections and hangs would look attractive.
 *
 * What all this compares is per weight. Equal loads go in turn, by weight, so an idle server is dealt
 * to like by round-robin.
 */
#pragma once

#include "kernel.h"
#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "host.h"
#include "key.h"
#include "load.h"
#include "map_key.h"
#include "slot.h"
#include "table.h"

/* Up to so many members are all looked at; of more, so many. */
#define LOOK_AT 16

/*
 * A window is so many picks to a member of average weight. Short, so that a member which attracts
 * too much is stopped soon; long enough for a member to get what it deserves.
 */
#define WINDOW 8
/* A new member's limit rises to its full height in so many windows. */
#define SLOW_START 8

/* `struct pace` in crates/reuseport/src/steer.rs has the same numbers. */
enum start {
	START_OVER = 0,
	START_NEW = 1, /* never picked, and the others were there before */
	START_SLOW = 2,
};

/* What least-loaded remembers of a slot. Zero: a member that needs no slow start. */
struct pace {
	__u32 window; /* in which it was picked last */
	__u32 picked; /* so often in that window */
	__u32 length; /* of its queue with the last pick in it */
	__u32 empty;  /* the window in which its slot was found empty, and one */
	__u32 start;  /* enum start */
	__u32 joined; /* the turn of its first pick, as far as 32 bits go */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* the loader says how many */
	__type(key, __u32);
	__type(value, struct pace);
} paces SEC(".maps");

/* A member that might be picked. */
struct candidate {
	__u32 slot;
	__u32 weight;
	/* Picks in a window beyond which others go first. */
	__u32 limit;
	/* Index into `members` of the host-wide layer. */
	__u32 host;
};

/* As Candidate::pack in crates/reuseport/src/table/candidate.rs has it. */
static __always_inline void candidate_unpack(__u64 packed, struct candidate *c)
{
	c->slot = packed & 0xffff;
	c->weight = (packed >> 16) & 0xffff;
	c->limit = (packed >> 32) & 0xffff;
	c->host = packed >> 48;
}

/* Connections that the member has accepted and not closed. */
static __always_inline __u64 open_of(__u32 host)
{
	struct host_member *member = bpf_map_lookup_elem(&members, MAP_KEY(host));

	return member && (__s64)member->open > 0 ? member->open : 0;
}

/*
 * A member's load for comparing: its queue above, open connections below, both per weight. Members
 * whose queue is full come after all others.
 */
#define OPEN_BITS 28
#define OPEN_MAX ((1ULL << OPEN_BITS) - 1)
#define QUEUE_MAX ((1ULL << (61 - OPEN_BITS)) - 1)
#define LOAD_FULL (1ULL << 61)
#define LOAD_MASK ((1ULL << 62) - 1)
/* Beside the load: the member has had its limit; it does not get on. */
#define LOOK_LATE (1ULL << 62)
#define LOOK_STUCK (1ULL << 63)
/* Its slot is empty, or it is none. */
#define LOOK_NOBODY (~0ULL)
/* For dividing by weights, which go up to so much. With it 33 bits are enough for any queue. */
#define SCALE 1000

static __always_inline __u64 load_of(struct candidate *c, __u32 *length)
{
	struct queue queue = {};
	__u64 queued, open = 0;

	if (LOAD & LOAD_QUEUE)
		queue_of(c->slot, &queue);
	if (LOAD & LOAD_OPEN && PROTOCOL == IPPROTO_TCP) {
		open = open_of(c->host);
		/* What waits is open already, and in the queue. */
		open = open > queue.waiting ? open - queue.waiting : 0;
	}
	*length = queue.length;
	queued = (__u64)queue.length * SCALE / c->weight;
	open = open * SCALE / c->weight;
	if (queued > QUEUE_MAX)
		queued = QUEUE_MAX;
	if (open > OPEN_MAX)
		open = OPEN_MAX;
	return queued << OPEN_BITS | open | (queue.full ? LOAD_FULL : 0);
}

/* Back from a load to the length of the queue. */
static __always_inline __u32 length_of(__u64 load, __u32 weight)
{
	return (((load & (LOAD_FULL - 1)) >> OPEN_BITS) * weight + SCALE - 1) / SCALE;
}

/*
 * Whether it may have another pick in this window: it has not had its limit.
 *
 * The others must not pay for it, though: whoever has had its limit is only passed over for members
 * that get on with what they have (see `gets_on`).
 */
static __always_inline bool within_limit(struct candidate *c, struct pace *pace, __u32 turn,
					 __u32 count, __u32 window)
{
	__u32 limit = c->limit, age = SLOW_START;

	if (pace->start == START_NEW)
		age = 0;
	else if (pace->start == START_SLOW)
		age = (turn - pace->joined) / (count * WINDOW);
	if (age < SLOW_START)
		limit = limit * (age + 1) / SLOW_START;
	return pace->window != window || pace->picked < (limit ? limit : 1);
}

/* Whether the member has taken something from its queue since its last pick, or has next to none. */
static __always_inline bool gets_on(struct pace *pace, __u32 length)
{
	return PROTOCOL == IPPROTO_TCP ? length <= 1 || length < pace->length :
					 length == 0 || length < pace->length;
}

/* The window that a turn is in. */
static __always_inline __u32 window_of(__u64 turn, __u32 count)
{
	return turn / ((__u64)count * WINDOW);
}

/*
 * Looks at one candidate: its load, with what else there is to know.
 *
 * Not inlined, and not static: the verifier then looks at this once, and not once for each candidate.
 */
__noinline __u64 look_at(__u64 packed, __u64 turn, __u32 count, __u32 window)
{
	struct candidate c;
	struct pace *pace;
	__u32 length;
	__u64 look;

	candidate_unpack(packed, &c);
	pace = bpf_map_lookup_elem(&paces, MAP_KEY(c.slot));
	if (!pace || !c.weight || pace->empty == window + 1)
		return LOOK_NOBODY;
	look = load_of(&c, &length);
	if (!within_limit(&c, pace, turn, count, window))
		look |= LOOK_LATE;
	if (!gets_on(pace, length))
		look |= LOOK_STUCK;
	return look;
}

/* One that was looked at. */
struct choice {
	__u64 look;
	__u64 candidate; /* packed: its weight is never 0, so this neither */
};

/*
 * The best one of those that were looked at so far, and the best that would do in its place. All are of
 * 64 bits, for the reason that map_key.h gives.
 */
struct search {
	struct choice best;
	struct choice second;
	/* The slot whose turn it is, by weight, and where to go on. */
	__u64 first;
	__u64 start;
	__u64 turn;
	__u64 window;
};

/*
 * Whether a < b, both below 2^62. By the sign of their difference, because the verifier draws conclusions
 * from a comparison, other ones on every way through a loop, and then follows each way to its end.
 */
static __always_inline bool is_less(__u64 a, __u64 b)
{
	__u64 difference = a - b;

	/* The compiler must not see through it either. */
	asm volatile("" : "+r"(difference));
	return difference >> 63;
}

/*
 * Looks at one more candidate; false if there is none. The first one is whose turn it is by weight: it
 * wins among equals.
 *
 * Should the table be another one by now, it is as good: each names its own members.
 *
 * Not inlined, for the same reason.
 */
__noinline int look_on(struct search *search, __u32 i)
{
	__u64 *packed, seen;
	struct table table;
	__u32 slot, count;

	if (!search || !table_open(&table))
		return false;
	count = table.active.count;
	slot = search->first;
	/*
	 * All of them, beginning anywhere and in either direction, so that not always the same one gets
	 * what its neighbour is too busy for. Of many, some at random, by weight.
	 */
	if (i && count <= LOOK_AT) {
		__u32 start = search->start;

		if (i > count ||
		    !table_slot(&table, &table.active,
				((start >> 1) + (start & 1 ? i : count - i)) % count, &slot))
			return false;
	} else if (i) {
		if (!table.entries.count ||
		    !table_slot(&table, &table.entries,
				mix(search->start + i) % table.entries.count, &slot))
			return false;
	}
	packed = bpf_map_lookup_elem(table.words, MAP_KEY(table.candidates + slot));
	if (!packed)
		return false;
	seen = look_at(*packed, search->turn, count, search->window);
	if (seen == LOOK_NOBODY)
		return true;
	if (is_less(seen & LOAD_MASK, search->best.look & LOAD_MASK)) {
		search->best.look = seen;
		search->best.candidate = *packed;
	}
	if (!(seen & (LOOK_LATE | LOOK_STUCK)) &&
	    is_less(seen, search->second.look & LOAD_MASK)) {
		search->second.look = seen;
		search->second.candidate = *packed;
	}
	return true;
}

/*
 * Looks at all, or at as many as that is worth.
 *
 * Unrolled: see select_another.
 */
__noinline int look_around(struct search *search)
{
	if (!search)
		return false;
#pragma unroll
	for (int i = 0; i <= LOOK_AT; i++) {
		if (!look_on(search, i))
			break;
	}
	return true;
}

/* A member was picked. CPUs may overtake each other here: it is no account. */
static __always_inline void pace_pick(struct pace *pace, __u32 turn, __u32 count, __u32 window,
				      __u32 length)
{
	if (pace->start == START_NEW) {
		pace->joined = turn;
		pace->start = START_SLOW;
	} else if (pace->start == START_SLOW &&
		   turn - pace->joined >= SLOW_START * WINDOW * count) {
		pace->start = START_OVER;
	}
	if (pace->window == window) {
		__sync_fetch_and_add(&pace->picked, 1);
	} else {
		pace->window = window;
		pace->picked = 1;
	}
	pace->length = length + 1;
}

/* How often to choose anew when the chosen slot turns out to be empty. */
#define CHOICES 4
#define NOT_SELECTED (-1)
#define CHOOSE_ANEW (-2)

/*
 * Chooses and selects: the slot, NOT_SELECTED, or CHOOSE_ANEW if that slot is empty. `arrival` is an
 * enum arrival.
 *
 * Not inlined, for the same reason.
 */
__noinline int choose(struct sk_reuseport_md *ctx, __u32 arrival, __u64 turn)
{
	struct search search = { { LOOK_NOBODY }, { LOOK_NOBODY } };
	struct choice choice;
	struct candidate c;
	struct table table;
	struct pace *pace;
	__u32 window, first;
	bool capped;

	if (!table_open(&table) || !table.active.count)
		return NOT_SELECTED;
	if (!table.entries.count ||
	    !table_slot(&table, &table.entries, turn % table.entries.count, &first))
		return NOT_SELECTED;
	window = window_of(turn, table.active.count);
	search.turn = turn;
	search.window = window;
	search.first = first;
	search.start = mix(turn) >> 32;
	if (!look_around(&search) || !search.best.candidate)
		return NOT_SELECTED;
	capped = search.best.look & LOOK_LATE && search.second.candidate &&
		 !(search.second.look & LOAD_FULL);
	choice = capped ? search.second : search.best;
	candidate_unpack(choice.candidate, &c);
	pace = bpf_map_lookup_elem(&paces, MAP_KEY(c.slot));
	if (!pace)
		return NOT_SELECTED;
	if (!slot_select(ctx, c.slot)) {
		pace->empty = window + 1;
		return CHOOSE_ANEW;
	}
	if (arrival == ARRIVAL_NEW) {
		pace_pick(pace, turn, table.active.count, window,
			  length_of(choice.look, c.weight));
		if (capped)
			count(REASON_SHARE_CAPPED);
	}
	return c.slot;
}

/* The slot of the least loaded member, which is selected; or NOT_SELECTED. */
static __always_inline int least_loaded_select(struct sk_reuseport_md *ctx, enum arrival arrival,
					       __u64 turn)
{
#pragma unroll
	for (int i = 0; i < CHOICES; i++) {
		int slot = choose(ctx, arrival, turn);

		if (slot != CHOOSE_ANEW)
			return slot;
	}
	return NOT_SELECTED;
}
