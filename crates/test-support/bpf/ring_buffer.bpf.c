// SPDX-License-Identifier: GPL-2.0 OR MIT
/* The map that test-support's `feature` creates to probe for ring buffers. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536); /* a multiple of every page size */
} ring_buffer SEC(".maps");

char _license[] SEC("license") = "GPL";
