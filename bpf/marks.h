/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Marks on sockets: which member of host.h a listener is, or a connection was accepted by.
 * The layout is that of crates/reuseport/src/state/layout.rs.
 */
#pragma once

#include "kernel.h"
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

/* Set on a listener; every connection that it accepts inherits it. */
struct mark {
	__u32 member;  /* index into `members` */
	__u32 epoch;   /* the member's epoch then: another one now, and the mark counts for nobody */
	__u32 counted; /* 1 on a connection that was added to `opened` */
	__u32 reserved;
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct mark);
} marks SEC(".maps");
