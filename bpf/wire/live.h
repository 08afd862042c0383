/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The result of a recount.
 */
#pragma once

#include "host.h"

/* By member: connections that a walk over the marks has found. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, HOST_MEMBERS);
	__type(key, __u32);
	__type(value, __u32);
} live SEC(".maps");
