/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Open connections, which the host-wide layer counts.
 */
#pragma once

#include "map_key.h"
#include "wire/host.h"

/* Connections of the member with this index in `members`, those that wait to be accepted included. */
static __always_inline __u64 open_of(__u32 host)
{
	struct host_member *member = bpf_map_lookup_elem(&members, MAP_KEY(host));

	__s64 open = member ? (__s32)(member->opened - member->closed) : 0;

	return open > 0 ? open : 0;
}
