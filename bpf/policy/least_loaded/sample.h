/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Which members are examined, and which of them are the best.
 *
 * The functions that are not inlined are not static either: the verifier then looks at each once and by
 * itself, and not once for each member.
 */
#pragma once

#include <stdbool.h>

#include "../../flow.h"
#include "../../table.h"
#include "../../wire/tuning.h"
#include "compare.h"
#include "limit.h"

/* Next to the load: nothing waits, and it was not picked for a while; it is at its limit; it makes no progress. */
#define SEEN_STARVED (1ULL << 61)
#define SEEN_LATE (1ULL << 62)
#define SEEN_STUCK (1ULL << 63)
/* Its slot is empty, or there is no such member. */
#define SEEN_NONE (~0ULL)

struct found {
	__u64 seen;
	__u64 candidate; /* packed: its weight is never 0, so neither is this */
	__u64 length;	 /* of its queue */
	__u64 weights;	 /* together, of those that are as good */
};

/*
 * In 64 bits each, for the reason that map_key.h gives; two words have several parts, because the stack is full:
 * this, the frames below it and the main program's have 512 bytes together.
 */
struct search {
	/* The turn (bits 32 to 63), the number of active members (16 to 31), the slot whose turn it is (0 to 15). */
	__u64 turn;
	/*
	 * Whether to find out whose queues are full (CHECK_FULL): only after the best one's was. And now (bits 0 to
	 * 31); UDP, which needs no clock: then what the datagram takes (size_of).
	 */
	__u64 now;
	__u64 window;
	/* The candidate whose turn it is, if it is starved. */
	__u64 starved;
	__u64 random;
	/* The best so far, and the best of those that may replace it if it is at its limit. */
	struct found best, second;
	/* The least load without its lower bits, and the next one, each with its slot below. */
	__u64 least, next;
	/* Of the queue of the one that is being examined. */
	__u64 length;
};

static __always_inline __u64 first_of(struct search *search)
{
	return search->turn & SLOT_MASK;
}

static __always_inline __u64 members_of(struct search *search)
{
	return search->turn >> SLOT_BITS & SLOT_MASK;
}

/* In how many windows a starved member gets one pick. Whether anything waits may not be known. */
#define STARVED_WINDOWS (KNOWS_QUEUES ? 1 : 64)

/*
 * Whether a member was not picked in this window nor in the one before. Numbers of windows only tell that
 * they differ: they jump when the number of members changes.
 */
static __always_inline bool is_starved(struct limiter *limiter, __u32 window)
{
	return limiter->window != window && limiter->window + 1 != window &&
	       window % STARVED_WINDOWS == 0;
}

/* Examines one candidate. */
__noinline __u64 sample_member(struct search *search, __u64 packed)
{
	struct candidate c;
	struct limiter *limiter;
	__u64 seen;

	if (!search)
		return SEEN_NONE;
	candidate_unpack(packed, &c);
	limiter = bpf_map_lookup_elem(&limiters, MAP_KEY(c.slot));
	if (!limiter || !c.weight || limiter->empty == (__u32)search->window + 1)
		return SEEN_NONE;
	seen = load_of(&c, limiter, search->now, &search->length);
	if (search->now & CHECK_FULL && queue_is_full_for(search->now, c.slot))
		seen |= LOAD_FULL;
	if (!within_limit(&c, limiter, search->turn >> 32, members_of(search),
			  search->window))
		seen |= SEEN_LATE;
	if (!makes_progress(limiter, search->length))
		seen |= SEEN_STUCK;
	if (COMPARES_CONNECTIONS && is_starved(limiter, search->window) && !search->length &&
	    !(seen & (LOAD_STALE | LOAD_FULL)))
		seen |= SEEN_STARVED;
	return seen;
}

/*
 * Keeps the member if none before was better. Of those that are equally good each has a chance by its weight: so
 * the others get by weight what the member whose turn it is is too busy for. Members of a large group were drawn
 * by weight already.
 */
static __always_inline void keep(struct search *search, struct found *found, __u64 seen,
				 __u64 packed)
{
	bool less = is_less(seen & LOAD_MASK, found->seen & LOAD_MASK);
	bool equal = is_less((seen ^ found->seen) & LOAD_MASK, 1);
	__u64 weight = 1;

	if (!less && !equal)
		return;
	if (members_of(search) <= SAMPLE)
		weight = (packed >> CANDIDATE_WEIGHT_SHIFT) & SLOT_MASK;
	found->weights = weight + (equal ? found->weights : 0);
	if (equal && !is_less((search->random >> 32) * found->weights >> 32, weight))
		return;
	found->seen = seen;
	found->candidate = packed;
	found->length = search->length;
}

/* Compares the member that was examined last with those before. */
__noinline int sample_compare(struct search *search, __u64 seen, __u64 packed)
{
	__u64 slot = packed & SLOT_MASK;

	if (!search)
		return 0;
	if (slot != first_of(search))
		seen |= LOAD_OTHERS_TURN;
	/* Knuth's multiplier: the upper bits are as good as drawn. */
	search->random = search->random * 6364136223846793005ULL + 1;
	keep(search, &search->best, seen, packed);
	if (!(seen & (SEEN_LATE | SEEN_STUCK)))
		keep(search, &search->second, seen, packed);
	if (!COMPARES_CONNECTIONS)
		return 0;
	if (seen & SEEN_STARVED && slot == first_of(search))
		search->starved = packed;
	/* One that is stalled says nothing about how much others should have. */
	seen = seen & LOAD_STALLED ? MAJOR_MAX : (seen & (LOAD_STALLED - 1)) >> MAJOR_SHIFT;
	seen = seen << SLOT_BITS | slot;
	if (is_less(seen, search->least)) {
		search->next = search->least;
		search->least = seen;
	} else if (is_less(seen, search->next)) {
		search->next = seen;
	}
	return 0;
}

static __always_inline void sample_slot(struct search *search, struct table *table, __u32 slot)
{
	__u64 *packed = bpf_map_lookup_elem(table->words, MAP_KEY(table->candidates + slot));
	__u64 seen;

	if (!packed)
		return;
	seen = sample_member(search, *packed);
	if (seen != SEEN_NONE)
		sample_compare(search, seen, *packed);
}

#define NO_SLOTS (~0ULL)

/* Four slots in a word, each at random by weight; NO_SLOTS if there are none. */
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
		slots |= (__u64)slot << (i * SLOT_BITS);
	}
	return slots;
}

/*
 * Examines up to four members except the first: of a small group, those of the `part`th word of the list;
 * of a large one, some at random, by weight. False if there are no more.
 *
 * Should the table be another one by now, it is as good: each names its own members.
 */
__noinline int sample_part(struct search *search, __u32 part)
{
	/* In 64 bits, for the reason that map_key.h gives. */
	__u64 slots = 0, count = SLOTS_PER_WORD;
	struct table table;

	if (!search || !table_open(&table))
		return false;
	if (table.active.count <= SAMPLE) {
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
		/* The first is part of the sample: in the last place it is passed over. */
		if (part == SAMPLE / SLOTS_PER_WORD - 1)
			slots = slots << SLOT_BITS >> SLOT_BITS | first_of(search) << 48;
	}
#pragma unroll
	for (int i = 0; i < SLOTS_PER_WORD; i++) {
		__u64 slot = (slots >> (i * SLOT_BITS)) & SLOT_MASK;

		if (i < count && slot != first_of(search))
			sample_slot(search, &table, slot);
	}
	return true;
}

/* Examines the member whose turn it is. False if there is none. */
__noinline int sample_first(struct search *search, __u64 turn)
{
	struct table table;
	__u32 slot;

	if (!search || !table_open(&table) || !table.entries.count ||
	    !table_slot(&table, &table.entries, turn % table.entries.count, &slot))
		return false;
	search->turn = turn << 32 | (__u64)table.active.count << SLOT_BITS | slot;
	search->window = window_of(turn, table.active.count);
	sample_slot(search, &table, slot);
	return true;
}

/*
 * Examines all members, or a sample. If the first one has no load, no other has less: it is enough to know
 * what some others have, and for queues alone not even that.
 *
 * Unrolled: see fallback.h.
 */
static __always_inline int sample(struct search *search, __u64 turn)
{
	if (!sample_first(search, turn))
		return false;
	if (!search->best.seen) {
		if (COMPARES_CONNECTIONS)
			sample_part(search, 0);
		return true;
	}
#pragma unroll
	for (int part = 0; part < SAMPLE / SLOTS_PER_WORD; part++) {
		if (!sample_part(search, part))
			break;
	}
	return true;
}
