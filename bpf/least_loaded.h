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
#include "report.h"
#include "slot.h"
#include "table.h"

/* Up to so many members are all looked at; of more, so many (docs/simulation.md). */
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

	__s64 open = member ? (__s32)(member->opened - member->closed) : 0;

	return open > 0 ? open : 0;
}

/*
 * A member's load for comparing: above its queue and what it says that it has in flight, open
 * connections below, all per weight; and in the lowest bits who goes first among equals (see `tie_of`).
 */
#define TIE_BITS 6
#define OPEN_BITS 27
#define QUEUE_SHIFT (TIE_BITS + OPEN_BITS)
#define OPEN_MAX ((1ULL << OPEN_BITS) - 1)
#define QUEUE_MAX ((1ULL << (60 - QUEUE_SHIFT)) - 1)
/* It hangs, by its own word: it comes after all others. */
#define LOAD_STALE (1ULL << 60)
/* Its queue is full: it comes after these, too. Only known to a search that looks for it. */
#define LOAD_FULL (1ULL << 61)
#define LOAD_MASK ((1ULL << 62) - 1)
/* Beside the load: the member has had its limit; it does not get on. */
#define LOOK_LATE (1ULL << 62)
#define LOOK_STUCK (1ULL << 63)
/* Its slot is empty, or it is none. */
#define LOOK_NOBODY (~0ULL)
/* For dividing by weights, which go up to so much. */
#define SCALE 1000

static __always_inline __u64 per_weight(__u64 load, __u32 weight, __u64 most)
{
	load = load * SCALE;
	if (weight != 1)
		load /= weight;
	return load < most ? load : most;
}

/* What a member has in flight, in the unit of its queue: for UDP, as if the smallest datagrams. */
static __always_inline __u64 taken(__u64 in_flight)
{
	if (!(LOAD & LOAD_QUEUE))
		return 0;
	if (in_flight > IN_FLIGHT_MAX)
		in_flight = IN_FLIGHT_MAX;
	return in_flight * (PROTOCOL == IPPROTO_TCP ? 1 : 768 / UDP_UNIT);
}

static __always_inline __u64 load_of(struct candidate *c, __u32 *length)
{
	struct said said = said_by(c->slot);
	__u64 queued = taken(said.in_flight), open = 0;
	__u64 stale = said.busy && is_stale(said.busy) ? LOAD_STALE : 0;
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

/* Back from a load to the length of the queue. What is in flight may be another number by now. */
static __always_inline __u32 length_of(__u64 load, struct candidate *c)
{
	__u32 length = (((load & (LOAD_STALE - 1)) >> QUEUE_SHIFT) * c->weight + SCALE - 1) / SCALE;
	__u64 in_flight = taken(said_by(c->slot).in_flight);

	return length > in_flight ? length - in_flight : 0;
}

/* Turns since a member's first pick; none, if that one's CPU was overtaken by this one. */
static __always_inline __u32 turns_since(struct pace *pace, __u32 turn)
{
	__s32 turns = turn - pace->joined;

	return turns > 0 ? turns : 0;
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
		age = turns_since(pace, turn) / (count * WINDOW);
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

/* What a search needs to know beside the members. In 64 bits each, for the reason that map_key.h gives. */
struct search {
	__u64 turn;
	__u64 window;
	/* The slot whose turn it is, by weight. */
	__u64 first;
	__u64 random;
	/* Whether to find out whose queues are full: only after the best one's was. */
	__u64 careful;
	/* What was found: the best one so far, and the best that would do in its place. */
	struct choice {
		__u64 look;
		__u64 candidate; /* packed: its weight is never 0, so this neither */
	} best, second;
};

/*
 * Looks at one candidate: its load, with what else there is to know.
 *
 * Not inlined, and not static: the verifier then looks at this once, and not once for each candidate.
 */
__noinline __u64 look_at(__u64 packed, __u64 turn, __u32 count, __u32 window, __u32 careful)
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
	if (careful && queue_is_full(c.slot))
		look |= LOAD_FULL;
	if (!within_limit(&c, pace, turn, count, window))
		look |= LOOK_LATE;
	if (!gets_on(pace, length))
		look |= LOOK_STUCK;
	return look;
}

/*
 * Whether a < b, both below 2^62. By the sign of their difference, because the verifier draws conclusions
 * from a comparison, other ones on every way that leads on, and then follows each way to its end.
 */
static __always_inline bool is_less(__u64 a, __u64 b)
{
	__u64 difference = a - b;

	/* The compiler must not see through it either. */
	asm volatile("" : "+r"(difference));
	return difference >> 63;
}

/*
 * Who goes first among members of equal load: whose turn it is (0), else whoever has the lowest of these
 * numbers, which are others for each pick. So it is not always the same one that gets what its neighbour
 * is too busy for.
 */
static __always_inline __u64 tie_of(struct search *search, __u32 slot)
{
	/* Multiplied twice: after the first time, neighbours' numbers still depend on each other. */
	__u32 number = ((slot + 1) * 0x9e3779b1u ^ (__u32)search->random) * 0x85ebca6bu;

	if (slot == search->first)
		return 0;
	return 1 + ((__u64)number * ((1 << TIE_BITS) - 1) >> 32);
}

static __always_inline void look_on(struct search *search, struct table *table, __u32 slot)
{
	__u64 *packed = bpf_map_lookup_elem(table->words, MAP_KEY(table->candidates + slot));
	__u64 seen;

	if (!packed)
		return;
	seen = look_at(*packed, search->turn, table->active.count, search->window,
		       search->careful);
	if (seen == LOOK_NOBODY)
		return;
	seen |= tie_of(search, slot);
	if (is_less(seen & LOAD_MASK, search->best.look & LOAD_MASK)) {
		search->best.look = seen;
		search->best.candidate = *packed;
	}
	if (!(seen & (LOOK_LATE | LOOK_STUCK)) &&
	    is_less(seen, search->second.look & LOAD_MASK)) {
		search->second.look = seen;
		search->second.candidate = *packed;
	}
}

#define NO_SLOTS (~0ULL)

/* Four slots in a word, each at random by weight; NO_SLOTS if there are none. Not inlined: see above. */
__noinline __u64 slots_at_random(__u64 random)
{
	struct table table;
	__u64 slots = 0;

	if (!table_open(&table) || !table.entries.count)
		return NO_SLOTS;
#pragma unroll
	for (int i = 0; i < SLOTS_PER_WORD; i++) {
		__u32 slot;

		if (!table_slot(&table, &table.entries, mix(random + i) % table.entries.count,
				&slot))
			return NO_SLOTS;
		slots |= (__u64)slot << (i * 16);
	}
	return slots;
}

/*
 * Looks at up to four members but the first: of few, at those of the `part`th word of the list; of
 * many, at some at random, by weight. False if there are no more.
 *
 * Should the table be another one by now, it is as good: each names its own members.
 *
 * Not inlined, for the same reason.
 */
__noinline int look_at_some(struct search *search, __u32 part)
{
	/* In 64 bits, for the reason that map_key.h gives. */
	__u64 slots = 0, count = SLOTS_PER_WORD;
	struct table table;

	if (!search || !table_open(&table))
		return false;
	if (table.active.count <= LOOK_AT) {
		__u64 *word;

		if (part * SLOTS_PER_WORD >= table.active.count)
			return false;
		word = bpf_map_lookup_elem(table.words, MAP_KEY(table.active.first_word + part));
		if (!word)
			return false;
		count = table.active.count - part * SLOTS_PER_WORD;
		slots = *word;
	} else {
		slots = slots_at_random(search->random + part * SLOTS_PER_WORD);
		if (slots == NO_SLOTS)
			return false;
		/* The first one is one of them: in the last place it is passed over. */
		if (part == LOOK_AT / SLOTS_PER_WORD - 1)
			slots = slots << 16 >> 16 | search->first << 48;
	}
#pragma unroll
	for (int i = 0; i < SLOTS_PER_WORD; i++) {
		__u64 slot = (slots >> (i * 16)) & 0xffff;

		if (i < count && slot != search->first)
			look_on(search, &table, slot);
	}
	return true;
}

/* Looks at the one whose turn it is. False if there is none. Not inlined, for the same reason. */
__noinline int look_at_first(struct search *search)
{
	struct table table;
	__u32 slot;

	if (!search || !table_open(&table) || !table.entries.count ||
	    !table_slot(&table, &table.entries, search->turn % table.entries.count, &slot))
		return false;
	search->first = slot;
	search->window = window_of(search->turn, table.active.count);
	look_on(search, &table, slot);
	return true;
}

/*
 * Looks at all, or at as many as that is worth; at one, if it has nothing to do: nobody has less.
 *
 * Unrolled: see select_another.
 */
__noinline int look_around(struct search *search)
{
	if (!search || !look_at_first(search))
		return false;
	if (!search->best.look)
		return true;
#pragma unroll
	for (int part = 0; part < LOOK_AT / SLOTS_PER_WORD; part++) {
		if (!look_at_some(search, part))
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
		   turns_since(pace, turn) >= SLOW_START * WINDOW * count) {
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

/* How often to choose anew when the chosen slot turns out to be empty, or its queue full. */
#define CHOICES 4
#define NOT_SELECTED (-1)
#define CHOOSE_ANEW (-2)
#define CHOOSE_CAREFULLY (-3)

/*
 * Chooses and selects: the slot, or NOT_SELECTED, or CHOOSE_ANEW if that slot is empty, or
 * CHOOSE_CAREFULLY if its queue is full. `arrival` is an enum arrival.
 *
 * Not inlined, for the same reason.
 */
__noinline int choose(struct sk_reuseport_md *ctx, __u32 arrival, __u64 turn, __u32 careful)
{
	struct search search = {
		.turn = turn,
		.random = mix(turn),
		.careful = careful,
		.best = { .look = LOOK_NOBODY },
		.second = { .look = LOOK_NOBODY },
	};
	struct choice choice;
	struct candidate c;
	struct table table;
	struct pace *pace;
	bool capped;

	if (!look_around(&search) || !search.best.candidate || !table_open(&table))
		return NOT_SELECTED;
	capped = search.best.look & LOOK_LATE && search.second.candidate &&
		 !(search.second.look & (LOAD_FULL | LOAD_STALE));
	choice = capped ? search.second : search.best;
	candidate_unpack(choice.candidate, &c);
	pace = bpf_map_lookup_elem(&paces, MAP_KEY(c.slot));
	if (!pace)
		return NOT_SELECTED;
	if (!careful && queue_is_full(c.slot))
		return CHOOSE_CAREFULLY;
	if (!slot_select(ctx, c.slot)) {
		pace->empty = search.window + 1;
		return CHOOSE_ANEW;
	}
	if (arrival == ARRIVAL_NEW) {
		pace_pick(pace, turn, table.active.count, search.window,
			  length_of(choice.look, &c));
		if (capped)
			count(REASON_SHARE_CAPPED);
	}
	return c.slot;
}

/* The slot of the least loaded member, which is selected; or NOT_SELECTED. */
static __always_inline int least_loaded_select(struct sk_reuseport_md *ctx, enum arrival arrival,
					       __u64 turn)
{
	__u32 careful = false;

#pragma unroll
	for (int i = 0; i < CHOICES; i++) {
		int slot = choose(ctx, arrival, turn, careful);

		if (slot == CHOOSE_CAREFULLY)
			careful = true;
		else if (slot != CHOOSE_ANEW)
			return slot;
	}
	return NOT_SELECTED;
}
