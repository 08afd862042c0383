// SPDX-License-Identifier: GPL-2.0 OR MIT
/* A program that the verifier refuses after many instructions: it reads a packet without checking
 * the length. */
#include "count.h"

SEC("sk_reuseport")
int read_beyond(struct sk_reuseport_md *md)
{
	__u8 *data = md->data;

#pragma unroll
	for (int i = 0; i < 40; i++)
		count(i % COUNTERS);
	return data[1000] ? SK_PASS : SK_DROP;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
