/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Marks on sockets: which member a listener is, or a connection was accepted by.
 */
#pragma once

#include "../kernel.h"
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>

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

/*
 * Whether a connection in this state is none of its worker's any more: the worker has closed its end, or has
 * shut it down for sending. In CLOSE_WAIT only the client has.
 */
static __always_inline bool worker_has_closed(int state)
{
	return state == TCP_CLOSE || state == TCP_FIN_WAIT1 || state == TCP_FIN_WAIT2 ||
	       state == TCP_CLOSING || state == TCP_LAST_ACK;
}
