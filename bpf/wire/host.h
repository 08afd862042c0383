/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The host-wide layer: the members of all groups, which the marks on sockets name.
 */
#pragma once

#include "../kernel.h"
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define HOST_MEMBERS 32768

struct host_member {
	__u32 epoch; /* 0: never used. Rises when the index is given to another member. */
	__u32 used; /* 1: it belongs to a member */
	/* Connections ever opened and closed; the difference is what is open. */
	__u32 opened;
	__u32 closed;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, HOST_MEMBERS);
	__type(key, __u32);
	__type(value, struct host_member);
} members SEC(".maps");
