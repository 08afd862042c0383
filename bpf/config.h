/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * What a select program is told before it is loaded. The verifier knows these values and removes
 * whatever a configuration never reaches. The numbers are those of pinned state: they never change.
 */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

/* How a member is picked. Numbers 2, 5, 6 and 7 are kept for policies to come. */
enum policy {
	POLICY_HASH = 1,
	POLICY_ROUND_ROBIN = 3,
	POLICY_RANDOM = 4,
};

const volatile __u32 POLICY = POLICY_HASH;

/* The group's secret: without it a remote sender cannot tell which member a flow goes to. */
const volatile __u64 SEED = 0;
