/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* A hash of sockets of a foreign program, such as nginx has for QUIC, and no program. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 16);
	__type(key, __u64);
	__type(value, __u64);
} their_hash SEC(".maps");

char _license[] SEC("license") = "Dual MIT/GPL";
