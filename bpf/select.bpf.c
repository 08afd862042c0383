// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * The program that decides which socket of a group gets a connection or a datagram.
 *
 * The program never drops anything: where it has no member to offer, it leaves the choice to the kernel.
 * It needs CAP_BPF and nothing else unless it reads queues: maps are looked up by key, and no pointer
 * moves by a number that is only known at run time.
 */
#include "kernel.h"
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "arrival.h"
#include "decided.h"
#include "fallback.h"
#include "pick.h"
#include "repeat.h"

SEC("sk_reuseport/migrate")
int reuseport(struct sk_reuseport_md *ctx)
{
	struct choice choice = { .slot = NO_SLOT };
	struct request req = {};

	arrival(ctx, &req);
	if (repeated(&req)) {
		count(REASON_REPEATED);
		return SK_PASS;
	}
	pick_and_select(&req, &choice);
	if (choice.slot < 0)
		fallback(&req, &choice);
	decided(&req, &choice);
	remember(&req, &choice);
	return SK_PASS;
}

char _license[] SEC("license") = "Dual MIT/GPL";
