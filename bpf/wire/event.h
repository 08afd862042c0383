/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * What a watcher sets and reads.
 */
#pragma once

#include "../kernel.h"
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "type.h"

const volatile __u16 PORT = 0;

/* The cookie of the group's network namespace. */
const volatile __u64 NETNS = 0;

/* A listener came or went. */
struct event {
	__u64 cookie;
	__u32 listening; /* 1: came, 0: went */
	__u32 reserved;
};

WIRE_TYPE(struct, event);

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024);
} events SEC(".maps");
