/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Reading the table, and picking by it: the slot in the entry that a key names.
 */
#pragma once

#include <stdbool.h>

#include "map_key.h"
#include "request.h"
#include "wire/table.h"

/* Part of a table: `count` slots from this word on. */
struct slots {
	__u32 first_word;
	__u32 count;
};

struct table {
	void *words;
	struct slots entries;
	struct slots active;
	struct slots draining;
	__u32 candidates; /* slot 0's word */
	/* Members are on standby: sockets of the group that no list names. */
	__u32 standby;
};

static __always_inline __u32 words_for(__u32 slots)
{
	return (slots + SLOTS_PER_WORD - 1) / SLOTS_PER_WORD;
}

static __always_inline bool table_open(struct table *table)
{
	__u64 *head;

	table->words = bpf_map_lookup_elem(&tables, MAP_KEY(0));
	if (!table->words)
		return false;
	head = bpf_map_lookup_elem(table->words, MAP_KEY(0));
	if (!head)
		return false;
	table->entries.count = *head & ((1U << STANDBY_SHIFT) - 1);
	table->standby = (*head >> STANDBY_SHIFT) & 1;
	table->entries.first_word = ENTRIES_WORD;
	table->active.count = (*head >> ACTIVE_SHIFT) & SLOT_MASK;
	table->active.first_word = ENTRIES_WORD + words_for(table->entries.count);
	table->draining.count = *head >> DRAINING_SHIFT;
	table->draining.first_word = table->active.first_word + words_for(table->active.count);
	table->candidates = table->draining.first_word + words_for(table->draining.count);
	return true;
}

/* The slot at `index` of a part; false if the table is shorter than it says, which it never is. */
static __always_inline bool table_slot(struct table *table, struct slots *part, __u32 index,
				       __u32 *slot)
{
	__u32 word = part->first_word + index / SLOTS_PER_WORD;
	__u64 *packed = bpf_map_lookup_elem(table->words, MAP_KEY(word));

	if (!packed)
		return false;
	*slot = (*packed >> (index % SLOTS_PER_WORD * SLOT_BITS)) & SLOT_MASK;
	return true;
}

/* The slot of the entry that `key`, modulo the table's length, names. */
static __always_inline int table_pick(struct request *req, __u64 key)
{
	struct table table;
	__u32 slot;

	req->key = key;
	if (!table_open(&table) || !table.entries.count ||
	    !table_slot(&table, &table.entries, key % table.entries.count, &slot))
		return NO_SLOT;
	return slot;
}
