/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Open connections, which the host-wide layer counts.
 */
#pragma once

#include "map_key.h"
#include "wire/host.h"

struct counted {
	/* Connections ever opened: only whether it moves matters. */
	__u32 opened;
	/* Connections that are open, those that wait to be accepted included. */
	__u32 open;
};

/* Of the member with this index in `members`. */
static __always_inline struct counted counted_of(__u32 host)
{
	struct host_member *member = bpf_map_lookup_elem(&members, MAP_KEY(host));
	struct counted counted = {};

	if (member) {
		__s32 open;

		counted.opened = member->opened;
		open = counted.opened - member->closed;
		counted.open = open > 0 ? open : 0;
	}
	return counted;
}
