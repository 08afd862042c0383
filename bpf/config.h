/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * What a select program is told before it is loaded. The verifier knows these values and removes
 * whatever a configuration never reaches. The numbers are those of pinned state: they never change.
 */
#pragma once

#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

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

/* What a member's load is made of. */
enum load_term {
	LOAD_QUEUE = 1,
	LOAD_OPEN = 2,
};

const volatile __u32 POLICY = POLICY_HASH;

/* IPPROTO_TCP or IPPROTO_UDP: a group has one. */
const volatile __u32 PROTOCOL = 6;

/* The group's secret: without it a remote sender cannot tell which member a flow goes to. */
const volatile __u64 SEED = 0;

/* Of least-loaded: which terms count. */
const volatile __u32 LOAD = LOAD_QUEUE | LOAD_OPEN;

/* Of least-loaded: a worker that says that it is busy, and has for so many ns, is not asked. */
const volatile __u64 STALE_AFTER = 100 * 1000 * 1000;

/*
 * How the program reads queues. Not one of the values above: without CAP_PERFMON the verifier also follows
 * what a mispredicted branch would do, and before Linux 6.16 refuses a program for a helper that only
 * such a way leads to. So there are several objects: see select_load.bpf.c and select_direct.bpf.c.
 */
#define READ_NOTHING 0
#define READ_BY_HELPER 1
#define READ_DIRECTLY 2
#ifndef READ_QUEUES
#define READ_QUEUES READ_NOTHING
#endif

/* Of READ_DIRECTLY: the kernel's number for the type of the members' sockets, and a call to be replaced. */
const volatile __u32 SOCKET_TYPE = 0;
#define RDONLY_CAST 0x72656164

/* Of cpu: how many there can be. */
const volatile __u32 CPUS = 1;

/* Of payload: which bytes of a datagram, counted behind the UDP header. */
const volatile __u32 PAYLOAD_OFFSET = 0;
const volatile __u32 PAYLOAD_LENGTH = 1;
