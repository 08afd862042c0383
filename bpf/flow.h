/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * A key for each flow.
 */
#pragma once

#include "request.h"
#include "wire/config.h"

/* Spreads every bit over all bits: the output function of SplitMix64. */
static __always_inline __u64 mix(__u64 x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

/*
 * The kernel has hashed addresses and ports with a secret that it drew at boot (inet_ehashfn,
 * udp_ehashfn). The group's secret makes groups independent of each other.
 */
static __always_inline __u64 flow_key(struct request *req)
{
	return mix(req->ctx->hash ^ SEED);
}
