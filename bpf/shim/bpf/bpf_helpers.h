/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Stands for libbpf's header in a host build: the helpers that select.bpf.c calls, over plain arrays.
 */
#pragma once

#include <linux/types.h>

#define SEC(name)
#define __uint(name, value) int (*name)[value]
#define __type(name, value) typeof(value) *name
#define __array(name, value) typeof(value) *name[]
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
#undef __noinline
#define __noinline __attribute__((noinline))

struct sk_reuseport_md;

void *bpf_map_lookup_elem(void *map, const void *key);
long bpf_sk_select_reuseport(struct sk_reuseport_md *ctx, void *map, void *key, __u64 flags);
long bpf_skb_load_bytes(const void *ctx, __u32 offset, void *to, __u32 length);
long bpf_skb_load_bytes_relative(const void *ctx, __u32 offset, void *to, __u32 length, __u32 start);
__u32 bpf_get_smp_processor_id(void);
__u64 bpf_ktime_get_ns(void);
__u64 bpf_ktime_get_coarse_ns(void);
__u64 bpf_ktime_get_ns(void);
