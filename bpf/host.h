/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * What exists once per host: marks on sockets, and the members that they name.
 * The layout is that of crates/reuseport/src/state/layout.rs.
 */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define HOST_MEMBERS 32768

/* Set on a listener; every connection that it accepts inherits it. */
struct mark {
	__u32 member;  /* index into `members` */
	__u32 epoch;   /* the member's epoch then: another one now, and the mark counts for nobody */
	__u32 counted; /* 1 on a connection that was added to `open` */
	__u32 reserved;
};

struct host_member {
	__u32 epoch; /* 0: free. Rises when the index is given to another member. */
	__u32 reserved;
	__u64 open; /* connections open at this moment */
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct mark);
} marks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, HOST_MEMBERS);
	__type(key, __u32);
	__type(value, struct host_member);
} members SEC(".maps");
