/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Third stage: the table, which user space fills and never changes afterwards. A new one takes
 * its place in one store, and the kernel waits until no program reads the old one
 * (maybe_wait_bpf_programs in kernel/bpf/syscall.c) before user space reuses what that named.
 *
 * Word 0:   entries (32 bits), active members (16), draining members (16)
 * Word 1-:  entries, then active members' slots, then draining members' slots;
 *           four 16-bit slots to a word, each list from a new word on
 * Then:     a word for each slot, by which active members are compared (struct candidate); 0: none
 */
#pragma once

#include "kernel.h"
#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

#include "map_key.h"

#define SLOTS_PER_WORD 4

struct table_words {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	/*
	 * User space fills them through memory. All tables of a group are of one length, which the
	 * loader chooses: with BPF_F_INNER_MAP they could differ, but then each look into one
	 * would be a call instead of a few instructions (array_map_gen_lookup).
	 */
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
	__array(values, struct table_words);
} tables SEC(".maps");

/* Part of a table: so many slots from this word on. */
struct slots {
	__u32 first_word;
	__u32 count;
};

struct table {
	void *words;
	__u64 head; /* word 0 */
	struct slots entries;
	struct slots active;
	struct slots draining;
	__u32 candidates; /* slot 0's word */
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
	table->head = *head;
	table->entries.count = *head;
	table->entries.first_word = 1;
	table->active.count = (*head >> 32) & 0xffff;
	table->active.first_word = 1 + words_for(table->entries.count);
	table->draining.count = *head >> 48;
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
	*slot = (*packed >> (index % SLOTS_PER_WORD * 16)) & 0xffff;
	return true;
}
