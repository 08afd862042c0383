/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The table, an array of 64-bit words, which user space fills and never changes afterwards.
 *
 * Word 0:   entries (31 bits), whether members are on standby (1), active members (16), draining members (16)
 * Word 1-:  entries, then active members' slots, then draining members' slots;
 *           four 16-bit slots to a word, each list begins a new word
 * Then:     a word for each slot, its candidate; 0: none
 *
 * A new table takes the old one's place in one store, and the kernel waits until no program reads the old
 * one (maybe_wait_bpf_programs in kernel/bpf/syscall.c) before user space reuses slots that it names.
 */
#pragma once

#include "../kernel.h"
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "type.h"

enum table_layout {
	SLOT_BITS = 16,
	SLOT_MASK = 0xffff,
	SLOTS_PER_WORD = 4,
	/* Where the counts begin in word 0; entries begin at bit 0. */
	STANDBY_SHIFT = 31,
	ACTIVE_SHIFT = 32,
	DRAINING_SHIFT = 48,
	ENTRIES_WORD = 1,
};

/* Where the fields of a candidate begin, each of 16 bits. */
enum candidate_layout {
	CANDIDATE_SLOT_SHIFT = 0,
	CANDIDATE_WEIGHT_SHIFT = 16,
	CANDIDATE_LIMIT_SHIFT = 32,
	CANDIDATE_HOST_SHIFT = 48,
};

WIRE_TYPE(enum, table_layout);
WIRE_TYPE(enum, candidate_layout);

struct table_words {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	/*
	 * User space fills them through memory. All tables of a group are of one length, which the
	 * loader chooses: with BPF_F_INNER_MAP they could differ, but then each lookup in one
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
