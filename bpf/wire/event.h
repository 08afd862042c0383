/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * What a watcher sets and reads.
 */
#pragma once

#include "../kernel.h"
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "type.h"

/* The most ports that one watcher follows. */
#define MAX_PORTS 16384

/* A port of a network namespace, or of all of them. */
struct port {
	__u64 netns; /* its cookie; 0: all */
	__u16 number;
	__u16 protocol;
	__u32 reserved;
};

WIRE_TYPE(struct, port);

enum happened {
	WENT = 0, /* a listener */
	CAME = 1, /* a socket */
	BUSY = 2, /* connections come */
};

WIRE_TYPE(enum, happened);

/* What happened on a followed port. */
struct event {
	__u64 cookie; /* of the socket; BUSY: 0 */
	__u64 netns;
	__u32 process; /* that let it listen or bound it, in the initial pid namespace */
	__u16 port;
	__u8 protocol;
	__u8 happened;
};

WIRE_TYPE(struct, event);

/* A UDP socket on a followed port. */
struct udp_member {
	__u64 cookie;
	__u16 port;
	__u16 reserved[3];
};

WIRE_TYPE(struct, udp_member);

/* The ports that are followed, and when the last BUSY of each was announced. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PORTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct port);
	__type(value, __u64);
} ports SEC(".maps");

/* How many events were lost because the reader did not keep up. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} lost SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} events SEC(".maps");
