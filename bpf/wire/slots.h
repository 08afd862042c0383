/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The members' sockets by slot, where the kernel keeps them, and the turns that members take.
 */
#pragma once

#include "../kernel.h"
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

/* The loader may put a socket map in its place, from which programs select in the same way. */
struct {
	__uint(type, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);
	__uint(max_entries, 1); /* the loader sets it */
	__type(key, __u32);
	__type(value, __u64);
} sockets SEC(".maps");

/* The kernel's addresses of the sockets, 0: unknown. Readable by its owner only, and never mapped. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* the loader sets it */
	__type(key, __u32);
	__type(value, __u64);
} addresses SEC(".maps");

/* Turns taken so far. Shared by all CPUs: turns are exact. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} cursor SEC(".maps");
