/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * What the loader sets in a select program before it loads it. The verifier knows these values and removes
 * the code that a configuration never reaches. Pinned state contains the numbers: they never change.
 */
#pragma once

#include "../kernel.h"
#include <linux/bpf.h>

#include "type.h"

/* How a member is picked. */
enum policy {
	POLICY_HASH = 1,
	POLICY_SOURCE = 2,
	POLICY_ROUND_ROBIN = 3,
	POLICY_RANDOM = 4,
	POLICY_CPU = 5,
	POLICY_LEAST_LOADED = 6,
	POLICY_PAYLOAD = 7,
};

/* What a member's load consists of: bits of LOAD. */
enum load_term {
	LOAD_QUEUE = 1,
	LOAD_OPEN = 2,
};

/* Numbers of calls that the loader replaces by calls of the kernel's functions. */
enum kernel_call {
	CALL_RDONLY_CAST = 0x72656164, /* bpf_rdonly_cast */
};

WIRE_TYPE(enum, kernel_call);

const volatile enum policy POLICY = POLICY_HASH;

/* IPPROTO_TCP or IPPROTO_UDP: a group has one. */
const volatile __u32 PROTOCOL = 6;

/* The group's secret: without it a remote sender cannot tell which member a flow goes to. */
const volatile __u64 SEED = 0;

/* least-loaded: the terms that count. */
const volatile enum load_term LOAD = LOAD_QUEUE | LOAD_OPEN;

/* least-loaded: a worker that reports to be busy for longer than this, in ns, comes after all others. */
const volatile __u64 STALE_AFTER = 100 * 1000 * 1000;

/* The kernel's BTF id of the type of the members' sockets, for select_direct.bpf.c. */
const volatile __u32 SOCKET_TYPE = 0;

/* And of struct sk_reuseport_kern and struct skb_shared_info. */
const volatile __u32 CONTEXT_TYPE = 0;
const volatile __u32 SHARED_INFO_TYPE = 0;

/* cpu: the number of possible CPUs. */
const volatile __u32 CPUS = 1;

/* payload: which bytes of a datagram choose, counted from the end of the UDP header. */
const volatile __u32 PAYLOAD_OFFSET = 0;
const volatile __u32 PAYLOAD_LENGTH = 1;
