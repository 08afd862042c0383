// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * The program that decides which socket of a group gets a connection or a datagram.
 *
 *     arrival -> key -> table -> slot -> count
 *
 * A stage is a header. The program never drops anything: where it has no member to offer it
 * leaves the choice to the kernel. It needs CAP_BPF and nothing else: maps are looked up by key,
 * and no pointer moves by a number that is only known at run time.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "arrival.h"
#include "config.h"
#include "count.h"
#include "key.h"
#include "slot.h"
#include "table.h"

SEC("sk_reuseport/migrate")
int reuseport(struct sk_reuseport_md *ctx)
{
	enum arrival arrival = arrival_of(ctx);
	struct table table;
	__u32 slot;
	__u64 key;
	int other;

	if (!table_open(&table)) {
		count_left_to_kernel(arrival);
		return SK_PASS;
	}
	key = key_of(ctx, arrival);
	if (table.entries.count &&
	    table_slot(&table, &table.entries, key % table.entries.count, &slot) &&
	    slot_select(ctx, slot)) {
		count_selected(arrival, slot, REASON_PICK);
		return SK_PASS;
	}
	other = select_another(ctx, key);
	if (other == NO_SLOT)
		count_left_to_kernel(arrival);
	else if (other & FROM_DRAINING)
		count_selected(arrival, other & 0xffff, REASON_FALLBACK_DRAINING);
	else
		count_selected(arrival, other & 0xffff, REASON_FALLBACK_ACTIVE);
	return SK_PASS;
}

char _license[] SEC("license") = "Dual MIT/GPL";
