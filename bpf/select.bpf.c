// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * The program that decides which socket of a group gets a connection or a datagram.
 *
 *     arrival -> key -> table -> slot -> count
 *
 * A stage is a header. The program never drops anything: where it has no member to offer it
 * leaves the choice to the kernel. It needs CAP_BPF and nothing else unless it reads queues: maps
 * are looked up by key, and no pointer moves by a number that is only known at run time.
 */
#include "kernel.h"
#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

#include "arrival.h"
#include "config.h"
#include "count.h"
#include "key.h"
#include "least_loaded.h"
#include "load.h"
#include "slot.h"
#include "table.h"

/* By the table: the slot that the key names, or NOT_SELECTED. */
static __always_inline int table_select(struct sk_reuseport_md *ctx, __u64 key)
{
	struct table table;
	__u32 slot;

	if (!table_open(&table) || !table.entries.count ||
	    !table_slot(&table, &table.entries, key % table.entries.count, &slot))
		return NOT_SELECTED;
	if (queue_is_full(slot)) {
		count(REASON_QUEUE_FULL);
		return NOT_SELECTED;
	}
	return slot_select(ctx, slot) ? (int)slot : NOT_SELECTED;
}

SEC("sk_reuseport/migrate")
int reuseport(struct sk_reuseport_md *ctx)
{
	enum arrival arrival = arrival_of(ctx);
	__u64 key = key_of(ctx, arrival);
	int slot;

	if (POLICY == POLICY_LEAST_LOADED)
		slot = least_loaded_select(ctx, arrival, key);
	else
		slot = table_select(ctx, key);
	if (slot >= 0) {
		count_selected(arrival, slot, REASON_PICK);
		return SK_PASS;
	}
	slot = select_another(ctx, key, false);
	if (slot >= 0) {
		count_selected(arrival, slot, REASON_FALLBACK_ACTIVE);
		return SK_PASS;
	}
	slot = select_another(ctx, key, true);
	if (slot >= 0)
		count_selected(arrival, slot, REASON_FALLBACK_DRAINING);
	else
		count_left_to_kernel(arrival);
	return SK_PASS;
}

char _license[] SEC("license") = "Dual MIT/GPL";
