/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Counters of the programs, which prove that a program made a choice. */
#ifndef COUNT_H
#define COUNT_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

enum counter {
	RUNS, /* the program was asked */
	PICKED, /* its choice was taken */
	MISSED, /* there was no socket where it looked */
	MIGRATED, /* it was asked for a connection whose listener closes */
	COUNTERS,
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

static __always_inline void count(__u32 what)
{
	__u64 *counter = bpf_map_lookup_elem(&counters, &what);

	if (counter)
		__sync_fetch_and_add(counter, 1);
}

static __always_inline void count_choice(long result)
{
	count(result ? MISSED : PICKED);
}

#endif
