/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * A packet may be looked up more than once: early, by a rule of netfilter's that only wants to know whether there
 * is a socket, and again by the next rule or when it is delivered. It gets the same answer, takes no second turn,
 * and is counted once.
 *
 * Each CPU remembers the last early segment. A packet stays on its CPU while the kernel receives it, and what is
 * not early is the last that is seen of it. UDP is never early (packet.h).
 */
#pragma once

#include <stdbool.h>

#include "map_key.h"
#include "packet.h"
#include "request.h"

/*
 * In ns. The lookups are some 50 us apart, much more where a virtual machine stands still meanwhile. A segment
 * is sent again after 200 ms at the earliest (TCP_RTO_MIN), a SYN after a second.
 */
#define REPEAT_WITHIN (100 * 1000 * 1000)

struct seen {
	__u64 head[2];
	__u64 addresses[4];
	__u64 at;
	/* What was decided: a slot or NO_SLOT. */
	__s64 slot;
};

/* Each loaded program has its own. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct seen);
} early SEC(".maps");

/* Source and destination. */
static __always_inline long load_addresses(struct sk_reuseport_md *ctx, __u64 *addresses)
{
	return is_ipv4(ctx) ? load_network(ctx, 12, addresses, 8) : load_network(ctx, 8, addresses, 32);
}

/*
 * Whether it is the segment that this CPU has seen early. Not inlined, and not static: the verifier then looks
 * at it once, and other segments do not come here.
 */
__noinline int is_seen(struct sk_reuseport_md *ctx)
{
	struct seen *seen = bpf_map_lookup_elem(&early, MAP_KEY(0));
	__u64 addresses[4] = {};

	if (!seen || bpf_ktime_get_ns() - seen->at > REPEAT_WITHIN || load_addresses(ctx, addresses))
		return false;
	return seen->addresses[0] == addresses[0] && seen->addresses[1] == addresses[1] &&
	       seen->addresses[2] == addresses[2] && seen->addresses[3] == addresses[3];
}

/* Decides as before, if it is the same segment. Where that fails, it is to be decided afresh. */
static __always_inline bool repeated(struct request *req)
{
	struct seen *seen;

	if (PROTOCOL != IPPROTO_TCP || req->arrival == ARRIVAL_MIGRATION)
		return false;
	seen = bpf_map_lookup_elem(&early, MAP_KEY(0));
	if (!seen || seen->head[0] != req->segment.head[0] || seen->head[1] != req->segment.head[1] ||
	    !is_seen(req->ctx))
		return false;
	return seen->slot < 0 || !bpf_sk_select_reuseport(req->ctx, &sockets, MAP_KEY(seen->slot), 0);
}

/* Only an early segment can come again. */
static __always_inline void remember(struct request *req, struct choice *choice)
{
	struct seen *seen;

	if (PROTOCOL != IPPROTO_TCP || !req->segment.early)
		return;
	seen = bpf_map_lookup_elem(&early, MAP_KEY(0));
	if (!seen)
		return;
	seen->head[0] = req->segment.head[0];
	seen->head[1] = req->segment.head[1];
	seen->addresses[2] = seen->addresses[3] = 0;
	load_addresses(req->ctx, seen->addresses);
	seen->slot = choice->slot;
	seen->at = bpf_ktime_get_ns();
}
