/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Marks on sockets: which member a listener is, or a connection was accepted by.
 */
#pragma once

#include "../kernel.h"
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

/* Set on a listener; every connection that it accepts inherits it. */
struct mark {
	__u32 member;  /* index into `members` */
	__u32 epoch;   /* the member's epoch then; if it has another one now, the mark is void */
	__u32 counted; /* 1 on a connection that was added to `opened` */
	__u32 reserved;
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct mark);
} marks SEC(".maps");
