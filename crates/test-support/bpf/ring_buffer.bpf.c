// SPDX-License-Identifier: GPL-2.0 OR MIT
/* A map of the kind that test-support's `feature` tries to create. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536); /* a multiple of the page size wherever Linux runs */
} ring_buffer SEC(".maps");

char _license[] SEC("license") = "GPL";
