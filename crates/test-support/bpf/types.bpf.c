// SPDX-License-Identifier: GPL-2.0 OR MIT
/* One of each thing that test-support's `btf` describes. Nothing loads this object. */
#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

enum colour {
	RED = 1,
	GREEN = 5,
	NO_COLOUR = -1,
};

struct inner {
	__u16 first;
	__u8 rest[6];
};

struct outer {
	__u64 number;
	struct inner inner;
	enum colour colour;
	const void *pointer;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct outer);
} records SEC(".maps");

struct table {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u64);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
	__array(values, struct table);
} tables SEC(".maps");

const volatile enum colour COLOUR = GREEN;
const volatile __u64 SEED = 0;
const volatile bool ENABLED = false;

char _license[] SEC("license") = "GPL";
